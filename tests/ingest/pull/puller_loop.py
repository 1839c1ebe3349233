"""Plays of cameras that are pulled, run by test_puller.py, all at the same time: `python3 puller_loop.py NAME…`.

The cameras are scripts, and all the rest is real: the door, the hub, the threads, the time. Prints a line of JSON for
each play: its name, and what went wrong, or null.
"""

import green

green.make_green()

import base64  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import bson  # noqa: E402
from eventlet import patcher  # noqa: E402

from auth.guard import Guard  # noqa: E402
from auth.login import Authenticator  # noqa: E402
from auth.sessions import Sessions  # noqa: E402
from engine.unfinished import Unfinished  # noqa: E402
from frames import InvalidFrame, Limits  # noqa: E402
from green import Once, offload, sleep, spawn  # noqa: E402
from hub import Ended, FrameHub, Policy, Result, Stream  # noqa: E402
from ingest.camera_users import CameraUsers  # noqa: E402
from ingest.door import Door, LocalStreamNames  # noqa: E402
from ingest.inflater import THREADS, Inflater, Share  # noqa: E402
from ingest.pull import gateway as gateways  # noqa: E402
from ingest.pull import puller as pulling  # noqa: E402
from ingest.pull.camera_url import CameraUrl  # noqa: E402
from ingest.pull.gateway import PullGateway  # noqa: E402
from ingest.pull.guard import PullGuard  # noqa: E402
from ingest.pull.http_camera import FetchFailed  # noqa: E402
from ingest.pull.puller import Kind, Puller, Record  # noqa: E402
from rate import Rates  # noqa: E402

IMAGE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsKDAkK"
    "Cgr/wAALCAABAAEBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJx"
    "FDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZ"
    "mqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/AP/Z"
)
WRAPPED = bson.encode({"frame": base64.b64encode(IMAGE).decode()})
#: Holds a thread, and not the loop.
real_sleep = patcher.original("time").sleep
GONE = FetchFailed("unreachable", "no connection")
SHORT = Kind(retry_max_sec=1.0, give_up_sec=1.5)
LISTED = Kind(retry_max_sec=1.0, give_up_sec=None)


INFLATER = Inflater()


class ScriptedCamera:
    """What it answers comes from `script`, in turn: bytes, or an error; after `fetch_sec` each."""

    def __init__(
        self, script: Iterator[Any], fetch_sec: Callable[[], float] = lambda: 0.0, pushes: bool = False
    ) -> None:
        self.script = script
        self.fetch_sec = fetch_sec
        self.pushes = False
        self._will_push = pushes
        self.asked_at: list[float] = []
        self.closed = 0
        self._end: Once | None = None

    def next_body(self) -> bytes:
        self.asked_at.append(time.monotonic())
        end = self._end = Once()
        if end.wait(self.fetch_sec()):
            raise FetchFailed("closed", "closed")
        self._end = None
        said = next(self.script)
        self.pushes = self._will_push and isinstance(said, bytes)
        if isinstance(said, Exception):
            raise said
        return bytes(said)

    def close(self) -> None:
        self.closed += 1
        self.pushes = False
        if self._end is not None:
            self._end.set()

    @property
    def pauses(self) -> list[float]:
        """Between two attempts, in seconds."""
        return [after - before for before, after in itertools.pairwise(self.asked_at)]


