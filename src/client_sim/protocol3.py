"""Yesterday's clients, the Android app's among them: Socket.IO 1 and 2 (protocol 4) over Engine.IO 3.

A small client of ours, because the last python-socketio that speaks this is of 2021 and cannot be installed beside
today's: it would need an environment of its own, kept alive for one option. The packets of Socket.IO itself are the
same in both generations and are left to today's library; what is here is Engine.IO 3, as the Java client speaks it:

    packet             text: <type digit><data>        binary: 0x04 <data>
    WebSocket          one packet a message, text or binary
    POST, binary GET   (0x00 text | 0x01 binary) <length in bytes, a digit a byte> 0xff <packet> ...
    text GET           <length in UTF-16 code units>:<packet> ...

    types              0 open, 1 close, 2 ping (sent by the client), 3 pong, 4 message, 5 upgrade, 6 noop
    joining            the server says "40" unasked; nothing is sent for it
"""

import json
import threading
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlencode

import requests
import websockets.sync.client
from socketio import packet as socketio_packet
from websockets.exceptions import WebSocketException

from client_sim.connection import CONNECT_SEC, Ack, Closed, Deliver, Event, Transport, reason

#: A packet of Engine.IO 3: text with its type's digit before it, or bytes with its type's byte.
EnginePacket = str | bytes

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE = "0", "1", "2", "3", "4", "5"
_BINARY_MESSAGE = b"\x04"


def encode_payload(packets: list[EnginePacket]) -> bytes:
    """The body of a POST. The binary form carries text as well, and the Java client sends no other."""
    body = bytearray()
    for packet in packets:
        data = packet.encode() if isinstance(packet, str) else packet
        body.append(0 if isinstance(packet, str) else 1)
        body += bytes(map(int, str(len(data))))
        body.append(0xFF)
        body += data
    return bytes(body)


def decode_payload(body: bytes, content_type: str) -> list[EnginePacket]:
    """The packets of a GET's answer.

    Raises:
        ValueError: it is not a payload of Engine.IO 3.
    """
    if not body:
        raise ValueError("empty answer, expected at least one packet")
    return list(_binary_packets(body) if content_type == "application/octet-stream" else _text_packets(body.decode()))


def _binary_packets(body: bytes) -> Iterator[EnginePacket]:
    position = 0
    while position < len(body):
        is_text = body[position] == 0
        start = body.index(0xFF, position) + 1
        position = start + int("".join(map(str, body[position + 1 : start - 1])))
        if position > len(body):
            raise ValueError(f"answer ends after {len(body)} bytes, expected {position}")
        yield body[start:position].decode() if is_text else body[start:position]


def _text_packets(text: str) -> Iterator[EnginePacket]:
    # Two bytes for each unit that the lengths count.
    units = text.encode("utf-16-le")
    colon = ":".encode("utf-16-le")
    position = 0
    while position < len(units):
        start = units.index(colon, position) + 2
        position = start + 2 * int(units[position : start - 2].decode("utf-16-le"))
        if position > len(units):
            raise ValueError(f"answer ends after {len(units) // 2} characters, expected {position // 2}")
        yield units[start:position].decode("utf-16-le")


class _Carrier(Protocol):
    """A transport: moves packets, and raises OSError or ValueError when it can't any more."""

    name: str

    def send(self, packets: list[EnginePacket]) -> None: ...
    def receive(self) -> list[EnginePacket]: ...
    def close(self) -> None: ...


