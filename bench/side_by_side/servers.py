"""The servers that are compared: how each is started, what it has counted, and what it cost, from /proc."""

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import Request, urlopen

BENCH: Final = Path(__file__).resolve().parent.parent
ROOT: Final = BENCH.parent
SRC: Final = ROOT / "src"
PEERS: Final = ROOT / ".peers" / "bench"

START_SEC: Final = 30.0
STOP_SEC: Final = 10.0
USER: Final = "user1"
PASSWORD: Final = "pass1"
#: The server under test has no option for its way of reading: it has one way.
ONLY_READER: Final = ""


class Counts(NamedTuple):
    """What a server says that it has taken, and refused because of its rate."""

    frames: int
    bytes: int
    refused: int = 0


class Kind(NamedTuple):
    """One of those that are compared.

    Args:
        name: as in the tables.
        command: what starts it; it prints its address on its first line.
        warm_up: it compiles as it runs, and is slower before it has.
        reader: of ImageServer, its way of reading; None for the others.
        limited: it refuses frames, because of their rate.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    warm_up: bool = False
    reader: str | None = None
    limited: bool = False

    @property
    def is_product(self) -> bool:
        return self.reader is not None


class Running:
    """A server that runs; what it cost is that of its process, its children and all their threads."""

    def __init__(self, kind: Kind, process: "subprocess.Popen[str]", url: str) -> None:
        self.kind = kind
        self.url = url
        self._process = process
        self._token: str | None = None

    @property
    def name(self) -> str:
        return self.kind.name

    def cpu_us(self) -> float:
        """CPU time so far, in microseconds, to the nanosecond (schedstat; `stat` counts in hundredths of a second)."""
        return sum(_run_ns(pid) for pid in _processes(self._process.pid)) / 1000

    def rss_kb(self) -> float:
        return sum(_status_kb(pid, "VmRSS") for pid in _processes(self._process.pid))

    def peak_rss_kb(self) -> float:
        return sum(_status_kb(pid, "VmHWM") for pid in _processes(self._process.pid))

    def forget_peak(self) -> None:
        """Let the peak begin anew (proc(5), clear_refs)."""
        for pid in _processes(self._process.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def counts(self) -> Counts:
        """Not while something is measured: it is asked for over HTTP."""
        if not self.kind.is_product:
            figures = self.figures()
            return Counts(figures["frames"], figures["bytes"])
        if self._token is None:
            self._token = _get(f"{self.url}/api/v1/token", {"username": USER, "password": PASSWORD})["token"]
        with urlopen(Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {self._token}"})) as answer:
            metrics = answer.read().decode()
        used = re.search(r'\breader="([a-z]+)"', metrics)
        if used is not None and self.kind.reader not in (used[1], ONLY_READER):
            raise SystemExit(f"{self.name} uses its {used[1]} reader")
        return Counts(
            _metric(metrics, "imageserver_frames_total"),
            _metric(metrics, "imageserver_frame_bytes_total"),
            _metric(metrics, 'imageserver_refused_frames_total{reason="rate"}', 0),
        )

    def figures(self) -> dict[str, int]:
        """Frames, bytes and the sum of CRC-32s that a peer has counted."""
        return dict(_get(f"{self.url}/figures"))

    def stop(self) -> str:
        """End it; what it said last on its standard output."""
        self._process.terminate()
        try:
            said, _ = self._process.communicate(timeout=STOP_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        return said


def product(reader: str, *options: str, launcher: Sequence[str] = ("ImageServer.py",), name: str = "") -> Kind:
    """ImageServer as users run it, with accounts, and no limit of the rate unless one is given."""
    chosen = ("--reader", reader) if reader else ()
    limit = () if "--rate" in options else ("--rate", "0")
    return Kind(
        name or (f"ImageServer, {reader}" if reader else "ImageServer"),
        (sys.executable, *launcher, "-i", "127.0.0.1", "-p", "0", "-a", *limit, *options, *chosen),
        {},
        reader=reader,
        limited="--rate" in options,
    )


def verified_product(reader: str) -> Kind:
    """The same, but the images that its hub publishes are added up; see verified_server.py."""
    return product(reader, launcher=(str(BENCH / "side_by_side" / "verified_server.py"),))


def peers(verify: bool = False) -> dict[str, Kind]:
    """The others by name: `stock`, `node`, `bun` and `sink`."""
    more = ("--verify",) if verify else ()
    bun = str(PEERS / "bun" / "node_modules" / ".bin" / "bun")
    return {
        "stock": Kind("stock", (sys.executable, str(BENCH / "peers" / "stock.py"), *more), {}),
        "node": Kind(
            "Node",
            ("node", str(BENCH / "peers" / "node" / "server.js"), *more),
            {"NODE_PATH": str(PEERS / "node" / "node_modules"), "NODE_ENV": "production"},
            warm_up=True,
        ),
        "bun": Kind(
            "Bun",
            (bun, str(BENCH / "peers" / "bun" / "server.js"), *more),
            {"NODE_PATH": str(PEERS / "bun" / "node_modules"), "NODE_ENV": "production"},
            warm_up=True,
        ),
        "sink": Kind("sink", (str(PEERS / "sink"),), {}),
    }


def missing_peers() -> bool:
    return not all((PEERS / name).exists() for name in ("node/.ready", "bun/.ready", "sink"))


@cache
def readers() -> list[str]:
    """The ways of reading that this ImageServer has, here; a compiled one may not have been built."""
    help_text = subprocess.run(
        [sys.executable, "ImageServer.py", "--help"], cwd=SRC, capture_output=True, text=True, check=True
    ).stdout
    if "--reader" not in help_text:
        return [ONLY_READER]
    found = [reader for reader in ("python", "compiled") if _starts(product(reader))]
    if not found:
        raise SystemExit("ImageServer does not start, with neither reader")
    return found


def _starts(kind: Kind) -> bool:
    try:
        with running(kind):
            return True
    except SystemExit:
        return False


@contextmanager
def running(kind: Kind) -> Iterator[Running]:
    """It listens on a free port of the loopback, and is ended at the end.

    Raises:
        SystemExit: it does not start; with what it said.
    """
    process = subprocess.Popen(
        kind.command,
        cwd=SRC,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | kind.environment,
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_SEC)
        line = process.stdout.readline() if readable else ""
        found = re.search(r" listening on (http://\S+)", line)
        if found is None:
            raise SystemExit(f"{kind.name} does not start: {' '.join(kind.command)} said {line!r}")
        server = Running(kind, process, found[1])
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SEC)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def versions() -> dict[str, str]:
    """What is compared, with its version."""

    def of_package(peer: str, package: str) -> str:
        path = PEERS / peer / "node_modules" / package / "package.json"
        return str(json.loads(path.read_text())["version"])

    def said_by(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().removeprefix("v")

    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    return {
        "Python": ".".join(map(str, sys.version_info[:3])),
        "eventlet": pinned["eventlet"],
        "python-socketio": pinned["python-socketio"],
        "Node": said_by("node", "--version"),
        "socket.io": of_package("node", "socket.io"),
        "ws": of_package("node", "ws"),
        "bufferutil": of_package("node", "bufferutil"),
        "Bun": said_by(str(PEERS / "bun" / "node_modules" / ".bin" / "bun"), "--version"),
        "@socket.io/bun-engine": of_package("bun", "@socket.io/bun-engine"),
    }


def _get(url: str, body: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=START_SEC) as answer:
        return json.load(answer)


def _metric(metrics: str, name: str, missing: int | None = None) -> int:
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    if found is None:
        if missing is None:
            raise ValueError(f"/metrics has no {name}")
        return missing
    return int(float(found[1]))


def _processes(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _run_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass  # the thread has just ended
    return total


def _status_kb(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, f"process {pid} has no {name}"
    return int(found[1])
