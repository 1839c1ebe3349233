"""What the simulator can be asked for: its command line."""

import argparse
import os
from typing import Final, get_args
from urllib.parse import urlsplit

from client_sim.connection import Transport
from client_sim.pulled_bodies import PICKLE_PROTOCOLS, Pickle
from client_sim.pulled_camera import USUAL_PORT
from client_sim.tcp_camera import FORMATS, MAX_CAMERA

_MAX_PORT: Final = 65_535

_WAYS: Final = ("socketio", "tcp", "pull")
#: Options that mean something over some ways only; told where it is another, for they would be without effect.
_ONLY_FOR: Final = (
    {"server": ("socketio", "pull"), "quality": ("socketio", "pull")}
    | dict.fromkeys(("user", "password", "protocol", "transport"), ("socketio",))
    | dict.fromkeys(("tcp", "tcp_format", "gzip", "cameras", "camera_id"), ("tcp",))
    | dict.fromkeys(("body", "pickle_protocol", "pickle_shape", "pickle_numpy", "bson_frame", "header"), ("pull",))
    | dict.fromkeys(("keep_alive", "listen_port", "no_port", "address", "late"), ("pull",))
    | dict.fromkeys(("register", "register_path", "register_type"), ("pull",))
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m client_sim",
        usage="%(prog)s [options]",
        description="Imitate phones and cameras that stream to an ImageServer, over any of its ways in. Over Socket.IO "
        "each client logs in, sends a frame after the ack of the former, keeps to the rate that the server asks for, "
        "and comes back when it was cut off (10 times, 5 s apart), as the Android app does. Over TCP it comes back "
        "likewise, and hears nothing else. A pulled one registers itself, and answers who asks it for a picture.",
        epilog="Ends with status 0 if every client streamed to the end and nothing was refused, 1 if not, and 2 if "
        "it can't do what was asked for. It shows the rate that the server wants and counts the results of its "
        "plug-ins, too. With several clients all of them log in as --user; the server names their streams USER, "
        "USER~2, USER~3 and so on. Over TCP and pulled nothing tells what became of a frame: it is counted as sent, "
        "and a connection that the server closes is an error.",
    )
    parser.add_argument("--via", choices=_WAYS, default="socketio", help="the way in; default: %(default)s")
    parser.add_argument(
        "--server", type=_server, default="http://127.0.0.1:8080", metavar="URL", help="default: %(default)s"
    )
    parser.add_argument("--clients", type=_at_least_one, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--rate",
        type=_positive,
        default=3.0,
        metavar="HZ",
        help="frames a second of each client (over TCP: of each of its cameras), unless the server asks for fewer; "
        "default: %(default)g, as the app",
    )
    parser.add_argument(
        "--size", type=_size, default=(640, 480), metavar="WxH", help="of the pictures in pixels; default: 640x480"
    )
    parser.add_argument(
        "--quality",
        type=_quality,
        default=80,
        metavar="1-100",
        help="of the JPEGs; the app uses 100; default: %(default)s",
    )
    parser.add_argument(
        "--duration", type=_positive, metavar="SEC", help="end after so many seconds; default: at Ctrl-C"
    )
    parser.add_argument(
        "--source",
        default="synthetic",
        help="synthetic, the number of a camera, a video file, a folder of images, or an rtsp:// or http:// address; "
        "name and time are written on every picture; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print the figures at the end as one JSON object")
    _add_socketio(parser.add_argument_group("--via socketio", "Phones, pages and scripts."))
    _add_tcp(
        parser.add_argument_group(
            "--via tcp",
            "A desktop's cameras: a client is one connection, and each message on it is a camera's number, a length, "
            "and a BMP file as gzip.",
        )
    )
    _add_pull(
        parser.add_argument_group(
            "--via pull",
            "Cameras that register themselves at --server and are then asked for pictures at /video, each with a small "
            "HTTP server of its own on the address from which it reaches the server.",
        )
    )
    return parser


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What each option by itself does not show.

    Raises:
        SystemExit: status 2 and one clear line for what is wrong.
    """
    for name, ways in _ONLY_FOR.items():
        if options.via not in ways and getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is for --via {' and '.join(ways)}")
    if options.via == "tcp" and options.tcp is None:
        parser.error("--via tcp needs --tcp HOST:PORT: the server says its own when it starts with --tcp-port")
    if camera_ids(options)[-1] > MAX_CAMERA:
        parser.error(f"a camera's number is at most {MAX_CAMERA}, --camera-id and --cameras come to more")
    if options.no_port and options.clients > 1:
        parser.error(f"--no-port is for one client: the server would ask all of them at port {USUAL_PORT}")
    if options.listen_port and options.listen_port + options.clients - 1 > _MAX_PORT:
        parser.error(f"a port is at most {_MAX_PORT}, --listen-port and --clients come to more")


def camera_ids(options: argparse.Namespace) -> range:
    return range(options.camera_id, options.camera_id + options.cameras)


# Private to argparse as it is, this class is what its `add_argument_group` returns.
def _add_socketio(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--user", default="user1", help="default: %(default)s, a demo account")
    group.add_argument(
        "--password",
        default=os.environ.get("IMAGESERVER_PASSWORD", "pass1"),
        help="better given by the environment variable IMAGESERVER_PASSWORD, where other users of this machine don't "
        "see it; default: that of user1",
    )
    group.add_argument(
        "--protocol",
        type=int,
        choices=(3, 4),
        default=4,
        help="of Engine.IO: 3 as the Android app and Socket.IO 1 and 2, 4 as Socket.IO since; default: %(default)s",
    )
    group.add_argument(
        "--transport",
        choices=get_args(Transport),
        default="upgrade",
        help="upgrade: begin with polling and change to websocket, as most clients do; default: %(default)s",
    )


def _add_tcp(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tcp", type=_address, metavar="HOST:PORT", help="where the server takes such cameras")
    group.add_argument(
        "--tcp-format",
        choices=FORMATS,
        default=FORMATS[0],
        help="how number and length are written, as Python's struct calls it: clients do it in network byte order, in "
        "little endian, in their machine's own order, and so with padding; >B3xI is BI on a machine of the other kind; "
        "default: %(default)s",
    )
    group.add_argument(
        "--gzip",
        type=int,
        choices=range(10),
        default=9,
        metavar="0-9",
        help="its level: 0 is none, 9 the smallest; default: %(default)s",
    )
    group.add_argument(
        "--cameras", type=_at_least_one, default=1, metavar="N", help="of each connection; default: %(default)s"
    )
    group.add_argument(
        "--camera-id", type=_camera_id, default=0, metavar="0-255", help="the first one's number; default: %(default)s"
    )


def _add_pull(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--body",
        choices=("pickle", "bson", "jpeg"),
        default="pickle",
        help="what an answer holds: the JPEG as a pickled array, within a BSON document, or as it is; "
        "default: %(default)s",
    )
    group.add_argument(
        "--pickle-protocol",
        type=int,
        choices=PICKLE_PROTOCOLS,
        default=Pickle().protocol,
        help="default: %(default)s, that of Python since 3.8",
    )
    group.add_argument(
        "--pickle-shape",
        choices=("N", "Nx1"),
        default="Nx1",
        help="of the array; default: %(default)s, as older OpenCV's",
    )
    group.add_argument(
        "--pickle-numpy",
        type=int,
        choices=(1, 2),
        default=Pickle().numpy,
        help="numpy's version, which decides where it has the functions that rebuild an array; default: %(default)s",
    )
    group.add_argument(
        "--bson-frame",
        choices=("bytes", "text"),
        default="bytes",
        help="what the base64 is within the document; default: %(default)s",
    )
    group.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="an odd one of the answers, as 'Content-Enconded: b', 'Content-Encoding: b' and 'Content: B' have been "
        "seen; repeatable",
    )
    group.add_argument(
        "--keep-alive",
        action="store_true",
        help="answer many requests over a connection, which Flask's server does not",
    )
    group.add_argument("--register", type=_at_least_one, default=1, metavar="N", help="register itself so many times")
    group.add_argument(
        "--register-path", choices=("/server", "/server/"), default="/server", help="default: %(default)s"
    )
    group.add_argument("--register-type", metavar="TYPE", help="Content-Type of the registration; default: none")
    group.add_argument(
        "--late",
        type=_not_negative,
        default=0.0,
        metavar="SEC",
        help="listen so long after it has registered itself; default: at once, which is still after",
    )
    group.add_argument(
        "--listen-port",
        type=_port,
        default=0,
        metavar="PORT",
        help="where the first one listens, the others at the next ones; default: free ones",
    )
    group.add_argument(
        "--no-port", action="store_true", help=f"don't tell the port, for the server asks at {USUAL_PORT} then"
    )
    group.add_argument("--address", help="the address that it tells; default: its own")


def _server(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname or address.path.strip("/"):
        raise argparse.ArgumentTypeError(f"{text!r}, expected http://HOST:PORT or https://HOST:PORT")
    return text.rstrip("/")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) > 0 and int(height) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}, expected WIDTHxHEIGHT such as 640x480")
    return int(width), int(height)


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 100")
    return int(text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) <= _MAX_PORT):
        raise argparse.ArgumentTypeError(f"{text!r}, expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 0 to {_MAX_PORT}")
    return int(text)


def _camera_id(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_CAMERA:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 0 to {MAX_CAMERA}")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name and colon and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError(f"{text!r}, expected NAME: VALUE")
    return name, value.strip()


def _not_negative(text: str) -> float:
    return 0.0 if text == "0" else _positive(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0")
    return number
