"""What do cameras over plain TCP cost, beside what zlib alone takes for the same bytes? When do silent ones go? Does it
pay to make JPEGs of their BMPs?

Eight cameras send 640 x 480 BMPs, gzip level 9, as fast as they are taken, and at 10 Hz: drawn ones, as client_sim's,
and the same with a sensor's noise. The server inflates them with zlib-ng, which is faster; the bound is zlib's.
"""

import argparse
import gzip
import resource
import selectors
import statistics
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / name) for name in ("tests", "src")]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from display_cost import cpu_sec  # noqa: E402

from client_sim.sources import Picture, Synthetic, take_bmp  # noqa: E402
from desktops import Desktop, bmp, message, tcp_port  # noqa: E402
from ring import Ring  # noqa: E402
from running import RunningServer, running_server, until  # noqa: E402

CAMERAS: Final = 8
SIZE_WH: Final = (640, 480)
RATE_HZ: Final = 10.0
#: Pictures of a camera before they come again.
PICTURES: Final = 10
#: The server's CPU for a frame may be so much of what zlib takes for the same bytes.
ALLOWED: Final = 1.2
#: Connections that send nothing more after their first image, how long they may, and until when they are gone.
SILENT: Final = 300
IDLE_SEC: Final = 5.0
GONE_SEC: Final = 2.0


CALLS: Final = 100
QUALITY: Final = [cv2.IMWRITE_JPEG_QUALITY, 90]
#: A server that uses less than a hundredth of a core for so long has nothing to do.
QUIET_SEC: Final = 0.1


class Bodies(NamedTuple):
    """Images as they are sent, of each camera."""

    name: str
    cameras: list[list[bytes]]

    @property
    def all(self) -> list[bytes]:
        return [body for camera in self.cameras for body in camera]

    @property
    def mean_kb(self) -> float:
        return statistics.fmean(map(len, self.all)) / 1e3


def drawn() -> Bodies:
    """What client_sim sends: drawn pictures, which gzip makes small."""
    cameras = []
    for number in range(CAMERAS):
        source = Synthetic(f"camera {number}", SIZE_WH)
        bodies = []
        for _ in range(PICTURES):
            bodies.append(gzip.compress(take_bmp(source, f"camera {number}"), 9))
            time.sleep(0.03)  # its clock goes on
        cameras.append(bodies)
    return Bodies("drawn", cameras)


