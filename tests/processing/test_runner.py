"""The real server with plug-ins: what becomes of frames, results, and plug-ins that misbehave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phones import Phone
from pictures import picture
from plugged_in import FAULTY, plugged_in, plugin_frames
from running import SRC, RunningServer, until
from security.processes import children_of


def results(phone: Phone, plugin: str, event: str = "result") -> list[Any]:
    return [value for value, about in phone.named(event) if about["plugin"] == plugin]


def logged_in(server: RunningServer, name: str) -> Phone:
    phone = Phone(server.url, transports=["websocket"])
    assert phone.log_in(name, "x") is True
    return phone


def test_a_result_goes_to_who_sent_the_frame_and_to_nobody_else(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "size") as server, logged_in(server, "Alice") as alice, logged_in(server, "Bob") as bob:
        assert alice.send(picture(width=320, height=240))["accepted"]
        until(lambda: results(alice, "size"), "Alice's result")
        assert bob.send(picture(width=64, height=48), "answers")["accepted"]
        until(lambda: results(bob, "size", "answers"), "Bob's result, under the name that he gave")
        assert alice.named("result") == [
            ({"width": 320, "height": 240, "user": "Alice", "stream": "Alice"}, {"seq": 1, "plugin": "size"})
        ]
        assert bob.named("answers") == [
            ({"width": 64, "height": 48, "user": "Bob", "stream": "Bob"}, {"seq": 1, "plugin": "size"})
        ]
        assert not alice.named("answers")
        assert not bob.named("result")


def test_each_stream_has_an_instance_of_its_own(tmp_path: Path) -> None:
    with (
        plugged_in(tmp_path, "Counter") as server,
        logged_in(server, "Alice") as one,
        logged_in(server, "Alice") as other,
    ):
        for phone, frames in ((one, 3), (other, 2), (one, 1)):
            for _ in range(frames):
                before = len(results(phone, "Counter"))
                phone.send(picture())
                until(lambda phone=phone, before=before: len(results(phone, "Counter")) > before, "a result")
        assert [result["count"] for result in results(one, "Counter")] == [1, 2, 3, 4]
        assert [result["count"] for result in results(other, "Counter")] == [1, 2]


def test_windows_come_whole_and_in_order_also_behind_refused_frames(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "Fives") as server, logged_in(server, "Alice") as alice:
        answers = [alice.send(b"no image" if number % 4 == 2 else picture()) for number in range(20)]
        taken = [answer["seq"] for answer in answers if answer["accepted"]]
        assert len(taken) == 15
        until(lambda: len(results(alice, "Fives")) == 3, "three windows")
        assert results(alice, "Fives") == [taken[:5], taken[5:10], taken[10:]]
        assert [about["seq"] for _, about in alice.named("result")] == [taken[4], taken[9], taken[14]]


def test_what_a_plugin_counted_at_the_end_is_kept_for_the_api(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "Counter") as server:
        with logged_in(server, "Alice") as alice:
            alice.send(picture())
            until(lambda: results(alice, "Counter"), "the result")
            kept = server.get("/api/v1/streams/Alice/result")
            assert kept["Counter"]["result"]["count"] == 1
            assert kept["Counter"]["seq"] == 1
        until(
            lambda: server.get("/api/v1/streams/Alice/result")["Counter"]["result"] == {"counted": 1},
            "what finish said",
        )


def test_a_picture_comes_as_bytes(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "painted") as server, logged_in(server, "Alice") as alice:
        alice.send(picture())
        until(lambda: results(alice, "painted"), "the picture")
        (painted,) = results(alice, "painted")
        assert isinstance(painted, bytes)
        assert painted[:2] == b"\xff\xd8"


def test_who_raises_is_told_of_and_counted_and_nobody_else_notices(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "fails", "size") as server, logged_in(server, "Alice") as alice:
        for number in range(1, 6):
            alice.send(picture())
            until(lambda number=number: len(results(alice, "size")) == number, "the result of the other")
        assert alice.named("serverError") == [("processing_failed", "the plug-in fails failed on frame 1")]
        until(lambda: plugin_frames(server, "fails")["failed"] == 5, "all are counted")
        assert plugin_frames(server, "size") == {"done": 5, "failed": 0, "lost": 0, "dropped": 0, "waiting": 0}
        log = "".join(server.log)
        assert "ValueError" in log
        assert log.count("Traceback") <= 2, "once a second"


@pytest.mark.parametrize(("bad", "says"), [("ends_its_process", "status 3"), ("hangs", "hangs")])
def test_who_ends_or_hangs_its_worker_gets_one_of_its_own(tmp_path: Path, bad: str, says: str) -> None:
    """The others go on: they miss the frames while a worker is started once, and nothing later."""
    with (
        plugged_in(tmp_path, bad, "Counter", arguments=("--process-workers", "1")) as server,
        logged_in(server, "Alice") as alice,
        logged_in(server, "Bob") as bob,
    ):
        alice.send(picture())
        until(lambda: results(alice, bad) and results(alice, "Counter"), "all is well")
        bob.send(picture())
        until(lambda: bob.error_codes() == ["processing_failed"], "Bob is told")
        until(lambda: len(children_of(server.process.pid, "processing")) == 2, "two workers")

        def counted() -> bool:
            alice.send(picture())
            return len(results(alice, "Counter")) > 1

        until(counted, "the other one has a worker again")
        (worker,) = {result["pid"] for result in results(alice, "Counter")[1:]}

        def again() -> bool:
            bob.send(picture())
            return plugin_frames(server, bad)["lost"] >= 3

        until(again, "it goes on ending its own worker", within_sec=30)
        alice.send(picture())
        before = len(results(alice, "Counter"))
        until(lambda: alice.send(picture()) and len(results(alice, "Counter")) > before, "the other one works")
        assert results(alice, "Counter")[-1]["pid"] == worker, "it has lost its worker only once"
        until(lambda: alice.send(picture()) and len(results(alice, bad)) > 1, "and the bad one comes back", 40)
        log = "".join(server.log)
        assert log.count("gets a worker of its own") == 1
        assert says in log
        for name in (bad, "Counter"):
            until(lambda name=name: not plugin_frames(server, name)["waiting"], "nothing waits", 40)
            ends = plugin_frames(server, name)
            frames = sum(stream["frames"] for stream in server.streams().values())
            assert sum(ends.values()) == frames, name
        assert server.stop() == 0
        assert children_of(server.process.pid, "processing") == []


def test_a_worker_that_is_killed_comes_back_and_what_it_had_is_lost(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "Counter", arguments=("--process-workers", "2")) as server:
        with logged_in(server, "Alice") as alice, logged_in(server, "Bob") as bob:
            for phone in (alice, bob):
                phone.send(picture())
                until(lambda phone=phone: results(phone, "Counter"), "a result")
            killed, other = (results(phone, "Counter")[0]["pid"] for phone in (alice, bob))
            assert killed != other, "streams are dealt out"
            os.kill(killed, signal.SIGKILL)
            until(lambda: alice.send(picture()) and len(results(alice, "Counter")) > 1, "it is back")
            assert results(alice, "Counter")[-1]["pid"] not in (killed, other)
            bob.send(picture())
            until(lambda: len(results(bob, "Counter")) == 2, "the other's streams have noticed nothing")
            assert results(bob, "Counter")[1] == {"count": 2, "pid": other, "bytes": len(picture())}
        assert server.stop() == 0


def test_who_is_too_slow_asks_for_less_and_every_frame_is_accounted_for(tmp_path: Path) -> None:
    """5 frames a second can be done, 20 come: the camera is asked for about 6, and then for what it takes."""
    with (
        plugged_in(tmp_path, "slow", arguments=("--process-workers", "1")) as server,
        logged_in(server, "Alice") as alice,
    ):
        until(lambda: alice.named("setRate") == [(60.0,)], "it is told the rate")
        end = time.monotonic() + 12
        while time.monotonic() < end and alice.named("setRate")[-1][0] > 7:
            assert alice.send(picture())["accepted"], "what is wanted is never enforced"
            time.sleep(0.05)
        assert 4 <= alice.named("setRate")[-1][0] <= 7
        assert server.streams()["Alice"]["wanted_hz"] == alice.named("setRate")[-1][0]
        until(lambda: not plugin_frames(server, "slow")["waiting"], "all is done")
        ends = plugin_frames(server, "slow")
        assert ends["done"] + ends["dropped"] == server.streams()["Alice"]["frames"]
        assert ends["dropped"] > 0
        assert results(alice, "slow") == sorted(set(results(alice, "slow")))


def test_a_plugin_gets_as_many_frames_as_it_wants(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "twice_a_second") as server, logged_in(server, "Alice") as alice:
        until(lambda: alice.named("setRate") == [(2.0,)], "it is told the rate")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            alice.send(picture())
            time.sleep(0.05)
        assert 5 <= len(results(alice, "twice_a_second")) <= 8


def test_who_wants_few_frames_holds_up_nobody(tmp_path: Path) -> None:
    """Nor does a frame of a stream that is not due hold up the first one of another."""
    with (
        plugged_in(tmp_path, "seldom", "Counter", arguments=("--process-workers", "1")) as server,
        logged_in(server, "Alice") as alice,
        logged_in(server, "Bob") as bob,
    ):
        for number in range(1, 31):
            alice.send(picture())
            until(lambda number=number: len(results(alice, "Counter")) == number, "the result", within_sec=2)
        assert results(alice, "seldom") == [1]
        bob.send(picture())
        until(lambda: results(bob, "seldom") == [1], "the first of another stream", within_sec=2)
        assert plugin_frames(server, "Counter") == {"done": 31, "failed": 0, "lost": 0, "dropped": 0, "waiting": 0}


def test_last_words_may_take_their_time(tmp_path: Path) -> None:
    """Together they take longer than one may: that is no hang."""
    with plugged_in(tmp_path, "Ends", arguments=("--process-workers", "1")) as server:
        with logged_in(server, "Alice") as alice:
            cameras = [logged_in(server, f"camera{number}") for number in range(9)]
            for camera in (*cameras, alice):
                camera.send(picture())
                until(lambda camera=camera: results(camera, "Ends"), "the result")
            for camera in cameras:
                camera.client.disconnect()
            alice.send(picture())
            until(lambda: results(alice, "Ends") == [1, 2], "all is done", within_sec=20)
            for number in range(9):
                last = server.get(f"/api/v1/streams/camera{number}/result")["Ends"]
                assert (last["result"], last["seq"]) == ("the end", 0)
        assert "started again" not in "".join(server.log)
        assert plugin_frames(server, "Ends")["lost"] == 0


def test_where_nobody_knows_who_ends_a_worker_each_gets_one_at_the_second_time(tmp_path: Path) -> None:
    with (
        plugged_in(tmp_path, "Counter", "ends_it_later", arguments=("--process-workers", "1")) as server,
        logged_in(server, "Alice") as alice,
        logged_in(server, "Bob") as bob,
    ):
        for workers in (1, 2):
            bob.send(picture())
            until(lambda workers=workers: len(children_of(server.process.pid, "processing")) < workers, "it has ended")
            until(
                lambda workers=workers: len(children_of(server.process.pid, "processing")) == workers,
                f"{workers} workers",
            )

        def counted() -> bool:
            before = len(results(alice, "Counter"))
            alice.send(picture())
            time.sleep(0.1)
            return len(results(alice, "Counter")) > before

        until(counted, "the other one is back")
        worker = results(alice, "Counter")[-1]["pid"]
        for _ in range(3):
            bob.send(picture())
            until(counted, "it goes on", within_sec=2)
        assert {result["pid"] for result in results(alice, "Counter")[-3:]} == {worker}


def test_a_worker_that_says_what_it_was_not_asked_is_ended(tmp_path: Path) -> None:
    with (
        plugged_in(tmp_path, "babbles", "size") as server,
        logged_in(server, "Alice") as alice,
        logged_in(server, "Bob") as bob,
    ):
        bob.send(picture())
        until(lambda: "an answer of 8 bytes came" in "".join(server.log), "it is ended")
        until(lambda: bob.error_codes() == ["processing_failed"], "Bob is told")
        until(lambda: alice.send(picture()) and results(alice, "size"), "the other one goes on")
        assert "Traceback" not in "".join(server.log)


def test_where_a_worker_takes_too_much_memory_each_plugin_gets_one(tmp_path: Path) -> None:
    """Who was at work when it was seen need not be who took it."""
    with (
        plugged_in(tmp_path, "leaks", "size", arguments=("--process-memory", "400000000")) as server,
        logged_in(server, "Alice") as alice,
        logged_in(server, "Bob") as bob,
    ):
        bob.send(picture())
        until(lambda: len(children_of(server.process.pid, "processing")) == 2, "two workers", within_sec=20)
        assert "".join(server.log).count("gets a worker of its own") == 1
        until(lambda: alice.send(picture()) and results(alice, "size"), "the other one goes on")


def test_a_worker_that_ends_is_missed_also_if_it_leaves_somebody_behind(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "leaves_somebody_behind") as server, logged_in(server, "Bob") as bob:
        bob.send(picture())
        until(lambda: "it ended with status 3" in "".join(server.log), "its end is seen", within_sec=3)
        until(lambda: bob.error_codes() == ["processing_failed"], "and told")


def test_the_server_ends_while_a_plugin_works(tmp_path: Path) -> None:
    with plugged_in(tmp_path, "hangs", "slow") as server, logged_in(server, "Bob") as bob:
        bob.send(picture())
        time.sleep(0.2)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3
        assert children_of(server.process.pid, "processing") == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere:size", "nowhere"),
        ("plugins:nothing", "nothing"),
        ("faulty:never", "the model is not there"),
        ("size", "MODULE:NAME"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line_and_status_2(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "plugins.py").write_text("def size(frame): return None\n")
    (tmp_path / "faulty.py").write_text(FAULTY)
    run = subprocess.run(
        [sys.executable, str(SRC / "ImageServer.py"), "-i", "127.0.0.1", "-p", "0", "--process", spec],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2, run.stderr
    assert run.stdout == "", "it never listened"
    assert says in run.stderr.splitlines()[-1]
    assert run.stderr.splitlines()[-1].startswith("ImageServer.py: ")
