"""`python3 -m client_sim.load URL`: what does a server bear? As many cameras as one asks for, as fast as one asks for.

Where `python3 -m client_sim` imitates cameras, this sends the same images again and again, at a cost so small (see
`generator` in its table) that the server is what is measured. The handshakes and logins are real, everything is done by
one process without threads, and images are JPEGs of exactly the size that is asked for, another one for each client.

    python3 -m client_sim.load URL                                        16 clients, 100 frames each, no pause
    python3 -m client_sim.load URL --clients 50 --rate 10 --acks          how long from a frame to its ack?
    python3 -m client_sim.load URL --piece 1448 --protocol both           in segments, as from old and new phones
    python3 -m client_sim.load URL --clients 5000 --idle                  connected and silent, until Ctrl-C

A server may refuse frames unseen where no ack is asked for: ImageServer takes 60 a second of each client unless it was
started with another `--rate` (0 is no limit). The last frame of each client asks for an ack in any case, and the number
in it tells whether the server has received all.
"""

import argparse
import gc
import json
import math
import os
import resource
import select
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from client_sim.load_clients import (
    Channel,
    Client,
    Plan,
    PollingClient,
    RawClient,
    ServerAddress,
    Tally,
    WebSocketClient,
)
from client_sim.load_images import jpeg

Transport = Literal["websocket", "polling", "raw"]

#: Clients that connect and log in at the same time: servers keep 128 to 1,024 waiting.
_AT_ONCE: Final = 64
_HEARTBEAT_SEC: Final = 1.0
#: More frames than anybody sends; for as long as a time lasts.
_ENDLESS: Final = 1 << 60
#: Open files beside the clients' sockets.
_SPARE_FILES: Final = 32

_KINDS: Final[dict[str, type[Client]]] = {"websocket": WebSocketClient, "polling": PollingClient, "raw": RawClient}
_USUAL: Final = {"user": "user1", "password": "pass1"}


class LoadError(Exception):
    """The clients could not be connected; the message is for the person who asked for them."""


@dataclass
class Report:
    """What came of it.

    Args:
        open_sec: until all clients were connected and logged in.
        seconds: from the first frame to the last ack.
        frames, image_bytes: sent, all clients together.
        asked, accepted, refused: frames whose ack was asked for, and what the acks said; refusals by reason.
        errors: `serverError` events of the server, by code.
        troubles: why clients gave up, with how many did.
        ack_p50_ms, ack_p99_ms: from a frame to its ack, within 2 %; None without acks.
        cpu_us: what this process spent on a frame.
    """

    clients: int
    open_sec: float
    seconds: float
    frames: int
    image_bytes: int
    asked: int
    accepted: int
    refused: dict[str, int]
    errors: dict[str, int]
    troubles: dict[str, int]
    ack_p50_ms: float | None
    ack_p99_ms: float | None
    cpu_us: float
    cpu_share: float

    @property
    def well(self) -> bool:
        """All clients are still there, and nothing that was asked for was refused or not answered."""
        return not self.troubles and not self.errors and self.accepted == self.asked

    def as_json(self) -> dict[str, object]:
        seconds = self.seconds or math.inf
        return {
            "well": self.well,
            **vars(self),
            "frames_per_sec": round(self.frames / seconds, 1),
            "megabytes_per_sec": round(self.image_bytes / seconds / 1e6, 1),
        }

    def table(self) -> str:
        """The same for people."""
        rows = [("clients", f"{self.clients}, connected and logged in within {self.open_sec:.2f} s")]
        if self.frames:
            rows += [
                ("frames", f"{self.frames} in {self.seconds:.2f} s"),
                ("", f"{self.frames / self.seconds:,.0f} frames/s, {self.image_bytes / self.seconds / 1e6:,.1f} MB/s"),
                ("acks", f"{self.accepted} of {self.asked} asked for say accepted"),
            ]
        if self.asked > self.clients and self.ack_p50_ms is not None and self.ack_p99_ms is not None:
            rows.append(("", f"p50 {self.ack_p50_ms:.2f} ms, p99 {self.ack_p99_ms:.2f} ms from frame to ack"))
        rows += [("refused", f"{count} × {reason}") for reason, count in self.refused.items()]
        rows += [("server says", f"{count} × {code}") for code, count in self.errors.items()]
        rows += [("given up", f"{count} × {why}") for why, count in self.troubles.items()]
        if self.frames:
            rows.append(("generator", f"{self.cpu_us:.1f} µs of CPU a frame, {100 * self.cpu_share:.0f} % of a core"))
        return "\n".join(f"{name:<12}{what}" for name, what in rows)


