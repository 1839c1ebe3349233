"""The gateway for phones, browsers and desktops over Socket.IO; the events are those of docs/protocol.md.

→ authenticate(username, password, callbackEvent)      ← callbackEvent(ok)
→ receiveImage(image[, resultEvent])                   ← ack {accepted, seq, reason?, rate?}
                                                       ← resultEvent or `result` (result, {seq, plugin})
                                                       ← setRate(hz)   ← serverError(code, message)
"""

import json
import logging
import re
import time
from typing import Any, Final

import socketio.exceptions
from socketio import packet

from auth.login import LoginRefused, TooManyGuesses
from engine.server import LIFECYCLE_EVENTS, Server
from engine.session import Session
from green import Task, call_later, sleep, spawn
from hub import Refusal, Result, Stream
from ingest.door import LIFE_LINES_PER_SEC, Door
from ingest.login_deadline import LoginDeadline
from rate import InSum, OncePerSecond

logger = logging.getLogger(__name__)

#: After a refused login: time for the client to show it, before it is told to stay away.
REFUSED_SEC: Final = 2.0
#: How long an older connection of the same user has to give a sign of life.
PROBE_SEC: Final = 2.0
#: They are asked again no sooner than this after the last time.
ASK_AGAIN_SEC: Final = 0.25

NOT_LOGGED_IN: Final = Refusal("not_logged_in", "frames are taken after a login only")
IMAGE_EVENT: Final = "receiveImage"
EVENT_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
RESERVED_EVENTS: Final = LIFECYCLE_EVENTS | {
    "message", "ping", "pong", "authenticate", "receiveImage", "setRate", "serverError",
    "__proto__", "constructor", "prototype",
}  # fmt: skip


def valid_event_name(name: object) -> bool:
    """Whether a client may have its answers under this name."""
    return isinstance(name, str) and EVENT_NAME.fullmatch(name) is not None and name not in RESERVED_EVENTS


def _named(name: object) -> str:
    """How a refusal shows a name that a client may not use; it may be of any type, and megabytes long."""
    return f"named {name[:64]!r}, see docs/protocol.md" if isinstance(name, str) else f"that is {_kind(name)}, not text"


