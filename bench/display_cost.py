"""What do windows cost the server process? Its CPU time per frame with `-d` and without, by turns.

The server's own process is measured, from /proc: what the display's child does on another core is not counted. Needs a
screen, or Xvfb to make one.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final
from urllib.request import urlopen

import cv2
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

SRC: Final = Path(__file__).parents[1] / "src"

STREAMS: Final = 16
RATE_HZ: Final = 10.0
IMAGE_BYTES: Final = 50_000
WARM_UP_SEC: Final = 3.0
#: How much dearer a frame may be with windows.
ALLOWED: Final = 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a run is measured (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="runs with and without windows (default 3)")
    options = parser.parse_args()
    costs_us: dict[str, list[float]] = {"without": [], "with -d": []}
    print(f"{STREAMS} streams x {RATE_HZ:g} Hz x {IMAGE_BYTES:,} bytes; CPU of the server process per frame")
    with screen() as display:
        for round_number in range(1, options.rounds + 1):
            for how, arguments in (("without", []), ("with -d", ["-d"])):
                cost_us, shown = asyncio.run(measured(arguments, display, options.seconds))
                costs_us[how].append(cost_us)
                print(f"round {round_number}  {how:8}  {cost_us:6.1f} us{shown}", flush=True)
    without, with_windows = (median(costs) for costs in costs_us.values())
    ratio = with_windows / without
    print(f"medians: {without:.1f} us without, {with_windows:.1f} us with -d: {ratio:.2f} times (allowed: {ALLOWED})")
    return 0 if ratio <= ALLOWED else 1


async def measured(arguments: list[str], display: str, seconds: float) -> tuple[float, str]:
    """The microseconds of CPU per accepted frame in one run, and what became of the frames that were to be shown."""
    with server(arguments, display) as (pid, url):
        async with asyncio.TaskGroup() as clients:
            image = photograph()
            tasks = [
                clients.create_task(send(url, f"camera{number}", image, number / STREAMS / RATE_HZ))
                for number in range(STREAMS)
            ]
            await asyncio.sleep(WARM_UP_SEC)
            before, cpu_before = streams(url), cpu_sec(pid)
            await asyncio.sleep(seconds)
            cpu, after = cpu_sec(pid) - cpu_before, streams(url)
            for task in tasks:
                task.cancel()
    frames = after[0] - before[0]
    expected = STREAMS * RATE_HZ * seconds
    if frames < 0.9 * expected:
        raise SystemExit(f"only {frames} frames of {expected:g} arrived: the machine is too busy to measure")
    shown = f"  ({frames - (after[1] - before[1])} of {frames} frames went to their windows)" if arguments else ""
    return cpu / frames * 1e6, shown


async def send(url: str, name: str, image: bytes, delay_sec: float) -> None:
    """One camera over Socket.IO 5: logs in, and sends an image at the rate until it is cancelled."""
    address = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    async with connect(address, max_size=None, compression=None) as connection:
        await connection.recv()
        await connection.send("40")
        await connection.recv()
        await connection.send("42" + json.dumps(["authenticate", name, "password", "onAuthentication"]))
        answering = asyncio.create_task(answer_pings(connection))
        try:
            due = time.monotonic() + delay_sec
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += 1 / RATE_HZ
                await connection.send('451-["receiveImage",{"_placeholder":true,"num":0}]')
                await connection.send(image)
        finally:
            answering.cancel()


async def answer_pings(connection: ClientConnection) -> None:
    async for message in connection:
        if message == "2":
            await connection.send("3")


def photograph() -> bytes:
    """A picture with soft shapes and a sensor's noise, of exactly IMAGE_BYTES by a comment segment."""
    rows, columns = np.arange(480)[:, None], np.arange(640)[None, :]
    shapes = 128 + 50 * np.sin(rows / 40) + 50 * np.cos(columns / 50)
    pixels = (shapes + np.random.default_rng(1).normal(0, 4, (480, 640))).clip(0, 255).astype(np.uint8)
    for quality in range(95, 5, -5):
        jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(jpeg) <= IMAGE_BYTES - 4:
            break
    comment = IMAGE_BYTES - len(jpeg)
    return jpeg[:2] + b"\xff\xfe" + (comment - 2).to_bytes(2, "big") + bytes(comment - 4) + jpeg[2:]


def streams(url: str) -> tuple[int, int]:
    """Frames that were accepted, and those of them that no window had room for."""
    with urlopen(url + "/api/v1/streams") as answer:
        items = json.load(answer)["items"]
    return sum(item["frames"] for item in items), sum(item["dropped"].get("display", 0) for item in items)


def cpu_sec(pid: int) -> float:
    """CPU time of all threads of a process."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextmanager
def server(arguments: list[str], display: str) -> Iterator[tuple[int, str]]:
    process = subprocess.Popen(
        [sys.executable, str(SRC / "ImageServer.py"), "-i", "127.0.0.1", "-p", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "DISPLAY": display},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the server did not start")
    try:
        yield process.pid, line.split()[-1]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def screen() -> Iterator[str]:
    """The DISPLAY to use: the user's, or that of an Xvfb of our own."""
    if display := os.environ.get("DISPLAY"):
        yield display
        return
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-noreset"],
            pass_fds=[writing],
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise SystemExit("neither DISPLAY nor Xvfb: there is no screen to measure on") from None
    finally:
        os.close(writing)
    with os.fdopen(reading) as number:
        display = f":{number.readline().strip()}"
    try:
        yield display
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
