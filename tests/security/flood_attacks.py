"""Cameras out of hand beside good ones: 500 frames a second of 50 KB each, as one at 100 times its rate."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from probe import KEPT, Figures, probing
from running import RunningServer
from security.flooder import IMAGE_BYTES, Flood
from security.processes import cpu_sec

HERE: Final = Path(__file__).resolve().parent
CAMERAS: Final = 20
CAMERA_HZ: Final = 5.0
JAIN: Final = 0.99
#: How much later than without a flood an ack of a good camera may come: twice, and so much.
LATER_MS: Final = 50.0


class Flooded(NamedTuple):
    """What a flooder came to.

    Args:
        sent: frames.
        seconds: how long it was let.
        trouble: what ended it, if it was not us.
    """

    sent: int
    seconds: float
    trouble: str | None

    @property
    def rate_hz(self) -> float:
        return self.sent / self.seconds


class Attack(NamedTuple):
    """What became of the good cameras, of the flooders and of the server.

    Args:
        refused: frames that the server refused, for their rate or because nobody had logged in.
        taken: frames of the flooders that it accepted.
        cpu_sec: of the server, in `seconds`.
        flooded_sec: from before the first flooder came to after the last was gone.
    """

    good: Figures
    floods: list[Flooded]
    refused: int
    taken: int
    cpu_sec: float
    seconds: float
    flooded_sec: float

    @property
    def sent(self) -> int:
        return sum(flood.sent for flood in self.floods)


def watch(server: RunningServer, seconds: float, floods: Sequence[Flood] = ()) -> Attack:
    """Let good cameras send for so long, while these flooders send too.

    The server runs with `-a`: of the demo accounts the good cameras are Alice.
    """
    token = server.token("Bob", "456")
    refused, taken = _counts(server, token)
    good: Figures | None = None
    try:
        with probing(server.port, CAMERAS, CAMERA_HZ, IMAGE_BYTES) as probe, ExitStack() as opened:
            flooding_since = time.monotonic()
            flooders = [opened.enter_context(_flooding(server.port, flood)) for flood in floods]
            began, used = time.monotonic(), cpu_sec(server.process.pid)
            time.sleep(seconds)
            seconds, used = time.monotonic() - began, cpu_sec(server.process.pid) - used
            good = probe.stop()
            flooded = [_result(flooder) for flooder in flooders]
            flooded_sec = time.monotonic() - flooding_since
    except AssertionError:
        if good is None:
            raise
        # The cameras were not served well enough, which is for `check` to say.
    refused_after, taken_after = _counts(server, token)
    of_cameras = sum(good.accepted) + CAMERAS  # the probe does not count the first one of each
    return Attack(good, flooded, refused_after - refused, taken_after - taken - of_cameras, used, seconds, flooded_sec)


def check(good: Figures, alone: Figures) -> list[str]:
    """What a flood did to the good cameras that it must not."""
    problems = list(good.trouble)
    if good.kept < KEPT:
        problems.append(f"a good camera kept {good.kept:.0%} of its frames, at least {KEPT:.0%} are allowed")
    if good.jain < JAIN:
        problems.append(f"Jain's index of the good cameras is {good.jain:.3f}, at least {JAIN} is allowed")
    allowed_ms = LATER_MS + 2 * alone.p99_ms
    if good.p99_ms > allowed_ms:
        problems.append(f"acks took {good.p99_ms:.1f} ms (p99), at most {allowed_ms:.1f} ms are allowed")
    return problems


def compare(
    server: RunningServer, floods: Sequence[Flood], alone_sec: float, seconds: float
) -> tuple[Attack, Attack, list[str]]:
    """Watch the good cameras alone and beside these flooders; what was wrong in a run and in one of two more at least,
    for other work on the machine may spoil one."""

    def play() -> tuple[Attack, Attack, list[str]]:
        alone, attack = watch(server, alone_sec), watch(server, seconds, floods)
        return alone, attack, check(attack.good, alone.good)

    first = play()
    if not first[2]:
        return first
    others = [play(), play()]
    return next((other for other in others if other[2]), others[0])


def _counts(server: RunningServer, token: str) -> tuple[int, int]:
    """Frames refused and accepted so far, of all streams; those before a login are counted apart."""
    text = str(server.get("/metrics", token))

    def count(name: str) -> int:
        found = re.search(rf"^imageserver_{name} (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    refused = count('refused_frames_total{reason="rate"}') + count("frames_before_login_total")
    return refused, count("frames_total")


@contextmanager
def _flooding(port: int, flood: Flood) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "flooder.py"), str(port), json.dumps(flood._asdict())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begins\n"
        yield process
    finally:
        process.kill()
        process.wait()


def _result(flooder: "subprocess.Popen[str]") -> Flooded:
    out, _ = flooder.communicate("", timeout=30)
    return Flooded(**json.loads(out.splitlines()[-1]))
