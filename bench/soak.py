"""Does the server stay as it is? Real clients stream to it for an hour, and its memory, files and CPU time are watched.

A quarter of the clients comes and goes every minute, for what a login leaves behind must go as well. The quarters
differ in protocol and transport. Ends with status 1 if memory grew, files were left open, clients were not well served,
or the server did not stop as it should; each with the figure and what was allowed.
"""

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple
from urllib.request import Request, urlopen

SRC: Final = Path(__file__).parents[1] / "src"

START_SEC: Final = 30.0
STOP_SEC: Final = 3.0
#: Clients may take so long until the first frame, and to say goodbye after the last.
CLIENT_START_SEC: Final = 5.0
CLIENT_END_SEC: Final = 30.0
#: What the last client's connection takes to end: more than the ping timeout of one that went without a word.
DRAIN_SEC: Final = 60.0
VISIT_SEC: Final = 60.0
#: Of the frames that the clients' rate makes possible, for the machine has other work too.
LEAST_SERVED: Final = 0.95
#: Files that libraries open when they are first used, and keep.
SPARE_FILES: Final = 4


class Quarter(NamedTuple):
    """What a quarter of the clients has in common; the accounts are the demo's, so that `--auth` may be given."""

    user: str
    password: str
    protocol: int
    transport: str


#: The first one comes and goes.
QUARTERS: Final = (
    Quarter("user1", "pass1", 4, "upgrade"),
    Quarter("user2", "pass2", 4, "websocket"),
    Quarter("Alice", "123", 3, "upgrade"),
    Quarter("Bob", "456", 3, "polling"),
)

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MB: Final = 1_000_000


class Sample(NamedTuple):
    """What the server process is like at a moment."""

    at: float
    rss_bytes: int
    files: int
    cpu_sec: float
    streams: int
    frames: int


class Server:
    """The server in a process of its own, and what can be seen of it from outside."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        account = {"username": QUARTERS[0].user, "password": QUARTERS[0].password}
        login = Request(f"{url}/api/v1/token", json.dumps(account).encode(), {"Content-Type": "application/json"})
        with urlopen(login, timeout=10) as answer:
            token = json.load(answer)["token"]
        self._metrics = Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})

    def sample(self) -> Sample:
        proc = Path("/proc") / str(self.process.pid)
        # The name, in brackets, may hold anything; utime and stime are the 12th and 13th fields behind it (proc(5)).
        ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        pages = (proc / "statm").read_text().split()[1]
        files = len(os.listdir(proc / "fd"))
        with urlopen(self._metrics, timeout=10) as answer:
            metrics = answer.read().decode()
        return Sample(
            time.monotonic(),
            int(pages) * _PAGE_BYTES,
            files,
            sum(map(int, ticks)) / _TICKS,
            _metric(metrics, "imageserver_streams"),
            _metric(metrics, "imageserver_frames_total"),
        )

    def stop(self) -> str | None:
        """SIGTERM, and what was wrong about its end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            return f"the server had not ended {STOP_SEC:g} s after SIGTERM"
        print(f"the server ended {time.monotonic() - began:.1f} s after SIGTERM, with status {status}")
        return f"the server ended with status {status}, expected 0" if status else None


def _metric(metrics: str, name: str) -> int:
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    if found is None:
        raise ValueError(f"/metrics has no {name}")
    return int(float(found[1]))


@contextmanager
def serving(options: Sequence[str], log: Path) -> Iterator[Server]:
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "ImageServer.py", "--ip", "127.0.0.1", "--port", "0", *options],
            cwd=SRC,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_SEC)
        line = process.stdout.readline() if readable else ""
        url = line.strip().removeprefix("ImageServer listening on ")
        if not url.startswith("http"):
            raise SystemExit(f"the server did not start:\n{log.read_text()}")
        yield Server(process, url)
    finally:
        process.kill()
        process.wait()


