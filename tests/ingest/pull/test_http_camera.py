"""Cameras that are called over HTTP: such as behave, on real sockets; test_bad_cameras.py has the others."""

import hashlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from http_cameras import Caller, Camera, Conversation, Play, answer, answering, running_caller
from ingest.pull.camera_url import CameraUrl
from ingest.pull.http_camera import HttpCamera
from peers import need

IMAGE = b"\xff\xd8 an image \r\n\r\n--frame\xff\xd9"
BASIC = "Basic dXNlcjpwYXNz"  # user:pass
MJPEG = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n"


def part(image: bytes, counted: bool = True) -> bytes:
    length = b"Content-Length: %d\r\n" % len(image) if counted else b""
    return b"--frame\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n" + image + b"\r\n"


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with running_caller() as caller:
        yield caller


def bodies(caller: Caller, count: int) -> list[bytes | None]:
    fetched = caller.fetch_many(count)
    assert not any(one.cause for one in fetched), fetched
    return [one.body for one in fetched]


def replying(*answers: bytes) -> Play:
    """One answer to a connection, then it is closed: of the first to the first, of the last to all others."""
    left = list(answers)

    def play(conversation: Conversation) -> None:
        if conversation.request():
            conversation.send(left.pop(0) if len(left) > 1 else left[0])

    return play


#: Longer than it takes to receive what was sent before.
PAUSE_SEC = 0.15


def pausing(*pieces: bytes) -> Play:
    """Sends these with a pause after each; then the connection is closed."""

    def play(conversation: Conversation) -> None:
        if conversation.request():
            for piece in pieces:
                conversation.send(piece)
                time.sleep(PAUSE_SEC)

    return play


# -- connections


def test_one_connection_brings_all_images(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE), answer(b"two"), answer(b""))) as camera:
        caller.call(camera.url("/a/pic.jpg?w=1&x=%20"), addresses=["127.0.0.1"])
        assert bodies(caller, 4) == [IMAGE, b"two", b"", b""]
        assert camera.connections == 1
        assert camera.requests[0] == (
            f"GET /a/pic.jpg?w=1&x=%20 HTTP/1.1\r\nHost: 127.0.0.1:{camera.port}\r\nUser-Agent: ImageServer\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: keep-alive"
        )


WAYS = {
    "HTTP/1.0": (replying(b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE), 3),
    "HTTP/1.1 without length": (replying(b"HTTP/1.1 200 OK\r\n\r\n" + IMAGE), 3),
    "a closed connection": (replying(answer(IMAGE, "Connection: close")), 3),
    "a connection that is closed without a word": (replying(answer(IMAGE)), 3),
    "a kept connection in HTTP/1.0": (answering(answer(IMAGE, "Connection: keep-alive", version="1.0")), 1),
    "chunks": (
        answering(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(IMAGE), IMAGE)
        ), 1,
    ),
    "ConvergeCast's headers": (
        answering(answer(IMAGE, "Content-Enconded: b", "Content-Encoding: b", "Content: B", "Content-Type: text/x")), 1,
    ),
    "more than its length": (answering(answer(IMAGE) + b"more"), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_images_come_in_every_way_that_http_has(caller: Caller, name: str) -> None:
    play, connections = WAYS[name]
    with Camera(play) as camera:
        caller.call(camera, addresses=["127.0.0.1"])
        assert bodies(caller, 3) == [IMAGE] * 3
        assert camera.connections == connections


def test_a_large_image_is_whole_and_counted_while_it_comes(caller: Caller) -> None:
    image = hashlib.shake_128(b"image").digest(1_000_000)

    for sent in (
        answer(image),
        MJPEG + b"\r\n" + part(image),
        MJPEG + b"\r\n" + part(image, counted=False) + part(b""),
    ):
        with Camera(pausing(sent[:500_000], sent[500_000:])) as camera:
            caller.call(camera)
            assert caller.fetch().body == image
            assert 400_000 < caller.most_held < 1_000_000


def test_a_kept_connection_that_was_closed_for_idleness_is_made_anew(caller: Caller) -> None:
    for goodbye in (b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"nonsense"):
        with Camera(pausing(answer(IMAGE), goodbye)) as camera:
            caller.call(camera)
            assert caller.fetch().body == IMAGE
            time.sleep(2 * PAUSE_SEC)
            assert caller.fetch().body == IMAGE
            assert camera.connections == 2


def test_a_connection_is_closed_by_close_and_opened_again(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE))) as camera:
        caller.call(camera)
        assert caller.fetch().body == IMAGE
        caller.close()
        caller.close()
        assert caller.fetch().body == IMAGE
        assert camera.connections == 2


