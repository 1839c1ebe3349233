"""`python3 -m client_sim.demo`: a server on this machine with three cameras of different users, and what to look at."""

import logging
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import requests

from client_sim.camera import Camera
from client_sim.connection import Connect
from client_sim.protocol3 import Protocol3
from client_sim.protocol4 import Protocol4
from client_sim.sources import Synthetic, take_image

SOURCES = Path(__file__).resolve().parent.parent
PORT = 8080
#: What the server is to find in the frames.
PLUGIN = "processing.motion:Motion"

#: The server starts within a second or two; a small machine with a screen takes longer.
START_SEC = 30.0
STOP_SEC = 5.0
#: How soon a signal is noticed.
STEP_SEC = 0.1


class DemoError(Exception):
    """The demo can't go on; says why."""


class Role(NamedTuple):
    """A camera of the demo: which client it imitates, and how."""

    user: str
    password: str
    who: str
    how: str
    connect: Callable[[str], Connect]
    rate_hz: float


ROLES = (
    Role("user1", "pass1", "an Android phone with the years-old app", "Engine.IO 3, polling, then WebSocket",
         lambda url: partial(Protocol3, url, "upgrade"), 3),
    Role("user2", "pass2", "a page in a browser", "Engine.IO 4, polling, then WebSocket",
         lambda url: partial(Protocol4, url, "upgrade"), 10),
    Role("Alice", "123", "a Python script", "Engine.IO 4, WebSocket",
         lambda url: partial(Protocol4, url, "websocket"), 15),
)  # fmt: skip


class Stopping:
    """Becomes true at Ctrl-C, SIGTERM, or when the terminal is closed.

    A flag that is looked at, since an exception could come in the middle of the cleaning up.
    """

    def __init__(self) -> None:
        self._requested = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._request)

    def __bool__(self) -> bool:
        return self._requested

    def _request(self, _number: int, _frame: object) -> None:
        self._requested = True


def main() -> int:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    stopping = Stopping()
    try:
        with running_server(stopping) as (server, url, windows), running_cameras(url) as cameras:
            print(introduction(url, windows), flush=True)
            show_figures(server, url, stopping)
    except DemoError as error:
        if stopping:  # it was asked to end while the server was about to start
            return 0
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nEnded, with {sum(camera.figures.frames for camera in cameras)} frames taken by the server.")
    return 0


@contextmanager
def running_server(stopping: Stopping) -> Iterator[tuple["Server", str, bool]]:
    """The server, its address, and whether it shows windows; ended, and its children with it, at the end."""
    windows = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    options = ["--ip", "127.0.0.1", "--port", str(PORT if is_free(PORT) else 0), "--process", PLUGIN]
    server = Server([*options, "--display"] if windows else options)
    try:
        url = server.wait_until_it_listens(stopping)
        if url is None and windows and server.process.returncode == 2:
            # A screen that is named but can't be opened, as in a shell over the network.
            windows = False
            server = Server(options)
            url = server.wait_until_it_listens(stopping)
        if url is None:
            raise DemoError(f"the server did not start:\n{server.last_words()}")
        yield server, url, windows
    finally:
        server.stop()


