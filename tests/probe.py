"""Good cameras beside an attack: a process of its own that sends frames at a steady rate and measures their acks.

    python3 probe.py PORT CAMERAS RATE_HZ IMAGE_BYTES [NAME PASSWORD]     until standard input ends; prints JSON

Each camera sends its next frame at its time, if the last one has been acknowledged; a time that passes without an ack
is a frame missed.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from websockets.asyncio.client import ClientConnection, connect

from pictures import padded, picture

HERE: Final = Path(__file__).resolve().parent
#: What good cameras keep of their rate, whatever others do (docs/security.md).
KEPT: Final = 0.95
#: A camera gives an ack so long; then it counts as lost, and so does the camera.
ACK_SEC: Final = 20.0


class Figures(NamedTuple):
    """What the good cameras got.

    Args:
        due, accepted: frames of each camera: how many its rate called for, and how many were taken.
        ack_ms: how long each ack took, of all cameras, sorted.
        trouble: what ended a camera too early.
    """

    due: list[int]
    accepted: list[int]
    ack_ms: list[float]
    trouble: list[str]

    @property
    def kept(self) -> float:
        """The share of the due frames that were taken, of the camera that fared worst."""
        return min(a / max(d, 1) for a, d in zip(self.accepted, self.due, strict=True))

    @property
    def jain(self) -> float:
        """Jain's index of fairness between the cameras: 1 when all got the same."""
        squares = sum(a * a for a in self.accepted)
        return sum(self.accepted) ** 2 / (len(self.accepted) * squares) if squares else 0.0

    def percentile_ms(self, percent: float) -> float:
        assert self.ack_ms, f"no frame was acknowledged: {self.trouble}"
        return self.ack_ms[min(int(len(self.ack_ms) * percent / 100), len(self.ack_ms) - 1)]

    @property
    def p50_ms(self) -> float:
        return self.percentile_ms(50)

    @property
    def p99_ms(self) -> float:
        return self.percentile_ms(99)

    def check(self, kept: float = KEPT) -> None:
        """The cameras were served all the time."""
        assert not self.trouble, self.trouble
        assert self.kept >= kept, f"a good camera got {self.kept:.0%} of its frames taken; {self.summary()}"

    def summary(self) -> str:
        return (
            f"{len(self.due)} good cameras: {sum(self.accepted)} of {sum(self.due)} frames taken,"
            f" acks p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, longest {self.ack_ms[-1]:.0f} ms"
        )


class Probe:
    """Good cameras that send until `stop`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.figures: Figures | None = None

    def stop(self) -> Figures:
        """End the cameras and return what they got; harmless when they have ended."""
        if self.figures is None:
            out, _ = self._process.communicate("", timeout=ACK_SEC + 10)
            assert out.strip(), f"the probe ended with status {self._process.returncode} and no figures"
            self.figures = Figures(**json.loads(out.splitlines()[-1]))
        return self.figures


@contextmanager
def probing(
    port: int,
    cameras: int = 1,
    rate_hz: float = 10.0,
    image_bytes: int = 20_000,
    account: tuple[str, str] = ("Alice", "123"),
) -> Iterator[Probe]:
    """Good cameras for as long as the block runs; they are logged in and have been served when it begins.

    Leaving the block without an error checks that they were served all the time.
    """
    process = subprocess.Popen(
        [sys.executable, str(HERE / "probe.py"), *map(str, (port, cameras, rate_hz, image_bytes, *account))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.strip() == "serving", f"the probe was not served at the start: {line!r}"
        probe = Probe(process)
        yield probe
        probe.stop().check()
    finally:
        process.kill()
        process.wait()


# -- the process


class Camera:
    def __init__(self, port: int, rate_hz: float, image: bytes, account: Sequence[str], delay_sec: float) -> None:
        self.url = f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
        self.period_sec = 1 / rate_hz
        self.image = image
        self.account = account
        self.delay_sec = delay_sec
        self.served = asyncio.Event()
        self.ending = False
        self.due = self.accepted = 0
        self.ack_ms: list[float] = []
        self.trouble: str | None = None

    async def run(self) -> None:
        try:
            async with connect(self.url, max_size=None, compression=None, ping_interval=None) as connection:
                await self._log_in(connection)
                await self._send(connection)
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
        finally:
            self.served.set()

    async def _log_in(self, connection: ClientConnection) -> None:
        await connection.send("40")
        await self._until(connection, "40")
        await connection.send("42" + json.dumps(["authenticate", *self.account, "loggedIn"]))
        answer = await self._until(connection, '42["loggedIn"')
        if answer != '42["loggedIn",true]':
            raise ConnectionError(f"the login was answered {answer}")

    async def _until(self, connection: ClientConnection, beginning: str) -> str:
        while True:
            message = await asyncio.wait_for(connection.recv(), ACK_SEC)
            if message == "2":
                await connection.send("3")
            elif isinstance(message, str) and message.startswith(beginning):
                return message

    async def _send(self, connection: ClientConnection) -> None:
        await asyncio.sleep(self.delay_sec)
        began = time.monotonic()
        number = 0
        while not self.ending:
            number += 1
            sent_at = time.monotonic()
            await connection.send(f'451-{number}["receiveImage",{{"_placeholder":true,"num":0}}]')
            await connection.send(self.image)
            answer = await self._until(connection, f"43{number}[")
            now = time.monotonic()
            if self.served.is_set():
                self.ack_ms.append((now - sent_at) * 1000)
                self.accepted += json.loads(answer.partition("[")[2][:-1])["accepted"]
                due_at = sent_at + self.period_sec
                missed = max(int((now - due_at) / self.period_sec), 0) if now > due_at else 0
                self.due += 1 + missed
                next_at = due_at + missed * self.period_sec
            else:  # the first frame only shows that it is served
                self.served.set()
                next_at = began + self.period_sec
            await asyncio.sleep(max(next_at - now, 0))


async def main(port: str, count: str, rate_hz: str, image_bytes: str, *account: str) -> None:
    image = padded(picture(), int(image_bytes))
    cameras = [
        Camera(int(port), float(rate_hz), image, account, number / int(count) / float(rate_hz))
        for number in range(int(count))
    ]
    tasks = [asyncio.create_task(camera.run()) for camera in cameras]
    for camera in cameras:
        await camera.served.wait()
    print("serving" if not any(camera.trouble for camera in cameras) else cameras[0].trouble, flush=True)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    for camera in cameras:
        camera.ending = True
    await asyncio.gather(*tasks)
    figures: dict[str, Any] = {
        "due": [camera.due for camera in cameras],
        "accepted": [camera.accepted for camera in cameras],
        "ack_ms": sorted(ms for camera in cameras for ms in camera.ack_ms),
        "trouble": [camera.trouble for camera in cameras if camera.trouble],
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
