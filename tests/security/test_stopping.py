"""SIGTERM, Ctrl-C and a closed terminal at every moment: status 0 within 3 s, nobody left behind, nothing broken said.

A stop mostly waits, so several moments are played at a time. Each has a server in a session of its own, by which its
children are found, whatever has become of their parent.
"""

import fcntl
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

import peers
from auth.sql_users import SqlUsers
from phones import Phone
from pictures import padded, picture
from raw_engineio import BINARY, RawWebSocket, client_frame
from running import SRC, until
from security.processes import cpu_sec

STOP_SEC: Final = 3.0
#: A child that is only starting is not given the 2 s to finish that others have.
NOTHING_TO_FINISH_SEC: Final = 1.5
#: How many moments are played at a time.
AT_A_TIME: Final = 4
#: Of the delays and signals that are drawn; another one plays other moments.
SEED: Final = int(os.environ.get("STOP_SEED", "1"))
WEBSOCKET: Final = "/socket.io/?EIO=4&transport=websocket"
#: bcrypt of "secret" with cost 12: 0.2 s for each login that is checked, and then the file is written anew.
SLOW_HASH: Final = "$2b$12$.h0zxknv5jPScRbQK7UQTecOVlHPeUCH8u4CtnDkzTItQ5Jrugaz2"