class Server:
    """The server as a child of the demo.

    In a session of its own, so that Ctrl-C reaches the demo alone and the cameras say goodbye before the server goes.
    """

    def __init__(self, options: Sequence[str]) -> None:
        # The demo is the same for everybody, whatever they have set for servers of their own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("IMAGESERVER_")}
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, str(SOURCES / "ImageServer.py"), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
            text=True,
        )

    def wait_until_it_listens(self, stopping: Stopping) -> str | None:
        """The address that it prints, or None if it ends without."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SEC
        while time.monotonic() < deadline and not stopping:
            if select.select([self.process.stdout], [], [], STEP_SEC)[0]:
                line = self.process.stdout.readline()
                if not line:
                    self.process.wait(STOP_SEC)
                    return None
                return line.split()[-1]
        raise DemoError(f"the server does not listen after {START_SEC:g} s:\n{self.last_words()}")

    def last_words(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-20:]).rstrip()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@contextmanager
def running_cameras(url: str) -> Iterator[list[Camera]]:
    cameras = [
        Camera(
            role.user,
            role.user,
            role.password,
            role.connect(url),
            partial(take_image, Synthetic(role.user, (640, 480)), role.user, 80),
            role.rate_hz,
        )
        for role in ROLES
    ]
    threads = [threading.Thread(target=camera.run, daemon=True) for camera in cameras]
    for thread in threads:
        thread.start()
    try:
        yield cameras
    finally:
        for camera in cameras:
            camera.stop()
        deadline = time.monotonic() + STOP_SEC
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))


def introduction(url: str, windows: bool) -> str:
    own = shlex.join([os.path.relpath(sys.executable), "-m", "client_sim"])
    if url != f"http://127.0.0.1:{PORT}":
        own += f" --server {url}"
    lines = ["ImageServer demo", "", f"The server runs at {url}, with three simulated cameras:", ""]
    lines += [f"  {role.user}  {role.who:<40} {role.rate_hz:>2g} frames/s  {role.how}" for role in ROLES]
    lines += ["", "Look at", ""]
    sights = [
        (f"{url}/api/v1/streams", "what the server knows of each stream"),
        (f"{url}/api/v1/streams/Alice/result", "what moves in Alice's frames: a plug-in has looked"),
        (f"{url}/metrics", "its counters, for Prometheus"),
    ]
    if windows:
        sights.insert(0, ("the three windows", "the hand goes round once a second, the clock shows each frame's time"))
    lines += [f"  {where:<48} {what}" for where, what in sights]
    if not windows:
        lines += [
            "",
            "There is no screen here. Where there is one, each user's frames appear in a window of their own.",
        ]
    lines += ["", "Try, in another terminal", "", f"  PYTHONPATH={os.path.relpath(SOURCES)} {own} --user Bob"]
    return "\n".join([*lines, "", "Ctrl-C ends it.", ""])


def show_figures(server: Server, url: str, stopping: Stopping) -> None:
    """What the server says of its streams, again and again; on a terminal in place, else now and then."""
    in_place = sys.stdout.isatty()
    every_sec = 1.0 if in_place else 5.0
    due = time.monotonic() + 2.0  # sooner there are no rates to show
    drawn = 0
    while not stopping:
        if server.process.poll() is not None:
            raise DemoError(f"the server has ended by itself:\n{server.last_words()}")
        if time.monotonic() >= due:
            due += every_sec
            table = figures_table(streams(url), lambda name: newest_results(url, name))
            if in_place and drawn:
                print(f"\x1b[{drawn}F\x1b[J", end="")
            print("\n".join(table), flush=True)
            drawn = len(table)
        time.sleep(STEP_SEC)


def streams(url: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = ask(f"{url}/api/v1/streams", "which streams it has").get("items", [])
    return items


def newest_results(url: str, stream: str) -> dict[str, Any]:
    """The newest result of each plug-in."""
    return ask(f"{url}/api/v1/streams/{stream}/result", "what its plug-ins found")


def ask(address: str, what: str) -> dict[str, Any]:
    try:
        answer = requests.get(address, timeout=STOP_SEC)
        if answer.status_code == requests.codes.not_found:  # it has ended, and is forgotten by now
            return {}
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise DemoError(f"the server does not say {what}: {error}") from error
    return found


def figures_table(items: Sequence[dict[str, Any]], results_of: Callable[[str], dict[str, Any]]) -> list[str]:
    lines = ["  stream        live  frames/s    frames    received    picture     newest  refused  dropped  moves"]
    for item in items:
        size = "x".join(map(str, item["size_wh"])) if item["size_wh"] else "-"
        age = f"{item['age_ms']} ms" if item["age_ms"] is not None else "-"
        lines.append(
            f"  {item['name']:<12} {'yes' if item['live'] else 'no':>5} {item['rate_hz']:>9.1f} {item['frames']:>9}"
            f" {item['bytes'] / 1e6:>8.1f} MB {size:>10} {age:>10} {sum(item['refused'].values()):>8}"
            f" {sum(item['dropped'].values()):>8}  {what_moves(results_of(item['name']))}"
        )
    return lines


def what_moves(results: dict[str, Any]) -> str:
    """The largest box of the motion plug-in's newest result."""
    found = results.get("motion", {}).get("result") or {}
    boxes = found.get("boxes", [])
    if not boxes:
        return "-"
    x, y, width, height = boxes[0]
    return f"{width}x{height} at {x},{y}"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