# -- addresses


def test_a_listed_host_is_looked_up_and_all_its_addresses_tried(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE))) as camera:
        caller.call(camera.url(host="localhost"))
        assert caller.fetch().body == IMAGE
        assert f"\r\nHost: localhost:{camera.port}\r\n" in camera.requests[0]


def test_a_listed_host_is_looked_up_again_when_it_has_moved(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE, "Connection: close"))) as camera:
        caller.call(camera.url(host="camera.lan"), lookups=[["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"]])
        assert bodies(caller, 3) == [IMAGE] * 3
        camera.close()
        assert caller.fetch().cause == "unreachable"
        with Camera(answering(answer(b"moved", "Connection: close")), host="127.0.0.2", port=camera.port):
            assert bodies(caller, 3) == [b"moved"] * 3


def test_a_name_is_no_address_of_an_announced_host() -> None:
    with pytest.raises(ValueError, match="'localhost'"):
        HttpCamera(CameraUrl.registered("localhost", 80), ["localhost"], 1_000)
    with pytest.raises(ValueError, match="rtsp://cam/x is not called over HTTP"):
        HttpCamera(CameraUrl.parse("rtsp://u:p@cam/x"), None, 1_000)


def test_an_announced_host_is_called_at_its_addresses_alone(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE))) as camera:
        caller.call(camera.url(host="no-such-host.invalid"), addresses=["127.0.0.1"])
        assert caller.fetch().body == IMAGE
        caller.call(camera.url(), addresses=["127.0.0.2"])
        assert caller.fetch().cause == "unreachable"
        caller.call(camera.url(), addresses=[])
        assert caller.fetch().cause == "unreachable"
        assert camera.connections == 1


def test_an_address_that_does_not_answer_leaves_time_for_the_next(caller: Caller) -> None:
    with Camera(answering(answer(IMAGE))) as camera:
        caller.call(camera, addresses=["127.0.0.2", "127.0.0.3", "127.0.0.1"])
        assert caller.fetch().body == IMAGE


# -- redirects


def redirecting(status: str, location: str, *headers: str) -> Play:
    """From /video to there."""

    def play(conversation: Conversation) -> None:
        while request := conversation.request():
            if request.startswith("GET /video HTTP"):
                conversation.send(answer(b"moved", f"Location: {location}", *headers, status=status))
            else:
                conversation.send(answer(IMAGE))

    return play


def test_a_permanent_redirect_is_followed_once_and_remembered(caller: Caller) -> None:
    for status in ("301 x", "308 x"):
        with Camera(redirecting(status, "/video/")) as camera:
            caller.call(camera, addresses=["127.0.0.1"])
            assert bodies(caller, 3) == [IMAGE] * 3
            assert camera.paths == ["/video", "/video/", "/video/", "/video/"]
            assert camera.connections == 1


def test_another_redirect_is_followed_each_time(caller: Caller) -> None:
    for status in ("302 x", "303 x", "307 x"):
        with Camera(redirecting(status, "other?a=b")) as camera:
            caller.call(camera, addresses=["127.0.0.1"])
            assert bodies(caller, 2) == [IMAGE] * 2
            assert camera.paths == ["/video", "/other?a=b"] * 2


