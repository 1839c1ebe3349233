"""Guesses at passwords, as somebody plays them from outside, and what comes of them."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from raw_engineio import TEXT, client_frame
from security.guesser import FAILED, TURNED_AWAY, WRONG, Guessing
from security.outside import Client, Gone

HERE: Final = Path(__file__).resolve().parent
#: What docs/security.md promises.
LIMIT: Final = 10
BACK_SEC: Final = 30.0
#: Two answers may come nearer to each other than the guesses were checked, by so much on a busy machine.
JITTER_SEC: Final = 0.25
PATIENCE_SEC: Final = 15.0


def addresses(count: int, first: int = 2) -> tuple[str, ...]:
    return tuple(f"127.0.0.{first + number}" for number in range(count))


class Outcome(NamedTuple):
    """What became of one guess.

    Args:
        at: when the answer came, on the monotonic clock.
        what: `wrong`, `turned away`, or `failed: …`.
    """

    at: float
    address: str
    account: str
    what: str


def count(outcomes: Iterable[Outcome]) -> Counter[str]:
    return Counter(outcome.what for outcome in outcomes)


def most_in_a_second(outcomes: Iterable[Outcome], key: Callable[[Outcome], str]) -> int:
    """The most guesses of one key that were checked, and failed, within a second."""
    times: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.what == WRONG:
            times.setdefault(key(outcome), []).append(outcome.at)
    most = 0
    for of_key in times.values():
        of_key.sort()
        begin = 0
        for end, at in enumerate(of_key):
            while at - of_key[begin] >= 1 - JITTER_SEC:
                begin += 1
            most = max(most, end - begin + 1)
    return most


def check_limit(outcomes: Sequence[Outcome]) -> list[str]:
    """Where the limit was passed, or a guess was not answered as it should be."""
    problems = []
    for name, key in (("address", lambda o: o.address), ("account", lambda o: o.account)):
        most = most_in_a_second(outcomes, key)
        if most > LIMIT:
            problems.append(f"{most} guesses of one {name} were checked in a second, at most {LIMIT} are allowed")
    odd = {what: number for what, number in count(outcomes).items() if what.startswith(FAILED)}
    return problems + ([f"answers that no guess should have: {odd}"] if odd else [])


# -- bursts: many guesses in one write


def websocket_burst(port: int, guesses: int, account: str = "Alice", source: str = "127.0.0.1") -> list[Outcome]:
    """`authenticate` so often in one write on one WebSocket."""
    with Client(port, 4, "websocket", source=source) as client:
        client.send_raw(b"".join(client_frame(TEXT, packet.encode()) for packet in _authenticates(account, guesses)))
        return _heard(client, account, guesses, source)


def polling_burst(port: int, guesses: int, account: str = "Alice", source: str = "127.0.0.1") -> list[Outcome]:
    """`authenticate` so often in one POST."""
    with Client(port, 4, "polling", source=source) as client:
        try:
            client.say(*_authenticates(account, guesses))
        except Gone:
            pass
        return _heard(client, account, guesses, source)


def connect_burst(port: int, guesses: int, account: str = "Alice", source: str = "127.0.0.1") -> list[Outcome]:
    """CONNECT with a name and a password so often in one write; each that is refused leaves the client unjoined, so the
    next one counts as well, until the connection ends."""
    packets = [
        "40" + json.dumps({"username": account, "password": f"connect {n} {time.time()}"}) for n in range(guesses)
    ]
    outcomes = []
    told = False
    with Client(port, 4, "websocket", join=False, source=source) as client:
        client.send_raw(b"".join(client_frame(TEXT, packet.encode()) for packet in packets))
        try:
            for _ in packets:
                answer = str(client.until(lambda packet: str(packet).startswith("44")))
                at = time.monotonic()
                if "password is wrong" in answer:
                    outcomes.append(Outcome(at, source, account, WRONG))
                else:
                    told = "too many logins" in answer
                    outcomes.append(Outcome(at, source, account, TURNED_AWAY if told else f"{FAILED}: {answer}"))
        except Gone:
            pass
    rest = TURNED_AWAY if told else f"{FAILED}: no word of too many logins"
    return outcomes + [Outcome(time.monotonic(), source, account, rest)] * (guesses - len(outcomes))


def http_burst(port: int, guesses: int, account: str = "Alice", source: str = "127.0.0.1") -> list[Outcome]:
    """POST /api/v1/token so often in one write, pipelined as HTTP/1.1 allows."""
    caller = Caller(port, source)
    bodies = [caller.body(account, f"pipelined {n} {time.time()}") for n in range(guesses)]
    caller.send(b"".join(map(caller.request, bodies)))
    outcomes = []
    for _ in bodies:
        answer = caller.answer()
        what = {401: WRONG, 429: TURNED_AWAY}.get(answer.status, f"{FAILED}: {answer.status}")
        if answer.status == 429 and b"\r\nRetry-After: 1\r\n" not in answer.head:
            what = f"{FAILED}: 429 without Retry-After"
        outcomes.append(Outcome(time.monotonic(), source, account, what))
    caller.close()
    return outcomes


def _authenticates(account: str, guesses: int) -> list[str]:
    return ["42" + json.dumps(["authenticate", account, f"burst {n} {time.time()}", f"cb{n}"]) for n in range(guesses)]


def _heard(client: Client, account: str, guesses: int, source: str) -> list[Outcome]:
    outcomes = []
    try:
        for _ in range(guesses):
            answer = str(client.until(lambda packet: str(packet).startswith("42")))
            if not answer.startswith('42["cb'):
                break
            what = WRONG if answer.endswith(",false]") else f"{FAILED}: {answer}"
            outcomes.append(Outcome(time.monotonic(), source, account, what))
    except Gone:
        pass
    told = "too_many_guesses" in client.errors() or client.transport == "polling"  # whose last poll may be cut off
    rest = TURNED_AWAY if told else f"{FAILED}: no word of too_many_guesses"
    return outcomes + [Outcome(time.monotonic(), source, account, rest)] * (guesses - len(outcomes))


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes


class Caller:
    """HTTP requests on one connection, from an address of our choice."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._to = ("127.0.0.1", port)
        self._source = source
        self._buffer = b""
        self._socket: socket.socket | None = None

    @staticmethod
    def body(name: str, password: str) -> bytes:
        return json.dumps({"username": name, "password": password}).encode()

    @staticmethod
    def request(body: bytes) -> bytes:
        return (
            b"POST /api/v1/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )

    def send(self, data: bytes) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(self._to, PATIENCE_SEC, (self._source, 0))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(data)

    def answer(self) -> Answer:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        size = int(length.split(b":")[1])
        while len(self._buffer) < size:
            self._receive()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(head.split()[1]), head + b"\r\n", body)

    def guess(self, name: str, password: str) -> Answer:
        self.send(self.request(self.body(name, password)))
        return self.answer()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise Gone("the connection ended")
        self._buffer += data


