"""`python3 -m client_sim.demo`: a server on this machine with five cameras, by every way in, and what to look at."""

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
from client_sim.device import Device
from client_sim.protocol3 import Protocol3
from client_sim.protocol4 import Protocol4
from client_sim.pulled_bodies import Pickle
from client_sim.pulled_camera import PulledCamera, Registration
from client_sim.sources import Synthetic, take_bmp, take_image
from client_sim.tcp_camera import TcpCamera

SOURCES = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
PORT = 8080
SIZE_WH = 640, 480
QUALITY = 80
#: What the server is to find in the frames.
PLUGIN = "processing.motion:Motion"

#: The server starts within a second or two; a small machine with a screen takes longer.
START_SEC = 30.0
STOP_SEC = 5.0
#: How soon a signal is noticed.
STEP_SEC = 0.1


class DemoError(Exception):
    """The demo can't go on; says why."""


class Place(NamedTuple):
    """Where the demo's server is: its address, and its port for cameras over plain TCP."""

    url: str
    tcp_port: int


class Role(NamedTuple):
    """A camera of the demo: which client it imitates, and how.

    Args:
        stream: its name at the server, and on its frames.
    """

    stream: str
    who: str
    how: str
    rate_hz: float
    make: Callable[["Role", Place], Device]


def _phone(role: Role, place: Place) -> Device:
    return _logged_in(role, "pass1", partial(Protocol3, place.url, "upgrade"))


def _page(role: Role, place: Place) -> Device:
    return _logged_in(role, "pass2", partial(Protocol4, place.url, "upgrade"))


def _script(role: Role, place: Place) -> Device:
    return _logged_in(role, "123", partial(Protocol4, place.url, "websocket"))


def _logged_in(role: Role, password: str, connect: Connect) -> Device:
    return Camera(role.stream, role.stream, password, connect, _jpegs(role), role.rate_hz)


def _desktop(role: Role, place: Place) -> Device:
    bmps = partial(take_bmp, Synthetic(role.stream, SIZE_WH), role.stream)
    return TcpCamera(role.stream, (HOST, place.tcp_port), {0: bmps}, role.rate_hz)


def _puller(role: Role, place: Place) -> Device:
    return PulledCamera(role.stream, place.url, _jpegs(role), role.rate_hz, Pickle(), {}, Registration())


def _jpegs(role: Role) -> Callable[[], bytes]:
    return partial(take_image, Synthetic(role.stream, SIZE_WH), role.stream, QUALITY)


ROLES = (
    Role("user1", "an Android phone with the years-old app", "Engine.IO 3, polling, then WebSocket", 3, _phone),
    Role("user2", "a page in a browser", "Engine.IO 4, polling, then WebSocket", 10, _page),
    Role("Alice", "a Python script", "Engine.IO 4, WebSocket", 15, _script),
    Role("tcp-1", "a desktop's camera", "plain TCP, BMP in gzip", 4, _desktop),
    Role("pull-1", "a camera that waits to be asked", "HTTP, JPEG in a pickle", 5, _puller),
)


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
        with running_server(stopping) as (server, place, windows), running_cameras(place) as cameras:
            print(introduction(place.url, windows), flush=True)
            show_figures(server, place.url, stopping)
    except DemoError as error:
        if stopping:  # it was asked to end while the server was about to start
            return 0
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nEnded, with {sum(camera.figures.frames for camera in cameras)} frames sent.")
    return 0


@contextmanager
def running_server(stopping: Stopping) -> Iterator[tuple["Server", Place, bool]]:
    """The server, where it is, and whether it shows windows; ended, and its children with it, at the end."""
    windows = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    tcp_port = free_port()
    options = ["--ip", HOST, "--port", str(PORT if is_free(PORT) else 0), "--tcp-port", str(tcp_port)]
    options += ["--process", PLUGIN]
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
        yield server, Place(url, tcp_port), windows
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
def running_cameras(place: Place) -> Iterator[list[Device]]:
    cameras = [role.make(role, place) for role in ROLES]
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
    if url != f"http://{HOST}:{PORT}":
        own += f" --server {url}"
    lines = ["ImageServer demo", "", f"The server runs at {url}, with five simulated cameras:", ""]
    lines += [f"  {role.stream:<6}  {role.who:<40} {role.rate_hz:>2g} frames/s  {role.how}" for role in ROLES]
    lines += ["", "Look at", ""]
    sights = [
        (f"{url}/api/v1/streams", "what the server knows of each stream"),
        (f"{url}/api/v1/streams/Alice/result", "what moves in Alice's frames: a plug-in has looked"),
        (f"{url}/metrics", "its counters, for Prometheus"),
    ]
    if windows:
        sights.insert(0, ("the five windows", "the hand goes round once a second, the clock shows each frame's time"))
    width = max(len(where) for where, _ in sights)
    lines += [f"  {where:<{width}}  {what}" for where, what in sights]
    if not windows:
        lines += [
            "",
            "There is no screen here. Where there is one, each stream appears in a window of its own.",
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
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())
