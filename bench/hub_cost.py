"""What it costs to publish a frame, with 0, 1 and 4 subscribers that never take any: CPU time of `Stream.offer`.

Subscribers that are idle are the dearer ones: each frame finds the last one still waiting, drops and counts it.
Ends with status 1 if publishing to nobody (numbering, limits, counting; without the header check, which is shown apart)
or any subscriber costs more than the bound.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time_ns
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from client_sim.load_images import jpeg
from frames import ImageCheck, Limits, check_image
from hub import FrameHub, Policy, Rates, Result, Stream

BOUND_US: Final = 1.0
SUBSCRIBERS: Final = (0, 1, 4)

#: 640 x 480 in three components, with the segments that cameras write.
IMAGE: Final = jpeg(50_000, 0)


class NoSender:
    """The way back of a stream that comes from nowhere."""

    def result(self, result: Result) -> None: ...

    def rate(self, rate_hz: float) -> None: ...

    def error(self, code: str, message: str) -> None: ...

    def close(self, reason: str) -> None: ...


def stream_with(subscribers: int, policy: Policy) -> Stream:
    hub = FrameHub()
    for number in range(subscribers):
        hub.subscribe(f"consumer {number}", policy=policy, max_frames=8)
    # A limit, so that it is looked at, and one that is never reached, so that no frame is refused.
    return hub.open_stream("Alice", "Alice", "socketio", NoSender(), Limits(), Rates(1e9, 5.0))


def offer_all(stream: Stream, frames: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(frames):
            stream.offer(IMAGE)

    return run


def check_first(frames: int) -> Callable[[], None]:
    def run() -> None:
        limits = Limits()
        for _ in range(frames):
            check_image(IMAGE, limits)

    return run


def check_again(frames: int) -> Callable[[], None]:
    def run() -> None:
        check = ImageCheck(Limits())
        for _ in range(frames):
            check(IMAGE)

    return run


def cost_us(runs: dict[str, Callable[[], None]], frames: int, rounds: int) -> dict[str, float]:
    """CPU microseconds of a frame, the median of rounds that alternate, so that a busy minute hits all alike."""
    costs: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = process_time_ns()
            run()
            costs[name].append((process_time_ns() - start) / frames / 1000)
    return {name: median(of_rounds) for name, of_rounds in costs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5_000, help="frames a round; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=41, help="default: %(default)s")
    options = parser.parse_args()

    streams = {(policy, n): stream_with(n, policy) for policy in Policy for n in SUBSCRIBERS}
    runs = {f"{policy.name} {n}": offer_all(stream, options.frames) for (policy, n), stream in streams.items()}
    checks = {"first": check_first(options.frames), "again": check_again(options.frames)}
    costs = cost_us({**checks, **runs}, options.frames, options.rounds)
    assert not any(stream.refused for stream in streams.values())

    print(f"header check alone: {costs['first']:.2f} us, {costs['again']:.2f} us of the same header again\n")
    print(f"{'policy':8}{'subscribers':>12}{'offer, us':>12}{'without check':>15}{'a subscriber':>14}")
    dearest = 0.0
    for policy, n in streams:
        offer = costs[f"{policy.name} {n}"]
        publish = offer - costs["again"]
        each = (offer - costs[f"{policy.name} 0"]) / n if n else 0.0
        dearest = max(dearest, each if n else publish)
        print(f"{policy.name:8}{n:>12}{offer:>12.2f}{publish:>15.2f}{each:>14.2f}")
    print(f"\n{'ok' if dearest <= BOUND_US else 'FAILED'}: {dearest:.2f} us each at most, {BOUND_US:g} is allowed")
    return int(dearest > BOUND_US)


if __name__ == "__main__":
    sys.exit(main())