def grainy() -> Bodies:
    """The same with the noise of a sensor, as a camera's pictures are: hardly smaller than the BMP."""
    cameras = []
    for number in range(CAMERAS):
        pictures = [grain(drawn_picture(number)) for _ in range(PICTURES // 2)]
        cameras.append([gzip.compress(cv2.imencode(".bmp", picture)[1].tobytes(), 9) for picture in pictures])
    return Bodies("grainy", cameras)


def drawn_picture(number: int) -> Picture:
    return Synthetic(f"camera {number}", SIZE_WH).picture()


def grain(picture: Picture) -> Picture:
    noise = np.random.default_rng().normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def zlib_us(bodies: Sequence[bytes], times: int, rate_hz: float | None = None) -> float:
    """CPU of inflating one of them, and nothing else; at a rate, a core has other things in mind in between."""
    for body in bodies:
        zlib.decompress(body, 31)
    took = 0.0
    for _ in range(times):
        for body in bodies:
            if rate_hz:
                time.sleep(1 / rate_hz)
            began = time.thread_time()
            zlib.decompress(body, 31)
            took += time.thread_time() - began
    return took / times / len(bodies) * 1e6


def server_us(server: RunningServer, bodies: Bodies, frames: int, rate_hz: float | None) -> float:
    """The server's CPU for a frame, of so many of each camera; each camera has a connection of its own."""
    port = tcp_port(server)
    desktops = [Desktop(port) for _ in bodies.cameras]
    sent = [[message(1, body) for body in camera] for camera in bodies.cameras]

    def send(number: int, count: int) -> None:
        began = time.monotonic() + (number / CAMERAS / rate_hz if rate_hz else 0)
        for frame in range(count):
            if rate_hz:
                time.sleep(max(began + frame / rate_hz - time.monotonic(), 0))
            desktops[number].send_raw(sent[number][frame % len(sent[number])])

    def send_all(count: int) -> float:
        """Returns the server's CPU."""
        before = until_quiet(server.process.pid)
        threads = [threading.Thread(target=send, args=(number, count)) for number in range(CAMERAS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return until_quiet(server.process.pid) - before

    send_all(PICTURES)
    took = send_all(frames)
    taken = sum(int(stream["frames"]) for stream in server.streams().values())
    assert taken == CAMERAS * (PICTURES + frames), f"{taken} frames were taken"
    for desktop in desktops:
        desktop.close()
    until(lambda: not server.streams(), "their end")
    return took / CAMERAS / frames * 1e6


def until_quiet(pid: int) -> float:
    """Wait until the server has nothing to do, without asking it; returns the CPU that it has used."""
    used = -1.0
    while (now := cpu_sec(pid)) - used > QUIET_SEC / 100:
        used = now
        time.sleep(QUIET_SEC)
    return now


def measure_cost(rounds: int, frames: int) -> bool:
    met = True
    with running_server("--tcp-port", "0", "--rate", "0") as server:
        for bodies, share in ((drawn(), 1), (grainy(), 4)):
            ways: dict[str, tuple[float | None, int]] = {
                "at once": (None, frames // share),
                f"at {RATE_HZ:g} Hz": (RATE_HZ, min(frames // share, 50)),
            }
            alone: dict[str, list[float]] = {how: [] for how in ways}
            costs: dict[str, list[float]] = {how: [] for how in ways}
            for number in range(1, rounds + 1):
                for how, (rate_hz, count) in ways.items():
                    alone[how].append(zlib_us(bodies.all, 2, rate_hz and rate_hz * CAMERAS))
                    costs[how].append(server_us(server, bodies, count, rate_hz))
                said = "; ".join(f"{how} zlib {alone[how][-1]:.0f} µs, server {costs[how][-1]:.0f} µs" for how in ways)
                print(f"round {number}  {bodies.name} pictures, {bodies.mean_kb:.0f} KB: {said}", flush=True)
            for how in ways:
                ratio = statistics.median(costs[how]) / statistics.median(alone[how])
                met = demand(f"{bodies.name} pictures {how}: CPU beside zlib's", ratio, ALLOWED, "times") and met
    return met


def measure_idle() -> bool:
    idle = ("--tcp-idle-sec", f"{IDLE_SEC:g}")
    with running_server("--tcp-port", "0", *idle) as server, selectors.DefaultSelector() as gone:
        port = tcp_port(server)
        began = time.monotonic()
        desktops = [Desktop(port) for _ in range(SILENT)]
        for desktop in desktops:
            desktop.send(1, bmp(8, 8))
            gone.register(desktop.socket, selectors.EVENT_READ)
        came_sec = time.monotonic() - began
        last_sec = 0.0
        while gone.get_map() and last_sec < 2 * IDLE_SEC:
            for key, _ in gone.select(0.1):
                gone.unregister(key.fileobj)
            last_sec = time.monotonic() - began
        left = len(gone.get_map())
        for desktop in desktops:
            desktop.close()
    print(f"{SILENT} silent cameras: {SILENT - left} gone after {last_sec:.1f} s (--tcp-idle-sec {IDLE_SEC:g})")
    late = demand("the last one beside its deadline", last_sec - IDLE_SEC - came_sec, GONE_SEC, "s")
    return demand("silent cameras that are still there", left, 0, "cameras") and late


def measure_transcoding() -> None:
    """What a BMP costs those who get it, and what it would if somebody made a JPEG of it first."""
    print(f"\n{SIZE_WH[0]} x {SIZE_WH[1]}, CPU in µs     hand over   decode   (make the JPEG)   1 consumer   2   4")
    for name, picture in (("drawn", drawn_picture(0)), ("grainy", grain(drawn_picture(0)))):
        bmp_file = cv2.imencode(".bmp", picture)[1].tobytes()
        jpeg = as_jpeg(bmp_file)
        for what, image, before in (("BMP", bmp_file, 0.0), ("JPEG", jpeg, cpu_us(as_jpeg, bmp_file))):
            over, decoding = handing_over_us(image), cpu_us(decoded, image)
            sums = "   ".join(f"{before + count * (over + decoding):6.0f}" for count in (1, 2, 4))
            size = f"{len(image) / 1e3:4.0f} KB"
            print(f"{name:6} {what:4} {size} {over:17.0f} {decoding:8.0f} {before:17.0f} {sums:>28}")


def as_jpeg(image: bytes) -> bytes:
    return bytes(cv2.imencode(".jpg", decoded(image), QUALITY)[1])


def decoded(image: bytes) -> cv2.typing.MatLike:
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)


def cpu_us(function: Callable[..., object], *arguments: object) -> float:
    """CPU of all threads of this process, a call."""
    for _ in range(CALLS // 5):
        function(*arguments)
    began = time.process_time()
    for _ in range(CALLS):
        function(*arguments)
    return (time.process_time() - began) / CALLS * 1e6


def handing_over_us(image: bytes) -> float:
    """From the server's memory into a child's, as rings do it."""
    ring = Ring(slots=2, slot_bytes=len(image))

    def hand_over() -> None:
        ring.put(b"", image)
        ring.flush()
        ring.free.append(ring.held.popitem()[0])

    try:
        return cpu_us(hand_over)
    finally:
        ring.close()


def demand(what: str, value: float, allowed: float, unit: str) -> bool:
    met = value <= allowed
    print(f"{what}: {value:.2f} {unit} ({allowed:g} are allowed){'' if met else '  FAILED'}", flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=200, help="of each camera in a round (default 200)")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    met = measure_cost(options.rounds, options.frames)
    met = measure_idle() and met
    measure_transcoding()
    print("ok" if met else "FAILED")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
