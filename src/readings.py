"""What /metrics shows of each part: its counters, with their names and in words. The hub's own are in metrics.py."""

from collections.abc import Iterable, Mapping

from children import Children
from engine.server import Server
from ingest.pull.gateway import PullGateway
from ingest.rtsp_camera import RtspCamera
from ingest.socketio_gateway import SocketioGateway
from ingest.tcp_gateway import TcpGateway
from metrics import Reading
from processing.runner import Processing
from serving import HttpServer

Readings = Iterable[Reading]


def of_socketio(gateway: SocketioGateway, engine: Server) -> Readings:
    yield _number("connections", "Clients connected over Socket.IO.", gateway.connections)
    yield _number("logins_total", "Logins over Socket.IO that began a stream.", gateway.logins)
    yield _number("refused_logins_total", "Logins over Socket.IO that were refused.", gateway.refused_logins)
    yield _number(
        "frames_before_login_total", "Frames refused because nobody had logged in.", gateway.frames_before_login
    )
    yield _number(
        "protocol_errors_total",
        "Connections closed because the client broke the protocol.",
        engine.eio.protocol_errors,
    )
    yield _number("handler_errors_total", "Events that the server failed to handle.", engine.handler_errors)


def of_http(http: HttpServer) -> Readings:
    yield _number("http_connections", "Connections open, of any kind.", http.connections)
    yield _number("bad_requests_total", "HTTP requests not taken: ambiguous, too large or too slow.", http.bad_requests)
    yield _number(
        "displaced_connections_total", "Connections without a request that made room for new ones.", http.displaced
    )
    yield _number("turned_away_connections_total", "Connections that found no room.", http.turned_away)
    yield _number("request_errors_total", "HTTP requests that the server failed to serve.", http.errors)


def of_tcp(tcp: TcpGateway) -> Readings:
    yield _number("tcp_connections", "Cameras' connections over plain TCP.", tcp.connections)
    yield from _by(
        "cause",
        "tcp_connections_ended_total",
        "Cameras' connections over plain TCP that have ended, by cause.",
        tcp.ends,
    )
    yield _number(
        "tcp_displaced_connections_total",
        "Cameras' connections without a message that made room for new ones.",
        tcp.displaced,
    )
    yield _number("tcp_turned_away_connections_total", "Cameras' connections that found no room.", tcp.turned_away)
    yield _number(
        "tcp_forgotten_images_total",
        "Newest images of cameras over plain TCP that were forgotten to make room for others.",
        tcp.kept.forgotten,
    )
    yield _number("tcp_unsent_total", "Results, rates and complaints that such cameras cannot be told.", tcp.unsent)


def of_pull(pull: PullGateway) -> Readings:
    yield _number("pulled_cameras", "Cameras that are pulled, or tried.", pull.pullers)
    yield _number("registrations_total", "Cameras that registered themselves, again too.", pull.registered)
    yield from _by("cause", "refused_registrations_total", "Registrations not taken, by cause.", pull.refused)
    yield _number(
        "displaced_cameras_total",
        "Cameras that registered themselves, did not work, and made room for others.",
        pull.displaced,
    )
    record = pull.record
    yield _number("fetches_total", "Answers of pulled cameras.", record.fetches)
    yield _number("failed_fetches_total", "Attempts at pulled cameras that brought none.", record.failed)
    yield _number("skipped_images_total", "Images of pulled cameras that came before their time.", record.skipped)
    yield _number("pull_unsent_total", "Results and complaints that pulled cameras cannot be told.", record.unsent)


def of_rtsp(cameras: Iterable[RtspCamera]) -> Readings:
    for camera in cameras:
        which = {"child": camera.child.name}
        yield Reading("rtsp_pictures_total", "Pictures of an RTSP camera that were wanted.", camera.frames, which)
        yield Reading("rtsp_skipped_total", "Pictures of an RTSP camera that were not wanted.", camera.skipped, which)
        yield Reading(
            "rtsp_replaced_total",
            "Pictures of an RTSP camera that waited for the server until newer ones came.",
            camera.replaced,
            which,
        )
        yield Reading(
            "rtsp_failures_total",
            "Connections to an RTSP camera that did not come about, or ended.",
            camera.failures,
            which,
        )
        yield Reading(
            "rtsp_unsent_total", "Results and complaints that RTSP cameras cannot be told.", camera.unsent, which
        )


def of_plugins(processing: Processing) -> Readings:
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


def of_children(children: Children) -> Readings:
    for child in children:
        which = {"child": child.name}
        yield Reading("child_frames_sent_total", "Frames that a child process was given.", child.sent, which)
        yield Reading("child_frames_lost_total", "Frames that a child had in hand when it ended.", child.lost, which)
        yield Reading("child_restarts_total", "How often a child process was started again.", child.restarts, which)


def _number(name: str, help: str, value: float) -> Reading:
    return Reading(name, help, value, {})


def _by(label: str, name: str, help: str, counts: Mapping[str, int]) -> Readings:
    for what, count in sorted(counts.items()):
        yield Reading(name, help, count, {label: what})
