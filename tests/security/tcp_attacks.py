"""Attacks on the way in for cameras over plain TCP, each played from outside, beside good cameras of both kinds."""

import gzip
import random
import resource
import selectors
import socket
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import green  # noqa: F401 (before serving, or eventlet announces its retirement)
from desktops import Desktop, bmp, message, packed, tcp_port
from pictures import picture
from probe import KEPT, Probe, probing
from running import RunningServer, running_server, until
from security.processes import open_files, rss_bytes
from serving import GIVE_BACK_PAUSE_SEC, GIVE_BACK_SEC

#: Where attackers and good cameras are; the file of --tcp-users knows both, and nobody else.
ATTACKER: Final = "127.0.0.66"
GOOD: Final = "127.0.0.77"
USERS: Final = f"{ATTACKER} Mallory\n{GOOD} Alice\n"
GOOD_CAMERAS: Final = 4
GOOD_HZ: Final = 5.0
#: Until then a connection that does nothing useful has gone.
GONE_SEC: Final = 30.0
MB: Final = 1_000_000


class GoodDesktops:
    """Some cameras over plain TCP that send at a steady rate, and are not answered."""

    def __init__(self, port: int) -> None:
        self._desktops = [Desktop(port, source=GOOD) for _ in range(GOOD_CAMERAS)]
        self._ending = threading.Event()
        self.sent = [0] * GOOD_CAMERAS
        self.trouble: list[str] = []
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(GOOD_CAMERAS)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        due = time.monotonic() + number / GOOD_CAMERAS / GOOD_HZ
        while not self._ending.wait(max(due - time.monotonic(), 0)):
            try:
                self._desktops[number].send(1, bmp(160, 120))
            except OSError as error:
                self.trouble.append(f"a good camera was cut off: {error}")
                return
            self.sent[number] += 1
            # Where the server reads late, frames are late, and then fewer; that is what counts as lost.
            due = max(due + 1 / GOOD_HZ, time.monotonic())

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        for desktop in self._desktops:
            desktop.close()


