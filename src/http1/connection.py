"""One HTTP connection: its requests, one after the other, are read and handed to a WSGI application.

eventlet.wsgi's own reader lets half of the ambiguous requests through, waits without end for slow ones, and asks the
parser of e-mails. So its `HttpProtocol` keeps what it does well, running the application and writing the answer, and is
given requests that were read here. (The parser h11 was tried in its place: it is lenient on purpose, unites equal
lengths, takes bare LF, continued lines and a length beside chunks, so every check would have stood before it all the
same, at twice the cost.)
"""

import email.utils
import socket
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

from eventlet import wsgi

from green import sleep
from http1 import framing
from http1.body import REQUEST_SEC, BadBody, Body, Gone, Wire
from http1.framing import BadRequest, Head
from rate import OncePerSecond


class Connection(wsgi.HttpProtocol):  # type: ignore[misc]
    """Serves the requests of one connection, one after the other.

    Args:
        sock: a green socket.
        address: the client's address and port.
        server: an `eventlet.wsgi.Server`, for the application and the environment.
        on_bad_request: called with why a request was not taken.
        on_waiting: called with True when the connection waits for a head, with False when it has one.
        close: closes the socket; for an application that takes it over.

    Attributes:
        taken_over: the socket belongs to the application now, as it called `environ["http1.take_over"]`, and its
            request will not be answered here. It got the green socket, and what closes it when all is over.
    """

    #: Of eventlet.wsgi: an application's headers are sent as it writes them.
    capitalize_response_headers = False

    def __init__(
        self,
        sock: socket.socket,
        address: tuple[Any, ...],
        server: Any,
        on_bad_request: Callable[[str], object],
        on_waiting: Callable[[bool], object],
        close: Callable[[], object],
    ) -> None:
        # Not that of the base class, which serves within its constructor.
        self.request = self.connection = sock
        self.client_address = address
        self.server = server
        self.environ: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.close_connection = False
        self.wfile = self._wire = Wire(sock)
        self._connection_environ = self._describe_connection()
        self._on_bad_request = on_bad_request
        self._on_waiting = on_waiting
        self._close = close
        self.taken_over = False

    def serve(self) -> None:
        """Serve until either side ends it; the socket is left open."""
        try:
            while not self.close_connection:
                self._serve_one()
        except Gone:
            pass
        except BadRequest as error:
            self._refuse(error.status, str(error))

    def _serve_one(self) -> None:
        head = self._read_head()
        if head is None:
            self.close_connection = True
            return
        body = Body(self._wire, head.body_length, self._expects_continue(head))
        if head.is_websocket and (self._wire.received or not body.all_read):
            raise BadRequest("an upgrade with a body, or with bytes that did not wait for its answer")
        try:
            body.read_ahead()
        except BadBody as error:
            raise BadRequest(str(error), error.status) from None
        self.command, self.path, self.request_version = head.method, head.target, head.version
        self.close_connection = not head.keep_alive
        said = "" if head.version == "HTTP/1.1" else "keep-alive"
        self.headers = {"Connection": said if head.keep_alive else "close"}
        self.environ = self._environ(head, body)
        self.handle_one_response()
        if not self.close_connection:
            try:
                body.skip()
            except BadBody:
                self.close_connection = True
        if self.close_connection and not (body.all_read or self.taken_over):
            self._wire.linger()

    def application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Run the application; called by the base class, which writes the answer's head afterwards."""

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            if ("Connection", "close") in headers:
                self.close_connection = True
            return start_response(status, [*headers, ("Date", date.now())], *error)

        result = self.server.app(environ, start)
        if self.command == "HEAD" and not self.taken_over:
            # What an application gives all the same would be taken for the beginning of the next answer.
            if hasattr(result, "close"):
                result.close()
            result = []
        if not environ["eventlet.input"].can_be_skipped:
            self.close_connection = True
        return result

    def _take_over(self) -> tuple[socket.socket, Callable[[], object]]:
        self.taken_over = True
        wsgi.WSGI_LOCAL.already_handled = True  # eventlet.wsgi: there is nothing to answer
        return self.request, self._close

    def _read_head(self) -> Head | None:
        """The next request's head; None when there is none."""
        deadline = time.monotonic() + REQUEST_SEC
        received = self._wire.received
        if received:
            sleep(0)  # it sends requests without waiting for answers; the others have their turn
        self._on_waiting(True)
        try:
            seen = 0
            while (end := framing.find_head(received, seen)) < 0:
                seen = len(received)
                self._wire.receive(deadline)
        except TimeoutError:
            if received:
                message = f"a head that was not there within {REQUEST_SEC:g} s"
                raise BadRequest(message, "408 Request Timeout") from None
            return None
        except Gone:
            return None
        finally:
            self._on_waiting(False)
        head = framing.read_head(received[:end])
        del received[:end]
        return head

    @staticmethod
    def _expects_continue(head: Head) -> bool:
        expectation = head.headers.get("expect")
        if expectation is None:
            return False
        if expectation.lower() != "100-continue":
            raise BadRequest("an expectation that is not 100-continue", "417 Expectation Failed")
        return head.version == "HTTP/1.1"

    def _refuse(self, status: str, why: str) -> None:
        """Say why and close."""
        self._on_bad_request(why)
        body = f"the request was not taken: {why}\n".encode()
        try:
            self._wire.send(
                f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
                + body
            )
        except Gone:
            return
        self._wire.linger()

    def _describe_connection(self) -> dict[str, Any]:
        server_ip, server_port = self.connection.getsockname()[:2]
        client_ip, client_port = self.client_address[:2]
        environ: dict[str, Any] = self.server.get_environ()
        return environ | {
            "SCRIPT_NAME": "",
            "SERVER_NAME": server_ip,
            "SERVER_PORT": str(server_port),
            "REMOTE_ADDR": client_ip,
            "REMOTE_PORT": str(client_port),
            "wsgi.input_terminated": True,
        }

    def _environ(self, head: Head, body: Body) -> dict[str, Any]:
        path, _, query = head.target.partition("?")
        environ: dict[str, Any] = self._connection_environ | {
            "REQUEST_METHOD": head.method,
            "PATH_INFO": urllib.parse.unquote(path, encoding="latin-1"),
            "RAW_PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": head.headers.get("content-type", ""),
            "SERVER_PROTOCOL": head.version,
            "http1.take_over": self._take_over,
            "wsgi.input": body,
            "eventlet.input": body,
            "eventlet.posthooks": [],
        }
        for name, value in head.headers.items():
            if name == "content-length":
                environ["CONTENT_LENGTH"] = value
            # A name with an underscore would look to applications like that with a hyphen, which a proxy may have set.
            elif name != "content-type" and "_" not in name:
                environ["HTTP_" + name.replace("-", "_").upper()] = value
        return environ


class HttpDate:
    """The time as answers tell it (RFC 9110, section 5.6.7).

    Written once a second, for that takes as long as to write the rest of an answer's head.
    """

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = email.utils.formatdate(second, usegmt=True)
        return self._text


date: Final = HttpDate()


class ErrorLog:
    """What eventlet.wsgi has to say: tracebacks of the application are worth saying, once a second."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._said = OncePerSecond()
        self.errors = 0

    def info(self, message: str, *arguments: object) -> None:
        self.errors += 1
        if self._said.allows("error", time.monotonic()):
            self._logger.error("a request failed (%d since the start): %s", self.errors, message)

    error = info

    def debug(self, message: str, *arguments: object) -> None:
        """Not for an operator."""
