"""The parts and who feeds whom. Read this first, and see the whole.

engine (Socket.IO) ─► SocketioGateway ─► Door ─► Stream ─► FrameHub ─► Display    (a child process)
                            ▲              │       │               ├──► Processing (child processes) ─┐
                            │            auth      │               └──► the site: API, metrics        │
                            └───── results, rate ──┴◄───────────────────── results ◄──────────────────┘
"""

import logging
import secrets
import sys
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

import socketio

from auth.guard import Guard
from auth.login import Authenticator
from auth.sessions import Sessions
from auth.users import UsersError, open_users
from children import Children
from display.display import Display, NoScreen
from engine.reader import Announcements
from engine.readers import NotCompiled, choose
from engine.server import Server, same_host
from engine.websocket import ReaderKind
from green import Once, finish_offloaded, offload, sleep, spawn
from hub import FrameHub
from ingest.door import Door, LocalStreamNames
from ingest.socketio_gateway import IMAGE_EVENT, SocketioGateway
from metrics import Metrics, Reading
from processing.runner import CannotProcess, Processing, usable_cores
from rate import Rates
from serving import CannotListen, HttpServer, raise_file_limit
from settings import Settings, read_settings
from stopping import StopRequest
from web.api import make_site

logger = logging.getLogger(__name__)

#: The clients' closing handshakes take at most so long; the children have 2 s beside that, and the whole stop has 3.
STOP_SEC: Final = 1.0
#: A write to the disk or to a database that is under way when all else has ended may take so long.
FINISH_SEC: Final = 0.5
#: How soon a signal is noticed.
STOP_STEP_SEC: Final = 0.1
#: A message is larger than its image: in a poll it is base64, broken into lines (7/5), and a frame a little too large
#: is refused by name.
MESSAGE_OVERHEAD_BYTES: Final = 64 * 1024