class Played:
    """A camera, its puller, and what comes of it."""

    def __init__(
        self,
        camera: ScriptedCamera,
        kind: Kind = SHORT,
        limit_hz: float = 60.0,
        idle_hz: float = 20.0,
        find_user: Callable[[], str] = lambda: "Alice",
        unfinished: Unfinished | None = None,
    ) -> None:
        self.camera = camera
        self.hub = FrameHub()
        self.unfinished = unfinished or Unfinished()
        self.record = Record()
        self.gone: list[Puller] = []
        self.door = Door(
            self.hub,
            Authenticator(None, Guard(), offload, Once),
            Sessions(bytes(32), None, offload),
            LocalStreamNames(),
            Limits(),
            Rates(limit_hz, idle_hz),
            {},
            CameraUsers(),
            strangers=True,
        )
        self.seen = self.hub.subscribe("test", policy=Policy.QUEUE, max_frames=10_000, wish_hz=0)
        self.puller = Puller(
            camera, f"http://{sys._getframe(1).f_code.co_name}/", kind, self.door, find_user, Limits().max_frame_bytes,
            INFLATER, self.unfinished, self.record, self.gone.append,
        )  # fmt: skip
        self.puller.start()

    @property
    def streams(self) -> list[Stream]:
        return self.hub.listed_streams()

    @property
    def live(self) -> Stream:
        (stream,) = self.hub.live_streams()
        return stream

    def taken(self) -> list[str]:
        """What consumers have got of each stream: a dot a frame, `|` for its end."""
        got: dict[int, str] = {}
        while (item := self.seen.take()) is not None:
            got[item.stream.id] = got.get(item.stream.id, "") + ("|" if isinstance(item, Ended) else ".")
        return list(got.values())

    def until(self, condition: Callable[[], Any], within_sec: float = 5.0) -> None:
        until = time.monotonic() + within_sec
        while not condition():
            assert time.monotonic() < until, "not within time"
            sleep(0.005)


def near(seconds: float, expected: float, late: float = 0.15) -> bool:
    return expected - 0.01 <= seconds <= expected + late


def assert_near(pauses: list[float], expected: tuple[float, ...]) -> None:
    compared = list(zip(pauses, expected, strict=False))
    assert len(compared) == len(expected), pauses
    assert all(near(*pair) for pair in compared), pauses


def always(*said: Any) -> Iterator[Any]:
    return itertools.cycle(said)


def then(*said: Any) -> Iterator[Any]:
    """The last of these for ever."""
    return itertools.chain(said[:-1], itertools.repeat(said[-1]))


# -- the stream


def stream_begins_with_an_answer_ends_when_there_is_none_and_begins_again_under_its_name() -> None:
    played = Played(ScriptedCamera(then(GONE, IMAGE, IMAGE, GONE, IMAGE)))
    played.until(lambda: len(played.streams) == 2 and played.live.frames)
    first, second = played.streams
    assert (first.name, first.via, first.live, first.frames) == ("Alice", "pull", False, 2)
    assert (second.name, second.live) == ("Alice", True)
    assert played.taken() == ["..|", "." * second.frames]
    assert (played.record.failed, played.record.fetches) == (2, 2 + second.frames)


def answers_that_are_no_images_keep_the_stream_and_are_counted_on_it() -> None:
    script = then(b"<html>", InvalidFrame("too_many_bytes", "12 MB came"), IMAGE[:-4], IMAGE)
    played = Played(ScriptedCamera(script))
    played.until(lambda: played.streams and played.live.frames == 1)
    assert dict(played.live.refused) == {"not_an_image": 1, "too_many_bytes": 1, "truncated": 1}
    assert played.live.seq == 4


def wrapped_images_are_unwrapped() -> None:
    played = Played(ScriptedCamera(always(WRAPPED)))
    played.until(lambda: played.streams and played.live.frames >= 3)
    assert played.live.latest is not None
    assert played.live.latest.image == IMAGE
    assert played.unfinished.bytes == 0


def what_a_camera_cannot_be_told_is_counted() -> None:
    played = Played(ScriptedCamera(always(IMAGE)))
    played.until(lambda: played.streams and played.live.latest)
    played.live.answer(Result(played.live, 1, "faces", "something", None, 1000.0, 1000.5))
    played.live.complain("processing_failed", "it cannot be processed")
    assert played.record.unsent == 2


# -- pace


def camera_is_asked_as_often_as_is_wanted() -> None:
    took = itertools.cycle([0.0, 0.04, 0.02])
    played = Played(ScriptedCamera(always(IMAGE), lambda: next(took)), idle_hz=20)
    sleep(2.0)
    assert 38 <= played.live.frames <= 42, played.live.frames
    assert not played.live.refused