class Attacked:
    """A server with `-a` under attack, and what good cameras come to meanwhile."""

    def __init__(self, server: RunningServer, probe: Probe, desktops: GoodDesktops) -> None:
        self.server = server
        self.port = tcp_port(server)
        self.probe = probe
        self._desktops = desktops
        self._came_to = ""
        self._token = server.token("Alice", "123")
        self._began = time.monotonic()
        self._taken_before = self._taken()
        self._folder = Path("/proc") / str(server.process.pid)
        (self._folder / "clear_refs").write_text("5")
        self._rss_before = self._memory("VmRSS")

    def _memory(self, name: str) -> float:
        line = next(line for line in (self._folder / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024 / MB

    @property
    def peak_growth_mb(self) -> float:
        return self._memory("VmHWM") - self._rss_before

    @property
    def growth_mb(self) -> float:
        return self._memory("VmRSS") - self._rss_before

    def desktop(self) -> Desktop:
        return Desktop(self.port, source=ATTACKER)

    def metric(self, name: str, containing: str = "") -> int:
        """The sum of a counter's samples."""
        lines = self.server.get("/metrics", self._token).splitlines()
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(name) and containing in line)

    def ends(self, cause: str) -> int:
        return self.metric("imageserver_tcp_connections_ended_total", f'"{cause}"')

    def _good_kept(self) -> float:
        """The share of the frames due that were taken of the good camera over TCP that fared worst; it ends them."""
        seconds = time.monotonic() - self._began
        self._desktops.end()
        assert not self._desktops.trouble, self._desktops.trouble

        until(lambda: sum(self._taken().values()) == sum(self._desktops.sent), "all that they sent is taken")
        taken = self._taken()
        assert len(taken) == GOOD_CAMERAS
        return min(taken[name] - self._taken_before[name] for name in taken) / max(int(seconds * GOOD_HZ), 1)

    def _taken(self) -> dict[str, int]:
        streams = self.server.streams(self._token)
        return {name: stream["frames"] for name, stream in streams.items() if stream["via"] == "tcp"}

    def finish(self) -> str:
        """End the good cameras; returns what they came to. Harmless when it has been done."""
        if not self._came_to:
            kept = self._good_kept()
            figures = self.probe.stop()
            figures.check()
            assert kept >= KEPT, f"a good camera over TCP kept {kept:.0%} of its frames"
            self._check_log()
            self._came_to = f"acks p99 {figures.p99_ms:.0f} ms, {figures.kept:.0%} kept, over TCP {kept:.0%}"
        return self._came_to

    def _check_log(self) -> None:
        log = self.server.log
        assert not [line for line in log if "Traceback" in line or " ERROR " in line], "".join(log)
        said = [line for line in log if "ingest.tcp" in line]
        assert len(said) <= 20 * (time.monotonic() - self._began + 2), f"{len(said)} lines: {''.join(said[:20])}"


@contextmanager
def attacked(*arguments: str) -> Iterator[Attacked]:
    """A server that is served well, before and while the block runs."""
    with tempfile.NamedTemporaryFile("w") as users:
        users.write(USERS)
        users.flush()
        with running_server("-a", "--tcp-port", "0", "--tcp-users", users.name, *arguments) as server:
            desktops = GoodDesktops(tcp_port(server))
            try:
                with probing(server.port) as probe:
                    token = server.token("Alice", "123")
                    until(
                        lambda: sum(s["via"] == "tcp" for s in server.streams(token).values()) == GOOD_CAMERAS,
                        "the good cameras send",
                    )
                    attack = Attacked(server, probe, desktops)
                    yield attack
                    attack.finish()
            finally:
                desktops.end()
                desktops.close()


def allow_files() -> Callable[[], None]:
    """Let this process open as many files as it may; returns what undoes that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- bad messages: each ends its connection

Sent = Callable[[], bytes]


@cache
def bomb(size: int, says: int | None = None) -> bytes:
    """Gzip data of so many zeros; at their end they may say that they are fewer."""
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(bytes(min(10 * MB, size - at))) for at in range(0, size, 10 * MB)]
    data = b"".join([*pieces, packer.flush()])
    return data if says is None else data[:-4] + struct.pack("<I", says)


def _random(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


BAD_MESSAGES: Final[dict[str, Sent]] = {
    "a bomb of 1 GB": lambda: message(1, bomb(1_000 * MB)),
    "a bomb of 1 GB that says it has 1 KB": lambda: message(1, bomb(1_000 * MB, 1_000)),
    "a bomb behind a BMP's head": lambda: message(1, gzip.compress(bmp()[:54] + bytes(100 * MB))),
    "a BMP of 30,000 x 30,000": lambda: message(
        1, gzip.compress(bmp()[:18] + struct.pack("<ii", 30_000, 30_000) + bmp()[26:])
    ),
    "a size of 0": lambda: struct.pack("!BI", 1, 0) + packed(bmp()),
    "a size of 4 GiB": lambda: struct.pack("!BI", 1, 0xFFFFFFFF) + packed(bmp()),
    "a size of 4 GiB, little-endian": lambda: struct.pack("<B3xI", 1, 0xFFFFFFFF) + packed(bmp()),
    "a size of 4 GiB behind a good image": lambda: message(1, packed(bmp())) + struct.pack("!BI", 1, 0xFFFFFFFF),
    "no gzip": lambda: message(1, bmp()),
    "random bytes": lambda: _random(1, 100_000),
    "HTTP": lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes behind the gzip data": lambda: message(1, packed(bmp()) + b"x"),
    "a megabyte behind the gzip data": lambda: message(1, packed(bmp()) + bytes(MB)),
    "two BMPs": lambda: message(1, packed(bmp() * 2)),
    "two gzip files": lambda: message(1, packed(bmp()) * 2),
    "damaged gzip data": lambda: message(1, packed(bmp())[:500] + b"damaged" + packed(bmp())[507:]),
    "half of the gzip data": lambda: message(1, packed(bmp())[:-500]),
    "gzip of a JPEG": lambda: message(1, gzip.compress(picture())),
    "gzip of a text": lambda: message(1, gzip.compress(b"Dear Sir or Madam, " * 100)),
    "gzip of gzip": lambda: message(1, gzip.compress(packed(bmp()))),
    "gzip of half a BMP": lambda: message(1, gzip.compress(bmp()[:5_000])),
    "256 cameras": lambda: b"".join(message(camera, packed(bmp(8, 8))) for camera in range(256)),
}


class Played(NamedTuple):
    """How many connections came, how many the server ended, and how soon the last one."""

    clients: int
    ended: int
    last_ms: float


def play_bad(attack: Attacked, name: str, times: int = 5) -> Played:
    """Send a bad message over one connection after the other."""
    sent = BAD_MESSAGES[name]()
    ended, last_ms = 0, 0.0
    for _ in range(times):
        with attack.desktop() as desktop:
            began = time.monotonic()
            try:
                desktop.send_raw(sent)
            except OSError:
                pass  # it was ended before all was sent
            ended += desktop.has_ended(8)
            last_ms = max(last_ms, 1e3 * (time.monotonic() - began))
    return Played(times, ended, last_ms)


def play_truncated(attack: Attacked, times: int = 100) -> Played:
    """Connections that end in the middle of a message, by a goodbye and by a reset."""
    before = attack.ends("truncated") + attack.ends("reset")
    sent = message(1, packed(bmp()))
    for number in range(times):
        with attack.desktop() as desktop:
            desktop.send_raw(sent[: 1 + number * 37 % (len(sent) - 1)])
            if number % 2:
                desktop.reset()
    until(lambda: attack.ends("truncated") + attack.ends("reset") >= before + times, "all of them are noticed")
    return Played(times, attack.ends("truncated") + attack.ends("reset") - before, 0.0)


# -- crowds

#: The beginning of a message of nearly the largest size, which can be read in one way only.
LARGE: Final = struct.pack("!BI", 1, 0x7FFFFF) + b"\x1f\x8b\x08"
#: What each client of a crowd sends at first, and then over and over.
CROWDS: Final[dict[str, tuple[Sent, bytes]]] = {
    "half-open": (lambda: b"", b""),
    "half a head": (lambda: b"\1\0\0", b""),
    "slow drip": (lambda: message(1, packed(bmp()))[:1_000], b"a"),
    "half a message": (lambda: LARGE + bytes(60_000), b""),
    "idle": (lambda: message(1, packed(bmp(8, 8))), b""),
}
DRIP_SEC: Final = 0.5


class Held(NamedTuple):
    """What a crowd held, and for how long; files and MB of memory before, at the most and afterwards."""

    clients: int
    gone: int
    last_sec: float
    newcomer_ms: float
    files: tuple[int, int, int]
    rss_mb: tuple[float, float, float]

    def summary(self) -> str:
        return (
            f"{self.gone} of {self.clients} gone, the last after {self.last_sec:.1f} s; a new camera was served in"
            f" {self.newcomer_ms:.0f} ms; files {' → '.join(map(str, self.files))},"
            f" MB {' → '.join(f'{mb:.0f}' for mb in self.rss_mb)}"
        )


def hold(attack: Attacked, crowds: dict[str, int]) -> Held:
    """Let crowds come (how many clients of each of `CROWDS`), and see when the server ends them."""
    pid = attack.server.process.pid
    before = open_files(pid), rss_bytes(pid) / MB
    clients = []
    for name, count in crowds.items():
        opening, drip = CROWDS[name]
        for _ in range(count):
            client = attack.desktop().socket
            client.sendall(opening())
            client.setblocking(False)
            clients.append((client, drip))
    began = time.monotonic()
    newcomer_ms = _newcomer_ms(attack)
    most = open_files(pid), rss_bytes(pid) / MB
    gone, last_sec, dripped = 0, 0.0, began
    with selectors.DefaultSelector() as selector:
        for client, drip in clients:
            selector.register(client, selectors.EVENT_READ, drip)
        while selector.get_map() and time.monotonic() - began < GONE_SEC:
            for key, _ in selector.select(DRIP_SEC / 5):
                selector.unregister(key.fileobj)  # cameras are told nothing, so this is the end
                gone, last_sec = gone + 1, time.monotonic() - began
            if time.monotonic() - dripped > DRIP_SEC:
                dripped = time.monotonic()
                for key in list(selector.get_map().values()):
                    if key.data:
                        _drip(key.fileobj, key.data)
    for client, _ in clients:
        client.close()
    until(lambda: open_files(pid) <= before[0] + 2, "their files are closed", 5)
    time.sleep(GIVE_BACK_PAUSE_SEC + 2 * GIVE_BACK_SEC)
    return Held(
        len(clients), gone, last_sec, newcomer_ms,
        (before[0], most[0], open_files(pid)), (before[1], most[1], rss_bytes(pid) / MB),
    )  # fmt: skip


def _drip(client: object, data: bytes) -> None:
    assert isinstance(client, socket.socket)
    try:
        client.send(data)
    except OSError:
        pass  # it has ended, as the next look shows


def _newcomer_ms(attack: Attacked) -> float:
    """How long a new camera takes to have an image taken."""
    began = time.monotonic()
    before = attack.metric("imageserver_streams_opened_total")
    with attack.desktop() as desktop:
        desktop.send()
        until(lambda: attack.metric("imageserver_streams_opened_total") > before, "a new camera is served", 20)
    return (time.monotonic() - began) * 1e3


# -- floods


@contextmanager
def flooding(attack: Attacked, sent: bytes, rate_hz: float, connections: int = 1) -> Iterator[list[int]]:
    """Send the same over and over, so often a second over each connection, or as fast as it is taken (0); gives how
    often."""
    ending = threading.Event()
    counts = [0] * connections

    def send(number: int) -> None:
        with attack.desktop() as desktop:
            desktop.socket.settimeout(5)
            due = time.monotonic()
            while not ending.is_set():
                try:
                    desktop.send_raw(sent)
                except OSError:
                    break
                counts[number] += 1
                if rate_hz:
                    due = max(due + 1 / rate_hz, time.monotonic() - 0.1)
                    ending.wait(max(due - time.monotonic(), 0))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def play_unfinished(attack: Attacked, clients: int, sent_bytes: int, served: bool) -> tuple[int, float]:
    """Clients that each send so much of a large message, and no more; returns how many had to give way, and the growth
    of the server's memory at its highest, in MB.

    Args:
        served: a good message comes before.
    """
    before = attack.ends("memory")
    opening = message(1, packed(bmp(8, 8))) * served + LARGE + bytes(sent_bytes)
    desktops = [attack.desktop() for _ in range(clients)]
    try:
        for desktop in desktops:
            desktop.socket.settimeout(5)
            try:
                desktop.send_raw(opening)
            except OSError:
                pass  # it has given way
        time.sleep(0.5)
        return attack.ends("memory") - before, attack.peak_growth_mb
    finally:
        for desktop in desktops:
            desktop.close()