class App:
    """The server, composed and not yet started. Making it may wait, for a database.

    Raises:
        UsersError: the accounts cannot be read.
        NotCompiled: the compiled reader is wanted, and is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reader = choose(settings.reader)
        self.hub = FrameHub(read_jpeg=self.reader.read_jpeg)
        self.users = offload("database", open_users, settings.users) if settings.auth else None
        self.authenticator = Authenticator(self.users, Guard(), offload, Once)
        self.sessions = Sessions(secrets.token_bytes(32), self.users, offload)
        self.door = Door(
            self.hub,
            self.authenticator,
            self.sessions,
            LocalStreamNames(),
            settings.limits,
            Rates(settings.rate, settings.idle_rate),
            dict(settings.user_rate),
        )
        self.engine = Server(
            max_http_buffer_size=settings.max_frame_bytes * 7 // 5 + MESSAGE_OVERHEAD_BYTES,
            cors_allowed_origins=same_host(settings.origins),
            reader_kind=ReaderKind(self.reader.make, Announcements(IMAGE_EVENT)),
        )
        self.gateway = SocketioGateway(self.engine, self.door)
        self.children = Children()
        self.display = (
            Display(self.hub, self.children, settings.limits, settings.display_plain) if settings.display else None
        )
        self.processing = (
            Processing(
                self.hub,
                self.children,
                settings.process,
                settings.process_workers or max(1, usable_cores() - 1),
                settings.limits,
                settings.process_memory,
                settings.idle_rate,
            )
            if settings.process
            else None
        )
        self.metrics = Metrics(self.hub, self._readings)
        self.wsgi = socketio.WSGIApp(
            self.engine,
            make_site(
                self.hub,
                self.authenticator,
                self.sessions,
                self.metrics,
                tokens_needed=settings.auth,
            ),
        )
        self._http: HttpServer | None = None

    def start(self) -> str:
        """Start the children, then listen; returns the address that clients connect to.

        Raises:
            NoScreen: windows are wanted, and there is nowhere to show them.
            CannotProcess: a plug-in cannot be loaded.
            CannotListen: the address is taken, or not ours.
        """
        if self.users is not None:
            self._warn_of_demo_accounts()
        else:
            logger.warning("open to everybody: any name and password is let in (-a checks them)")
        logger.info("frames are read by the %s reader", self.reader.name)
        if self.display is not None:
            self.display.start()
        if self.processing is not None:
            self.processing.start()
        self._http = HttpServer(self.settings.ip, self.settings.port, self.wsgi, self._max_connections())
        self._http.start()
        return self._http.url

    def stop(self) -> None:
        """Tell the clients, and end the connections and the children, side by side; also of a start that was given up
        half-way."""
        if self.processing is not None:
            self.processing.stop()
        children_end = spawn(self.children.stop)
        self.engine.eio.disconnect()
        if self._http is not None:
            self._http.stop(STOP_SEC)
        finish_offloaded(("disk", "database"), FINISH_SEC)
        children_end.wait()

    def _max_connections(self) -> int:
        possible = raise_file_limit()
        wanted = self.settings.max_connections or possible
        if wanted > possible:
            logger.warning("--max-connections %d: the limit of open files allows %d", wanted, possible)
        return min(wanted, possible)

    def _warn_of_demo_accounts(self) -> None:
        assert self.users is not None
        if self.settings.users is None:
            logger.warning(
                "only the demo accounts can log in, and everybody knows their passwords (--users names others)"
            )

    def _readings(self) -> Iterable[Reading]:
        yield Reading("build_info", "How frames are read.", 1, {"reader": self.reader.name})
        yield Reading("connections", "Clients connected over Socket.IO.", self.gateway.connections, {})
        yield Reading("logins_total", "Logins over Socket.IO that began a stream.", self.gateway.logins, {})
        yield Reading(
            "refused_logins_total", "Logins over Socket.IO that were refused.", self.gateway.refused_logins, {}
        )
        yield Reading(
            "frames_before_login_total",
            "Frames refused because nobody had logged in.",
            self.gateway.frames_before_login,
            {},
        )
        yield Reading(
            "protocol_errors_total",
            "Connections closed because the client broke the protocol.",
            self.engine.eio.protocol_errors,
            {},
        )
        if self._http is not None:
            yield Reading("http_connections", "Connections open, of any kind.", self._http.connections, {})
            yield Reading(
                "bad_requests_total",
                "HTTP requests not taken: ambiguous, too large or too slow.",
                self._http.bad_requests,
                {},
            )
            yield Reading(
                "displaced_connections_total",
                "Connections without a request that made room for new ones.",
                self._http.displaced,
                {},
            )
            yield Reading(
                "turned_away_connections_total", "Connections that found no room.", self._http.turned_away, {}
            )
            yield Reading(
                "request_errors_total", "HTTP requests that the server failed to serve.", self._http.errors, {}
            )
        yield Reading(
            "handler_errors_total", "Events that the server failed to handle.", self.engine.handler_errors, {}
        )
        if self.processing is not None:
            yield from self._plugin_readings(self.processing)
        for child in self.children:
            which = {"child": child.name}
            yield Reading("child_frames_sent_total", "Frames that a child process was given.", child.sent, which)
            yield Reading(
                "child_frames_lost_total", "Frames that a child had in hand when it ended.", child.lost, which
            )
            yield Reading("child_restarts_total", "How often a child process was started again.", child.restarts, which)

    def _plugin_readings(self, processing: Processing) -> Iterable[Reading]:
        for name, totals in processing.totals().items():
            which = {"plugin": name}
            yield Reading("plugin_seconds_total", "How long a plug-in has worked.", totals.seconds, which)
            waiting = totals.waiting + totals.in_hand
            yield Reading("plugin_frames_waiting", "Frames that a plug-in has yet to do.", waiting, which)
            for end in ("done", "failed", "lost", "dropped"):
                yield Reading(
                    "plugin_frames_total",
                    "Frames for a plug-in, by what became of them.",
                    getattr(totals, end),
                    which | {"end": end},
                )


def main(arguments: Sequence[str]) -> int:
    """Run the server until it is told to stop; returns the exit status: 0, or 2 when it cannot start as told."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("engineio.server", "socketio.server", "eventlet.wsgi"):
        logging.getLogger(library).setLevel(logging.WARNING)  # at INFO they write lines for every frame
    settings = read_settings(arguments)
    stop = StopRequest()
    app: App | None = None
    trouble: Exception | None = None
    started = Once()

    def start() -> None:
        nonlocal app, trouble
        try:
            app = App(settings)
            _say(f"ImageServer listening on {app.start()}", sys.stdout)
        except Exception as error:
            trouble = error
        finally:
            started.set()

    # To open the accounts and to start a child may take seconds, and is given up when the server is told to stop.
    starting = spawn(start)
    while not (stop.came or started.wait(STOP_STEP_SEC)):
        pass
    while not (stop.came or trouble):
        sleep(STOP_STEP_SEC)
    if stop.came:
        logger.info("stopping")
        starting.kill()
    if app is not None:
        app.stop()
    if trouble is None or stop.came:  # trouble that comes with the signal: it was sent to the children as well
        return 0
    if not isinstance(trouble, (NoScreen, CannotListen, CannotProcess, NotCompiled, UsersError)):
        raise trouble
    _say(f"ImageServer.py: {trouble}", sys.stderr)
    return 2


def _say(line: str, file: TextIO) -> None:
    try:
        print(line, file=file, flush=True)
    except OSError:
        pass  # a pipe that nobody reads any more