class Clients:
    """Simulated cameras in a process of their own."""

    def __init__(self, url: str, quarter: int, duration_sec: float, options: argparse.Namespace) -> None:
        user, password, protocol, transport = QUARTERS[quarter]
        count = len(range(quarter, options.clients, len(QUARTERS)))
        self.name = f"{count} clients by protocol {protocol} and {transport}"
        self._frames_wanted = LEAST_SERVED * count * options.rate * (duration_sec - CLIENT_START_SEC)
        self._deadline = time.monotonic() + duration_sec + CLIENT_END_SEC
        arguments = {
            "server": url,
            "user": user,
            "clients": count,
            "rate": options.rate,
            "size": options.size,
            "duration": duration_sec,
            "protocol": protocol,
            "transport": transport,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "client_sim", "--json", *(f"--{name}={value}" for name, value in arguments.items())],
            cwd=SRC,
            env=os.environ | {"IMAGESERVER_PASSWORD": password},
            stdout=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> bool:
        if self._process.poll() is None and time.monotonic() > self._deadline:
            self._process.kill()
            self._process.wait()
        return self._process.poll() is not None

    def problem(self) -> str | None:
        """What went wrong, once they have ended."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            return f"{self.name}: status {self._process.returncode}: {out.strip()}"
        frames = json.loads(out)["frames"]
        if frames < self._frames_wanted:
            return f"{self.name}: {frames} frames, expected at least {self._frames_wanted:.0f}"
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def run(server: Server, options: argparse.Namespace) -> list[str]:
    """The soak; returns what went wrong."""
    before = server.sample()
    began = before.at
    ends = began + options.minutes * 60
    quarters = range(min(len(QUARTERS), options.clients))
    running = {quarter: Clients(server.url, quarter, ends - began, options) for quarter in quarters[1:]}
    samples = [before]
    problems: list[str] = []
    print(f"{'min':>6}{'RSS, MB':>9}{'files':>7}{'CPU, %':>8}{'streams':>9}{'frames/s':>10}", flush=True)
    try:
        while not problems and (running or time.monotonic() < ends):
            left_sec = ends - time.monotonic()
            if 0 not in running and left_sec > VISIT_SEC / 2:
                running[0] = Clients(server.url, 0, min(VISIT_SEC, left_sec), options)
            time.sleep(options.every)
            samples.append(server.sample())
            print(_row(began, *samples[-2:]), flush=True)
            ended = [running.pop(quarter) for quarter, clients in list(running.items()) if clients.ended()]
            problems += [problem for clients in ended if (problem := clients.problem())]
    finally:
        for clients in running.values():
            clients.kill()
    if problems:
        return problems  # they ended the run early, and would only be repeated by what follows from them
    warm = [sample for sample in samples if began + options.warm_up * 60 <= sample.at <= ends]
    return _left_open(server, before) + _growth(warm, options.max_growth_mb)


def _row(began: float, last: Sample, now: Sample) -> str:
    sec = now.at - last.at
    cpu = 100 * (now.cpu_sec - last.cpu_sec) / sec
    rate = (now.frames - last.frames) / sec
    minutes, rss_mb = (now.at - began) / 60, now.rss_bytes / _MB
    return f"{minutes:>6.1f}{rss_mb:>9.1f}{now.files:>7}{cpu:>8.1f}{now.streams:>9}{rate:>10.1f}"


def _growth(samples: Sequence[Sample], max_growth_mb: float) -> list[str]:
    """Whether memory grew from the first quarter of the samples to the last: their medians, as single ones jump."""
    if len(samples) < 4:
        return [f"only {len(samples)} samples after the warm-up, expected at least 4"]
    first, last = samples[: len(samples) // 4], samples[-(len(samples) // 4) :]
    grown_mb = (median(s.rss_bytes for s in last) - median(s.rss_bytes for s in first)) / _MB
    minutes = (median(s.at for s in last) - median(s.at for s in first)) / 60
    frames = median(s.frames for s in last) - median(s.frames for s in first)
    said = f"memory grew by {grown_mb:.1f} MB in {minutes:.1f} min, {grown_mb * _MB / max(frames, 1):.0f} bytes a frame"
    print(f"{said}; at most {max_growth_mb:g} MB is allowed")
    return [f"{said}, at most {max_growth_mb:g} MB is allowed"] if grown_mb > max_growth_mb else []


def _left_open(server: Server, before: Sample) -> list[str]:
    """What the clients left behind when all have gone."""
    deadline = time.monotonic() + DRAIN_SEC
    while True:
        after = server.sample()
        gone = not after.streams and after.files <= before.files + SPARE_FILES
        if gone or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print(f"files open before the clients: {before.files}, after them: {after.files}")
    return [] if gone else [f"{after.streams} streams and {after.files - before.files} files were left by the clients"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=5, metavar="HZ", help="of each client; default: %(default)s")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="default: %(default)s")
    parser.add_argument("--every", type=float, default=10, metavar="SEC", help="between samples; default: %(default)s")
    parser.add_argument(
        "--warm-up", type=float, metavar="MIN", help="default: a quarter of the time, at most 12 minutes"
    )
    parser.add_argument("--max-growth-mb", type=float, default=5, metavar="MB", help="default: %(default)s")
    parser.add_argument("server", nargs="*", metavar="OPTION", help="of the server, after --")
    options = parser.parse_args()
    if options.warm_up is None:
        # Ended streams are listed for ten minutes, so that long their number grows.
        options.warm_up = min(12, options.minutes / 4)

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        # Nobody watches, and the clients obey: what they are to send has to be wanted all the same.
        with serving(["--idle-rate", str(options.rate), *options.server], log) as server:
            problems = run(server, options)
            problems += [problem] if (problem := server.stop()) else []
        written = log.read_text()
    if "Traceback" in written:
        problems.append(f"the server's log has tracebacks; its end:\n{written[-4000:]}")
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print("ok")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