def higher_wish_counts_at_once() -> None:
    played = Played(ScriptedCamera(always(IMAGE)), idle_hz=0.1)
    played.until(lambda: played.streams)
    sleep(0.2)
    assert played.live.frames == 1
    played.hub.subscribe("window", rate_hz=20)
    sleep(1.0)
    assert 18 <= played.live.frames <= 23, played.live.frames


def no_limit_is_as_fast_as_the_camera() -> None:
    played = Played(ScriptedCamera(always(IMAGE), lambda: 0.001), limit_hz=0, idle_hz=5)
    played.hub.subscribe("window")
    sleep(1.0)
    assert played.live.frames > 200, played.live.frames


def nothing_is_fetched_while_nothing_is_wanted() -> None:
    played = Played(ScriptedCamera(always(IMAGE), pushes=True), idle_hz=0)
    played.until(lambda: played.camera.closed)
    sleep(0.5)
    assert (played.live.frames, len(played.camera.asked_at)) == (1, 1)
    window = played.hub.subscribe("window", rate_hz=20)
    played.until(lambda: played.live.frames > 3)
    window.close()
    assert played.live.live


def camera_of_which_nothing_is_wanted_is_still_looked_for_alone() -> None:
    pulling.UNWANTED_SEC = 0.3  # type: ignore[misc]
    played = Played(ScriptedCamera(itertools.chain([IMAGE, IMAGE], always(GONE))), idle_hz=0)
    played.until(lambda: played.hub.live_streams())
    stream = played.live
    played.until(lambda: stream.frames == 2)
    assert played.camera.asked_at[1] - played.camera.asked_at[0] > 0.25
    played.until(lambda: not stream.live)


def camera_that_pushes_is_thinned_out_and_nothing_refused() -> None:
    played = Played(ScriptedCamera(always(IMAGE), lambda: 0.01, pushes=True), idle_hz=10)
    sleep(2.0)
    assert 19 <= played.live.frames <= 22, played.live.frames
    assert played.record.skipped > 100
    assert not played.live.refused


def camera_that_pushes_irregularly_at_the_wanted_rate_is_taken_whole() -> None:
    took = itertools.cycle([0.07, 0.03, 0.055, 0.045])
    played = Played(ScriptedCamera(always(IMAGE), lambda: next(took), pushes=True), idle_hz=20)
    sleep(2.0)
    assert played.live.frames >= 36
    assert played.record.skipped <= 2, played.record.skipped


def low_limit_is_kept_without_a_refusal() -> None:
    took = itertools.cycle([0.2, 0.0])  # so that every second answer comes 0.2 s too early
    played = Played(ScriptedCamera(always(IMAGE), lambda: next(took)), limit_hz=1, idle_hz=5)
    sleep(4.5)
    assert 4 <= played.live.frames <= 5, played.live.frames
    assert played.record.skipped >= 1, "this play plays nothing"
    assert not played.live.refused


# -- cameras out of hand


def camera_that_sends_rubbish_is_asked_less_often_and_stays_live() -> None:
    played = Played(ScriptedCamera(then(b"?", b"?", b"?", b"?", b"?", IMAGE)))
    played.until(lambda: played.streams and played.live.frames >= 3, 8)
    assert_near(played.camera.pauses, (0.05, 0.5, 1.0, 2.0, 4.0, 0.05))
    assert len(played.streams) == 1


def good_image_ends_the_pauses() -> None:
    played = Played(ScriptedCamera(always(b"?", b"?", IMAGE)))
    sleep(2.0)
    assert_near(played.camera.pauses, (0.05, 0.5, 0.05, 0.05, 0.5, 0.05))


def camera_that_pushes_rubbish_is_looked_at_less_often_and_then_not_read() -> None:
    played = Played(ScriptedCamera(always(b"?"), lambda: 0.01, pushes=True))
    sleep(0.5)
    assert played.live.refused["not_an_image"] == 2
    assert played.record.skipped > 20
    sleep(0.5)
    assert (played.live.refused["not_an_image"], played.camera.closed, played.camera.pushes) == (3, 1, False)
    asked = len(played.camera.asked_at)
    sleep(0.4)
    assert len(played.camera.asked_at) == asked
    sleep(0.5)
    assert played.live.refused["not_an_image"] == 4