@pytest.mark.parametrize("location", ["http://{host}:{port}/x", "//{host}:{port}/x", "http://127.0.0.1:{port}/x"])
def test_a_redirect_may_name_the_host_or_its_address(caller: Caller, location: str) -> None:
    with Camera(answering()) as blank:
        port = blank.port
    play = redirecting("302 x", location.format(host="localhost", port=port), "Connection: close")
    with Camera(play, port=port) as camera:
        caller.call(camera.url(host="localhost"), addresses=["127.0.0.1"])
        assert caller.fetch().body == IMAGE
        assert camera.paths == ["/video", "/x"]


def test_three_redirects_are_followed(caller: Caller) -> None:
    steps = [answer(status="302 x") for _ in range(3)]
    for number, step in enumerate(steps):
        steps[number] = step.replace(b"\r\n\r\n", b"\r\nLocation: /%d\r\n\r\n" % number)
    with Camera(answering(*steps, answer(IMAGE))) as camera:
        caller.call(camera)
        assert caller.fetch().body == IMAGE


@pytest.mark.parametrize(
    ("rest", "linger"),
    [
        (b"Content-Length: 99\r\n\r\nx", True),
        (b"Content-Length: 99\r\n\r\nx", False),
        (b"Content-Length: 999999\r\n\r\nx", True),
        (b"Transfer-Encoding: chunked\r\n\r\n", True),
        (b"\r\nuntil the end", True),
    ],
)
def test_a_redirect_is_followed_whatever_its_body_is(caller: Caller, rest: bytes, linger: bool) -> None:
    def play(conversation: Conversation) -> None:
        if " /video " in conversation.request():
            if not linger:
                conversation.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            conversation.send(b"HTTP/1.1 302 x\r\nLocation: /new\r\n" + rest)
            time.sleep(PAUSE_SEC)
            conversation.send(b"no chunk\r\n")
        else:
            conversation.send(answer(IMAGE))

    with Camera(play) as camera:
        caller.call(camera)
        fetched = caller.fetch()
        assert fetched.body == IMAGE
        assert fetched.sec < 1


def test_a_place_that_is_no_more_is_asked_for_where_it_was(caller: Caller) -> None:
    moved = answer(b"", "Location: /new", status="301 x")
    with Camera(answering(moved, answer(IMAGE), answer(status="404 x"), answer(b"back"))) as camera:
        caller.call(camera)
        assert bodies(caller, 2) == [IMAGE, b"back"]
        assert camera.paths == ["/video", "/new", "/new", "/video"]


# -- MJPEG


