"""Somebody who guesses passwords, in a process of its own, from as many addresses of the loopback as wanted.

    python3 guesser.py PORT JSON      until standard input ends; prints `guessing`, and what became of it as JSON

Every guess is wrong. One that is turned away is sent again, as often as told; one that was found wrong never is.
"""

import asyncio
import heapq
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

#: An answer takes at most so long; whoever waits longer has found a server that is locked up.
ANSWER_SEC: Final = 15.0
#: Guesses that one connection over Socket.IO sends in one go.
BURST: Final = 20
#: The bound of what is kept of a long run.
MAX_OUTCOMES: Final = 500_000

WRONG, TURNED_AWAY, FAILED = "wrong", "turned away", "failed"


class Guessing(NamedTuple):
    """How somebody guesses.

    Args:
        account: whose password; `{n}` stands for a number, new with every guess.
        addresses: from where.
        rate_hz: guesses a second of all addresses.
        times: how often each guess is sent while it is turned away; 0 for no end.
        pause_sec: between two times.
        connections: of each address, each of which waits for its answers.
        transport: `http` (POST /api/v1/token), or `socketio` (`authenticate`, many in one write).
    """

    account: str = "Alice"
    addresses: tuple[str, ...] = ("127.0.0.1",)
    rate_hz: float = 500.0
    times: int = 1
    pause_sec: float = 0.6
    connections: int = 2
    transport: str = "http"


class Guess(NamedTuple):
    due: float
    number: int
    sent: int
    account: str

    @property
    def password(self) -> str:
        return f"wrong {self.number}"


class Guesser:
    """All guesses of one address."""

    def __init__(self, port: int, guessing: Guessing, address: str, first: int) -> None:
        self._port = port
        self._guessing = guessing
        self._address = address
        self._number = first
        self._again: list[Guess] = []
        self._period_sec = len(guessing.addresses) * guessing.connections / guessing.rate_hz
        self.outcomes: list[tuple[float, str, str]] = []

    async def run(self) -> None:
        guess = self._over_http if self._guessing.transport == "http" else self._over_socketio
        await asyncio.gather(*(guess() for _ in range(self._guessing.connections)))

    def _next(self) -> Guess:
        now = time.monotonic()
        if self._again and self._again[0].due <= now:
            return heapq.heappop(self._again)
        self._number += len(self._guessing.addresses)
        return Guess(now, self._number, 0, self._guessing.account.format(n=self._number))

    def _came_to(self, guess: Guess, outcome: str) -> None:
        now = time.monotonic()
        if len(self.outcomes) < MAX_OUTCOMES:
            self.outcomes.append((now, guess.account, outcome))
        if outcome == TURNED_AWAY and guess.sent + 1 != self._guessing.times:
            heapq.heappush(self._again, guess._replace(due=now + self._guessing.pause_sec, sent=guess.sent + 1))

    async def _over_http(self) -> None:
        while True:
            guess = self._next()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._address, 0))
                try:
                    while True:
                        began = time.monotonic()
                        body = json.dumps({"username": guess.account, "password": guess.password}).encode()
                        writer.write(
                            b"POST /api/v1/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                            b"Content-Length: %d\r\n\r\n" % len(body) + body
                        )
                        status = await asyncio.wait_for(self._status(reader), ANSWER_SEC)
                        self._came_to(guess, {401: WRONG, 429: TURNED_AWAY}.get(status, f"{FAILED}: {status}"))
                        await asyncio.sleep(max(began + self._period_sec - time.monotonic(), 0))
                        guess = self._next()
                finally:
                    writer.close()
            except (OSError, EOFError) as error:  # no connection, cut, or no answer in time
                self._came_to(guess, f"{FAILED}: {type(error).__name__}")
            await asyncio.sleep(self._period_sec)

    async def _status(self, reader: asyncio.StreamReader) -> int:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        return int(head.split()[1])

    async def _over_socketio(self) -> None:
        url = f"ws://127.0.0.1:{self._port}/socket.io/?EIO=4&transport=websocket"
        while True:
            began = time.monotonic()
            with suppress(OSError, WebSocketException):
                async with connect(url, compression=None, local_addr=(self._address, 0)) as connection:
                    await connection.send("40")
                    guesses = [self._next() for _ in range(BURST)]
                    for number, guess in enumerate(guesses):
                        arguments = ["authenticate", guess.account, guess.password, f"cb{number}"]
                        await connection.send("42" + json.dumps(arguments))
                    with suppress(WebSocketException):
                        async with asyncio.timeout(ANSWER_SEC):
                            async for message in connection:
                                if isinstance(message, str) and message.startswith('42["cb'):
                                    self._came_to(guesses.pop(0), WRONG)
                                if not guesses:
                                    break
                    for guess in guesses:
                        self._came_to(guess, TURNED_AWAY)
            await asyncio.sleep(max(began + self._period_sec * BURST - time.monotonic(), 0))


async def main(port: str, spec: str) -> None:
    guessing = Guessing(**json.loads(spec))
    guessers = [Guesser(int(port), guessing, address, number) for number, address in enumerate(guessing.addresses)]
    print("guessing", flush=True)
    tasks = [asyncio.create_task(guesser.run()) for guesser in guessers]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    end = asyncio.create_task(ended.wait())
    await asyncio.wait([end, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    trouble = [repr(e) for e in done if isinstance(e, Exception)]
    print(json.dumps({"outcomes": list(_outcomes(guessers)), "trouble": trouble}))


def _outcomes(guessers: list[Guesser]) -> Iterator[list[Any]]:
    for guesser in guessers:
        for at, account, outcome in guesser.outcomes:
            yield [at, guesser._address, account, outcome]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
