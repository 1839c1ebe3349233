"""Plays scenes of many logins at once on a real loop, in a process of its own, and prints what came of them as JSON.

Run as `python on_the_loop.py SCENE [SOURCE]` with src on the path.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import green

green.make_green()

import auth.login  # noqa: E402
from auth.accounts import Account  # noqa: E402
from auth.guard import Guard  # noqa: E402
from auth.login import Authenticator, LoginRefused, LoginUnavailable, TooManyGuesses  # noqa: E402
from auth.passwords import Verdict, hash_password  # noqa: E402
from auth.users import open_users  # noqa: E402

check_password = auth.login.check_password


class Scene:
    """An authenticator on demo accounts, or on those of a source, that counts its hashes."""

    def __init__(self, source: str | None = None) -> None:
        self.hashes = 0
        self.users = open_users(source)
        self.authenticator = Authenticator(self.users, Guard(), self.offload, green.Once)
        self.outcomes: Counter[str] = Counter()
        self.taken_sec: list[float] = []

    def offload(self, purpose: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.hashes += function is check_password
        return green.offload(purpose, function, *args, **kwargs)

    def log_in(self, name: str, password: str, address: str = "192.0.2.1") -> str:
        began = time.monotonic()
        try:
            self.authenticator.login(name, password, address)
            outcome = "in"
        except LoginUnavailable:
            outcome = "unavailable"
        except LoginRefused:
            outcome = "refused"
        except TooManyGuesses:
            outcome = "too many"
        self.outcomes[outcome] += 1
        self.taken_sec.append(time.monotonic() - began)
        return outcome

    def all_at_once(self, *attempts: tuple[str, ...]) -> None:
        self.taken_sec.clear()
        for task in [green.spawn(self.log_in, *attempt) for attempt in attempts]:
            task.wait()

    def report(self, **more: Any) -> dict[str, Any]:
        slowest = sorted(self.taken_sec)[int(len(self.taken_sec) * 0.99) - 1]
        leftover = len(self.authenticator._in_line) + len(self.authenticator._hashing)
        free = self.authenticator._line._free
        return {
            "outcomes": self.outcomes, "hashes": self.hashes, "p99_sec": slowest, "leftover": leftover, "free": free,
        } | more  # fmt: skip


def equal_and_right() -> dict[str, Any]:
    scene = Scene()
    scene.all_at_once(*[("Alice", "123")] * 500)
    return scene.report()


def equal_and_wrong() -> dict[str, Any]:
    scene = Scene()
    scene.all_at_once(*[("Alice", "wrong")] * 50)
    return scene.report()


def burst_of_guesses() -> dict[str, Any]:
    """A flood that has the right password in it, after the user was recognised: no cache may tell which it is."""
    scene = Scene()
    scene.log_in("Alice", "123", "198.51.100.7")
    scene.outcomes.clear()
    guesses = [("Alice", f"wrong {number}") for number in range(300)]
    guesses.insert(100, ("Alice", "123"))
    scene.all_at_once(*guesses)
    return scene.report()


def everybody_comes_back() -> dict[str, Any]:
    scene = Scene()
    hashed = hash_password("opensesame")
    names = [f"camera{number}" for number in range(500)]
    scene.users.insert([Account(name, password_hash=hashed) for name in names])  # type: ignore[attr-defined]
    # They have all logged in a while ago; 500 real first logins are 12 s of hashing that this scene is not about.
    auth.login.check_password = lambda password, *_: Verdict(password == "opensesame")
    scene.all_at_once(*[(name, "opensesame") for name in names])
    auth.login.check_password = check_password
    scene.outcomes.clear()
    scene.all_at_once(*[(name, "opensesame") for name in names])
    return scene.report()


def killed_in_line() -> dict[str, Any]:
    """Connections that go away while they wait for a hash leave nothing behind, and the others still get in."""
    scene = Scene()
    attempts = [("Alice", f"wrong {n}", f"192.0.2.{n}") for n in range(8)]
    tasks = [green.spawn(scene.log_in, *attempt) for attempt in attempts]
    tasks += [green.spawn(scene.log_in, "Bob", "456", "198.51.100.7") for _ in range(8)]
    green.sleep(0.03)
    for task in tasks[:-1]:
        task.kill()
    tasks[-1].wait()
    green.sleep(0.2)
    return scene.report()


def slow_hash() -> dict[str, Any]:
    """Whoever waits too long in line is told to come again."""
    scene = Scene()
    auth.login.DEADLINE_SEC = 0.2  # type: ignore[misc]

    def slow(password: str, known_hash: str | None, decoy_hash: str | None) -> Verdict:
        threading.Event().wait(0.6)  # a real one: in this thread, time.sleep would be the loop's
        return check_password(password, known_hash, decoy_hash)

    auth.login.check_password = slow
    scene.all_at_once(*[(name, "wrong") for name in ("Alice", "Bob", "user1", "user2")])
    return scene.report()


def many_addresses() -> dict[str, Any]:
    """More guesses than can be hashed, from 50 addresses, and users who come from another one for the first time."""
    scene = Scene()
    guesses = []

    def flood(address: str) -> None:
        for number in range(100):
            guesses.append(green.spawn(scene.log_in, f"{address} {number}", "wrong", address))
            green.sleep(0.05)

    flooding = [green.spawn(flood, f"203.0.113.{n}") for n in range(50)]
    green.sleep(2)
    users = []
    for name, password in (("Alice", "123"), ("Bob", "456")):
        began = time.monotonic()
        outcome = scene.log_in(name, password, "198.51.100.7")
        users.append((outcome, time.monotonic() - began))
    in_line = scene.authenticator._line._length
    for task in flooding + guesses:
        task.kill()
    while scene.authenticator._in_line:
        green.sleep(0.1)
    return scene.report(users=users, in_line=in_line)


def flood_with_a_true_user() -> dict[str, Any]:
    """Guesses without end at one account from one address, and the user of that account at the same address."""
    scene = Scene()
    ended = False

    def flood() -> None:
        number = 0
        while not ended:
            number += 1
            green.spawn(scene.log_in, "Alice", f"wrong {number}")
            green.sleep(0.005)

    flooding = green.spawn(flood)
    green.sleep(2)
    began = time.monotonic()
    while (outcome := scene.log_in("Alice", "123")) != "in" and time.monotonic() - began < 30:
        green.sleep(1)
    waited = time.monotonic() - began
    ended = True
    flooding.wait()
    return scene.report(waited_sec=waited, last=outcome, lasted_sec=time.monotonic() - began + 2)


def loop_goes_on() -> dict[str, Any]:
    """How late the loop is at most while hashes are computed and a database is asked."""
    scene = Scene(sys.argv[2] if len(sys.argv) > 2 else None)
    worst = 0.0
    ended = False

    def watch() -> None:
        nonlocal worst
        while not ended:
            due = time.monotonic() + 0.005
            green.sleep(0.005)
            worst = max(worst, time.monotonic() - due)

    watching = green.spawn(watch)
    scene.all_at_once(*[(f"nobody{n}", "wrong", f"192.0.2.{n}") for n in range(20)])
    ended = True
    watching.wait()
    return scene.report(worst_sec=worst)


def frozen_database() -> dict[str, Any]:
    """The caller has frozen PostgreSQL once the first line is printed."""
    scene = Scene(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    ticks = 0
    ended = False

    def tick() -> None:
        nonlocal ticks
        while not ended:
            green.sleep(0.05)
            ticks += 1

    ticking = green.spawn(tick)
    began = time.monotonic()
    scene.all_at_once(*[(f"user{n}", "opensesame") for n in range(20)])
    lasted = time.monotonic() - began
    ended = True
    ticking.wait()
    return scene.report(lasted_sec=lasted, ticks=ticks)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