class Load:
    """A crowd of clients of one server. `open` them, `send` as often as you like, and `close`.

    Args:
        url: of the server, `http://HOST:PORT`.
        image_bytes: of each image, as a JPEG file.
        protocols: of Engine.IO, 3 and 4; with both the clients take turns.
        user: the account that all log in with; `{}` in it is replaced by a number from 1 to `users`.
        acks: ask for an ack of each frame, instead of each client's last one.
        piece_bytes: give a socket so many bytes at a time, which go out at once, and then it is the others' turn.
        patience_sec: how long a client waits for the server to do anything at all.

    Raises:
        LoadError: there is no such server.
        ValueError: an image cannot be as small as that.
    """

    def __init__(
        self,
        url: str,
        clients: int,
        *,
        image_bytes: int = 50_000,
        protocols: Sequence[int] = (4,),
        transport: Transport = "websocket",
        user: str = _USUAL["user"],
        users: int = 1,
        password: str = _USUAL["password"],
        acks: bool = False,
        piece_bytes: int | None = None,
        patience_sec: float = 30.0,
    ) -> None:
        server = _look_up(url)
        self._selector = selectors.DefaultSelector()
        self._tally = Tally()
        self._busy: set[Client] = set()
        self._patience_sec = patience_sec
        self._image_bytes = image_bytes
        self._sockets = 2 if transport == "polling" else 1
        self._heartbeat_at = 0.0
        self.open_sec = 0.0
        jpeg(image_bytes, 0)  # so that it is said here if it is too small
        self.clients: list[Client] = []
        for number in range(clients):
            plan = Plan(
                number=number,
                server=server,
                protocol=protocols[number % len(protocols)],
                user=user.replace("{}", str(number % users + 1)),
                password=password,
                image_bytes=image_bytes,
                acks=acks,
                piece_bytes=piece_bytes,
            )
            self.clients.append(_KINDS[transport](plan, self._tally, self._selector, self._busy.discard))

    def open(self) -> None:
        """Connect all of them and log them in.

        Raises:
            LoadError: one of them was not let in; the others are not waited for.
        """
        raise_file_limit(self._sockets * len(self.clients) + _SPARE_FILES)
        began = time.monotonic()
        waiting = deque(self.clients)
        while waiting or self._busy:
            # The first one alone: what is wrong with it would be wrong with all.
            while waiting and len(self._busy) < (_AT_ONCE if self.clients[0] not in self._busy else 1):
                client = waiting.popleft()
                self._busy.add(client)
                self._guard(client, client.start)
            self._turn(_HEARTBEAT_SEC)
            if self._tally.troubles:
                self.close()
                raise LoadError(f"{self.clients[0].plan.server}: {next(iter(self._tally.troubles))}")
        self.open_sec = time.monotonic() - began

    def send(self, frames: int | None = None, seconds: float | None = None, rate_hz: float | None = None) -> Report:
        """Let all clients send, and wait until the server has everything.

        Args:
            frames: of each client; exactly one of `frames` and `seconds` is given.
            rate_hz: of each client, spread evenly over the time; None: as fast as the sockets take them.
        """
        if (frames is None) == (seconds is None):
            raise ValueError("expected frames or seconds, and not both")
        tally = self._tally = Tally()
        for client in self.clients:
            client.tally = tally
            client.prepare(1 if rate_hz else frames or _ENDLESS)
        gc.collect()
        gc.disable()  # a pause of ours would look like one of the server's
        try:
            began, cpu_began = time.monotonic(), time.process_time()
            self._busy.update(client for client in self.clients if client.failed is None)
            if rate_hz:
                self._send_at_rate(frames or max(1, round((seconds or 0) * rate_hz)), rate_hz)
            else:
                self._send_at_once(frames, seconds)
            while self._busy:
                self._turn(_HEARTBEAT_SEC)
            took_sec, cpu_sec = time.monotonic() - began, time.process_time() - cpu_began
        finally:
            gc.enable()
        return self._report(took_sec, cpu_sec)

    def stay(self, seconds: float) -> Report:
        """Stay connected, answer pings, and send nothing."""
        self._tally = Tally()
        for client in self.clients:
            client.tally = self._tally
        until = time.monotonic() + seconds
        while (left_sec := until - time.monotonic()) > 0:
            self._turn(min(left_sec, _HEARTBEAT_SEC))
        return self._report(seconds, 0.0)

    def close(self) -> None:
        """End all connections, as a network that fails does it. Harmless when they have ended."""
        for client in self.clients:
            client.close()
        self._selector.close()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _send_at_once(self, frames: int | None, seconds: float | None) -> None:
        for client in self.clients:
            self._guard(client, client.queue, frames or _ENDLESS, frames is not None)
        if seconds is not None:
            until = time.monotonic() + seconds
            while self._busy and (left_sec := until - time.monotonic()) > 0:
                self._turn(min(left_sec, _HEARTBEAT_SEC))
            for client in self.clients:
                self._guard(client, client.cut_short)

    def _send_at_rate(self, frames: int, rate_hz: float) -> None:
        count = len(self.clients)
        began, step_sec = time.monotonic(), 1 / (rate_hz * count)
        number, total = 0, frames * count
        while number < total and self._busy:
            due_in_sec = began + number * step_sec - time.monotonic()
            if due_in_sec > 0:
                self._turn(min(due_in_sec, _HEARTBEAT_SEC))
                continue
            client = self.clients[number % count]
            last = number >= total - count
            self._guard(client, client.queue, 1, last)
            number += 1
            if number % count == 0:
                self._turn(0)  # also where the rate is more than can be sent

    def _turn(self, timeout_sec: float) -> None:
        """Do what the sockets are ready for, after at most so long."""
        # epoll counts in milliseconds, and at 2,000 frames a second they would go out in pairs.
        if 0 < timeout_sec < _HEARTBEAT_SEC:
            select.select([self._selector], [], [], timeout_sec)
            timeout_sec = 0
        for key, events in self._selector.select(timeout_sec):
            channel: Channel = key.data
            if channel.is_open:
                self._guard(channel.client, channel.handle, events)
        now = time.monotonic()
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + _HEARTBEAT_SEC
            self._look_after_clients(now)

    def _look_after_clients(self, now: float) -> None:
        for client in list(self._busy):
            if client.expects_something and now - client.progress_at > self._patience_sec:
                client.fail(f"nothing from the server for {self._patience_sec:g} s while {client.doing}")
        for client in self.clients:
            self._guard(client, client.heartbeat, now)

    def _guard(self, client: Client, step: Callable[..., None], *arguments: object) -> None:
        """What goes wrong with a client ends that one only."""
        if client.failed is not None:
            return
        try:
            step(*arguments)
        except OSError as error:
            client.fail(f"{error.strerror} while {client.doing}" if error.errno else str(error))
        except (ValueError, LookupError, TypeError) as error:
            client.fail(f"what the server said while {client.doing} is not understood: {error}")

    def _report(self, seconds: float, cpu_sec: float) -> Report:
        tally = self._tally
        return Report(
            clients=len(self.clients),
            open_sec=round(self.open_sec, 3),
            seconds=round(seconds, 4),
            frames=tally.frames,
            image_bytes=tally.frames * self._image_bytes,
            asked=tally.asked,
            accepted=tally.accepted,
            refused=dict(tally.refused),
            errors=dict(tally.errors),
            troubles=dict(tally.troubles),
            ack_p50_ms=tally.latencies.percentile_ms(50),
            ack_p99_ms=tally.latencies.percentile_ms(99),
            cpu_us=round(cpu_sec / max(tally.frames, 1) * 1e6, 2),
            cpu_share=round(cpu_sec / seconds, 4) if seconds else 0.0,
        )


