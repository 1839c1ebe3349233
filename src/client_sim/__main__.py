"""`python3 -m client_sim`: be as many phones and cameras as one asks for, and say how the server treated them."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import get_args
from urllib.parse import urlsplit

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from client_sim.camera import Camera
from client_sim.connection import Connect, Transport
from client_sim.figures import Summary
from client_sim.protocol3 import Protocol3
from client_sim.protocol4 import Protocol4
from client_sim.sources import SourceError, open_sources, take_image

#: How long cameras may take to say goodbye.
GOODBYE_SEC = 3.0

_REPORT_SEC = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = client_names(options.user, options.clients)
    try:
        with open_sources(options.source, names, options.size) as sources:
            cameras = [
                Camera(
                    name,
                    options.user,
                    options.password,
                    connector(options.protocol, options.server, options.transport),
                    partial(take_image, source, name, options.quality),
                    options.rate,
                    # Spread over one frame's time, for the world's cameras don't keep step.
                    delay_sec=index / options.clients / options.rate,
                )
                for index, (name, source) in enumerate(zip(names, sources, strict=True))
            ]
            summary = run(cameras, options.duration)
    except SourceError as error:
        parser.error(str(error))
    except KeyboardInterrupt:  # before there was anything to stop
        return 1
    if options.json:
        settings = {"server": options.server, "protocol": options.protocol, "transport": options.transport}
        print(json.dumps(settings | summary.as_json()))
    else:
        print(f"{summary.total.frames} frames in {summary.duration_sec:.1f} s: {summary.line()}")
    return 0 if summary.well else 1


def run(cameras: Sequence[Camera], duration_sec: float | None) -> Summary:
    """Let them stream for so long, or until Ctrl-C, or until none of them is left."""
    threads = [threading.Thread(target=camera.run, name=camera.name, daemon=True) for camera in cameras]
    began = time.monotonic()

    def summary() -> Summary:
        streaming = sum(camera.streaming for camera in cameras)
        return Summary.of((camera.figures for camera in cameras), streaming, time.monotonic() - began)

    # Nothing is drawn where nobody looks: `disable=None` means unless it is a terminal.
    with logging_redirect_tqdm(), tqdm(bar_format="{n} frames{postfix}", disable=None, leave=False) as bar:
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                elapsed = time.monotonic() - began
                if duration_sec is not None and elapsed >= duration_sec:
                    break
                now = summary()
                bar.n = now.total.frames
                bar.set_postfix_str(f"{elapsed:.0f} s, {now.line()}")
                left = _REPORT_SEC if duration_sec is None else min(_REPORT_SEC, duration_sec - elapsed)
                _join(threads, left)
        except KeyboardInterrupt:
            pass
        final = summary()
        for camera in cameras:
            camera.stop()
        with suppress(KeyboardInterrupt):  # whoever presses it twice does not wait for goodbyes
            _join(threads, GOODBYE_SEC)
    return final


def connector(protocol: int, server: str, transport: Transport) -> Connect:
    return partial(Protocol3 if protocol == 3 else Protocol4, server, transport)


def client_names(user: str, clients: int) -> list[str]:
    """What is written on each client's frames; the server numbers their streams by itself, in the order they come."""
    return [user] + [f"{user} #{number}" for number in range(2, clients + 1)]


def _join(threads: Sequence[threading.Thread], timeout_sec: float) -> None:
    """Wait until all have ended, at most so long altogether."""
    deadline = time.monotonic() + timeout_sec
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m client_sim",
        usage="%(prog)s [options]",
        description="Imitate phones and cameras that stream to an ImageServer. Each client logs in, sends a frame "
        "after the ack of the former, keeps to the rate that the server asks for, and comes back when it was cut off "
        "(10 times, 5 s apart), as the Android app does.",
        epilog="Ends with status 0 if every client streamed to the end and nothing was refused, 1 if not, and 2 if "
        "it can't do what was asked for. It shows the rate that the server wants and counts the results of its "
        "plug-ins, too. With several clients all of them log in as --user; the server names their streams USER, "
        "USER~2, USER~3 and so on.",
    )
    parser.add_argument(
        "--server", type=_server, default="http://127.0.0.1:8080", metavar="URL", help="default: %(default)s"
    )
    parser.add_argument("--user", default="user1", help="default: %(default)s, a demo account")
    parser.add_argument(
        "--password",
        default=os.environ.get("IMAGESERVER_PASSWORD", "pass1"),
        help="better given by the environment variable IMAGESERVER_PASSWORD, where other users of this machine don't "
        "see it; default: that of user1",
    )
    parser.add_argument("--clients", type=_at_least_one, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--rate",
        type=_positive,
        default=3.0,
        metavar="HZ",
        help="frames a second of each client, unless the server asks for fewer; default: %(default)g, as the app",
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
        "--protocol",
        type=int,
        choices=(3, 4),
        default=4,
        help="of Engine.IO: 3 as the Android app and Socket.IO 1 and 2, 4 as Socket.IO since; default: %(default)s",
    )
    parser.add_argument(
        "--transport",
        choices=get_args(Transport),
        default="upgrade",
        help="upgrade: begin with polling and change to websocket, as most clients do; default: %(default)s",
    )
    parser.add_argument(
        "--source",
        default="synthetic",
        help="synthetic, the number of a camera, a video file, a folder of images, or an rtsp:// or http:// address; "
        "name and time are written on every picture; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print the figures at the end as one JSON object")
    return parser


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


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
