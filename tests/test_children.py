"""Real child processes under a real loop: stopped, killed, spinning, lying; and their server killed and interrupted."""

import hashlib
import os
import signal
import time
from typing import Any

import pytest

from child_server import ServerWithChild, is_alive, server_with_child
from pictures import padded, picture
from running import until

#: A frame of the size that phones send.
FRAME = padded(picture(), 50_000)
#: What the loop may be late on a shared core while a child misbehaves. An ingest that pauses would show seconds.
MAX_LAG_MS = 250


def let_it_work(server: ServerWithChild) -> int:
    """Open a stream and wait until the child has had frames of it; returns the child's process id."""
    server.open("Alice", FRAME, 100)
    pid = server.running()
    server.until(lambda seen: seen["sent"] > 20, "the child works")
    return pid


def assert_unharmed(server: ServerWithChild) -> None:
    server.assert_nothing_was_miscounted()
    assert server.worst_lag_ms < MAX_LAG_MS


def assert_ends_well(server: ServerWithChild, within_sec: float = 3.0) -> None:
    server.stop()
    assert server.process.wait(within_sec) == 0
    assert_unharmed(server)


def test_a_child_gets_the_frames_with_their_names_and_numbers_bit_by_bit() -> None:
    with server_with_child("reports") as server:
        let_it_work(server)
        server.open("Bob", picture(seed=2), 50)
        until(lambda: any(answer["frame"][0] == "Bob" for answer in server.answers), "Bob's frames come")
        assert_ends_well(server)
        frames = [answer["frame"] for answer in server.answers]
        assert {(name, width, digest) for name, _, width, digest in frames} == {
            ("Alice", 64, hashlib.sha256(FRAME).hexdigest()),
            ("Bob", 64, hashlib.sha256(picture(seed=2)).hexdigest()),
        }
        for user in ("Alice", "Bob"):
            numbers = [seq for name, seq, *_ in frames if name == user]
            assert numbers == sorted(set(numbers))


def test_a_child_is_greeted_and_told_of_ends_also_the_one_that_takes_over() -> None:
    with server_with_child("reports", greeting=["hello"]) as server:
        pid = let_it_work(server)
        server.end("Alice")
        until(lambda: {"told": {"ended": "Alice"}} in server.answers, "the end is told")
        assert server.answers[0] == {"told": "hello"}
        server.answers.clear()
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.answers == [{"told": "hello"}], "the next one is greeted")
        assert_ends_well(server)


def test_what_a_child_brings_comes_in_its_order_however_few_slots_it_has() -> None:
    with server_with_child("brings", own_slots=2, own_slot_bytes=100) as server:
        server.running()
        until(lambda: len(server.answers) >= 10, "all is brought")
        assert server.answers == [{"brought": [str(number), f"image {number}"]} for number in range(10)]
        assert_ends_well(server)


def test_a_child_is_not_told_the_options_of_the_server_which_hold_passwords() -> None:
    secret = {"IMAGESERVER_USERS": "postgresql://me:geheim@database/users", "NOT_THE_SERVERS": "kept"}
    with server_with_child("tells its environment", env=secret) as server:
        server.running()
        until(lambda: server.answers, "it answers")
        assert server.answers[0]["NOT_THE_SERVERS"] == "kept"
        assert not [name for name in server.answers[0] if name.startswith("IMAGESERVER_")]
        assert_ends_well(server)


def test_a_queue_reaches_the_child_without_a_gap() -> None:
    with server_with_child("reports", policy="queue", slots=8) as server:
        let_it_work(server)
        server.end("Alice")
        seen = server.until(lambda seen: not seen["waiting"], "all is handed over")
        assert (seen["sent"], seen["lost"], seen["dropped"]) == (seen["published"], 0, 0)
        assert_ends_well(server)
        assert [answer["frame"][1] for answer in server.answers if "frame" in answer] == list(
            range(1, seen["published"] + 1)
        )


def test_a_killed_child_comes_back_and_what_it_had_in_hand_is_counted_lost() -> None:
    with server_with_child("works") as server:
        pid = let_it_work(server)
        os.kill(pid, signal.SIGKILL)
        server.until_log("worker: it was ended by SIGKILL; it is started again in 0.5 s")
        server.until(lambda seen: seen["restarts"] == 1 and seen["state"] == "running", "another one runs")
        sent = server.seen["sent"]
        server.until(lambda seen: seen["sent"] > sent + 20, "it works")
        assert server.seen["pid"] != pid
        assert server.seen["lost"] <= 2
        assert_ends_well(server)


