"""A camera that is asked for its picture over HTTP: an image an answer, or one answer that never ends (MJPEG).

Rule 1. What a camera's place is, it does not choose itself: a redirect leads to the same scheme, host and port, and no
        other address than the given ones is connected to.
Rule 2. All waiting has its deadline, and all that is kept its bound; also what is kept of all cameras together.
Rule 3. One receive a turn: a camera that sends as fast as it can holds nobody else up.
"""

import ipaddress
import re
import ssl
import time
from collections.abc import Sequence
from errno import ECONNRESET
from functools import cache
from typing import Final, Literal
from urllib.parse import urljoin, urlsplit

from engine.unfinished import Unfinished
from frames import InvalidFrame, too_many_bytes
from green import Overloaded, resolve, sleep, within
from ingest.camera_users import plain_address
from ingest.pull.answer import Answer, Head, Malformed
from ingest.pull.camera_url import DEFAULT_PORTS, CameraUrl, path_of
from ingest.pull.connection import Connection, Unreachable, left_sec, reason_of
from ingest.pull.digest import Login, login_for
from ingest.pull.multipart import Multipart, boundary_of

#: From the request to the last byte of the answer, with all redirects and the login, and for each part of an MJPEG
#: answer: as long as a client has for its request. In it, the longest image takes 0.8 MB/s.
ANSWER_SEC: Final = 10.0
#: A camera has one of its own, as Flask's `/video` to `/video/`; more are a loop.
MAX_REDIRECTS: Final = 3
#: A body that is no picture, of a redirect or of a 401, is read and forgotten up to here, to keep the connection.
SMALL_BODY_BYTES: Final = 16 * 1024
#: Around an image: BSON, headers of a pickled array.
WRAPPING_BYTES: Final = 64 * 1024
#: A longer body is kept in pieces until it is whole: memory that grows is moved, and is there twice meanwhile.
PIECE_BYTES: Final = 256 * 1024

_REDIRECTS: Final = (301, 302, 303, 307, 308)
#: These hold for the next time as well (RFC 9110, section 15.4).
_PERMANENT: Final = (301, 308)
#: How an MJPEG answer begins that is not called one; no image does, and no BSON of less than 16 MB.
_BOUNDARY_LINE: Final = re.compile(rb"--[0-9A-Za-z'()+_,./:=?-]{2}")

Cause = Literal["unreachable", "too_slow", "status", "login", "redirect", "malformed", "cut_off", "closed"]


class FetchFailed(Exception):
    """A camera gave no answer, or none that can be used; the message is for a log and holds no secret.

    Attributes:
        cause: unreachable (no connection, no such host, TLS not trusted), too_slow, status (other than 200), login
            (401: no login, or a refused one), redirect (off the host, or too many), malformed (no HTTP), cut_off (the
            answer ended too early), closed (by `close`).
    """

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause


def max_body_bytes(max_frame_bytes: int) -> int:
    """How long an answer may be: an image in base64, which makes 4 bytes of 3, and its wrapping."""
    return max_frame_bytes * 7 // 5 + WRAPPING_BYTES