def _kind(value: object) -> str:
    """What a client sent, in the words of its own language rather than ours."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case bytes():
            return "bytes"
        case list():
            return "a list"
    return "an object"


class _Record:
    """What clients cause, in the log and in numbers.

    Attributes:
        frames_before_login: counted since the start.
    """

    def __init__(self) -> None:
        now = time.monotonic()
        self._logins = InSum(LIFE_LINES_PER_SEC, now)
        self._ends = InSum(LIFE_LINES_PER_SEC, now)
        self.frames_before_login = 0

    def logged_in(self, stream: Stream, address: str) -> None:
        if (left_out := self._logins.count(stream.user, time.monotonic())) is not None:
            logger.info("%s logged in from %s as stream %s%s", stream.user, address, stream.name, left_out)

    def disconnected(self, who: str, reason: str) -> None:
        if (left_out := self._ends.count(reason, time.monotonic())) is not None:
            logger.info("%s: disconnected: %s%s", who, reason, left_out)


class Connection:
    """One client; it is the `Sender` of its stream, and takes images that come the short way.

    Attributes:
        stream: the stream it sends, None before the login.
        seq: frames it has offered, on all its streams and before any.
        deadline: until when it must have logged in.
        gone: it has disconnected.
    """

    def __init__(
        self, server: Server, session: Session, sid: str, address: str, deadline: LoginDeadline, record: _Record
    ) -> None:
        self._server = server
        self.session = session
        self._record = record
        self._said = OncePerSecond()
        self._seq_before_stream = 0
        self._told_of: Stream | None = None  # the last stream whose wanted rate it was told
        self.sid = sid
        self.address = address
        self.deadline = deadline
        self.stream: Stream | None = None
        self.logging_in = False
        self.gone = False

    @property
    def user(self) -> str | None:
        return self.stream.user if self.stream is not None else None

    @property
    def seq(self) -> int:
        return self.stream.seq if self.stream is not None else self._seq_before_stream

    def offer(self, image: Any = None, result_event: Any = None, *more: Any) -> dict[str, Any]:
        """Offer an image to the stream; whatever comes counts as a frame. Returns what its ack says."""
        if self.stream is None:
            refusal: Refusal | None = NOT_LOGGED_IN
        elif more:
            refusal = Refusal("bad_arguments", f"{2 + len(more)} arguments, expected an image and maybe an event")
        elif not isinstance(image, bytes):
            refusal = Refusal("bad_arguments", f"an image that is {_kind(image)}, expected bytes")
        else:
            refusal = self.admit(len(image), result_event)
        if refusal is None:
            refusal = self.take(image, result_event)
        else:
            self.refuse(refusal)
        answer: dict[str, Any] = json.loads(self.answer(refusal))
        return answer

    # -- ImageSink: what `offer` does, in steps

    def admit(self, size: int, result_event: Any) -> Refusal | None:
        if self.stream is None:
            return NOT_LOGGED_IN
        if result_event is not None and not valid_event_name(result_event):
            return Refusal("bad_event_name", f"a result event {_named(result_event)}")
        return self.stream.admit(size)

    def take(self, image: bytes, result_event: str | None) -> Refusal | None:
        if self.stream is None:  # it had one when the image began to come
            self.refuse(NOT_LOGGED_IN)
            return NOT_LOGGED_IN
        refusal = self.stream.publish(image, result_event or "result")
        if refusal is not None:
            self.error(*refusal)
        return refusal

    def refuse(self, refusal: Refusal) -> None:
        if self.stream is None:
            self._seq_before_stream += 1
            self._record.frames_before_login += 1
        else:
            self.stream.refuse(refusal)
        self.error(*refusal)

    def answer(self, refusal: Refusal | None) -> str:
        # Written by hand: an encoder would take a quarter of what all else takes for a frame.
        what = '"accepted":true' if refusal is None else '"accepted":false'
        why = "" if refusal is None else f',"reason":"{refusal.code}"'
        stream = self.stream
        rate = "" if stream is None or stream.wanted_hz is None else f',"rate":{stream.wanted_hz!r}'
        return f'{{{what},"seq":{self.seq}{why}{rate}}}'

    # -- Sender

    def result(self, result: Result) -> None:
        event = str(result.reply_to or "result")
        about = {"seq": result.seq, "plugin": result.plugin}
        if result.text is None:
            self._emit(event, result.value, about)
        elif not self.gone:
            # python-socketio would look for bytes in each number of it, and write it anew: eight times what reading it
            # has taken.
            self.session.send_message(f"{packet.EVENT}[{json.dumps(event)},{result.text},{json.dumps(about)}]")

    def rate(self, rate_hz: float) -> None:
        self._emit("setRate", rate_hz)

    def error(self, code: str, message: str) -> None:
        """Tell the client what was wrong, once a second per cause."""
        if self._said.allows(code, time.monotonic()):
            self._emit("serverError", code, message)

    def close(self, reason: str) -> None:
        if not self.gone:
            self._record.disconnected(self.stream.name if self.stream else self.address, reason)
            self._server.disconnect(self.sid)

    # --

    def answer_login(self, event: str, ok: bool) -> None:
        self._emit(event, ok)

    def tell_rate(self) -> None:
        """Tell the client, which has logged in, the rate that is wanted of its stream, unless it knows it."""
        if self.stream is not None and self.stream is not self._told_of:
            former, self._told_of = self._told_of, self.stream
            self.stream.tell_rate(former)

    def _emit(self, event: str, *arguments: Any) -> None:
        if not self.gone:
            self._server.emit(event, arguments, to=self.sid)


class SocketioGateway:
    """Translates between Socket.IO's events and the door.

    Attributes:
        logins, refused_logins: counted since the start.
    """

    def __init__(self, server: Server, door: Door) -> None:
        self._server = server
        self._door = door
        self._connections: dict[str, Connection] = {}
        self._streaming: dict[str, set[Connection]] = {}  # by user, those that are logged in
        self._asking: dict[str, Task] = {}
        self._ask_again_at: dict[str, float] = {}  # of those that are streaming
        self._record = _Record()
        self.logins = 0
        self.refused_logins = 0
        server.on("connect", self._connect)
        server.on("disconnect", self._disconnect)
        server.on("authenticate", self._authenticate)
        server.on(IMAGE_EVENT, self._receive_image)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def frames_before_login(self) -> int:
        return self._record.frames_before_login

    def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        session = self._server.session_of(sid)
        if session is None:
            raise socketio.exceptions.ConnectionRefusedError("the session has ended")
        deadline = LoginDeadline.of(environ, session)
        connection = Connection(self._server, session, sid, environ.get("REMOTE_ADDR", ""), deadline, self._record)
        self._connections[sid] = deadline.guest = session.sink = connection
        if auth:
            try:
                self._log_in(connection, auth)
            except (LoginRefused, TooManyGuesses) as error:
                self._forget(connection)
                if isinstance(error, TooManyGuesses):
                    call_later(0, session.drop)  # when the answer has been sent
                raise socketio.exceptions.ConnectionRefusedError(str(error)) from None
            connection.tell_rate()  # the server sends it after its answer

    def _disconnect(self, sid: str, reason: str) -> None:
        connection = self._connections.get(sid)
        if connection is not None:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.gone = True
        connection.deadline.guest = None
        connection.session.sink = None
        self._connections.pop(connection.sid, None)
        if connection.stream is not None:
            connection.deadline.renew()
            self._end_stream(connection, connection.stream)
        if connection.deadline.session.closed:
            connection.deadline.cancel()

    def _end_stream(self, connection: Connection, stream: Stream) -> None:
        streaming = self._streaming[stream.user]
        streaming.discard(connection)
        if not streaming:
            del self._streaming[stream.user]
            self._ask_again_at.pop(stream.user, None)
        self._door.end_stream(stream)

    def _authenticate(self, sid: str, *arguments: Any) -> bool:
        connection = self._connections.get(sid)
        if connection is None:
            return False
        if len(arguments) != 3:
            connection.error(
                "bad_arguments", f"authenticate with {len(arguments)} arguments, expected name, password, event"
            )
            return False
        name, password, event = arguments
        if not valid_event_name(event):
            connection.error("bad_event_name", f"a callback event {_named(event)}")
            return False
        try:
            self._log_in(connection, {"username": name, "password": password})
        except TooManyGuesses as error:
            connection.error("too_many_guesses", str(error))
            self._server.drop(sid)  # not told to stay away: the true user may be behind the same address
            return False
        except LoginRefused:
            connection.answer_login(event, False)
            if connection.stream is None:
                connection.deadline.shorten(REFUSED_SEC, "its login was refused")
            return False
        connection.answer_login(event, True)
        connection.tell_rate()
        return True

    def _log_in(self, connection: Connection, credentials: Any) -> None:
        """Log a connection in and begin its stream; the same user again changes nothing, another ends the older stream.

        Raises:
            LoginRefused, TooManyGuesses: nothing has changed.
        """
        connection.logging_in = True
        try:
            if not isinstance(credentials, dict):
                raise LoginRefused("expected {username, password} or {token}")
            if "token" in credentials:
                user = self._door.log_in_with_token(credentials["token"])
            else:
                user = self._door.log_in(credentials.get("username"), credentials.get("password"), connection.address)
            if user == connection.user:
                return
            self._end_dead_connections(user)
            stream = None if connection.gone else self._door.open_stream(user, "socketio", connection, connection.seq)
        except (LoginRefused, TooManyGuesses):
            self.refused_logins += 1
            raise
        finally:
            connection.logging_in = False
        if stream is None:
            return
        if connection.gone:
            self._door.end_stream(stream)
            return
        if connection.stream is not None:
            self._end_stream(connection, connection.stream)
        connection.stream = stream
        self._streaming.setdefault(user, set()).add(connection)
        connection.deadline.cancel()
        self.logins += 1
        self._record.logged_in(stream, connection.address)

    def _end_dead_connections(self, user: str) -> None:
        """Ask the user's other connections for a sign of life; a phone that lost its network comes back under its own
        name.

        Logins of a user at the same time wait for one round of questions, and the next one is `ASK_AGAIN_SEC` later:
        whoever has many connections and logs in over and over must not have each of them asked each time.
        """
        while user in self._streaming:
            round_of_questions = self._asking.get(user)
            if round_of_questions is None:
                too_early_sec = self._ask_again_at.get(user, 0.0) - time.monotonic()
                if too_early_sec > 0:
                    sleep(too_early_sec)
                    continue
                round_of_questions = self._asking[user] = spawn(self._ask_all, user)
            round_of_questions.wait()
            return

    def _ask_all(self, user: str) -> None:
        try:
            questions = [spawn(self._end_if_dead, connection) for connection in self._streaming.get(user, ())]
            for question in questions:
                question.wait()
        finally:
            del self._asking[user]
            if user in self._streaming:
                self._ask_again_at[user] = time.monotonic() + ASK_AGAIN_SEC

    def _end_if_dead(self, connection: Connection) -> None:
        if not self._server.is_alive(connection.sid, PROBE_SEC) and not connection.gone:
            self._record.disconnected(
                connection.stream.name if connection.stream else connection.address,
                f"no sign of life for {PROBE_SEC:g} s, while its user logged in again",
            )
            self._server.drop(connection.sid)

    def _receive_image(self, sid: str, *arguments: Any) -> dict[str, Any] | None:
        connection = self._connections.get(sid)
        if connection is None:
            return None
        return connection.offer(*arguments)
