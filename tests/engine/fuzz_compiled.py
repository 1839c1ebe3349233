#!/usr/bin/env python3
"""Feed the compiled reader and the Python reader with random traffic, and the compiled one with misuse as well.

usage: tests/engine/fuzz_compiled.py LIBRARY ROUNDS [FIRST-SEED]

LIBRARY is what scripts/build-compiled has built, mostly with -fsanitize=address,undefined; then the sanitizer's runtime
is in LD_PRELOAD. What the two readers do differently is told with its seed, and a fault of memory by the sanitizer.
"""

import importlib.machinery
import importlib.util
import random
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

LIBRARY = sys.argv[1]
loader = importlib.machinery.ExtensionFileLoader("compiled.reader", LIBRARY)
spec = importlib.util.spec_from_loader("compiled.reader", loader)
assert spec is not None
sys.modules["compiled.reader"] = compiled = importlib.util.module_from_spec(spec)
loader.exec_module(compiled)

import compiled as package  # noqa: E402

package.reader = compiled  # type: ignore[attr-defined]

from engine.readers import choose  # noqa: E402
from raw_engineio import BINARY, TEXT, client_frame  # noqa: E402
from traffic import (  # noqa: E402
    ANNOUNCEMENTS,
    LONGEST,
    ODD_ANNOUNCEMENTS,
    Fed,
    Lane,
    Refusal,
    Setup,
    any_setup,
    conversation,
    image_pair,
    pieces,
)

PYTHON, COMPILED = choose("python").make, choose("compiled").make
assert choose("compiled").read_jpeg is compiled.read_jpeg, "not the library that was named"


def compare(rng: random.Random) -> None:
    """Both get the same; over sockets sometimes, for the calls that receive."""
    setup = any_setup(rng)
    sent = conversation(rng, setup.prefix, rng.choice((300, 300, 5000, 200_000)))
    lanes = []
    if rng.random() < 0.1:
        kind = rng.choice(("unix", "tcp", "through"))
        lanes = [Lane(kind, make, setup) for make in (PYTHON, COMPILED)]
    both = [lane.fed for lane in lanes] or [Fed(make, setup) for make in (PYTHON, COMPILED)]
    try:
        for fed in both:
            fed.resume()
        for number, piece in enumerate(pieces(rng, sent)):
            with_sink = rng.choice((True, False)) if rng.random() < 0.02 else None
            for fed in both:
                if lanes:
                    lanes[both.index(fed)].send(piece)
                else:
                    fed.feed(piece)
                if with_sink is not None:
                    fed.resume(with_sink)
            one, other = both
            assert one.came == other.came, f"after piece {number}"
            assert one.sink.asked == other.sink.asked, f"after piece {number}"
            if one.failed:
                break
    finally:
        for lane in lanes:
            lane.close()


def odd_announcements() -> None:
    """All of them, as few of them as come by chance."""
    for announcements in (ANNOUNCEMENTS, LONGEST):
        one, other = (Fed(make, Setup(announcements=announcements)) for make in (PYTHON, COMPILED))
        for text in ODD_ANNOUNCEMENTS:
            for fed in (one, other):
                fed.resume()
                fed.feed(client_frame(TEXT, text.encode()))
                fed.feed(client_frame(BINARY, b"image"))
            assert one.came == other.came, text


class Trouble(Exception):
    pass


def misuse(rng: random.Random) -> None:
    """Callbacks that raise, forget or call back, and counts that cannot be."""

    def meddle() -> None:
        choice = rng.random()
        if choice < 0.1:
            raise Trouble
        if choice < 0.2:
            reader.forget()
        elif choice < 0.3:
            rng.choice((reader.buffers, lambda: reader.received(0), lambda: reader.resume(None)))()

    class Meddler:
        def admit(self, size: int, event: str | None) -> Refusal | None:
            meddle()
            return rng.choice((None, None, Refusal(size)))

    setup = any_setup(rng)
    if rng.random() < 0.5:  # an image whose buffer grows
        setup = setup._replace(max_bytes=1_000_000, scratch_bytes=4096)
        sent = image_pair(rng, setup.prefix, size=rng.randint(200_000, 600_000))
    else:
        sent = conversation(rng, setup.prefix, rng.choice((300, 100_000)))
    scratch = bytearray(setup.scratch_bytes)
    reader = COMPILED(
        setup.max_bytes, scratch, setup.max_text_bytes, lambda size: meddle(), setup.announcements, setup.prefix
    )
    sink = Meddler()
    reader.resume(sink)  # type: ignore[arg-type]
    for piece in pieces(rng, sent):
        left = piece
        while left:
            try:
                if rng.random() < 0.002:
                    reader.forget()
                if rng.random() < 0.01:
                    reader.skipped(rng.choice((-1, 0, 1, 5, 1 << 62)))
                if rng.random() < 0.01:
                    reader.received(rng.choice((-1, 0, 1, 5, len(scratch), len(scratch) + 1, 1 << 62)))
                if reader.skipping:
                    size = min(len(left), reader.missing)
                    reader.skipped(size)
                else:
                    size = 0
                    for buffer in reader.buffers():
                        part = left[size : size + len(buffer)]
                        buffer[: len(part)] = part
                        size += len(part)
                    reader.received(size)
                left = left[size:]
                while reader.more:
                    reader.received(0)
                if not size:
                    break
            except SystemError:
                raise  # NULL without an exception, or the other way round
            except Exception:  # misuse may raise anything
                left = left[rng.randint(1, len(left)) :] if left else b""
            if rng.random() < 0.1:
                try:
                    reader.resume(rng.choice((sink, sink, None)))  # type: ignore[arg-type]
                except (Trouble, RuntimeError):
                    pass


def jpegs(rng: random.Random) -> None:
    """Segments and what looks like them, each in memory of its own."""
    parts = [b"\xff\xd8"]
    for _ in range(rng.randint(0, 6)):
        marker = rng.choice((0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xE0, 0x01, 0xD0, 0xFF, rng.randrange(256)))
        parts.append(b"\xff" * rng.choice((1, 1, 1, 2, 5)) + bytes((marker,)))
        body = rng.choice((bytes.fromhex("080010001003") + bytes(9), rng.randbytes(rng.randrange(20))))
        parts.append((len(body) + rng.choice((2, 2, 2, 1, 0, 3, 60_000))).to_bytes(2, "big") + body)
    image = b"".join(parts)
    for cut in (len(image), *range(max(len(image) - 20, 0), len(image))):
        compiled.read_jpeg(image[:cut] + rng.choice((b"\xff\xd9", b"\xff\xd9", b"", b"\xff")))


def main() -> None:
    rounds = int(sys.argv[2])
    odd_announcements()
    first_seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    for seed in range(first_seed, first_seed + rounds):
        try:
            rng = random.Random(seed)
            rng.choice((compare, compare, misuse, jpegs))(rng)
        except BaseException:
            print(f"with seed {seed}:", file=sys.stderr, flush=True)
            raise
    print(f"{rounds} rounds, nothing found")


if __name__ == "__main__":
    main()
