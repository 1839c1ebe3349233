"""`python3 -m client_sim`: be as many phones and cameras as one asks for, and say how the server treated them."""

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from client_sim.camera import Camera
from client_sim.connection import Connect, Transport
from client_sim.device import Device
from client_sim.figures import Summary
from client_sim.options import camera_ids, check, make_parser
from client_sim.protocol3 import Protocol3
from client_sim.protocol4 import Protocol4
from client_sim.pulled_bodies import Bson, MakeBody, Pickle, plain
from client_sim.pulled_camera import USUAL_PORT, PulledCamera, Registration
from client_sim.sources import Source, SourceError, open_sources, take_bmp, take_image
from client_sim.tcp_camera import TcpCamera

#: How long cameras may take to say goodbye.
GOODBYE_SEC = 3.0

_REPORT_SEC = 0.5

#: What Flask says of an answer of bytes, where the script doesn't say it.
_FLASK_TYPE: Final = "text/html; charset=utf-8"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check(parser, options)
    try:
        with open_sources(options.source, picture_names(options), options.size) as sources:
            summary = run(devices(options, sources), options.duration)
    except SourceError as error:
        parser.error(str(error))
    except KeyboardInterrupt:  # before there was anything to stop
        return 1
    if options.json:
        print(json.dumps(_settings(options) | summary.as_json()))
    else:
        frames = f"{summary.total.frames} frames{'' if summary.total.acknowledged else ' sent'}"
        print(f"{frames} in {summary.duration_sec:.1f} s: {summary.line()}")
    return 0 if summary.well else 1


def run(cameras: Sequence[Device], duration_sec: float | None) -> Summary:
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


def devices(options: argparse.Namespace, sources: Sequence[Source]) -> list[Device]:
    """The cameras that were asked for, and where their pictures come from."""
    make = {"socketio": _phone, "tcp": _desktop, "pull": _puller}[options.via]
    pictures = list(zip(sources, picture_names(options), strict=True))
    each = len(pictures) // options.clients
    return [
        make(
            options,
            name,
            pictures[index * each : (index + 1) * each],
            index,
            # Spread over one frame's time, for the world's cameras don't keep step.
            index / options.clients / options.rate,
        )
        for index, name in enumerate(_names(options))
    ]


def picture_names(options: argparse.Namespace) -> list[str]:
    """What is written on the pictures, of each camera of each client."""
    if options.via != "tcp" or options.cameras == 1:
        return _names(options)
    return [f"{name} cam{number}" for name in _names(options) for number in camera_ids(options)]


def _phone(
    options: argparse.Namespace, name: str, pictures: list[tuple[Source, str]], _index: int, delay_sec: float
) -> Device:
    ((source, label),) = pictures
    return Camera(
        name,
        options.user,
        options.password,
        connector(options.protocol, options.server, options.transport),
        partial(take_image, source, label, options.quality),
        options.rate,
        delay_sec,
    )


def _desktop(
    options: argparse.Namespace, name: str, pictures: list[tuple[Source, str]], _index: int, delay_sec: float
) -> Device:
    takers: list[Callable[[], bytes]] = [partial(take_bmp, source, label) for source, label in pictures]
    return TcpCamera(
        name,
        options.tcp,
        dict(zip(camera_ids(options), takers, strict=True)),
        options.rate,
        options.tcp_format,
        options.gzip,
        delay_sec,
    )


def _puller(
    options: argparse.Namespace, name: str, pictures: list[tuple[Source, str]], index: int, delay_sec: float
) -> Device:
    ((source, label),) = pictures
    first_port = options.listen_port or (USUAL_PORT if options.no_port else 0)
    given = {name.lower() for name, _ in options.header}
    usual = {"Content-Type": "image/jpeg" if options.body == "jpeg" else _FLASK_TYPE}
    return PulledCamera(
        name,
        options.server,
        partial(take_image, source, label, options.quality),
        options.rate,
        _body(options),
        {name: value for name, value in usual.items() if name.lower() not in given} | dict(options.header),
        Registration(
            options.address,
            first_port + index if first_port else 0,
            not options.no_port,
            options.register_path,
            options.register_type,
            options.register,
            options.late,
        ),
        options.keep_alive,
        delay_sec,
    )


def _body(options: argparse.Namespace) -> MakeBody:
    if options.body == "pickle":
        return Pickle(options.pickle_protocol, options.pickle_shape == "Nx1", options.pickle_numpy)
    if options.body == "bson":
        width, height = options.size
        return Bson((height, width, 3), options.bson_frame == "text")
    return plain


def connector(protocol: int, server: str, transport: Transport) -> Connect:
    return partial(Protocol3 if protocol == 3 else Protocol4, server, transport)


def _names(options: argparse.Namespace) -> list[str]:
    return client_names(options.user if options.via == "socketio" else "camera", options.clients)


def client_names(user: str, clients: int) -> list[str]:
    """What is written on each client's frames; the server numbers their streams by itself, in the order they come."""
    return [user] + [f"{user} #{number}" for number in range(2, clients + 1)]


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """What was asked for, as far as it decides which client is imitated."""
    if options.via == "tcp":
        shown = {"tcp": "{}:{}".format(*options.tcp), "format": options.tcp_format, "gzip": options.gzip}
    elif options.via == "pull":
        shown = {"server": options.server, "body": options.body}
    else:
        shown = {"server": options.server, "protocol": options.protocol, "transport": options.transport}
    return {"via": options.via} | shown


def _join(threads: Sequence[threading.Thread], timeout_sec: float) -> None:
    """Wait until all have ended, at most so long altogether."""
    deadline = time.monotonic() + timeout_sec
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))


if __name__ == "__main__":
    sys.exit(main())