class _Polling:
    name = "polling"

    def __init__(self, url: str) -> None:
        self._url = url
        self._address = f"{url}/socket.io/?EIO=3&transport=polling"
        # A poll waits at the server until there is something to say, so what is sent goes another way.
        self._polls, self._posts = requests.Session(), requests.Session()
        self._silence_sec = CONNECT_SEC

    def opened(self, session_id: str, silence_sec: float) -> None:
        self._address += "&" + urlencode({"sid": session_id})
        self._silence_sec = silence_sec

    def send(self, packets: list[EnginePacket]) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._posts.post(self._address, encode_payload(packets), headers=headers, timeout=CONNECT_SEC)
        _check(answer)

    def receive(self) -> list[EnginePacket]:
        answer = self._polls.get(self._address, timeout=self._silence_sec)
        _check(answer)
        return decode_payload(answer.content, answer.headers.get("Content-Type", ""))

    def close(self) -> None:
        self._polls.close()
        self._posts.close()


def _check(answer: requests.Response) -> None:
    if answer.status_code != requests.codes.ok:
        raise ConnectionError(f"the server answers {answer.status_code} {answer.reason}")


class _WebSocket:
    name = "websocket"

    def __init__(self, url: str, session_id: str | None = None) -> None:
        query = {"EIO": "3", "transport": "websocket"} | ({"sid": session_id} if session_id else {})
        address = f"{url.replace('http', 'ws', 1)}/socket.io/?{urlencode(query)}"
        try:
            self._socket = websockets.sync.client.connect(
                address,
                open_timeout=CONNECT_SEC,
                close_timeout=1,
                compression=None,
                ping_interval=None,  # Engine.IO has its own
                max_size=None,
                legacy=True,  # a connection that outlives any `with`; close() ends it
            )
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def send(self, packets: list[EnginePacket]) -> None:
        try:
            for packet in packets:
                self._socket.send(packet)
        except WebSocketException as error:
            raise ConnectionError("the server closes the connection") from error

    def receive(self) -> list[EnginePacket]:
        try:
            return [self._socket.recv()]
        except WebSocketException as error:
            raise ConnectionError("the server closes the connection") from error

    def close(self) -> None:
        self._socket.close()


