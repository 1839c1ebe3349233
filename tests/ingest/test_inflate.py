"""Compressed images come out whole, and no more of them than may."""

import gzip
import random
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable

import pytest

from frames import InvalidFrame
from ingest.inflate import PIECE_BYTES, gunzip, inflate

DATA = bytes(range(256)) * 40

WAYS = pytest.mark.parametrize(
    ("compress", "decompress"), [(gzip.compress, gunzip), (zlib.compress, inflate)], ids=["gzip", "zlib"]
)
Compress = Callable[[bytes], bytes]
Decompress = Callable[[bytes, int], bytes]


def refusal_of(decompress: Decompress, data: bytes, max_bytes: int = 1 << 20) -> str:
    with pytest.raises(InvalidFrame) as error:
        decompress(data, max_bytes)
    return error.value.code


@WAYS
def test_what_was_compressed_comes_out(compress: Compress, decompress: Decompress) -> None:
    assert decompress(compress(DATA), len(DATA)) == DATA
    assert decompress(bytearray(compress(DATA)), 1 << 20) == DATA
    assert decompress(compress(b""), 1) == b""


@pytest.mark.parametrize("level", range(10))
def test_any_level_of_gzip_is_taken(level: int) -> None:
    assert gunzip(gzip.compress(DATA, level), len(DATA)) == DATA


@WAYS
def test_a_byte_more_than_may_come_out_is_too_many(compress: Compress, decompress: Decompress) -> None:
    assert refusal_of(decompress, compress(DATA), len(DATA) - 1) == "too_many_bytes"


@WAYS
def test_every_shorter_beginning_is_truncated(compress: Compress, decompress: Decompress) -> None:
    data = compress(DATA)
    assert {refusal_of(decompress, data[:end]) for end in range(len(data))} == {"truncated"}


@WAYS
@pytest.mark.parametrize("more", [b"\0", b"more", "the same again"])
def test_nothing_may_stand_behind_the_end(compress: Compress, decompress: Decompress, more: bytes | str) -> None:
    data = compress(DATA)
    assert refusal_of(decompress, data + (more if isinstance(more, bytes) else data)) == "not_an_image"


@WAYS
def test_what_is_no_such_data_is_no_image(compress: Compress, decompress: Decompress) -> None:
    data = bytearray(compress(DATA))
    data[-1] ^= 1  # the checksum
    assert refusal_of(decompress, bytes(data)) == "not_an_image"
    assert refusal_of(decompress, b"BM, or whatever") == "not_an_image"
    assert refusal_of(decompress, gzip.compress(DATA) if compress is zlib.compress else zlib.compress(DATA)) == (
        "not_an_image"
    )


@WAYS
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_what_comes_out_in_pieces_is_whole(compress: Compress, decompress: Decompress, pieces: int, more: int) -> None:
    data = random.Random(1).randbytes(1000) * (pieces * PIECE_BYTES // 1000 + 1)
    data = data[: pieces * PIECE_BYTES + more]
    assert decompress(compress(data), len(data)) == data
    assert decompress(compress(data), 8 << 20) == data
    assert refusal_of(decompress, compress(data), len(data) - 1) == "too_many_bytes"
    assert refusal_of(decompress, compress(data)[:-1], 8 << 20) == "truncated"
    assert refusal_of(decompress, compress(data) + b"x", 8 << 20) == "not_an_image"


@WAYS
def test_a_bomb_is_there_once_at_most(compress: Compress, decompress: Decompress) -> None:
    bomb = compress(bytes(40 << 20))
    tracemalloc.start()
    try:
        assert refusal_of(decompress, bomb, 16 << 20) == "too_many_bytes"
        assert tracemalloc.get_traced_memory()[1] < 19 << 20
    finally:
        tracemalloc.stop()


def outcome_of_zlib(data: bytes, wbits: int, max_bytes: int) -> str | bytes:
    """What the standard library's zlib makes of it."""
    inflater = zlib.decompressobj(wbits)
    try:
        inflated = inflater.decompress(data, max_bytes + 1)
    except zlib.error:
        return "not_an_image"
    if len(inflated) > max_bytes:
        return "too_many_bytes"
    if not inflater.eof:
        return "truncated"
    return "not_an_image" if inflater.unused_data else inflated


@WAYS
def test_a_damaged_stream_comes_to_what_zlib_makes_of_it(compress: Compress, decompress: Decompress) -> None:
    rng = random.Random(7)
    wholes = [compress(data) for data in (b"", b"abc" * 9, DATA, rng.randbytes(3_000))]
    seen: Counter[str] = Counter()
    for _ in range(20_000):
        data = bytearray(rng.choice(wholes))
        for _ in range(rng.choice((0, 1, 1, 3))):
            at = rng.randrange(min(len(data), 24) if rng.random() < 0.5 else len(data))
            match rng.randrange(3):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at : at + rng.randrange(1, 4)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randrange(1, 4))
        max_bytes = rng.choice((10, 4_096, 1 << 20))
        expected = outcome_of_zlib(bytes(data), 15 if decompress is inflate else 31, max_bytes)
        try:
            outcome: str | bytes = decompress(bytes(data), max_bytes)
        except InvalidFrame as error:
            outcome = error.code
        assert outcome == expected, data.hex()
        seen[outcome if isinstance(outcome, str) else "taken"] += 1
    assert min(seen[what] for what in ("taken", "not_an_image", "truncated", "too_many_bytes")) > 100, seen


@WAYS
def test_a_bomb_is_not_made(compress: Compress, decompress: Decompress) -> None:
    bomb = compress(bytes(200 << 20))
    tracemalloc.start()
    try:
        assert refusal_of(decompress, bomb, 1 << 20) == "too_many_bytes"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
