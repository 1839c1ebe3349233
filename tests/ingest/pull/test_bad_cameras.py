"""Cameras that are slow, endless, or lie: each costs a fetch, some memory, and nobody else's time."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from http_cameras import Caller, Camera, Conversation, Play, answer, answering, running_caller

#: Instead of 10 s for an answer.
ANSWER_SEC = 0.5
#: What a fetch may take beyond that, on a shared core.
SLACK_SEC = 1.5
#: The loop may work for so long without a turn for others; the longest bodies take 10 ms. A camera that sends as fast
#: as it can, and is read without a pause, holds it for as long as an answer may take.
STALL_SEC = 0.1
#: Of an image; bodies may be 7/5 of it and 64 KiB.
MAX_FRAME_BYTES = 1 << 20
MAX_BODY_BYTES = MAX_FRAME_BYTES * 7 // 5 + 65536
#: Whatever they send.
MAX_GROWTH_BYTES = 20_000_000

IMAGE = b"\xff\xd8 an image \xff\xd9"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MJPEG = OK + b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
PART = b"--frame\r\nContent-Length: 4\r\n\r\nabcd\r\n"


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with running_caller() as caller:
        yield caller


def sending(*pieces: bytes, keep: bool = True) -> Play:
    """Answers each request with these; keeps the connection, or closes it."""

    def play(conversation: Conversation) -> None:
        while conversation.request() and conversation.send(*pieces) and keep:
            pass

    return play


def dripping(begin: bytes, drop: bytes = b"x") -> Play:
    """A byte every now and then."""

    def play(conversation: Conversation) -> None:
        if conversation.request() and conversation.send(begin):
            while conversation.send(drop):
                time.sleep(0.02)

    return play


def flooding(begin: bytes, piece: bytes) -> Play:
    """The same for ever, as fast as it is taken."""
    block = piece * max(65536 // len(piece), 1)

    def play(conversation: Conversation) -> None:
        if conversation.request() and conversation.send(begin):
            conversation.flood(block)

    return play


def resetting(begin: bytes) -> Play:
    """Ends the connection as a machine does that was switched off and on."""

    def play(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(begin)
        conversation.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    return play


def redirect(location: str) -> Play:
    return answering(answer(b"", f"Location: {location}", status="302 Found"))


def status(code: int) -> Play:
    return answering(answer(b"<html>", status=f"{code} x\x1b[31m"))


# What they do, the cause that a fetch fails for, and what is said.
CAMERAS: dict[str, tuple[Play, str, str]] = {
    "says nothing": (dripping(b"", b""), "too_slow", "no whole answer within 0.5 s"),
    "drips its headers": (dripping(OK + b"A: "), "too_slow", ""),
    "drips its body": (dripping(OK + b"Content-Length: 1000\r\n\r\n"), "too_slow", ""),
    "drips a body without length": (dripping(OK + b"\r\n"), "too_slow", ""),
    "drips chunks": (dripping(CHUNKED, b"1\r\nx\r\n"), "too_slow", ""),
    "drips a part": (dripping(MJPEG + b"--frame\r\nContent-Length: 1000\r\n\r\n"), "too_slow", ""),
    "drips a part without length": (dripping(MJPEG + b"--frame\r\n\r\n"), "too_slow", ""),
    "drips empty parts": (dripping(MJPEG, b"--frame\r\n\r\n\r\n"), "too_slow", ""),
    "stops in its body": (sending(OK + b"Content-Length: 1000\r\n\r\nabc"), "too_slow", ""),
    "stops in a part": (sending(MJPEG + b"--frame\r\nContent-Length: 5\r\n\r\nabcd"), "too_slow", ""),
    "stops in its redirect": (
        sending(b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 9\r\n\r\nx"), "too_slow", "",
    ),
    "has endless headers": (flooding(OK, b"A: b\r\n"), "malformed", "more than 16384 bytes"),
    "has one endless header": (flooding(OK, b"x"), "malformed", "more than 16384 bytes"),
    "says 100 for ever": (flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "malformed", "more than 16384 bytes"),
    "has an endless body": (flooding(OK + b"\r\n", b"x"), "too_many_bytes", f"at most {MAX_BODY_BYTES} are taken"),
    "has endless chunks": (flooding(CHUNKED, b"fff\r\n" + b"x" * 4095 + b"\r\n"), "too_many_bytes", "at most"),
    "has endless small chunks": (flooding(CHUNKED, b"1\r\nx\r\n"), "malformed", "chunks of less than"),
    "has one endless chunk": (flooding(CHUNKED + b"ffffffff\r\n", b"x"), "too_many_bytes", "at most"),
    "has an endless chunk size": (flooding(CHUNKED, b"0"), "malformed", "a chunk whose first line does not end"),
    "has endless trailers": (
        flooding(CHUNKED + b"1\r\nx\r\n0\r\n", b"A: b\r\n"), "malformed", "more than 16384 bytes after the last chunk",
    ),
    "has an endless part": (flooding(MJPEG + b"--frame\r\n\r\n", b"x"), "too_many_bytes", "at most"),
    "has endless boundaries": (flooding(MJPEG, b"--frame\r\n\r\n"), "malformed", "more than 1000 parts"),
    "has endless headers of a part": (flooding(MJPEG + b"--frame\r\n", b"A: b\r\n"), "malformed", "8192 bytes"),
    "has endless text before its parts": (flooding(MJPEG, b"hello\r\n"), "malformed", "no boundary in the first 4096"),
    "has endless text parts": (
        flooding(MJPEG, b"--frame\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 500 + b"\r\n"), "too_slow", "",
    ),
    "announces 1 TB": (sending(OK + b"Content-Length: 1000000000000\r\n\r\n"), "too_many_bytes", "1000000000000 bytes"),
    "announces a byte too many": (
        sending(OK + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)), "too_many_bytes", "bytes came",
    ),
    "announces 1 TB for a part": (
        sending(MJPEG + b"--frame\r\nContent-Length: 1000000000000\r\n\r\n"), "too_many_bytes", "1000000000000 bytes",
    ),
    "gives two lengths": (sending(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "malformed", "Length"),
    "closes at once": (lambda conversation: None, "cut_off", "the connection ended: Connection reset by peer"),
    "closes before its answer": (sending(b"", keep=False), "cut_off", "the connection ended"),
    "closes in its headers": (sending(OK + b"A: b\r\n", keep=False), "cut_off", "the connection ended"),
    "closes in its body": (
        sending(OK + b"Content-Length: 10\r\n\r\nabc", keep=False), "cut_off", "ends after 3 bytes, expected 10",
    ),
    "closes in a chunk": (sending(CHUNKED + b"5\r\nabc", keep=False), "cut_off", "ends after 3 bytes, expected more"),
    "closes before its last chunk": (sending(CHUNKED + b"3\r\nabc\r\n", keep=False), "cut_off", "expected more"),
    "closes in a part": (
        sending(MJPEG + b"--frame\r\nContent-Length: 9\r\n\r\nabc", keep=False), "cut_off", "ends 3 bytes after",
    ),
    "has no parts": (sending(MJPEG + b"--frame--\r\n", keep=False), "malformed", "an MJPEG answer without a part"),
    "has not even a boundary": (sending(MJPEG, keep=False), "malformed", "an MJPEG answer without a part"),
    "resets the connection": (resetting(b""), "cut_off", "the connection ended"),
    "resets it in its body": (resetting(OK + b"Content-Length: 10\r\n\r\nabc"), "cut_off", ""),
    "speaks RTSP": (sending(b"RTSP/1.0 400 Bad Request\r\n\r\n"), "malformed", "expected an answer in HTTP/1"),
    "sends a picture at once": (sending(IMAGE), "malformed", "expected an answer in HTTP/1"),
    "has no such page": (status(404), "status", "the answer has status 404, expected 200"),
    "has an error": (status(500), "status", "the answer has status 500, expected 200"),
    "has nothing": (sending(b"HTTP/1.1 204 No Content\r\n\r\n"), "status", "status 204"),
    "has parts of something": (status(206), "status", "status 206"),
    "switches protocols": (sending(b"HTTP/1.1 101 x\r\n\r\n"), "status", "status 101"),
    "redirects for ever": (redirect("/video"), "redirect", "more than 3 redirects"),
    "redirects in a circle, for good": (
        answering(answer(b"", "Location: /other", status="301 x")), "redirect", "more than 3 redirects",
    ),
    "redirects nowhere": (sending(b"HTTP/1.1 302 x\r\nContent-Length: 0\r\n\r\n"), "redirect", "a redirect to nowhere"),
    "redirects to no address": (redirect("http://[::1/"), "redirect", "a redirect to what is no address"),
    "redirects to no port": (redirect("http://127.0.0.1:99999/"), "redirect", "a redirect to what is no address"),
}  # fmt: skip


@pytest.mark.parametrize("name", CAMERAS)
def test_a_bad_camera_costs_a_fetch_and_nobody_elses_time(caller: Caller, name: str) -> None:
    play, cause, said = CAMERAS[name]
    with Camera(play) as camera:
        caller.call(camera, addresses=["127.0.0.1"], answer_sec=ANSWER_SEC, max_frame_bytes=MAX_FRAME_BYTES)
        for fetched in caller.fetch_many(2):
            assert fetched.cause == cause, fetched
            assert said in fetched.said
            assert fetched.said.isprintable()
            assert fetched.sec < ANSWER_SEC + SLACK_SEC
            assert not fetched.pushes
        assert caller.stalled_sec < STALL_SEC
        assert caller.most_held <= MAX_BODY_BYTES + 65536


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{other}/", "http://127.0.0.2:{port}/", "http://localhost:{port}/", "//127.0.0.2:{port}/",
        "http://127.0.0.1/", "https://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/", "file:///etc/passwd",
        "http://2130706434:{port}/", "http://[::ffff:127.0.0.2]:{port}/", "http://127.0.0.1:{port}@127.0.0.2:{port}/",
        "http://127.0.0.1.:{port}/", "gopher://127.0.0.1:{other}/_GET",
    ],
)  # fmt: skip
def test_a_redirect_leads_nowhere_else(caller: Caller, location: str) -> None:
    with Camera(answering(answer(IMAGE))) as other, Camera(answering()) as blank:
        port = blank.port
        blank.close()
        target = location.format(port=port, other=other.port)
        with (
            Camera(answering(answer(IMAGE)), host="127.0.0.2", port=port) as neighbour,
            Camera(redirect(target), port=port) as camera,
        ):
            caller.call(camera, addresses=["127.0.0.1"], answer_sec=ANSWER_SEC)
            assert caller.fetch().said == "a redirect to another scheme, host or port"
            assert (other.connections, neighbour.connections) == (0, 0)
            assert camera.paths == ["/video"]


@pytest.mark.parametrize(
    "location",
    [
        "/a\tb",
        "/ä b",
        "/x\x00y",
        "/x y HTTP/1.1",
        "?\x7f",
        "/x\ry",
        "/%0d%0aX:y",
        '?#&"<>',
        "\\\\127.0.0.2\\x",
        "/\\127.0.0.2/",
    ],
)
def test_a_redirect_says_nothing_but_a_path(caller: Caller, location: str) -> None:
    with Camera(redirect(location)) as camera:
        caller.call(camera, addresses=["127.0.0.1"], answer_sec=ANSWER_SEC)
        assert caller.fetch().cause == "redirect"
        assert camera.requests
        for request in camera.requests:
            line, *headers = request.split("\r\n")
            assert line.startswith("GET /")
            assert line.endswith(" HTTP/1.1")
            assert len(line.split(" ")) == 3
            assert line.isascii()
            assert len(headers) == 5


def test_what_follows_an_answer_is_not_taken_for_the_next(caller: Caller) -> None:
    with Camera(answering(answer(b"one") + answer(b"a lie"))) as camera:
        caller.call(camera)
        assert [one.body for one in caller.fetch_many(3)] == [b"one"] * 3
        assert camera.connections == 3


def test_a_camera_of_tiny_parts_holds_nobody_up(caller: Caller) -> None:
    with Camera(flooding(MJPEG, PART + b"--frame\r\n\r\n" + b"x" * 100 + b"\r\n")) as camera:
        caller.call(camera)
        assert not any(one.cause for one in caller.fetch_many(1_500, work_sec=0.001))
        assert caller.stalled_sec < STALL_SEC


def test_a_login_is_not_shown_by_any_failure(caller: Caller) -> None:
    for play in (status(500), status(401), redirect("http://127.0.0.2/"), sending(IMAGE), sending(b"", keep=False)):
        with Camera(play) as camera:
            caller.call(camera.url("/video?pwd=s3cret", login="admin:s3cret@"), answer_sec=ANSWER_SEC)
            fetched = caller.fetch()
            assert fetched.cause
            assert "s3cret" not in fetched.said
            assert "admin" not in fetched.said


def test_a_login_is_not_sent_to_where_a_camera_redirects(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE))) as other:
        asking = answer(b"", 'WWW-Authenticate: Basic realm="x"', status="401 x")
        away = answer(b"", f"Location: http://127.0.0.1:{other.port}/", status="302 x")
        with Camera(answering(asking, away)) as camera:
            caller.call(camera.url(login="admin:s3cret@"))
            assert caller.fetch().cause == "redirect"
            assert other.connections == 0


# -- nobody there


def test_a_port_that_nobody_listens_on_is_unreachable_at_once(caller: Caller) -> None:
    with Camera(answering()) as camera:
        camera.close()
    caller.call(camera)
    fetched = caller.fetch()
    assert fetched.cause == "unreachable"
    assert fetched.said == f"no connection to port {camera.port}: Connection refused"
    assert fetched.sec < 1


def test_an_address_that_does_not_answer_is_given_up_in_time(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # that fill its queue
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        caller.call(f"http://127.0.0.1:{port}/", addresses=["127.0.0.1"] * 9, connect_sec=0.6)
        fetched = caller.fetch()
        assert fetched.cause == "unreachable"
        assert fetched.said == f"no connection to port {port}: no answer within 0.15 s"
        assert 0.5 < fetched.sec < 0.6 + SLACK_SEC
        fetched = caller.fetch(close_after=0.05)
        assert fetched.cause == "closed"
        assert fetched.sec < 0.4
        for sock in waiting:
            sock.close()


def test_a_host_that_does_not_exist_is_unreachable(caller: Caller) -> None:
    for host in ("no-such-host.invalid", "a..b"):
        caller.call(f"http://{host}/")
        fetched = caller.fetch()
        assert fetched.cause == "unreachable"
        assert fetched.said.startswith("there is no host of this name: ")


# -- the end of it


WAITS: dict[str, Play] = {
    "for its head": dripping(b"", b""),
    "in its head": dripping(OK),
    "in its body": dripping(OK + b"Content-Length: 1000\r\n\r\n"),
    "in a part": dripping(MJPEG + b"--frame\r\nContent-Length: 1000\r\n\r\n"),
    "in a flood": flooding(MJPEG, b"--frame\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 500 + b"\r\n"),
}


@pytest.mark.parametrize("name", WAITS)
def test_who_waits_for_a_camera_is_woken_by_close_and_can_ask_again(caller: Caller, name: str) -> None:
    first = [True]

    def play(conversation: Conversation) -> None:
        if first.pop() if first else False:
            WAITS[name](conversation)
        else:
            answering(answer(IMAGE))(conversation)

    with Camera(play) as camera:
        caller.call(camera)
        fetched = caller.fetch(close_after=0.1)
        assert (fetched.cause, fetched.said) == ("closed", "closed")
        assert fetched.sec < 0.1 + SLACK_SEC
        assert caller.fetch().body == IMAGE


def test_a_camera_gives_way_when_too_much_is_unfinished(caller: Caller) -> None:
    with Camera(flooding(OK + b"\r\n", b"x")) as camera:
        caller.call(camera, max_frame_bytes=8 << 20, max_unfinished=1_000_000)
        assert caller.fetch().cause == "closed"
        assert caller.most_held <= 1_000_000
        assert caller.stalled_sec < STALL_SEC


def test_bad_cameras_leave_no_memory_and_no_files_behind(caller: Caller) -> None:
    floods: list[Callable[[], Play]] = [
        lambda: flooding(OK + b"\r\n", b"x"),
        lambda: flooding(MJPEG + b"--frame\r\n\r\n", b"x"),
        lambda: flooding(CHUNKED, b"fff\r\n" + b"x" * 4095 + b"\r\n"),
        lambda: dripping(b"", b""),
    ]

    def run() -> None:
        for make in floods:
            with Camera(make()) as camera:
                caller.call(camera, answer_sec=0.1, max_frame_bytes=8 << 20)
                assert all(one.cause for one in caller.fetch_many(10))

    run()
    memory, files = memory_of(caller.pid), len(os.listdir(f"/proc/{caller.pid}/fd"))
    run()
    assert memory_of(caller.pid) - memory < MAX_GROWTH_BYTES
    assert len(os.listdir(f"/proc/{caller.pid}/fd")) <= files


def memory_of(pid: int) -> int:
    """Resident, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