def test_an_mjpeg_answer_brings_one_image_after_the_other(caller: Caller) -> None:
    def play(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(MJPEG + b"\r\n", *(part(b"%d" % number) for number in range(200)))
        conversation.request()

    with Camera(play) as camera:
        caller.call(camera)
        fetched = caller.fetch_many(200)
        assert [one.body for one in fetched] == [b"%d" % number for number in range(200)]
        assert all(one.pushes for one in fetched)
        assert len(camera.requests) == 1
        caller.close()


def test_an_mjpeg_answer_may_come_in_chunks(caller: Caller) -> None:
    def play(conversation: Conversation) -> None:
        while conversation.request():
            conversation.send(MJPEG + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in (part(IMAGE)[:20], part(IMAGE)[20:] + part(b"two")[:-1]):
                conversation.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            conversation.send(b"0\r\n\r\n")

    with Camera(play) as camera:
        caller.call(camera)
        assert bodies(caller, 3) == [IMAGE, b"two", IMAGE]
        assert camera.connections == 1
        assert len(camera.requests) == 2


def test_an_mjpeg_answer_that_ends_is_asked_for_again(caller: Caller) -> None:
    for end in (b"--frame--\r\n", b""):
        with Camera(replying(MJPEG + b"\r\n" + part(b"1") + part(b"2") + end)) as camera:
            caller.call(camera)
            assert bodies(caller, 5) == [b"1", b"2", b"1", b"2", b"1"]
            assert camera.connections == 3


def test_a_camera_that_wraps_each_image_in_an_answer_of_its_own_does_not_push(caller: Caller) -> None:
    with Camera(replying(MJPEG + b"\r\n" + part(IMAGE))) as camera:
        caller.call(camera)
        fetched = caller.fetch_many(4)
        assert [one.body for one in fetched] == [IMAGE] * 4
        assert not any(one.pushes for one in fetched[1:])


def test_mjpeg_that_is_not_called_so_is_recognised(caller: Caller) -> None:
    for head in (b"", b"Content-Type: application/octet-stream\r\n", b"Content-Type: multipart/x-mixed-replace\r\n"):
        play = replying(b"HTTP/1.0 200 OK\r\n" + head + b"\r\n" + part(b"1") + part(b"2") + b"--frame--")
        with Camera(play) as camera:
            caller.call(camera)
            assert bodies(caller, 3) == [b"1", b"2", b"1"]


def test_dashes_in_an_image_or_in_bson_do_not_make_it_mjpeg(caller: Caller) -> None:
    bson = (11565).to_bytes(4, "little") + b"\x02frame\0" * 10
    assert bson.startswith(b"--")
    for body, head in ((bson, "Content-Type: text/html"), (b"--frame\r\n", "Content-Type: image/jpeg")):
        sent = answer(body, head)
        with Camera(pausing(sent[:-2], sent[-2:])) as camera:
            caller.call(camera)
            assert caller.fetch().body == body


# -- logins


class Asking:
    """A camera that wants a login of `user` with the password `pass`, and counts who gave it."""

    def __init__(self, challenge: str) -> None:
        self.challenge = challenge

    def accepts(self, authorization: str) -> bool:
        return authorization == BASIC

    def __call__(self, conversation: Conversation) -> None:
        while request := conversation.request():
            match = re.search(r"\r\nAuthorization: (.*)", request)
            if match is not None and self.accepts(match[1]):
                conversation.send(answer(IMAGE))
            else:
                headers = (f"WWW-Authenticate: {self.challenge}", "Content-Type: text/html")
                conversation.send(answer(b"who?", *headers, status="401 Unauthorized"))


class AskingForDigest(Asking):
    """Its nonces are good for three requests each."""

    def __init__(self) -> None:
        self.nonces = 0
        self._new_nonce()

    def accepts(self, authorization: str) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]*)', authorization))
        if given["nonce"] != self.nonce:
            return False
        self.used += 1
        secret = hashlib.md5(b"user:cam:pass").hexdigest()
        asked = hashlib.md5(f"GET:{given['uri']}".encode()).hexdigest()
        proof = f"{secret}:{self.nonce}:{self.used:08x}:{given['cnonce']}:auth:{asked}"
        if self.used == 3:
            self._new_nonce()
        return given["response"] == hashlib.md5(proof.encode()).hexdigest()

    def _new_nonce(self) -> None:
        self.nonces += 1
        self.used = 0
        self.nonce = f"nonce{self.nonces}"
        self.challenge = f'Basic realm="cam", Digest realm="cam", nonce="{self.nonce}", qop="auth", stale=true'


def test_a_login_is_sent_when_it_is_asked_for_and_then_at_once(caller: Caller) -> None:
    with Camera(Asking('Basic realm="cam"')) as camera:
        caller.call(camera.url(login="user:pass@"))
        assert bodies(caller, 3) == [IMAGE] * 3
        assert ["Authorization" in request for request in camera.requests] == [False, True, True, True]
        assert camera.connections == 1


def test_a_digest_is_made_anew_when_the_camera_wants_a_new_one(caller: Caller) -> None:
    with Camera(AskingForDigest()) as camera:
        caller.call(camera.url("/a?b=c", login="user:pass@"))
        assert bodies(caller, 8) == [IMAGE] * 8
        assert len(camera.requests) == 8 + 3  # that many nonces
        assert not any("Basic" in request for request in camera.requests)
        assert 'uri="/a?b=c"' in camera.requests[-1]


