"""Who has the threads that inflate next, and what becomes of their work."""

import threading
import time
from collections.abc import Callable
from typing import Any

import green
from ingest.inflater import KNOWN_FOR_A_NEW, Inflater, Share


def turns_until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        green.sleep(0.001)


class Crowd:
    """Clients of an inflater with one thread, which is busy until `play`.

    Attributes:
        done: whose jobs are done, in their order.
    """

    def __init__(self) -> None:
        self.inflater = Inflater(threads=1)
        self.done: list[str] = []
        self._shares: dict[str, Share] = {}
        self._gate = threading.Event()
        self.shut()

    def shut(self) -> None:
        """Have the thread wait for `play`."""
        self._gate.clear()
        for _ in range(2):  # one that is done, and one that is ahead
            self.inflater.run(Share(), self._gate.wait, lambda _: None)

    def client(self, name: str, known: bool = True, until: float = 0.0) -> Share:
        """Who is known, unless it is said otherwise the first time."""
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share()
            share.known, share.until = known, until
        return share

    def wants(self, name: str) -> None:
        self.inflater.run(self.client(name), lambda: None, lambda _: self.done.append(name))

    def play(self, jobs: int) -> list[str]:
        self._gate.set()
        turns_until(lambda: len(self.done) >= jobs)
        return self.done


def test_work_is_done_in_a_thread_and_its_outcome_comes_on_the_loop() -> None:
    inflater, came = Inflater(), []
    share = Share()
    for number in range(100):
        inflater.run(
            share,
            lambda number=number: (number, threading.current_thread()),
            lambda outcome: came.append((*outcome, threading.current_thread())),
        )
    turns_until(lambda: len(came) == 100)
    assert sorted(number for number, *_ in came) == list(range(100))
    assert all(worker is not threading.main_thread() for _, worker, _ in came)
    assert all(told is threading.main_thread() for *_, told in came)


def test_what_work_raises_is_its_outcome_and_the_next_is_done() -> None:
    inflater = Inflater(threads=1)
    came: list[Any] = []
    error = MemoryError("no room")

    def fail() -> None:
        raise error

    inflater.run(Share(), fail, came.append)
    inflater.run(Share(), lambda: "done", came.append)
    turns_until(lambda: len(came) == 2)
    assert came == [error, "done"]
    assert error.__traceback__ is None, "it would hold what was worked on"


def test_an_error_of_who_is_told_does_not_hold_up_the_others(caplog: Any) -> None:
    inflater = Inflater(threads=1)
    came: list[Any] = []
    inflater.run(Share(), lambda: 1, lambda _: 1 / 0)
    inflater.run(Share(), lambda: 2, came.append)
    turns_until(lambda: came)
    assert came == [2]
    assert "ZeroDivisionError" in caplog.text


def test_those_who_wait_have_their_turns_in_order() -> None:
    crowd = Crowd()
    for name in "abc":
        crowd.wants(name)
    assert crowd.play(3) == ["a", "b", "c"]


def test_who_took_long_waits_for_those_who_did_not() -> None:
    crowd = Crowd()
    crowd.client("large", until=0.5)
    for name in ("large", "a", "b", "c"):
        crowd.wants(name)
    assert crowd.play(4) == ["a", "b", "c", "large"]


def test_what_a_client_has_used_up_counts_for_its_next_jobs() -> None:
    crowd = Crowd()
    crowd.inflater.run(crowd.client("large"), lambda: time.sleep(0.05), lambda _: crowd.done.append("large"))
    assert crowd.play(1) == ["large"]
    crowd.client("large").took_sec = 0.0  # only what it has had is looked at
    turns_until(lambda: not crowd.inflater._begun)
    crowd.shut()
    for name in ("large", "a", "b"):
        crowd.wants(name)
    assert crowd.play(4)[1:] == ["a", "b", "large"]


def test_time_is_shared_not_the_number_of_jobs() -> None:
    """Of ten clients that always want more, one with small jobs waits for one of the large ones each time."""
    crowd = Crowd()

    def again(name: str, sec: float) -> None:
        def done(_: Any) -> None:
            crowd.done.append(name)
            if len(crowd.done) < 60:
                again(name, sec)

        crowd.inflater.run(crowd.client(name), lambda: time.sleep(sec), done)

    for number in range(9):
        again(f"large {number}", 0.01)
    again("small", 0.001)
    crowd.play(60)
    assert crowd.done[9:50].count("small") >= 12, crowd.done


def test_who_was_idle_has_saved_nothing_up() -> None:
    crowd = Crowd()
    crowd.client("idle", until=-100.0)
    crowd.wants("a")
    crowd.wants("idle")
    crowd.wants("idle")
    crowd.wants("b")
    assert crowd.play(4) == ["a", "idle", "idle", "b"]


def test_a_crowd_of_new_clients_takes_a_share_and_no_more() -> None:
    crowd = Crowd()
    for number in range(20):
        crowd.client(f"new {number}", known=False)
        crowd.wants(f"new {number}")
    for number in range(12):
        crowd.wants(f"known {number}")
    crowd.play(32)
    assert [name[0] for name in crowd.done[:16]] == (["k"] * KNOWN_FOR_A_NEW + ["n"]) * 4
    assert [name[0] for name in crowd.done[16:]] == ["n"] * 16
