"""The parts and who feeds whom. Read this first, and see the whole.

engine (Socket.IO) ─► SocketioGateway ─┐
desktops (TCP) ─────► TcpGateway ──────┼─► Door ─► Stream ─► FrameHub ─► Display    (a child process)
cameras (HTTP) ◄────► PullGateway ─────┤    │        │               ├──► Processing (child processes) ─┐
cameras (RTSP) ─────► RtspCamera ──────┘  auth       │               └──► the site: API, metrics        │
  (child processes)         ▲                        │                                                  │
                            └─────── results, rate ──┴◄────────────────────── results ◄─────────────────┘
"""

import logging
import secrets
import sys
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

import socketio

import readings
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
from ingest.camera_users import CameraUsers, CameraUsersError
from ingest.door import Door, LocalStreamNames
from ingest.inflater import Inflater
from ingest.pull.camera_url import CameraUrl
from ingest.pull.gateway import MAX_PULLERS, CannotPull, PullGateway
from ingest.pull.guard import PullGuard
from ingest.rtsp_camera import RtspCamera
from ingest.socketio_gateway import IMAGE_EVENT, SocketioGateway
from ingest.tcp_gateway import TcpGateway
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
#: An image of a camera over TCP that is being inflated takes some milliseconds.
TCP_STOP_SEC: Final = 0.3
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
        CameraUsersError: the file that says whose cameras they are cannot be read.
        CannotPull: a camera that is to be pulled has no address.
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
            CameraUsers.read(settings.tcp_users) if settings.tcp_users else CameraUsers(),
            strangers=not settings.auth,
        )
        self.engine = Server(
            max_http_buffer_size=settings.max_frame_bytes * 7 // 5 + MESSAGE_OVERHEAD_BYTES,
            cors_allowed_origins=same_host(settings.origins),
            reader_kind=ReaderKind(self.reader.make, Announcements(IMAGE_EVENT)),
        )
        self.gateway = SocketioGateway(self.engine, self.door)
        self._places = raise_file_limit()
        inflater = Inflater()
        self.tcp = (
            TcpGateway(
                self.door,
                settings.ip,
                settings.tcp_port,
                settings.limits,
                inflater,
                self.engine.eio.unfinished,
                settings.tcp_idle_sec,
                self._max_tcp_connections(),
            )
            if settings.tcp_port is not None
            else None
        )
        self.children = Children()
        self._rtsp_cameras: list[RtspCamera] = []
        self.pull = PullGateway(
            self.door,
            PullGuard(settings.pull_allow),
            settings.limits,
            inflater,
            self.engine.eio.unfinished,
            settings.pull,
            self._rtsp_camera,
            min(MAX_PULLERS, max(self._places // 8, 1)),  # each may take an open file
        )
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
                self.pull,
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
        if self.tcp is not None:
            self.tcp.start()
            if self.settings.auth and not self.settings.tcp_users:
                logger.warning("no camera over TCP is let in: with -a, --tcp-users has to say whose they are")
        self.pull.start()
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
        self.pull.stop()
        if self.tcp is not None:
            self.tcp.stop(TCP_STOP_SEC)
        if self._http is not None:
            self._http.stop(STOP_SEC)
        finish_offloaded(("disk", "database"), FINISH_SEC)
        children_end.wait()

    def _max_tcp_connections(self) -> int:
        possible = max(self._places // 2, 1)
        wanted = self.settings.tcp_connections
        if wanted > possible:
            logger.warning(
                "--tcp-connections %d: half of the open files are %d, the rest is for others", wanted, possible
            )
        return min(wanted, possible)

    def _max_connections(self) -> int:
        possible = self._places if self.tcp is None else max(self._places - self.tcp.max_connections, 1)
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
        yield from readings.of_socketio(self.gateway, self.engine)
        if self._http is not None:
            yield from readings.of_http(self._http)
        if self.tcp is not None:
            yield from readings.of_tcp(self.tcp)
        yield from readings.of_pull(self.pull)
        yield from readings.of_rtsp(self._rtsp_cameras)
        if self.processing is not None:
            yield from readings.of_plugins(self.processing)
        yield from readings.of_children(self.children)

    def _rtsp_camera(self, url: CameraUrl, user: str, name: str) -> RtspCamera:
        camera = RtspCamera(self.door, self.children, url, user, name, self.settings.limits)
        self._rtsp_cameras.append(camera)
        return camera


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
    if not isinstance(
        trouble, (NoScreen, CannotListen, CannotProcess, NotCompiled, UsersError, CameraUsersError, CannotPull)
    ):
        raise trouble
    _say(f"ImageServer.py: {trouble}", sys.stderr)
    return 2


def _say(line: str, file: TextIO) -> None:
    try:
        print(line, file=file, flush=True)
    except OSError:
        pass  # a pipe that nobody reads any more