# -- floods, and the true user beside them


class Flooding:
    """A flood of guesses that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def stop(self) -> list[Outcome]:
        out, _ = self._process.communicate("", timeout=PATIENCE_SEC)
        assert out.strip(), f"the guesser ended with status {self._process.returncode}"
        result = json.loads(out.splitlines()[-1])
        assert not result["trouble"], result["trouble"]
        return [Outcome(*outcome) for outcome in result["outcomes"]]


@contextmanager
def flooding(port: int, guessing: Guessing) -> Iterator[Flooding]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "guesser.py"), str(port), json.dumps(guessing._asdict())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "guessing\n"
        yield Flooding(process)
    finally:
        process.kill()
        process.wait()


class Login(NamedTuple):
    """How a true user got in.

    Args:
        waited_sec: from the first attempt; None if it was never.
        attempts: how often it was tried.
    """

    waited_sec: float | None
    attempts: int


def log_in(
    port: int,
    account: tuple[str, str] = ("Alice", "123"),
    source: str = "127.0.0.1",
    transport: str = "websocket",
    retry_sec: float = 5.0,
    within_sec: float = BACK_SEC,
) -> Login:
    """Log in over Socket.IO as an app does that comes back some seconds after it was dropped."""
    began = time.monotonic()
    attempts = 0
    while time.monotonic() - began <= within_sec:
        attempts += 1
        with Client(port, 4, transport, source=source) as client:
            try:
                client.say("42" + json.dumps(["authenticate", *account, "loggedIn"]))
                answer = client.until(lambda packet: str(packet).startswith('42["loggedIn"'))
                assert answer == '42["loggedIn",true]', answer
                return Login(time.monotonic() - began, attempts)
            except Gone:
                pass
        time.sleep(retry_sec)
    return Login(None, attempts)


class Flooded(NamedTuple):
    """What a flood came to, and the true user beside it."""

    outcomes: list[Outcome]
    login: Login
    seconds: float

    @property
    def rate_hz(self) -> float:
        return len(self.outcomes) / self.seconds

    def check(self) -> list[str]:
        problems = check_limit(self.outcomes)
        if self.login.waited_sec is None or self.login.waited_sec > BACK_SEC:
            problems.append(f"the true user was not in after {BACK_SEC:g} s and {self.login.attempts} attempts")
        return problems


def flood(
    port: int, guessing: Guessing, first_sec: float, source: str = "127.0.0.1", retry_sec: float = 5.0
) -> Flooded:
    """Let a flood run for so long, then let the true user (Alice) come back until in, while it goes on."""
    with flooding(port, guessing) as running:
        began = time.monotonic()
        time.sleep(first_sec)
        login = log_in(port, source=source, retry_sec=retry_sec)
        seconds = time.monotonic() - began
        return Flooded(running.stop(), login, seconds)


# -- times


def rank_sum_z(one: Sequence[float], other: Sequence[float]) -> float:
    """How many standard deviations the Mann-Whitney rank sum of `one` lies from that of equal distributions."""
    pairs = len(one) * len(other)
    above = sum((a > b) + (a == b) / 2 for a in one for b in other)
    return (above - pairs / 2) / math.sqrt(pairs * (len(one) + len(other) + 1) / 12)


def answer_times(port: int, names: Sequence[str], wrong_password: str = "wrong") -> dict[str, float]:
    """How long a wrong password takes to be refused, in seconds, for each of these names in their order.

    Each guess comes from another address than the ten before, so that none is turned away.
    """
    callers = [Caller(port, address) for address in addresses(40, first=100)]
    taken = {}
    for number, name in enumerate(names):
        caller = callers[number % len(callers)]
        body = caller.request(caller.body(name, wrong_password))
        began = time.perf_counter()
        caller.send(body)
        answer = caller.answer()
        taken[name] = time.perf_counter() - began
        assert answer.status == 401, answer
    for caller in callers:
        caller.close()
    return taken


def secrets_in(text: str, secrets: Iterable[str]) -> list[str]:
    """Which of these secrets a text holds."""
    return [secret for secret in secrets if secret in text]


def process_texts(pid: int) -> dict[str, Any]:
    """What everybody on the machine, or the same user, can read of a process: its arguments, its environment."""
    folder = Path("/proc") / str(pid)
    return {name: (folder / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")}