class Server:
    """The server in a session of its own.

    Args:
        wrap: what runs it, such as `sh -c 'exec "$@" 2>&-' --`.
        stderr: where it writes its log; by default a file, see `log`.

    Attributes:
        checks: what must hold when it has ended.
        within_sec: how long its stop may take.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        wrap: tuple[str, ...] = (),
        stderr: int | None = None,
    ) -> None:
        self.checks: list[Callable[[], None]] = []
        self.within_sec = STOP_SEC
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`end` closes it)
        self.process = subprocess.Popen(
            [*wrap, sys.executable, "ImageServer.py", "-i", "127.0.0.1", "-p", "0", *arguments],
            cwd=SRC,
            stdout=subprocess.PIPE,
            stderr=self._log if stderr is None else stderr,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def listening(self) -> int:
        """Wait for the line that says where it listens, and return the port."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ImageServer listening on http://"), self.log
        return int(line.rsplit(":", 1)[1])

    def until_caught(self) -> None:
        """Wait until its first lines have run: it catches SIGTERM (a bit in /proc, counted from 0)."""

        def caught() -> int:
            status = Path(f"/proc/{self.pid}/status").read_text()
            (mask,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
            return mask >> (signal.SIGTERM - 1) & 1

        while not caught():
            assert self.process.poll() is None, self.log

    def send(self, *signals: signal.Signals, to_group: bool = False) -> None:
        for number in signals:
            (os.killpg if to_group else os.kill)(self.pid, number)

    def family(self) -> list[int]:
        """The processes of its session that still run, without itself."""
        return [pid for pid in _running() if pid != self.pid and _session(pid) == self.pid]

    def child(self) -> int:
        """Wait until it has started the display, and return its process."""
        until(self.family, "a child is started")
        return self.family()[0]

    def end(self) -> None:
        for pid in [*self.family(), self.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _running() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int | None:
    """The session of a process that runs; one that only waits to be reaped does not."""
    try:
        state, _parent, _group, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(session) if state != "Z" else None


def assert_ends_well(server: Server, signals: tuple[signal.Signals, ...], to_group: bool = False) -> None:
    began = time.monotonic()
    server.send(*signals, to_group=to_group)
    assert_ended_well(server, began)


def assert_ended_well(server: Server, began: float) -> None:
    try:
        status = server.process.wait(STOP_SEC + 10)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it goes on: {server.log}") from None
    took = time.monotonic() - began
    assert (status, server.family()) == (0, []), server.log
    assert took < server.within_sec, f"it took {took:.2f} s: {server.log}"
    assert "Traceback" not in server.log
    assert "Exception ignored" not in server.log
    assert "ended in time" not in server.log, "it was for the last resort to end it"
    for check in server.checks:
        check()


# -- the moments: each returns a server that is in the middle of something


def idle(opened: ExitStack) -> Server:
    server = _server(opened)
    server.listening()
    return server


def hashes_queue_up(opened: ExitStack) -> Server:
    """Two are computed, hundreds wait, for a minute."""
    users = _temporary(opened) / "users"
    users.write_text("".join(f"user{number}:{SLOW_HASH}\n" for number in range(300)))
    server = _server(opened, "-a", "--users", str(users))
    port = server.listening()
    for number in range(300):
        phone = opened.enter_context(RawWebSocket(port, WEBSOCKET))
        phone.send("40")
        phone.send(f'42["authenticate","user{number}","secret","loggedIn"]')
    until(lambda: " logged in from " in server.log, "the first is in")

    def check() -> None:
        assert {path.name for path in users.parent.iterdir()} <= {"users", "users.lock"}
        assert len(users.read_text().splitlines()) == 300

    server.checks.append(check)
    return server


def one_login_is_hashed(opened: ExitStack) -> Server:
    users = _temporary(opened) / "users"
    users.write_text(f"Alice:{SLOW_HASH}\n")
    server = _server(opened, "-a", "--users", str(users))
    phone = opened.enter_context(RawWebSocket(server.listening(), WEBSOCKET))
    phone.send("40")
    phone.send('42["authenticate","Alice","secret","loggedIn"]')
    return server


def a_database_is_away_at_the_start(opened: ExitStack) -> Server:
    """What listens there takes the connection and never answers."""
    silent = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    source = f"postgresql://server:secret@127.0.0.1:{silent.getsockname()[1]}/users"
    server = _server(opened, "-a", env={"IMAGESERVER_USERS": source})
    opened.enter_context(silent.accept()[0])
    return server


def a_database_is_away_at_a_login(opened: ExitStack) -> Server:
    """Somebody has locked it and does not let go."""
    path = _temporary(opened) / "users.sqlite"
    users = SqlUsers(f"sqlite:///{path}")
    users.add("Alice", "123")
    users.close()
    server = _server(opened, "-a", "--users", f"sqlite:///{path}")
    phone = opened.enter_context(RawWebSocket(server.listening(), WEBSOCKET))
    holder = sqlite3.connect(path, isolation_level=None)
    opened.callback(holder.close)
    holder.execute("BEGIN EXCLUSIVE")
    phone.send("40")
    for _ in range(10):
        phone.send('42["authenticate","Alice","123","loggedIn"]')
    time.sleep(0.2)  # nothing tells that it waits
    return server


def large_frames_and_polls_are_under_way(opened: ExitStack) -> Server:
    """Nothing of it is finished: images, a polling body, a poll, a head, an upgrade, a connection without a byte."""
    server = _server(opened)
    port = server.listening()
    image = padded(picture(), 4_000_000)
    frame = client_frame(BINARY, image)
    for number in range(10):
        phone = _logged_in(opened, port)
        phone.send('451-["receiveImage",{"_placeholder":true,"num":0}]')
        phone.send_raw(frame[: len(frame) * (number + 1) // 11])
    polling = opened.enter_context(Phone(f"http://127.0.0.1:{port}", ["polling"]))  # its poll waits
    polling.log_in()
    sid = polling.client.eio.sid
    head = f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n"
    for half in (head.encode() + b"b" + bytes(1_000_000), head[:40].encode(), b""):
        connection = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        connection.sendall(half)
    return server


def clients_send_all_the_time(opened: ExitStack) -> Server:
    server = _server(opened)
    port = server.listening()
    frame = client_frame(1, b'451-7["receiveImage",{"_placeholder":true,"num":0}]')
    frame += client_frame(BINARY, padded(picture(), 50_000))
    ended = threading.Event()
    opened.callback(ended.set)

    def send(phone: RawWebSocket) -> None:
        with suppress(OSError):
            while not ended.is_set():
                phone.send_raw(frame)

    for _ in range(4):
        threading.Thread(target=send, args=(_logged_in(opened, port),), daemon=True).start()
    return server


def a_storm(opened: ExitStack) -> Server:
    """500 clients have connected and log in, with -a, while the signal comes."""
    server = _server(opened, "-a")
    port = server.listening()
    hello = f"GET {WEBSOCKET} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    hello += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    login = client_frame(1, b"40") + client_frame(1, b'42["authenticate","Alice","123","loggedIn"]')
    for _ in range(500):
        connection = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        connection.sendall(hello.encode() + login)
    return server


def a_display_is_on_its_way(opened: ExitStack) -> Server:
    """Its Python is starting; Ctrl-C would be fatal to it now."""
    server = _server(opened, "-d", env=_silent_screen(opened)[1])
    server.within_sec = NOTHING_TO_FINISH_SEC
    server.child()
    return server


def a_display_opens_its_screen(opened: ExitStack) -> Server:
    """It never will: what listens there takes the connection and says nothing."""
    screen, env = _silent_screen(opened)
    server = _server(opened, "-d", env=env)
    server.within_sec = NOTHING_TO_FINISH_SEC
    opened.enter_context(screen.accept()[0])
    return server


def a_display_runs(opened: ExitStack) -> Server:
    server = _server(opened, "-d", env=_screen(opened))
    phone = opened.enter_context(Phone(f"http://127.0.0.1:{server.listening()}"))
    phone.log_in()
    phone.send(picture())
    return server


def a_display_hangs(opened: ExitStack) -> Server:
    server = a_display_runs(opened)
    os.kill(server.child(), signal.SIGSTOP)
    return server


def a_display_has_just_died(opened: ExitStack) -> Server:
    server = a_display_runs(opened)
    os.kill(server.child(), signal.SIGKILL)
    return server


def a_display_waits_for_its_restart(opened: ExitStack) -> Server:
    server = a_display_has_just_died(opened)
    until(lambda: "it is started again in" in server.log, "it pauses")
    return server


def a_display_starts_again(opened: ExitStack) -> Server:
    server = a_display_waits_for_its_restart(opened)
    server.child()
    return server


MOMENTS: Final[tuple[Callable[[ExitStack], Server], ...]] = (
    idle,
    hashes_queue_up,
    one_login_is_hashed,
    a_database_is_away_at_the_start,
    a_database_is_away_at_a_login,
    large_frames_and_polls_are_under_way,
    clients_send_all_the_time,
    a_storm,
    a_display_is_on_its_way,
    a_display_opens_its_screen,
    a_display_runs,
    a_display_hangs,
    a_display_has_just_died,
    a_display_waits_for_its_restart,
    a_display_starts_again,
)

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def once(server: Server) -> None:
    assert_ends_well(server, (TERM,))


def twice(server: Server) -> None:
    assert_ends_well(server, (INT, INT))


def again_and_again(server: Server) -> None:
    """Also while it is stopping."""
    drawn = random.Random(SEED)
    began = time.monotonic()
    while server.process.poll() is None and time.monotonic() < began + 5:
        server.send(drawn.choice((TERM, INT, HUP)))
        time.sleep(0.01)
    assert_ended_well(server, began)


def to_all(number: signal.Signals) -> Callable[[Server], None]:
    """As a terminal does it (Ctrl-C, or when it closes), and systemd: the children get it too."""

    def send(server: Server) -> None:
        assert_ends_well(server, (number,), to_group=True)

    send.__name__ = f"{number.name} to all"
    return send


def _table() -> Iterator[tuple[Callable[[ExitStack], Server], Callable[[Server], None]]]:
    """Every moment, the ways by turns; a display's in all ways that differ for it."""
    ways = (once, twice, again_and_again)
    for number, moment in enumerate(MOMENTS):
        yield moment, ways[number % len(ways)]
    yield a_display_runs, to_all(INT)
    yield a_display_runs, to_all(HUP)
    yield a_display_runs, to_all(TERM)
    yield a_display_is_on_its_way, to_all(INT)
    yield a_display_opens_its_screen, to_all(TERM)
    yield a_display_starts_again, again_and_again


def at_a_moment(moment: Callable[[ExitStack], Server], way: Callable[[Server], None]) -> Callable[[], None]:
    def play() -> None:
        with ExitStack() as opened:
            way(moment(opened))

    play.__name__ = f"{moment.__name__.replace('_', ' ')}-{way.__name__.replace('_', ' ')}"
    return play


# -- the first two seconds


def after(delay_sec: float, signals: tuple[signal.Signals, ...], *arguments: str) -> Callable[[], None]:
    def play() -> None:
        with ExitStack() as opened:
            server = _server(opened, *arguments, env=_silent_screen(opened)[1])
            server.until_caught()
            time.sleep(delay_sec)
            assert_ends_well(server, signals)

    names = " and ".join(number.name for number in signals)
    play.__name__ = f"{names} after {delay_sec:.3f} s{''.join(f' with {argument}' for argument in arguments)}"
    return play


def test_it_ends_during_its_first_imports() -> None:
    """They take a second where the disk is slow; here the first one never ends."""
    with ExitStack() as opened:
        folder = _temporary(opened)
        (folder / "eventlet.py").write_text("import time\nopen(__file__ + '.read', 'w')\ntime.sleep(60)\n")
        for number in (TERM, INT, HUP):
            server = _server(opened, env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"})
            until((folder / "eventlet.py.read").exists, "it imports")
            (folder / "eventlet.py.read").unlink()
            assert_ends_well(server, (number, number))


def delays() -> list[Callable[[], None]]:
    count = 100 if os.environ.get("CI") else 20
    drawn = random.Random(SEED)
    options = ((), ("-a",), ("-d",))

    def signals() -> tuple[signal.Signals, ...]:
        return (drawn.choice((TERM, INT, HUP)),) * drawn.choice((1, 2))

    # Without the display most of the start is over within half a second.
    return [after(0.02 * 100 ** drawn.random(), signals(), *options[number % 3]) for number in range(count)]


# -- running them together

PLAYS: Final = [at_a_moment(moment, way) for moment, way in _table()]
DELAYS: Final = delays()


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Mapping[Any, "Future[None]"]]:
    """The plays that were asked for, begun: a few at a time, in their order."""
    wanted = [
        item.callspec.params["play"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and "play" in item.callspec.params
    ]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {play: pool.submit(play) for play in wanted}


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_it_ends_at_every_moment(play: Callable[[], None], played: Mapping[Any, "Future[None]"]) -> None:
    played[play].result()


@pytest.mark.parametrize("play", DELAYS, ids=lambda play: play.__name__)
def test_it_ends_however_early_the_signal_comes(play: Callable[[], None], played: Mapping[Any, "Future[None]"]) -> None:
    played[play].result()


# -- standard output and error that end, and terminals


def test_a_log_that_nobody_reads_any_more_harms_nobody() -> None:
    with ExitStack() as opened:
        reading, writing = os.pipe()
        server = _server(opened, stderr=writing)
        os.close(writing)
        port = server.listening()
        os.close(reading)
        assert server.process.stdout is not None
        server.process.stdout.close()
        for name in ("Alice", "Bob"):
            with Phone(f"http://127.0.0.1:{port}") as phone:
                assert phone.log_in(name) is True
                assert phone.send(picture())["accepted"] is True
        used = cpu_sec(server.pid)
        time.sleep(0.5)
        assert cpu_sec(server.pid) - used < 0.1, "it spins"
        assert_ends_well(server, (TERM,))


def test_a_closed_standard_output_before_it_listens_is_no_obstacle() -> None:
    with ExitStack() as opened:
        server = _server(opened)
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.until_caught()
        until(lambda: _listens(server.pid), "it listens")
        assert_ends_well(server, (TERM,))


def test_no_socket_takes_the_place_of_a_standard_file_that_was_closed() -> None:
    with ExitStack() as opened:
        server = _server(opened, wrap=("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "--"))
        until(lambda: _listens(server.pid), "it listens")
        assert {os.readlink(f"/proc/{server.pid}/fd/{number}") for number in range(3)} == {os.devnull}
        assert_ends_well(server, (INT,))


def test_a_log_that_is_not_read_and_full_does_not_hold_up_the_end() -> None:
    """The whole server hangs in its first line, as long as nobody reads the pipe."""
    with ExitStack() as opened:
        reading, writing = os.pipe()
        opened.callback(os.close, reading)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writing, bytes(4096))
        server = _server(opened, stderr=writing)
        os.close(writing)
        server.until_caught()
        until(lambda: "pipe" in Path(f"/proc/{server.pid}/wchan").read_text(), "it hangs")
        assert_ends_well(server, (TERM, TERM))


def test_it_outlives_its_terminal_when_nohup_says_so() -> None:
    with ExitStack() as opened:
        server = _server(opened, wrap=("nohup",))
        port = server.listening()
        server.send(HUP)
        time.sleep(0.5)
        with Phone(f"http://127.0.0.1:{port}") as phone:
            assert phone.log_in() is True
        assert_ends_well(server, (TERM,))


@pytest.mark.parametrize(
    "moment",
    [a_display_is_on_its_way, a_display_opens_its_screen, a_display_runs],
    ids=lambda moment: moment.__name__.replace("_", " "),
)
def test_no_child_outlives_a_server_that_was_killed(moment: Callable[[ExitStack], Server]) -> None:
    with ExitStack() as opened:
        server = moment(opened)
        assert server.family()
        server.send(signal.SIGKILL)
        until(lambda: not server.family(), "all have gone", within_sec=3)


def test_what_cannot_start_leaves_no_child_and_says_so_in_one_line() -> None:
    with ExitStack() as opened:
        taken = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = str(taken.getsockname()[1])
        server = _server(opened, "-d", "--port", port, env=_screen(opened))
        assert server.process.wait(15) == 2
        assert server.family() == []
        assert server.log.splitlines()[-1] == (
            f"ImageServer.py: cannot listen on 127.0.0.1 port {port}: Address already in use"
        )


# -- the means


def _server(
    opened: ExitStack,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    wrap: tuple[str, ...] = (),
    stderr: int | None = None,
) -> Server:
    server = Server(*arguments, env=env, wrap=wrap, stderr=stderr)
    opened.callback(server.end)
    return server


def _logged_in(opened: ExitStack, port: int) -> RawWebSocket:
    phone = opened.enter_context(RawWebSocket(port, WEBSOCKET))
    phone.send("40")
    phone.send('42["authenticate","Alice","123","loggedIn"]')
    while phone.receive() != '42["loggedIn",true]':
        pass
    return phone


def _temporary(opened: ExitStack) -> Path:
    return Path(opened.enter_context(tempfile.TemporaryDirectory()))


def _silent_screen(opened: ExitStack) -> tuple[socket.socket, dict[str, str]]:
    """What listens where an X server would, and never answers; and the environment that leads there."""
    for number in range(1_000, 59_000):
        with suppress(OSError):
            silent = opened.enter_context(socket.create_server(("127.0.0.1", 6_000 + number)))
            return silent, {"DISPLAY": f"127.0.0.1:{number}", "WAYLAND_DISPLAY": ""}
    raise AssertionError("no port is free")


@pytest.fixture(scope="module", autouse=True)
def _end_of_the_screen() -> Iterator[None]:
    yield
    _screens.close()


_screens = ExitStack()
_screen_lock = threading.Lock()
_screen_env: dict[str, str] = {}


def _screen(_opened: ExitStack) -> dict[str, str]:
    """A screen that works, the same for all."""
    peers.need("opencv", "xvfb")
    with _screen_lock:
        if not _screen_env:
            _screen_env.update(_screens.enter_context(_x_server()))
    return _screen_env


@contextmanager
def _x_server() -> Iterator[dict[str, str]]:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "640x480x24", "-noreset", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as number:
        env = {"DISPLAY": f":{number.readline().strip()}"}
    try:
        yield env
    finally:
        process.terminate()
        process.wait()


def _listens(pid: int) -> bool:
    """Whether a process holds a socket that listens."""
    sockets = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            sockets.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    listening = "0A"  # proc(5), the fourth field; the inode is the tenth
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(fields[3] == listening and f"socket:[{fields[9]}]" in sockets for fields in lines)