def camera_that_pushes_faster_than_any_camera_is_not_read() -> None:
    played = Played(ScriptedCamera(always(IMAGE), lambda: 0.0005, pushes=True), idle_hz=10)
    sleep(3.0)
    read = len(played.camera.asked_at)
    assert 3 * pulling.PUSHED_HZ < read < 5 * pulling.PUSHED_HZ, read
    assert 28 <= played.live.frames <= 32, played.live.frames


def without_a_limit_all_that_is_pushed_is_read() -> None:
    played = Played(ScriptedCamera(always(IMAGE), lambda: 0.0005, pushes=True), limit_hz=0, idle_hz=10)
    sleep(2.0)
    assert len(played.camera.asked_at) > 4 * pulling.PUSHED_HZ, len(played.camera.asked_at)


def camera_that_does_not_answer_is_asked_after_pauses_and_given_up() -> None:
    played = Played(ScriptedCamera(always(GONE)))
    played.until(lambda: played.gone)
    assert_near(played.camera.pauses, (0.25, 0.5, 1.0))
    assert len(played.camera.pauses) == 3
    assert not played.streams


def listed_camera_is_never_given_up() -> None:
    played = Played(ScriptedCamera(always(GONE)), Kind(0.3, None))
    sleep(2.0)
    assert 6 <= len(played.camera.asked_at) <= 8
    assert all(near(pause, 0.3) for pause in played.camera.pauses[1:])
    assert not played.gone


def camera_that_does_not_take_the_login_is_not_tried_often() -> None:
    played = Played(ScriptedCamera(always(FetchFailed("login", "no"))), Kind(1.0, None))
    sleep(2.5)
    assert len(played.camera.asked_at) == 3
    assert all(near(pause, 1.0) for pause in played.camera.pauses)


def camera_that_registers_itself_again_is_asked_at_once_and_has_its_time_anew() -> None:
    played = Played(ScriptedCamera(always(GONE)))
    for _ in range(4):
        sleep(1.0)
        asked = len(played.camera.asked_at)
        played.puller.wake()
        sleep(0.05)
        assert len(played.camera.asked_at) == asked + 1
    assert not played.gone
    played.until(lambda: played.gone)


def camera_that_fails_every_second_time_begins_fewer_and_fewer_streams() -> None:
    played = Played(ScriptedCamera(always(IMAGE, GONE)))
    sleep(3.0)
    assert 3 <= len(played.streams) <= 5, len(played.streams)


def fault_of_ours_is_said_and_the_camera_pulled_again() -> None:
    played = Played(ScriptedCamera(then(IMAGE, ZeroDivisionError("a fault"), IMAGE)), LISTED)
    played.until(lambda: len(played.streams) == 2)


def camera_whose_user_cannot_be_found_is_asked_again_later() -> None:
    found = then(FetchFailed("unreachable", "the host has no address"), "Bob")

    def find() -> str:
        user = next(found)
        if isinstance(user, Exception):
            raise user
        return str(user)

    played = Played(ScriptedCamera(always(IMAGE)), LISTED, find_user=find)
    played.until(lambda: played.streams)
    assert near(played.camera.pauses[0], 0.25)
    assert played.live.user == "Bob"


# -- ends


def stop_ends_a_camera_that_hangs_and_its_stream_at_once() -> None:
    took = then(0.0, 1_000.0)
    played = Played(ScriptedCamera(always(IMAGE), lambda: next(took)))
    played.until(lambda: len(played.camera.asked_at) == 2)
    began = time.monotonic()
    played.puller.stop()
    assert not played.hub.live_streams()
    played.puller.wait()
    assert time.monotonic() - began < 0.1
    assert played.gone == [played.puller]
    assert played.record.failed == 0