def raise_file_limit(files: int) -> None:
    """Let this process open so many files at once.

    Raises:
        LoadError: the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and files > hard:
        raise LoadError(f"{files} open files are needed, and the system allows {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and files > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def _look_up(url: str) -> ServerAddress:
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise LoadError(f"{url}: {error}") from None
    if parts.scheme == "https":
        raise LoadError(f"{url}: TLS is not measured here; give the address behind the proxy, http://HOST:PORT")
    if parts.scheme not in ("http", "ws") or not host or parts.path.strip("/"):
        raise LoadError(f"{url!r}, expected http://HOST:PORT")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LoadError(f"{url}: {error.strerror}") from None
    return ServerAddress(family, address, parts.netloc.rpartition("@")[2])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.idle and (options.frames or options.rate or options.acks):
        parser.error("--idle sends nothing: neither --frames nor --rate nor --acks go with it")
    if options.frames and options.seconds:
        parser.error("--frames or --seconds, not both")
    if options.transport == "polling" and options.piece:
        parser.error("--piece is for --transport websocket")
    frames = None if options.seconds else options.frames or 100
    try:
        load = Load(
            options.url,
            options.clients,
            image_bytes=options.bytes,
            protocols={"3": (3,), "4": (4,), "both": (4, 3)}[options.protocol],
            transport=options.transport,
            user=options.user,
            users=options.users or options.clients,
            password=options.password,
            acks=options.acks,
            piece_bytes=options.piece,
            patience_sec=options.patience,
        )
    except (ValueError, LoadError) as error:
        parser.error(str(error))
    try:
        with load:
            load.open()
            if options.idle:
                report = _stay(load, options.seconds, options.json)
            else:
                report = load.send(frames, options.seconds, options.rate)
    except LoadError as error:
        print(f"client_sim.load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    if not options.idle or report.troubles:
        print(json.dumps(report.as_json()) if options.json else report.table())
    return 0 if report.well else 1


def _stay(load: Load, seconds: float | None, as_json: bool) -> Report:
    """Say that all are connected, and stay so long, or until Ctrl-C."""
    connected = load.stay(0)
    print(json.dumps(connected.as_json()) if as_json else connected.table(), flush=True)
    try:
        return load.stay(seconds or math.inf)
    except KeyboardInterrupt:
        return load.stay(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m client_sim.load",
        usage="%(prog)s URL [options]",
        description=(__doc__ or "").partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Ends with status 0 if all clients stayed and every ack said accepted, 1 if not, 2 for wrong options.",
    )
    parser.add_argument("url", metavar="URL", help="of the server, as http://localhost:8080")
    parser.add_argument("--clients", type=_count, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--bytes", type=_count, default=50_000, metavar="SIZE", help="of an image; default: %(default)s"
    )
    parser.add_argument("--frames", type=_count, metavar="N", help="of each client; default: 100, unless --seconds")
    parser.add_argument("--seconds", type=_positive, metavar="SEC", help="send, or with --idle stay, for so long")
    parser.add_argument(
        "--rate",
        type=_positive,
        metavar="HZ",
        help="frames a second of each client, spread evenly; default: as fast as the server takes them",
    )
    parser.add_argument("--acks", action="store_true", help="ask for an ack of each frame, and measure the times")
    parser.add_argument("--piece", type=_count, metavar="BYTES", help="send a frame in pieces of so many bytes")
    parser.add_argument(
        "--protocol",
        choices=("3", "4", "both"),
        default="4",
        help="of Engine.IO: 3 as the Android app and Socket.IO 1 and 2, 4 as Socket.IO since; default: %(default)s",
    )
    parser.add_argument(
        "--transport",
        choices=tuple(_KINDS),
        default="websocket",
        help="raw: the bytes of websocket to a program that only reads them, bench/peers/sink.c; default: %(default)s",
    )
    parser.add_argument(
        "--user",
        default=_USUAL["user"],
        metavar="NAME",
        help="an account that all log in with; {} in it is replaced by a number, as in cam{}; default: %(default)s",
    )
    parser.add_argument(
        "--users", type=_count, metavar="N", help="the largest number in place of {}; default: one for each client"
    )
    parser.add_argument(
        "--password",
        default=os.environ.get("IMAGESERVER_PASSWORD", _USUAL["password"]),
        help="better given by the environment variable IMAGESERVER_PASSWORD; default: that of user1",
    )
    parser.add_argument(
        "--patience",
        type=_positive,
        default=30.0,
        metavar="SEC",
        help="how long the server may do nothing at all for a client; default: %(default)g",
    )
    parser.add_argument("--idle", action="store_true", help="connect, log in and stay, until --seconds or Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
