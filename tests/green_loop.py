"""Plays that need eventlet's loop, each run in a process of its own by test_green.py: `python3 green_loop.py NAME`."""

import green

green.make_green()

import gc  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import weakref  # noqa: E402
from collections.abc import Callable  # noqa: E402

from eventlet import patcher  # noqa: E402

from green import (  # noqa: E402
    Once,
    Overloaded,
    Signal,
    call_later,
    offload,
    on_readable,
    resolve,
    sleep,
    spawn,
    wait_readable,
    within,
)

real_sleep = patcher.original("time").sleep


def block(seconds: float) -> None:
    """Hold the loop, as a busy machine does."""
    real_sleep(seconds)


def elapsed(since: float) -> float:
    return time.monotonic() - since


def error_of(kind: type[Exception], function: Callable[..., object], *arguments: object) -> str:
    """What the error says that a call must raise."""
    try:
        function(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


# -- Signal


def signal_set_before_the_wait_is_not_lost() -> None:
    signal = Signal()
    signal.set()
    signal.set()
    assert signal.wait(0) is True
    assert signal.wait(0) is False, "several sets are one"


def signal_wakes_the_waiter_at_the_next_turn_and_set_does_not_switch() -> None:
    signal, order = Signal(), []

    def wait() -> None:
        order.append("waits")
        assert signal.wait(5) is True
        order.append("woken")

    task = spawn(wait)
    sleep(0)
    signal.set()
    order.append("set")
    task.wait()
    assert order == ["waits", "set", "woken"]


def signal_that_is_not_set_waits_for_its_time() -> None:
    begun = time.monotonic()
    assert Signal().wait(0.05) is False
    assert 0.05 <= elapsed(begun) < 1


def signal_wait_without_time_limit_waits() -> None:
    signal = Signal()
    call_later(0.05, signal.set)
    assert signal.wait() is True


def signal_that_comes_with_the_time_limit_does_not_cut_the_next_wait_short() -> None:
    """The loop was busy: the time was over, and the signal set, before the waiter could run."""
    signal, answers = Signal(), []

    def wait() -> None:
        answers.append(signal.wait(0.02))
        begun = time.monotonic()
        answers.append(signal.wait(0.2))
        answers.append(elapsed(begun) >= 0.2)

    task = spawn(wait)
    sleep(0)
    block(0.05)
    signal.set()
    task.wait()
    assert answers == [True, False, True], answers


def signal_of_a_waiter_that_was_killed_wakes_the_next_one() -> None:
    signal, woken = Signal(), []
    first = spawn(lambda: woken.append(signal.wait(5)))
    sleep(0)
    first.kill()
    signal.set()
    second = spawn(lambda: woken.append(signal.wait(5)))
    second.wait()
    assert woken == [True]


# -- Once


def once_wakes_all_who_wait_and_holds_for_those_who_come_later() -> None:
    once, woken = Once(), []
    tasks = [spawn(lambda number=number: woken.append((number, once.wait(5)))) for number in range(5)]
    sleep(0)
    assert not once.is_set()
    once.set()
    assert woken == []
    for task in tasks:
        task.wait()
    assert sorted(woken) == [(number, True) for number in range(5)]
    assert once.is_set()
    assert once.wait(0)


def once_that_does_not_happen_keeps_nobody_and_no_memory() -> None:
    once = Once()
    assert not once.wait(0.01)
    assert once._waiters == []


# -- tasks


def task_that_was_killed_can_be_waited_for() -> None:
    started = Signal()

    def run() -> None:
        started.set()
        sleep(60)

    running, unstarted = spawn(run), spawn(run)
    assert started.wait(5)
    unstarted_again = spawn(run)
    unstarted_again.kill()
    running.kill()
    unstarted.kill()
    for task in (running, unstarted, unstarted_again):
        task.wait()
        assert task.ended
        task.kill()


def waiting_for_a_task_can_itself_be_killed() -> None:
    long = spawn(sleep, 60)
    order = []

    def wait() -> None:
        try:
            long.wait()
        finally:
            order.append("ended")
        order.append("went on")

    waiter = spawn(wait)
    sleep(0)
    waiter.kill()
    assert order == ["ended"]
    assert not long.ended


def task_that_raises_is_logged_and_ends() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")

    def fail() -> None:
        raise ValueError("what went wrong")

    task = spawn(fail)
    task.wait()
    assert task.ended


# -- timers and descriptors


def call_later_calls_once_unless_it_is_cancelled() -> None:
    called, done = [], Signal()
    cancel = call_later(0.01, lambda: called.append("cancelled"))
    call_later(0.02, lambda: called.append("kept"))
    late = call_later(0.03, done.set)
    cancel()
    cancel()
    assert done.wait(5)
    late()
    assert called == ["kept"]


def on_readable_calls_until_it_is_cancelled() -> None:
    ours, theirs = patcher.original("socket").socketpair()
    ours.setblocking(False)
    received, more = [], Signal()

    def read() -> None:
        received.append(ours.recv(100))
        more.set()

    cancel = on_readable(ours.fileno(), read)
    for data in (b"one", b"two"):
        theirs.send(data)
        assert more.wait(5)
    cancel()
    cancel()
    theirs.send(b"three")
    assert not more.wait(0.05)
    assert received == [b"one", b"two"]
    on_readable(ours.fileno(), read)  # and again, by somebody else
    assert more.wait(5)
    assert received[2:] == [b"three"]


# -- threads


def offload_returns_raises_and_leaves_the_loop_free() -> None:
    ticks = []

    def tick() -> None:
        while True:
            ticks.append(1)
            sleep(0.005)

    ticking = spawn(tick)
    assert offload("disk", lambda a, b: (real_sleep(0.2), a + b, threading.get_ident())[1:], 1, b=2)[0] == 3
    ticking.kill()
    assert len(ticks) > 10, "others ran meanwhile"
    assert offload("disk", threading.get_ident) != threading.get_ident()
    assert "invalid literal" in error_of(ValueError, offload, "disk", int, "x")


def offload_runs_as_many_of_a_purpose_as_its_bound_and_purposes_do_not_wait_for_each_other() -> None:
    lock = threading.Lock()
    running = {"password": 0, "disk": 0}
    most = {"password": 0, "disk": 0}
    together = threading.Event()

    def work(purpose: str) -> None:
        with lock:
            running[purpose] += 1
            most[purpose] = max(most[purpose], running[purpose])
            if running["password"] == 2 and running["disk"] == 4:
                together.set()
        together.wait(5)
        with lock:
            running[purpose] -= 1

    tasks = [spawn(offload, purpose, work, purpose) for purpose in ("password", "disk") for _ in range(6)]
    for task in tasks:
        task.wait()
    assert most == {"password": 2, "disk": 4}, most


def offload_gives_its_place_back_when_a_job_raises() -> None:
    for _ in range(5):
        error_of(ValueError, offload, "password", int, "x")


def offload_says_so_when_no_thread_comes_free() -> None:
    green.OFFLOAD_WAIT_SEC = 0.05
    release = threading.Event()
    tasks = [spawn(offload, "password", release.wait, 10) for _ in range(2)]
    sleep(0)
    said = error_of(Overloaded, offload, "password", int, "1")
    assert said == "no password thread came free in 0.05 s (2 are busy)", said
    release.set()
    for task in tasks:
        task.wait()
    assert offload("password", int, "1") == 1


# -- deadlines, sockets, names


def within_ends_all_the_waiting_in_its_body_and_nothing_after_it() -> None:
    begun = time.monotonic()
    try:
        with within(0.1):
            while True:
                sleep(0.03)
    except TimeoutError:
        assert 0.1 <= elapsed(begun) < 1
    else:
        raise AssertionError("it went on")
    with within(0.05):
        pass
    sleep(0.1)


def within_is_over_while_a_socket_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    begun = time.monotonic()
    try:
        with within(0.05):
            ours.recv(1)
    except TimeoutError:
        assert elapsed(begun) < 1
    else:
        raise AssertionError("it went on")
    theirs.send(b"x")
    assert ours.recv(1) == b"x", "the socket is as it was"


def wait_readable_lets_the_others_run_also_when_it_need_not_wait() -> None:
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    turns: list[int] = []
    spawn(turns.append, 1)
    assert wait_readable(ours.fileno(), 5) is True
    assert turns == [1]
    assert ours.recv(1) == b"x"
    begun = time.monotonic()
    assert wait_readable(ours.fileno(), 0.05) is False
    assert 0.05 <= elapsed(begun) < 1
    assert wait_readable(ours.fileno(), -1) is False
    theirs.close()
    assert wait_readable(ours.fileno(), 5) is True, "the end can be read"


def resolve_gives_the_addresses_that_the_machine_knows_and_reads_every_spelling() -> None:
    assert resolve("127.0.0.1") == ["127.0.0.1"]
    assert "127.0.0.1" in resolve("localhost") or "::1" in resolve("localhost")
    assert resolve("2130706433") == ["127.0.0.1"]
    assert resolve("::1") == ["::1"]
    assert error_of(OSError, resolve, "no-such-host.invalid")


def what_a_failed_job_had_in_hand_is_free_at_once() -> None:
    class Image(bytearray):
        pass

    images: list[weakref.ref[Image]] = []

    def fail(size: int) -> None:
        image = Image(size)
        images.append(weakref.ref(image))
        raise ValueError(f"{len(image)} bytes are too many")

    gc.disable()
    for _ in range(3):
        assert error_of(ValueError, offload, "disk", fail, 1000) == "1000 bytes are too many"
    assert [image() for image in images] == [None] * 3


def locks_and_threads_stay_real_and_sockets_and_sleep_are_green() -> None:
    assert not patcher.is_monkey_patched("thread")
    assert not patcher.is_monkey_patched("psycopg")
    assert patcher.is_monkey_patched("socket")
    ticks = []
    spawn(lambda: ticks.append(1))
    time.sleep(0.01)
    assert ticks == [1]
    assert "eventlet" in socket.socket.__module__


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done", flush=True)
    os._exit(0)  # a thread of a failed play must not keep the process