def registered_camera_that_is_disconnected_is_gone() -> None:
    played = Played(ScriptedCamera(always(IMAGE)))
    played.until(lambda: played.streams)
    played.live.disconnect("an admin wants it")
    assert not played.hub.live_streams()
    played.until(lambda: played.gone)


def listed_camera_that_is_disconnected_is_back_after_the_longest_pause() -> None:
    for idle_hz in (20.0, 0.0):  # it is waited for; it waits for that something is wanted
        took = itertools.chain([0.0, 100.0] if idle_hz else [], itertools.repeat(0.0))
        played = Played(ScriptedCamera(always(IMAGE), lambda took=took: next(took)), LISTED, idle_hz=idle_hz)
        played.until(lambda played=played: played.streams)
        sleep(0.1)
        played.live.disconnect("an admin wants it")
        began = time.monotonic()
        assert not played.hub.live_streams()
        sleep(0.1)
        asked = len(played.camera.asked_at)
        played.until(lambda played=played: played.hub.live_streams())
        assert near(time.monotonic() - began, 1.0)
        assert len(played.camera.asked_at) == asked + 1
        assert played.record.failed == 0


def image_whose_camera_is_stopped_while_a_thread_works_on_it_is_dropped() -> None:
    def slow(body: bytes, max_bytes: int) -> bytes:
        real_sleep(0.3)
        return IMAGE

    pulling.read_image = slow  # type: ignore[assignment]
    played = Played(ScriptedCamera(always(WRAPPED)))
    played.until(lambda: played.unfinished.bytes)
    assert played.unfinished.bytes == len(WRAPPED)
    played.puller.stop()
    played.puller.wait()
    assert (played.taken(), played.unfinished.bytes, len(played.gone)) == (["|"], 0, 1)


def image_that_waits_for_a_thread_gives_way_to_others() -> None:
    for _ in range(THREADS):
        INFLATER.run(Share(), lambda: real_sleep(0.5), lambda outcome: None)
    played = Played(ScriptedCamera(then(WRAPPED, IMAGE)), unfinished=Unfinished(len(WRAPPED)))
    played.until(lambda: played.unfinished.bytes)
    assert played.puller._body == WRAPPED
    played.unfinished.hold(Other(), 1)
    assert played.puller._body is None, "nothing keeps it any longer"
    played.until(lambda: played.live.frames)
    assert played.record.skipped == 1
    assert not played.live.refused


# -- the gateway


class ListedCamera:
    """What is made of an RTSP camera."""

    def __init__(self, *made_of: Any) -> None:
        self.made_of = made_of
        self.done: list[str] = []

    def start(self) -> None:
        self.done.append("started")

    def stop(self) -> None:
        self.done.append("stopped")


def make_gateway(look_up: Callable[[str], list[str]], *listed: str, users: str = "") -> tuple[PullGateway, FrameHub]:
    hub = FrameHub()
    door = Door(
        hub,
        Authenticator(None, Guard(), offload, Once),
        Sessions(bytes(32), None, offload),
        LocalStreamNames(),
        Limits(),
        Rates(60, 20),
        {},
        CameraUsers.read(users) if users else CameraUsers(),
        strangers=False,
    )
    gateway = PullGateway(door, PullGuard((), look_up), Limits(), INFLATER, Unfinished(), listed, ListedCamera)
    return gateway, hub


def users_file(text: str) -> str:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    return file.name


def name_of_a_camera_is_looked_up_once_and_what_was_found_is_called() -> None:
    camera, other = (socket.create_server((f"127.0.0.{n}", 0)) for n in (2, 3))
    spawn(serve_images, camera)
    came: list[Any] = []
    spawn(lambda: came.append(other.accept()))
    answers = iter([["127.0.0.2"], ["127.0.0.3"]])  # as a name server of somebody who means ill
    gateway, hub = make_gateway(lambda name: next(answers), users=users_file("127.0.0.2 Alice"))
    assert gateway.register("camera.lan", camera.getsockname()[1], "127.0.0.2")
    sleep(1.5)
    (stream,) = hub.live_streams()
    assert stream.user == "Alice"
    assert stream.frames > 15
    assert not came
    assert next(answers) == ["127.0.0.3"], "nobody has asked again"