REFUSED = {
    "a wrong password": ("user:wrong@", 'Basic realm="cam"', "the camera refuses the user or the password", 2),
    "no login": ("", 'Basic realm="cam"', "the camera wants a user and a password, and its address has none", 1),
    "an unknown way": ("user:pass@", "Negotiate", "the camera offers no login by Basic, or by Digest with", 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_login_that_is_refused_is_a_failure(caller: Caller, name: str) -> None:
    login, challenge, said, requests = REFUSED[name]
    with Camera(Asking(challenge)) as camera:
        caller.call(camera.url(login=login))
        for _ in range(2):
            fetched = caller.fetch()
            assert fetched.cause == "login"
            assert said in fetched.said
            assert "wrong" not in fetched.said
        assert len(camera.requests) == 2 * requests


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a certificate for 127.0.0.1, and of its key."""
    need("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    files = [str(folder / "certificate.pem"), str(folder / "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.fixture
def context(certificate: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_an_https_camera_brings_images(caller: Caller, certificate: list[str], context: ssl.SSLContext) -> None:
    image = bytes(300_000)
    with Camera(answering(answer(IMAGE), answer(image)), tls=context) as camera:
        caller.call(camera, trust=certificate[0])
        assert bodies(caller, 3) == [IMAGE, image, image]
        assert camera.connections == 1


def test_an_https_camera_that_is_not_trusted_is_not_asked(
    caller: Caller, certificate: list[str], context: ssl.SSLContext
) -> None:
    with Camera(answering(answer(IMAGE)), tls=context) as camera:
        caller.call(camera)
        fetched = caller.fetch()
        assert (fetched.cause, "self-signed certificate" in fetched.said) == ("unreachable", True)
        caller.call(camera.url(host="localhost"), trust=certificate[0])
        fetched = caller.fetch()
        assert (fetched.cause, "'localhost'" in fetched.said) == ("unreachable", True)
        assert camera.requests == []


def test_a_camera_that_speaks_no_tls_is_not_reached(caller: Caller, certificate: list[str]) -> None:
    with Camera(answering(answer(IMAGE))) as camera:
        caller.call(camera.url().replace("http:", "https:"), trust=certificate[0], connect_sec=0.5)
        assert caller.fetch().cause == "unreachable"


class PartialRecord:
    """Speaks TLS by hand: after `begin` it sends a record with `rest`, byte by byte."""

    def __init__(self, context: ssl.SSLContext, begin: bytes, rest: bytes) -> None:
        self._context = context
        self._begin = begin
        self._rest = rest

    def __call__(self, conversation: Conversation) -> None:
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(received, sent, server_side=True)

        def do(step: Callable[[], object]) -> None:
            while True:
                try:
                    step()
                except ssl.SSLWantReadError:
                    conversation.send(sent.read())
                    received.write(conversation.socket.recv(65536))
                else:
                    conversation.send(sent.read())
                    return

        do(tls.do_handshake)
        do(lambda: tls.read(65536))  # the request
        if self._begin:
            do(lambda: tls.write(self._begin))
        tls.write(self._rest)
        for byte in sent.read():
            if not conversation.send(bytes([byte])):
                return
            time.sleep(0.005)


@pytest.mark.parametrize("begin", [b"", answer(bytes(9_000))[:-5_000], MJPEG + b"\r\n" + part(bytes(9_000))[:-5_000]])
def test_a_tls_record_that_drips_has_the_deadline_of_the_answer(
    caller: Caller, certificate: list[str], context: ssl.SSLContext, begin: bytes
) -> None:
    with Camera(PartialRecord(context, begin, bytes(1_000))) as camera:
        caller.call(camera.url().replace("http:", "https:"), trust=certificate[0], answer_sec=0.5)
        fetched = caller.fetch()
        assert fetched.cause == "too_slow"
        assert 0.4 < fetched.sec < 2


def test_who_waits_for_an_https_camera_is_woken_by_close(
    caller: Caller, certificate: list[str], context: ssl.SSLContext
) -> None:
    def play(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(answer(bytes(1_000))[:500])
        conversation.request()

    with Camera(play, tls=context) as camera:
        caller.call(camera, trust=certificate[0])
        fetched = caller.fetch(close_after=0.2)
        assert fetched.cause == "closed"
        assert fetched.sec < 2