class Protocol3:
    """A connection of protocol 3.

    One thread reads, one keeps the heartbeat; whoever emits sends in its own.

    Args:
        url: the server, `http://host:port`.
        deliver: takes what arrives.

    Raises:
        ConnectionError: the server can't be reached, or refuses the connection.
    """

    def __init__(self, url: str, transport: Transport, deliver: Deliver) -> None:
        self._deliver = deliver
        self._joined = threading.Event()
        self._pong = threading.Event()
        self._over = threading.Event()
        self._why = ""
        self._sending = threading.Lock()  # the parts of a binary event follow one another
        self._partial: socketio_packet.Packet | None = None
        self._next_id = 0
        try:
            self._carrier, packets, ping_sec, timeout_sec = _open(url.rstrip("/"), transport)
        except (OSError, ValueError, LookupError) as error:
            raise ConnectionError(f"can't connect to {url}: {reason(error)}") from error
        threading.Thread(target=self._read, args=(packets,), daemon=True).start()
        threading.Thread(target=self._keep_alive, args=(ping_sec, timeout_sec), daemon=True).start()
        if not self._joined.wait(CONNECT_SEC) or self._over.is_set():
            self.close()
            raise ConnectionError(f"can't connect to {url}: {self._why or 'the default namespace is not joined'}")

    @property
    def transport(self) -> str:
        return self._carrier.name

    def emit(self, event: str, *arguments: str | bytes, ack: bool = False) -> None:
        if self._over.is_set():
            raise ConnectionError("the connection is over")
        if ack:
            self._next_id += 1
        self._send(socketio_packet.EVENT, [event, *arguments], self._next_id if ack else None)

    def close(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        try:
            self._send(socketio_packet.DISCONNECT)
            with self._sending:
                self._carrier.send([CLOSE])
        except OSError:
            pass  # it went first
        self._carrier.close()

    def _send(self, kind: int, data: list[str | bytes] | None = None, ack_id: int | None = None) -> None:
        encoded = socketio_packet.Packet(kind, data, "/", ack_id).encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        with self._sending:
            self._carrier.send([MESSAGE + part if isinstance(part, str) else _BINARY_MESSAGE + part for part in parts])

    def _read(self, packets: list[EnginePacket]) -> None:
        try:
            while not self._over.is_set():
                for packet in packets:
                    self._receive(packet)
                packets = self._carrier.receive()
        except (OSError, ValueError) as error:
            self._end(reason(error))

    def _receive(self, packet: EnginePacket) -> None:
        if isinstance(packet, bytes) or packet.startswith(MESSAGE):
            self._receive_message(packet[1:])
        elif packet.startswith(PONG):
            self._pong.set()
        elif packet.startswith(CLOSE):
            raise ConnectionError("the server closes the connection")

    def _receive_message(self, message: str | bytes) -> None:
        if self._partial is not None:
            packet = self._partial
            if not packet.add_attachment(message):
                return
            self._partial = None
        else:
            packet = socketio_packet.Packet(encoded_packet=message)
            if packet.packet_type in (socketio_packet.BINARY_EVENT, socketio_packet.BINARY_ACK):
                self._partial = packet
                return
        if packet.packet_type == socketio_packet.CONNECT:
            self._joined.set()
        elif packet.packet_type == socketio_packet.DISCONNECT:
            self._end("the server disconnects this client", dismissed=True)
        elif packet.packet_type == socketio_packet.CONNECT_ERROR:
            self._end(f"the server refuses the connection: {packet.data}", dismissed=True)
        elif not isinstance(packet.data, list):
            raise ValueError(f"packet of type {packet.packet_type} with {packet.data!r}, expected a list")
        elif packet.packet_type in (socketio_packet.EVENT, socketio_packet.BINARY_EVENT):
            name, *arguments = packet.data
            self._deliver(Event(name, tuple(arguments)))
        else:
            self._deliver(Ack(tuple(packet.data)))

    def _keep_alive(self, ping_sec: float, timeout_sec: float) -> None:
        try:
            while not self._over.wait(ping_sec):
                self._pong.clear()
                with self._sending:
                    self._carrier.send([PING])
                if not self._pong.wait(timeout_sec):
                    self._end(f"no answer to a ping for {timeout_sec:g} s")
        except OSError as error:
            self._end(reason(error))

    def _end(self, why: str, dismissed: bool = False) -> None:
        """Whoever notices the end first tells of it; after our own goodbye nobody does."""
        if self._over.is_set():
            return
        self._over.set()
        self._why = why
        self._joined.set()
        self._carrier.close()
        self._deliver(Closed(why, dismissed))


def _open(url: str, transport: Transport) -> tuple[_Carrier, list[EnginePacket], float, float]:
    """Shake hands; the transport, the packets that came with the handshake, seconds between pings and to a pong."""
    carrier = _WebSocket(url) if transport == "websocket" else _Polling(url)
    handshake, *packets = carrier.receive()
    if not isinstance(handshake, str) or not handshake.startswith(OPEN):
        raise ConnectionError("the server does not begin with a handshake of Engine.IO 3")
    terms = json.loads(handshake[1:])
    ping_sec, timeout_sec = terms["pingInterval"] / 1000, terms["pingTimeout"] / 1000
    if isinstance(carrier, _Polling):
        carrier.opened(terms["sid"], silence_sec=ping_sec + timeout_sec)
        if transport == "upgrade" and "websocket" in terms["upgrades"]:
            return _upgraded(carrier, url, terms["sid"]), packets, ping_sec, timeout_sec
    return carrier, packets, ping_sec, timeout_sec


def _upgraded(polling: _Polling, url: str, session_id: str) -> _Carrier:
    """The same session over a WebSocket, or still over polling where that fails, as every client of the family does."""
    try:
        websocket = _WebSocket(url, session_id)
        websocket.send([PING + "probe"])
        if websocket.receive() != [PONG + "probe"]:
            websocket.close()
            return polling
        websocket.send([UPGRADE])
    except OSError:
        return polling
    polling.close()
    return websocket