def camera_of_several_addresses_is_whose_the_called_one_is() -> None:
    mine, theirs = (socket.create_server((f"127.0.0.{n}", 0)) for n in (3, 2))
    spawn(serve_images, mine)
    gateway, hub = make_gateway(lambda name: ["127.0.0.2", "127.0.0.3"], users=users_file("127.0.0.2 Alice"))
    port = mine.getsockname()[1]
    assert not gateway.register("camera.lan", port, "127.0.0.3"), "the address that is called is nobody's"
    assert gateway.refused == {"nobodys": 1}
    gateway, hub = make_gateway(
        lambda name: ["127.0.0.2", "127.0.0.3"], users=users_file("127.0.0.2 Alice\n127.0.0.3 Bob")
    )
    assert gateway.register("camera.lan", port, "127.0.0.3")
    sleep(0.5)
    assert [stream.user for stream in hub.live_streams()] == ["Bob"]
    theirs.close()


def camera_that_was_disconnected_registers_itself_again_at_once() -> None:
    camera = socket.create_server(("127.0.0.2", 0))
    spawn(serve_images, camera)
    gateway, hub = make_gateway(lambda name: [], users=users_file("127.0.0.2 Alice"))
    for _ in range(3):
        assert gateway.register("127.0.0.2", camera.getsockname()[1], "127.0.0.2")
        sleep(0.3)
        (stream,) = hub.live_streams()
        stream.disconnect("an admin wants it")
        assert not hub.live_streams()
    sleep(0.5)
    assert (gateway.pullers, len(hub.live_streams())) == (0, 0)


def serve_images(listener: socket.socket) -> None:
    """Five on each connection, so that it is connected to again and again."""

    def serve(sock: socket.socket) -> None:
        for _ in range(5):
            if sock.recv(10_000):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(IMAGE), IMAGE))
        sock.close()

    while True:
        spawn(serve, listener.accept()[0])


def rtsp_camera_is_started_with_its_user_and_stopped() -> None:
    gateway, _ = make_gateway(
        lambda name: [], "rtsp://me:secret@127.0.0.2/a", "rtsps://127.0.0.3/b", users=users_file("127.0.0.2 Alice")
    )
    gateway.start()
    sleep(0.05)
    alices, nobodys = gateway._listed
    assert isinstance(alices, ListedCamera)
    assert isinstance(nobodys, ListedCamera)
    assert alices.made_of == (CameraUrl.parse("rtsp://me:secret@127.0.0.2/a"), "Alice", "rtsp-1")
    assert nobodys.made_of[1:] == ("pull-1", "rtsp-2")
    gateway.stop()
    assert alices.done == nobodys.done == ["started", "stopped"]


def rtsp_camera_whose_name_is_unknown_is_looked_up_again_and_given_up_at_the_end() -> None:
    found = then(OSError("Name or service not known"), ["127.0.0.2"])

    def look_up(_name: str) -> list[str]:
        answer = next(found)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    gateways.LISTED_RETRY_SEC = 0.2  # type: ignore[misc]
    gateways.resolve = look_up
    gateway, _ = make_gateway(look_up, "rtsp://camera.lan/a")
    gateway.start()
    sleep(0.1)
    assert not gateway._listed
    sleep(0.2)
    assert len(gateway._listed) == 1
    found = always(OSError("Name or service not known"))
    gateway, _ = make_gateway(look_up, "rtsp://camera.lan/a")
    gateway.start()
    sleep(0.1)
    gateway.stop()
    found = always(["127.0.0.2"])
    sleep(0.5)
    assert not gateway._listed


class Other:
    """Takes memory."""

    def give_way(self) -> None:
        raise AssertionError("it took least")


def run(name: str) -> None:
    trouble = None
    try:
        globals()[name]()
    except Exception:
        trouble = traceback.format_exc()
    print(json.dumps([name, trouble]), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for task in [spawn(run, name) for name in sys.argv[1:]]:
        task.wait()
