"""What do plug-ins cost the ingest, and how old are their results?

20 cameras send 1280 x 720 at 10 Hz, with acks, to a server without plug-ins, to one with the motion plug-in, and to one
whose plug-in takes ten times as long as it has. Every frame must be accepted; what became of each must be known.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final
from urllib.request import urlopen

import cv2
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

SRC: Final = Path(__file__).parents[1] / "src"

STREAMS: Final = 20
RATE_HZ: Final = 10.0
SIZE: Final = (1280, 720)
WARM_UP_SEC: Final = 3.0
#: Pictures of a camera before they come again.
PICTURES: Final = 10
TOO_SLOW: Final = 10
#: Bounds: of the ingest beside itself without plug-ins, of a result's age beside the plug-in's own time, of the memory
#: of the server and its workers together while a plug-in is too slow, in MB.
ACKS_ALLOWED: Final = 2.0
AGE_ALLOWED: Final = 2.0
GROWTH_ALLOWED_MB: Final = 20.0

#: A plug-in that takes as long as the environment says.
SLOW: Final = """
import os, time

def slow(frame):
    time.sleep(float(os.environ["SLOW_SEC"]))
    return {"seq": frame.seq}

slow.deadline = 60
"""


@dataclass
class Run:
    """What the cameras of a run have seen; times in seconds."""

    sent: int = 0
    refused: int = 0
    acks: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    results: Counter[int] = field(default_factory=Counter)
    """By camera."""

    counting: bool = False


@dataclass
class Server:
    pid: int
    url: str

    def metrics(self) -> dict[str, float]:
        """Samples by their name and labels."""
        with urlopen(self.url + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def total(self, name: str, containing: str = "") -> float:
        return sum(value for key, value in self.metrics().items() if key.startswith(name) and containing in key)

    def memory_mb(self) -> float:
        """Resident, of the server and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(
            int(line.split()[1]) / 1024
            for pid in (str(self.pid), *children)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a run is measured (default 15)")
    parser.add_argument("--rounds", type=int, default=3, help="runs without and with plug-ins (default 3)")
    options = parser.parse_args()
    pictures = moving_pictures()
    size_kb = sum(map(len, pictures)) / len(pictures) / 1000
    print(f"{STREAMS} cameras x {RATE_HZ:g} Hz x {SIZE[0]} x {SIZE[1]} ({size_kb:.0f} KB)", flush=True)
    met = measure_motion(pictures, options.rounds, options.seconds)
    return 0 if measure_slow(pictures, options.seconds) and met else 1


def measure_motion(pictures: list[bytes], rounds: int, seconds: float) -> bool:
    acks: dict[str, list[float]] = {"without": [], "motion": []}
    ages: list[float] = []
    lost = 0
    for number in range(1, rounds + 1):
        for how in acks:
            with server([] if how == "without" else ["--process", "processing.motion:Motion"]) as running:
                run = asyncio.run(measured(running, pictures, seconds))
                p50_ms, p99_ms = (1000 * at for at in percentiles(run.acks))
                acks[how].append(p99_ms)
                accepted = running.total("imageserver_frames_total")
                lost += run.refused + int(run.sent - accepted)
                line = f"round {number}  {how:8} acks p50 {p50_ms:5.2f}, p99 {p99_ms:5.2f} ms"
                if how == "motion":
                    took = running.total("imageserver_plugin_seconds_total") / running.total(
                        "imageserver_plugin_frames_total", 'end="done"'
                    )
                    age = percentiles(run.ages)
                    ages.append(age[0] / took)
                    line += (
                        f"; the plug-in takes {1000 * took:.2f} ms; results are {1000 * age[0]:.2f} ms old (p50), "
                        f"{1000 * age[1]:.2f} (p99); of {accepted:.0f} frames it did "
                        f"{running.total('imageserver_plugin_frames_total', 'done'):.0f}"
                    )
                print(line, flush=True)
    ratio, age = median(acks["motion"]) / median(acks["without"]), median(ages)
    return all(
        [
            demand("frames lost on their way in", lost, 0, "frames"),
            demand("acks' p99 beside that without plug-ins", ratio, ACKS_ALLOWED, "times"),
            demand("a result's age (p50) beside the plug-in's own time", age, AGE_ALLOWED, "times"),
        ]
    )


def measure_slow(pictures: list[bytes], seconds: float) -> bool:
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    slow_sec = TOO_SLOW * workers / (STREAMS * RATE_HZ)
    seconds = max(seconds, 4 * STREAMS * slow_sec / workers)  # so that each has had its turn some times
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bench_slow.py").write_text(SLOW)
        environ = {"PYTHONPATH": folder, "SLOW_SEC": str(slow_sec)}
        with server(["--process", "bench_slow:slow"], environ) as running:
            memory: list[float] = []
            run = asyncio.run(measured(running, pictures, seconds, lambda: memory.append(running.memory_mb())))
            deadline = time.monotonic() + 10 * STREAMS * slow_sec
            while running.total("imageserver_plugin_frames_waiting") and time.monotonic() < deadline:
                time.sleep(0.2)
            accepted = running.total("imageserver_frames_total")
            ends = {end: int(running.total("imageserver_plugin_frames_total", f'"{end}"')) for end in
                    ("done", "failed", "lost", "dropped")}  # fmt: skip
    growth = max(memory) - memory[0]
    print(
        f"{1000 * slow_sec:.0f} ms a frame on {workers} worker(s), {TOO_SLOW} times too slow: of {accepted:.0f} frames "
        f"{ends}; results of a camera: {min(run.results.values(), default=0)} to {max(run.results.values(), default=0)}"
    )
    return all(
        [
            demand("frames lost on their way in", run.refused + run.sent - accepted, 0, "frames"),
            demand("frames of which nobody knows what became", abs(accepted - sum(ends.values())), 0, "frames"),
            demand("cameras without results", STREAMS - len(run.results), 0, "cameras"),
            demand("growth of memory", growth, GROWTH_ALLOWED_MB, "MB"),
        ]
    )


def demand(what: str, measured: float, allowed: float, unit: str) -> bool:
    met = measured <= allowed
    print(f"  {what}: {measured:.4g} {unit}, allowed {allowed:g}: {'met' if met else 'NOT MET'}", flush=True)
    return met


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th."""
    return median(seconds), quantiles(seconds, n=100)[98]


async def measured(
    running: Server, pictures: list[bytes], seconds: float, look: Callable[[], object] | None = None
) -> Run:
    """Let the cameras send; what is counted begins after a warm-up."""
    run = Run()
    cameras = [asyncio.create_task(camera(running.url, number, pictures, run)) for number in range(STREAMS)]
    await asyncio.sleep(WARM_UP_SEC)
    run.counting = True
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if look is not None:
            look()
        await asyncio.sleep(1.0)
    run.counting = False
    for task in cameras:
        task.cancel()
    for outcome in await asyncio.gather(*cameras, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return run


async def camera(url: str, number: int, pictures: list[bytes], run: Run) -> None:
    """One camera over Socket.IO 5, that sends at its rate whatever comes back."""
    address = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    async with connect(address, max_size=None, compression=None) as connection:
        await connection.recv()
        await connection.send("40")
        await connection.recv()
        await connection.send("42" + json.dumps(["authenticate", f"camera{number}", "password", "onAuthentication"]))
        sent_at: dict[int, float] = {}
        listening = asyncio.create_task(listen(connection, number, sent_at, run))
        due = time.monotonic() + number / STREAMS / RATE_HZ
        seq = 0
        try:
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += 1 / RATE_HZ
                seq += 1
                sent_at[seq] = time.monotonic()
                run.sent += 1
                await connection.send(f'451-{seq}["receiveImage",{{"_placeholder":true,"num":0}}]')
                await connection.send(pictures[(seq + number) % len(pictures)])
        except asyncio.CancelledError:
            await asyncio.sleep(1.0)  # what is still to be answered
        finally:
            listening.cancel()


async def listen(connection: ClientConnection, number: int, sent_at: dict[int, float], run: Run) -> None:
    async for message in connection:
        now = time.monotonic()
        if message == "2":
            await connection.send("3")
        elif isinstance(message, str) and message.startswith("43"):
            seq, _, answer = message[2:].partition("[")
            run.refused += not json.loads("[" + answer)[0]["accepted"]
            if run.counting:
                run.acks.append(now - sent_at[int(seq)])
        elif isinstance(message, str) and message.startswith('42["result"'):
            what = json.loads(message[2:])[2]
            if run.counting:
                run.results[number] += 1
                run.ages.append(now - sent_at[what["seq"]])


def moving_pictures() -> list[bytes]:
    """What a camera sees: soft shapes, a sensor's noise, and something that goes through the picture."""
    width, height = SIZE
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    ground = 128 + 50 * np.sin(rows / 60 + np.arange(3)) + 40 * np.cos(columns / 80)
    noise = np.random.default_rng(1)
    pictures = []
    for number in range(PICTURES):
        pixels = (ground + noise.normal(0, 3, (height, width, 3))).clip(0, 255).astype(np.uint8)
        left = 100 + number * (width - 400) // PICTURES
        cv2.rectangle(pixels, (left, 250), (left + 160, 500), (40, 200, 240), -1)
        pictures.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
    return pictures


@contextmanager
def server(arguments: list[str], environ: dict[str, str] | None = None) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, str(SRC / "ImageServer.py"), "-i", "127.0.0.1", "-p", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | (environ or {}),
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield Server(process.pid, line.split()[-1])
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
