"""Cameras that are pulled and mean ill: a process of its own, which is a camera at every address of the loopback.

    python3 pull_cameras.py KIND      prints its port; until standard input ends

A KIND is one of `KINDS`; `all` plays one after the other, by the last number of the address that is called.
"""

import asyncio
import base64
import itertools
import os
import random
import resource
import sys
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import bson

from pictures import padded, picture

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]

GOOD: Final = picture()
MJPEG: Final = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
LARGE: Final = 8 << 20


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "\r\n"]).encode() + body


async def _for_ever(writer: asyncio.StreamWriter, data: bytes, pause_sec: float = 0.0) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        if pause_sec:
            await asyncio.sleep(pause_sec)


def _answering(*answers: bytes) -> Play:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for said in itertools.cycle(answers):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()

    return play


def _beginning(*said: bytes, then: bytes = b"", pause_sec: float = 0.0) -> Play:
    """Answers a request with that, and goes on with `then` for ever, or with nothing."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.writelines(said)
        if then:
            await _for_ever(writer, then, pause_sec)
        await reader.read()

    return play


async def _silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1 << 20)
    await asyncio.sleep(3600)


async def _rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(random.randbytes(random.randrange(1, 5_000)))


async def _mutated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer with some bytes exchanged, left out or doubled."""
    await reader.readuntil(b"\r\n\r\n")
    said = bytearray(random.choice([answer(GOOD), answer(WRAPPED), answer(PICKLED), MJPEG + _part(GOOD) * 3]))
    for _ in range(random.randrange(1, 8)):
        at = random.randrange(min(len(said), random.choice([40, 200, 100_000])))
        said[at : at + random.choice([0, 1, 1, 1, 20])] = random.randbytes(random.choice([0, 1, 1, 5]))
    writer.write(said)


async def _bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gigabyte of zeros in a megabyte of zlib: the same block over and over."""
    deflater = zlib.compressobj(9, wbits=-15)
    block = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    await _answering(answer(b"\x78\xda" + block * 1024))(reader, writer)


def _part(image: bytes) -> bytes:
    return b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(image), image)


WRAPPED: Final = bson.encode({"frame": base64.b64encode(GOOD).decode()})
PICKLED: Final = zlib.compress(b"\x80\x02cos\nsystem\nX\x05\0\0\0false\x85R.")

KINDS: Final[dict[str, Play]] = {
    "good": _answering(answer(GOOD)),
    "silent": _silent,
    "drips its head": _beginning(then=b"H", pause_sec=1.0),
    "drips its body": _beginning(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", then=b"x", pause_sec=0.1),
    "drips an MJPEG part": _beginning(MJPEG, b"--x\r\n\r\n\xff\xd8", then=b"x", pause_sec=0.1),
    "an endless head": _beginning(b"HTTP/1.1 200 OK\r\n", then=b"X-More: more\r\n" * 100),
    "an endless body": _beginning(b"HTTP/1.1 200 OK\r\n\r\n", then=bytes(65_536)),
    "an endless MJPEG part": _beginning(MJPEG, b"--x\r\n\r\n", then=bytes(65_536)),
    "all but the last byte": _beginning(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE, bytes(LARGE - 1)),
    "a length of 4 EiB": _beginning(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 62), then=bytes(65_536)),
    "half an answer": _answering(answer(GOOD)[:-100]),
    "redirects for ever": _answering(answer(b"", "Location: /video", status="302 Found")),
    "an error": _answering(answer(b"no", status="500 Internal Server Error")),
    "text": _answering(answer(b"<html>hello</html>")),
    "a bomb": _bomb,
    "a malicious pickle": _answering(answer(PICKLED)),
    "rubbish": _rubbish,
    "almost right": _mutated,
    "a flood of MJPEG": _beginning(MJPEG, then=_part(padded(GOOD, 50_000)) * 10),
    "a flood of small MJPEG": _beginning(MJPEG, then=_part(GOOD) * 100),
    "a flood of MJPEG that is none": _beginning(MJPEG, then=_part(b"?" * 20) * 500),
}  # fmt: skip


def play_of(kind: str, address: str) -> Play:
    kinds = list(KINDS.values())
    return KINDS[kind] if kind != "all" else kinds[int(address.rpartition(".")[2]) % len(kinds)]


async def main(kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play_of(kind, writer.get_extra_info("sockname")[0])(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "0.0.0.0", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # whoever is still served waits for ever


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(sys.argv[1]))