class HttpCamera:
    """One camera; used by one greenlet.

    Args:
        url: http or https.
        addresses: the only ones that are called, whatever the host's name; None: the name is looked up, and again
            when a connection fails.
        max_frame_bytes: of an image; answers may be as much longer as the wrappings of an image are.
        unfinished: is told what is kept of an answer that is not all there; where that is too much with everybody
            else's, this camera may have to give way.
        tls: what is trusted of an https camera; None: what the system trusts.

    Attributes:
        pushes: an MJPEG answer is under way: the next body comes unasked, as fast as the camera sends.

    Raises:
        ValueError: it is neither http nor https, or a name is among the addresses.
    """

    def __init__(
        self,
        url: CameraUrl,
        addresses: Sequence[str] | None,
        max_frame_bytes: int,
        unfinished: Unfinished | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if url.scheme not in ("http", "https"):
            raise ValueError(f"{url.shown} is not called over HTTP")
        for address in addresses or ():
            ipaddress.ip_address(address)  # a name would be looked up by the system, and all wait for that
        self.url = url
        self._pinned = addresses
        self._max_frame_bytes = max_frame_bytes  # a part is an image
        self._max_bytes = max_body_bytes(max_frame_bytes)
        self._unfinished = unfinished or Unfinished()
        self._addresses: Sequence[str] = addresses or ()
        self._path = url.path  # where permanent redirects led to
        self._login: Login | None = None
        self._connection = Connection(url.host, url.port, (tls or _trusted()) if url.scheme == "https" else None)
        self._parts: Multipart | None = None
        self._parts_taken = 0
        self._pushed = True  # there was more than one part in the last MJPEG answer; some wrap each image in one
        self._answer = Answer()
        self._running = False  # somebody waits in next_body

    @property
    def pushes(self) -> bool:
        return self._parts is not None and self._pushed

    def next_body(self) -> bytes:
        """The next image, wrapped as the camera sends it: asks for one, or waits for the next one of an MJPEG answer.

        Takes up to ANSWER_SEC, and where a name must be looked up as long as that takes, too; do not call it in
        `green.within`. It lets the others run at least once.

        Raises:
            FetchFailed: there is none; the connection is closed, the next call makes a new one.
            InvalidFrame: `too_many_bytes`; the connection is closed likewise.
        """
        self._connection.aborted = False
        self._running = True
        try:
            if self._parts is not None:
                part = self._next_part(b"", time.monotonic() + ANSWER_SEC)
                if part is not None:
                    return part
            return self._fetch()
        except BaseException as error:
            self._disconnect()
            if self._connection.aborted and isinstance(error, Exception):
                raise FetchFailed("closed", "closed") from None
            if isinstance(error, Unreachable):
                self._addresses = self._pinned or ()
                raise FetchFailed("unreachable", str(error)) from None
            if isinstance(error, TimeoutError):
                raise FetchFailed("too_slow", f"no whole answer within {ANSWER_SEC:g} s") from None
            if isinstance(error, OSError):
                raise FetchFailed("cut_off", f"the connection ended: {reason_of(error)}") from None
            if isinstance(error, Malformed):
                raise FetchFailed("malformed", str(error)) from None
            raise
        finally:
            self._running = False
            self._unfinished.hold(self, 0)

    def close(self) -> None:
        """Close the connection; who waits in `next_body` gets FetchFailed `closed`. Never waits; the next `next_body`
        would connect again."""
        if self._running:
            self._connection.abort()
        else:
            self._disconnect()

    def give_way(self) -> None:
        """As `close`: others need the memory that an unfinished answer takes."""
        self.close()

    def _disconnect(self) -> None:
        self._parts = None
        self._connection.close()

    # -- asking

    def _fetch(self) -> bytes:
        addresses = self._look_up()
        deadline = time.monotonic() + ANSWER_SEC
        path, redirects, logins = self._path, 0, 0
        while True:
            head, body = self._ask(path, addresses, deadline)
            if head.status == 200:
                break
            self._forget_body(deadline)
            if head.status in _REDIRECTS:
                redirects += 1
                if redirects > MAX_REDIRECTS:
                    raise FetchFailed("redirect", f"more than {MAX_REDIRECTS} redirects")
                path = self._redirected(path, head)
                if head.status in _PERMANENT and redirects == 1:
                    self._path = path
            elif head.status == 401:
                logins += 1
                self._learn_login(head, logins)
            elif redirects == 0 and path != self.url.path:
                path = self._path = self.url.path  # the place that it once led to is no more
            else:
                raise FetchFailed("status", f"the answer has status {head.status}, expected 200")
        boundary = boundary_of(head.headers.get("content-type", ""))
        if boundary is None:
            body, boundary = self._read_body(body, deadline)
        if boundary is None:
            if not self._answer.can_be_followed:
                self._disconnect()
            return body
        self._parts, self._parts_taken = Multipart(boundary, self._max_frame_bytes), 0
        part = self._next_part(body, deadline)
        if part is None:
            raise Malformed("an MJPEG answer without a part")
        return part

    def _look_up(self) -> Sequence[str]:
        if not self._addresses and self._pinned is None:
            literal = plain_address(self.url.host)
            try:
                self._addresses = [self.url.host] if literal is not None else resolve(self.url.host)
            except Overloaded:
                raise FetchFailed("unreachable", "too many names are being looked up") from None
            except (OSError, UnicodeError) as error:
                raise FetchFailed("unreachable", f"there is no host of this name: {reason_of(error)}") from None
        return self._addresses

    def _ask(self, path: str, addresses: Sequence[str], deadline: float) -> tuple[Head, bytes]:
        """The head of the answer to a request, and what has come of its body."""
        request = self._request(path)
        if self._connection.is_open:
            # The camera may have closed a connection that was kept; it is known only now.
            try:
                head, body = self._send(request, deadline)
                if head.status != 408:  # said to an idle connection, and read as this request's answer
                    return head, body
            except TimeoutError:
                raise
            except (OSError, Malformed):
                if self._connection.aborted:
                    raise
            self._disconnect()
        self._connection.open(addresses, deadline)
        return self._send(request, deadline)

    def _request(self, path: str) -> bytes:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {self.url.host_and_port}",
            "User-Agent: ImageServer",
            "Accept: */*",
            "Accept-Encoding: identity",
            "Connection: keep-alive",
        ]
        if self._login is not None:
            lines.append(f"Authorization: {self._login.authorization(path)}")
        return "\r\n".join((*lines, "\r\n")).encode()

    def _send(self, request: bytes, deadline: float) -> tuple[Head, bytes]:
        answer = self._answer = Answer()
        with within(left_sec(deadline)):
            self._connection.send(request)
            while True:
                data = self._connection.receive(deadline)
                if not data:
                    raise ConnectionResetError(ECONNRESET, "the camera closed it before its answer")
                body = answer.receive_data(data)
                if answer.head is not None:
                    return answer.head, body

    # -- answers that are no picture

    def _forget_body(self, deadline: float) -> None:
        """Read the rest of an answer if that is quickly done, and close the connection otherwise."""
        answer = self._answer
        assert answer.head is not None
        left = SMALL_BODY_BYTES
        try:
            with within(left_sec(deadline)):
                while answer.head.keeps_alive and answer.tells_its_end and not answer.ended and left > 0:
                    data = self._connection.receive(deadline)
                    if not data:
                        break
                    left -= len(data)
                    answer.receive_data(data)
        except Malformed:
            pass  # nobody wants to know, and the connection is closed
        if not answer.can_be_followed:
            self._disconnect()

    def _redirected(self, path: str, head: Head) -> str:
        """The path that a redirect leads to."""
        url = self.url
        location = head.headers.get("location")
        if not location:
            raise FetchFailed("redirect", "a redirect to nowhere")
        try:
            to = urlsplit(urljoin(f"{url.scheme}://{url.host_and_port}{path}", location))
            port = to.port or DEFAULT_PORTS.get(to.scheme)
        except ValueError:
            raise FetchFailed("redirect", "a redirect to what is no address") from None
        if (to.scheme, port) != (url.scheme, url.port) or not self._is_own_host(to.hostname or ""):
            raise FetchFailed("redirect", "a redirect to another scheme, host or port")
        return path_of(to)

    def _is_own_host(self, host: str) -> bool:
        if host == self.url.host:
            return True
        address = plain_address(host)
        return address is not None and address in map(plain_address, (self.url.host, *self._addresses))

    def _learn_login(self, head: Head, logins: int) -> None:
        """Take what a 401 says for how to log in; it may also say that a nonce is not to be used any longer."""
        self._login = None
        if self.url.login is None:
            raise FetchFailed("login", "the camera wants a user and a password, and its address has none")
        if logins > 1:
            raise FetchFailed("login", "the camera refuses the user or the password")
        self._login = login_for(head.headers.get("www-authenticate", ""), *self.url.login)
        if self._login is None:
            raise FetchFailed("login", "the camera offers no login by Basic, or by Digest with MD5 or SHA-256")

    # -- pictures

    def _read_body(self, begun: bytes, deadline: float) -> tuple[bytes, bytes | None]:
        """The whole body; or its beginning, and a boundary, if it is an MJPEG one that does not say so."""
        answer = self._answer
        assert answer.head is not None
        if answer.length is not None:
            self._check_size(answer.length)
        if answer.ended:
            return begun, None
        may_be_parts = not answer.head.headers.get("content-type", "").startswith("image/")
        pieces, size = [bytearray(begun)], len(begun)
        with within(left_sec(deadline)):
            while not answer.ended:
                if may_be_parts and size >= 4:
                    if _BOUNDARY_LINE.match(pieces[0]):
                        return b"".join(pieces), b""
                    may_be_parts = False
                self._unfinished.hold(self, size, self.url.host)
                data = self._connection.receive(deadline)
                if data:
                    more = answer.receive_data(data)
                    size += len(more)
                    if len(pieces[-1]) >= PIECE_BYTES:
                        pieces.append(bytearray())
                    pieces[-1] += more
                else:
                    self._end_of_connection(size)
                self._check_size(size)
        return b"".join(pieces), None

    def _next_part(self, begun: bytes, deadline: float) -> bytes | None:
        """The next part of an MJPEG answer; None when that has ended."""
        parts = self._parts
        assert parts is not None
        waited = bool(begun)
        self._receive_parts(parts, begun)
        with within(left_sec(deadline)):
            while (part := parts.next_part()) is None and not parts.ended:
                self._unfinished.hold(self, parts.unfinished_bytes, self.url.host)
                data = self._connection.receive(deadline)
                waited = True
                if data:
                    self._receive_parts(parts, self._answer.receive_data(data))
                else:
                    self._end_of_connection(parts.unfinished_bytes)
                    self._receive_parts(parts, b"")
        if part is not None:
            self._parts_taken += 1
            self._pushed = self._pushed or self._parts_taken > 1
            if not waited:
                sleep(0)
        if parts.ended and parts.are_taken:
            self._pushed = self._parts_taken > 1
            self._parts = None
            if not self._answer.can_be_followed:
                self._disconnect()
        return part

    def _receive_parts(self, parts: Multipart, body: bytes) -> None:
        parts.receive_data(body)
        if self._answer.ended and not parts.receive_eof():
            raise FetchFailed("cut_off", f"the answer ends {parts.unfinished_bytes} bytes after a part's beginning")

    def _end_of_connection(self, received: int) -> None:
        self._answer.receive_eof()
        if not self._answer.ended:
            length = self._answer.length
            expected = "more" if length is None else str(length)
            raise FetchFailed("cut_off", f"the answer ends after {received} bytes, expected {expected}")

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise InvalidFrame("too_many_bytes", too_many_bytes(size, self._max_bytes))


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()
