"""What is measured of a server: CPU of a frame, time to an ack, memory of idle connections and under bursts.

Every measure counts: what was sent must be what the server says has come, frame by frame and byte by byte.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from auth.passwords import hash_password
from client_sim.load import Load, Report, Transport
from client_sim.load_images import jpeg
from side_by_side.servers import PASSWORD, SRC, Counts, Kind, Running, running

#: For each frame that is measured, one goes before it unmeasured in ten: buffers have been filled, code is compiled.
_WARM_UP_SHARE: Final = 10
#: A server that does nothing for so long has failed.
PATIENCE_SEC: Final = 60.0
#: After the last connection, until what the server has put off is done.
SETTLE_SEC: Final = 2.0
#: For 5,000 clients, and a first login of each of their users.
CONNECT_ALL_SEC: Final = 120.0


class Wrong(Exception):
    """A server did not take what was sent, so that its figures mean nothing."""


class Cell(NamedTuple):
    """A way to send, whose CPU per frame is measured.

    Args:
        frames: of each client.
    """

    name: str
    clients: int
    image_bytes: int
    frames: int
    piece_bytes: int | None = None
    protocol: int = 4
    transport: Transport = "websocket"

    def load(self, server: Running) -> Load:
        raw = server.kind.name == "sink"
        return Load(
            server.url,
            self.clients,
            image_bytes=self.image_bytes,
            protocols=(self.protocol,),
            transport="raw" if raw else self.transport,
            piece_bytes=self.piece_bytes,
            patience_sec=PATIENCE_SEC,
        )


class Times(NamedTuple):
    """From a frame to its ack."""

    p50_ms: float
    p99_ms: float


class Idle(NamedTuple):
    """What idle connections cost, and how soon a new one is served beside them.

    Args:
        kb: resident memory of each.
        new_ms: from its connect to the ack of its first frame, of the slowest of some new clients.
    """

    kb: float
    new_ms: float


class Growth(NamedTuple):
    """Resident memory in bursts, in MB beyond what it was when the clients had logged in.

    Args:
        peak: the most at any moment.
        after: when each burst had been received.
    """

    peak: float
    after: list[float]


def cpu_us_of_frame(cell: Cell, server: Running) -> float:
    """CPU that the server spends on a frame, in microseconds.

    Raises:
        Wrong: it has not received what was sent.
    """
    raw = server.kind.name == "sink"
    before = None if raw else server.counts()
    with cell.load(server) as load:
        load.open()
        if not raw:
            _check(load.send(frames=max(2, cell.frames // _WARM_UP_SHARE)), server)
        cpu_before = server.cpu_us()
        report = load.send(frames=cell.frames)
        cpu_us = server.cpu_us() - cpu_before
        _check(report, server)
        sent = sum(client.sent for client in load.clients)
        if before is not None:
            _check_counts(before, server.counts(), sent, cell.image_bytes, server)
    return cpu_us / report.frames


def ack_times(clients: int, server: Running, seconds: float, warm_up_sec: float = 0.0) -> Times:
    """Clients that send 50 KB at 10 Hz and ask for an ack of each frame.

    Raises:
        Wrong: a frame was not acknowledged, or not accepted.
    """
    image_bytes, rate_hz = 50_000, 10.0
    with Load(server.url, clients, image_bytes=image_bytes, acks=True, patience_sec=PATIENCE_SEC) as load:
        load.open()
        if warm_up_sec:
            _check(load.send(seconds=warm_up_sec, rate_hz=rate_hz), server)
        before = server.counts()
        report = load.send(seconds=seconds, rate_hz=rate_hz)
        _check(report, server)
        _check_counts(before, server.counts(), report.frames, image_bytes, server)
        assert report.ack_p50_ms is not None
        assert report.ack_p99_ms is not None
        return Times(report.ack_p50_ms, report.ack_p99_ms)


def warm_up(server: Running, seconds: float, transport: Transport = "websocket") -> None:
    with Load(server.url, 16, image_bytes=50_000, transport=transport, patience_sec=PATIENCE_SEC) as load:
        load.open()
        _check(load.send(seconds=seconds), server)


def verify(kind: Kind, cells: list[Cell]) -> int:
    """Let a server add up the CRC-32 of each image that it has taken, and compare; returns the bytes compared.

    Raises:
        Wrong: they are not the images that were sent.
    """
    expected = {"frames": 0, "bytes": 0, "crcs": 0}
    with running(kind) as server:
        for cell in cells:
            with cell.load(server) as load:
                load.open()
                _check(load.send(frames=cell.frames), server)
            for number in range(cell.clients):
                expected["frames"] += cell.frames
                expected["bytes"] += cell.frames * cell.image_bytes
                expected["crcs"] += cell.frames * zlib.crc32(jpeg(cell.image_bytes, number))
        figures = server.figures() if not kind.is_product else json.loads(server.stop().splitlines()[-1])
    if figures != expected:
        raise Wrong(f"{kind.name} has {figures}, and {expected} were sent")
    return expected["bytes"]


def idle_connections(kind: Kind, clients: int, new_clients: int, accounts: int) -> Idle:
    """Connect so many that say nothing, as so many users, and then some new ones that send a frame, one at a time.

    The new ones are users of their own, who have been there before. So the memory is compared with what it was when
    they had gone: what a server makes once, such as the memory for passwords' hashes, is not taken for connections'.
    """
    with tempfile.TemporaryDirectory() as folder:
        if kind.is_product:
            # All have the same password and hash, or making this file would take longer than the measurement.
            password_hash = hash_password(PASSWORD)
            names = [f"cam{number + 1}" for number in range(accounts)] + [f"new{n + 1}" for n in range(new_clients)]
            users = Path(folder) / "users"
            users.write_text("".join(f"{name}:{password_hash}\n" for name in names))
            kind = kind._replace(command=(*kind.command, "--users", str(users)))
        with running(kind) as server:
            with Load(server.url, new_clients, user="new{}", users=new_clients, password=PASSWORD) as load:
                load.open()
                load.send(frames=1)
            time.sleep(SETTLE_SEC)
            before_kb = server.rss_kb()
            with _staying(server, clients, accounts):
                time.sleep(SETTLE_SEC)
                kb = (server.rss_kb() - before_kb) / clients
                new_ms = max(_new_client_ms(server, f"new{number + 1}") for number in range(new_clients))
    return Idle(kb, new_ms)


def memory_in_bursts(server: Running, clients: int, image_bytes: int, bursts: int, frames: int) -> Growth:
    """What so many clients cost in memory that all send at once, several times, with a pause."""
    with Load(server.url, clients, image_bytes=image_bytes, patience_sec=PATIENCE_SEC) as load:
        load.open()
        time.sleep(SETTLE_SEC)
        server.forget_peak()
        start_kb = server.rss_kb()
        after = []
        for _ in range(bursts):
            _check(load.send(frames=frames), server)
            after.append((server.rss_kb() - start_kb) / 1024)
            time.sleep(SETTLE_SEC / 10)
        return Growth((server.peak_rss_kb() - start_kb) / 1024, after)


# -- parts


def _check(report: Report, server: Running) -> None:
    refused = set(report.refused) | set(report.errors)
    if report.troubles or refused - {"rate"} or (refused and not server.kind.limited):
        raise Wrong(f"{server.name}: {report.troubles or report.refused or report.errors}")


def _check_counts(before: Counts, after: Counts, sent: int, image_bytes: int, server: Running) -> None:
    frames, size = after.frames - before.frames, after.bytes - before.bytes
    refused = after.refused - before.refused
    if (frames + refused, size) != (sent, frames * image_bytes) or (refused and not server.kind.limited):
        raise Wrong(
            f"{server.name} has {frames} frames of {size} bytes and refused {refused},"
            f" {sent} of {image_bytes} bytes each were sent"
        )


def _new_client_ms(server: Running, user: str) -> float:
    with Load(server.url, 1, user=user, password=PASSWORD) as load:
        load.open()
        return (load.open_sec + load.send(frames=1).seconds) * 1000


@contextmanager
def _staying(server: Running, clients: int, accounts: int) -> Iterator[None]:
    """Clients that are connected and say nothing, in a process of their own, for as long as the block runs."""
    options = ("--clients", str(clients), "--users", str(accounts), "--user", "cam{}", "--idle", "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "client_sim.load", server.url, *options],
        cwd=SRC,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"IMAGESERVER_PASSWORD": PASSWORD},
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], CONNECT_ALL_SEC)
        if not readable or not process.stdout.readline():
            raise Wrong(f"{server.name} does not let {clients} clients in")
        yield
        if process.poll() is not None:
            raise Wrong(f"{server.name} did not keep {clients} clients connected")
    finally:
        process.kill()
        process.wait()