def test_a_stopped_child_is_killed_after_its_deadline_and_replaced() -> None:
    with server_with_child("works", deadline_sec=1) as server:
        pid = let_it_work(server)
        os.kill(pid, signal.SIGSTOP)
        server.until_log("worker: it got nowhere for 1 s")
        server.until(lambda seen: seen["restarts"] == 1 and seen["state"] == "running", "another one runs")
        assert not is_alive(pid)
        assert server.seen["lost"] == 2
        assert server.seen["dropped"] > 50
        assert_ends_well(server)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("spins", "it got nowhere for 1 s"),
        ("keeps its slots", "it got nowhere for 1 s"),
        ("ends at a frame", "it ended with status 4"),
        ("gives back what it has not", "which it does not have"),
        ("says too much", "an answer of 2097152 bytes came, at most 1048576 are taken"),
        ("closes its end", "it closed its end of the ring"),
        ("brings what is not its", "it brought slot 1, which is not its to write"),
    ],
)
def test_a_child_that_misbehaves_is_replaced_later_each_time(behaviour: str, said: str) -> None:
    with server_with_child(behaviour, deadline_sec=1, own_slots=1, own_slot_bytes=100) as server:
        server.open("Alice", FRAME, 100)
        server.until_log(f"{said}; it is started again in 0.5 s")
        server.until_log(f"{said}; it is started again in 1 s")
        assert_ends_well(server, within_sec=5)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("refuses", "it is too cold to work"),
        ("ends at once", "it ended with status 3"),
        ("is never ready", "it was not ready within 1 s"),
    ],
)
def test_a_child_that_can_not_begin_is_not_tried_again(behaviour: str, said: str) -> None:
    with server_with_child(behaviour, start_sec=1) as server:
        assert server.process.wait(10) == 2
        until(lambda: server.log, "it says why")
        assert server.log == [said + "\n"]


def test_a_child_that_does_not_listen_to_the_end_is_killed_after_two_seconds() -> None:
    with server_with_child("is deaf to the end") as server:
        pid = let_it_work(server)
        assert_ends_well(server, within_sec=4)
        assert not is_alive(pid)


@pytest.mark.parametrize("behaviour", ["works", "spins", "is deaf to the end"])
def test_no_child_outlives_a_killed_server(behaviour: str) -> None:
    with server_with_child(behaviour) as server:
        server.open("Alice", FRAME, 100)
        pid = server.running()
        server.until(lambda seen: seen["published"] > 10, "frames come")
        server.process.kill()
        until(lambda: not is_alive(pid), "the child has gone", within_sec=3)


@pytest.mark.parametrize("behaviour", ["works", "spins"])
def test_ctrl_c_on_the_terminal_leaves_nobody_and_says_nothing(behaviour: str) -> None:
    with server_with_child(behaviour) as server:
        server.open("Alice", FRAME, 100)
        pid = server.running()
        server.until(lambda seen: seen["published"] > 10, "frames come")
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(4) == 0
        assert not is_alive(pid)
        assert server.log == []
        server.assert_nothing_was_miscounted()


def test_ctrl_c_while_a_child_starts_does_not_reach_it() -> None:
    with server_with_child("works") as server:
        pid = let_it_work(server)
        os.kill(pid, signal.SIGKILL)

        def starting(seen: dict[str, Any]) -> bool:
            return bool(seen["pid"] and seen["pid"] != pid)

        newcomer = server.until(starting, "the next one starts")["pid"]
        os.kill(newcomer, signal.SIGINT)
        server.until(lambda seen: seen["state"] == "running" and seen["pid"] == newcomer, "it runs all the same")
        assert_ends_well(server)


def test_a_server_that_slept_does_not_blame_its_child() -> None:
    with server_with_child("works", deadline_sec=1) as server:
        pid = let_it_work(server)
        os.killpg(server.process.pid, signal.SIGSTOP)  # Ctrl-Z
        awake_at = time.monotonic() + 2
        until(lambda: time.monotonic() > awake_at, "longer than the deadline has passed")
        os.killpg(server.process.pid, signal.SIGCONT)  # fg
        sent = server.seen["sent"]
        server.until(lambda seen: seen["sent"] > sent + 100, "both go on")
        assert server.seen["pid"] == pid
        assert server.log == []
        server.stop()
        assert server.process.wait(3) == 0
        server.assert_nothing_was_miscounted()
