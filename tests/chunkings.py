"""Bytes cut into pieces, as a connection may deliver them."""

from collections.abc import Iterator


def chunkings(data: bytes) -> Iterator[list[bytes]]:
    """All at once, byte by byte, in threes and in sevens, and in two at every place."""
    yield [data]
    for size in (1, 3, 7):
        yield [data[at : at + size] for at in range(0, len(data), size)]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
