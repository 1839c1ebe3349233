"""Engine.IO packets and payloads of protocols 3 and 4, as bytes and text; no sockets, no sessions.

A packet is a type and, for some, data: `4hello` is a message. What differs between the protocols:

    payload (several packets in one HTTP body)
        4          packets joined by 0x1e, binary as `b<base64>`
        3, text    `<length>:<packet>` …, the length in UTF-16 code units, binary as `b4<base64>`
        3, binary  `00` text or `01` binary, the length as one byte a digit (0-9), `ff`, packet …; the length in bytes
    binary WebSocket message
        4          the data
        3          `04` and the data
"""

import binascii
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import pybase64

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = range(7)

SEPARATOR: Final = b"\x1e"
TEXT_CONTENT: Final = "text/plain; charset=UTF-8"
#: Exactly so: the Java client 1.0.0 compares the whole header.
BINARY_CONTENT: Final = "application/octet-stream"
#: A POST holds at most so many packets. Stock servers stop at 16, and nine images emitted while a POST is under way
#: are 18.
MAX_PACKETS: Final = 1_000

Buffer = bytes | bytearray | memoryview


class ProtocolError(ValueError):
    """The peer sent something that the protocol does not know; its session ends."""


class Packet(NamedTuple):
    type: int
    data: str | bytes = ""


def decode_text(text: str, protocol: int) -> Packet:
    """Decode one packet: `<type><data>`, or `b[4]<base64>` for binary."""
    kind = text[:1]
    if kind == "b":
        if protocol == 4:
            return _decode_base64(text[1:].encode("utf-8", "replace"))
        if text[1:2] != "4":
            raise ProtocolError(f"a binary packet of type {text[1:2]!r}, expected a message (4)")
        return _decode_base64(text[2:].encode("utf-8", "replace"))
    if not kind or kind not in "0123456":
        raise ProtocolError(f"packet type {kind!r}, expected 0 to 6")
    return Packet(int(kind), text[1:])


def _decode_base64(encoded: Buffer) -> Packet:
    try:
        try:
            data = pybase64.b64decode(encoded, validate=True)
        except binascii.Error:  # the Java client 2.1 breaks its lines every 76 characters
            data = pybase64.b64decode(bytes(encoded).replace(b"\n", b""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("a binary packet that is not base64") from error
    return Packet(MESSAGE, data)


def decode_websocket(message: str | bytes, protocol: int) -> Packet:
    """Decode the packet in a WebSocket message."""
    if isinstance(message, str):
        return decode_text(message, protocol)
    if protocol == 4:
        return Packet(MESSAGE, message)
    return _decode_binary(memoryview(message))


def _decode_binary(packet: memoryview) -> Packet:
    if not packet or packet[0] != MESSAGE:
        raise ProtocolError(f"a binary packet of type {packet[:1].hex() or 'none'}, expected a message (04)")
    return Packet(MESSAGE, bytes(packet[1:]))


def encode_websocket(packet: Packet, protocol: int, as_base64: bool = False) -> str | bytes:
    """Encode a packet as a WebSocket message."""
    if isinstance(packet.data, str):
        return f"{packet.type}{packet.data}"
    if as_base64:
        return _base64_packet(packet.data, protocol)
    return packet.data if protocol == 4 else b"\x04" + packet.data


def decode_payload(body: bytes | bytearray, content_type: str, protocol: int) -> list[Packet]:
    """Decode the body of a POST.

    Raises:
        ProtocolError: it is no payload of this protocol, or holds more than `MAX_PACKETS`.
    """
    packets = []
    for packet in _payload_packets(body, content_type, protocol):
        packets.append(packet)
        if len(packets) > MAX_PACKETS:
            raise ProtocolError(f"more than {MAX_PACKETS} packets in one payload")
    if not packets:
        raise ProtocolError("a payload without packets")
    return packets


def encode_payload(packets: Iterable[Packet], protocol: int, as_base64: bool = False) -> tuple[str, bytes]:
    """Encode the answer to a GET; returns its content type and body.

    Args:
        as_base64: the client cannot take bytes (protocol 3; protocol 4 always uses base64 here).
    """
    if protocol == 4:
        texts = (_payload_text(packet, 4) for packet in packets)
        return TEXT_CONTENT, SEPARATOR.join(text.encode("utf-8", "replace") for text in texts)
    packets = list(packets)
    if not as_base64 and any(not isinstance(packet.data, str) for packet in packets):
        return BINARY_CONTENT, b"".join(_encode_binary3(packet) for packet in packets)
    texts3 = [_payload_text(packet, 3) for packet in packets]
    return TEXT_CONTENT, "".join(f"{_utf16_length(text)}:{text}" for text in texts3).encode("utf-8", "replace")


def _payload_packets(body: bytes | bytearray, content_type: str, protocol: int) -> Iterator[Packet]:
    if protocol == 3 and content_type.startswith(BINARY_CONTENT):
        return _decode_binary3(body)
    if protocol == 3:
        return _decode_text3(_decode_utf8(body))
    return _decode_payload4(body)


def _decode_payload4(body: bytes | bytearray) -> Iterator[Packet]:
    view = memoryview(body)
    start = 0
    while start <= len(body):
        stop = body.find(SEPARATOR, start)  # `split` looks at each byte, which takes as long as all else
        if stop < 0:
            stop = len(body)
        if body[start : start + 1] == b"b":  # base64 needs not become text first, and mostly it is an image
            yield _decode_base64(view[start + 1 : stop])
        else:
            yield decode_text(_decode_utf8(view[start:stop]), 4)
        start = stop + 1


def _decode_utf8(data: Buffer) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("a payload that is not UTF-8") from error


def _payload_text(packet: Packet, protocol: int) -> str:
    if isinstance(packet.data, str):
        return f"{packet.type}{packet.data}"
    return _base64_packet(packet.data, protocol)


def _base64_packet(data: bytes, protocol: int) -> str:
    return ("b" if protocol == 4 else f"b{MESSAGE}") + pybase64.b64encode_as_string(data)


def _utf16_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _decode_text3(text: str) -> Iterator[Packet]:
    # JavaScript and Java count a character beyond U+FFFF as two, so such texts are cut as UTF-16.
    units = b"" if text.isascii() else text.encode("utf-16-le")
    wide = len(units) > 2 * len(text)
    position, end = 0, len(units) // 2 if wide else len(text)
    while position < end:
        digits = ""
        while position < end:
            char = units[2 * position : 2 * position + 2].decode("utf-16-le", "replace") if wide else text[position]
            position += 1
            if char == ":":
                break
            digits += char
            if len(digits) > 10 or not char.isascii() or not char.isdigit():
                raise ProtocolError(f"a packet length {digits!r}, expected digits and a colon")
        if not digits or position + int(digits) > end:
            raise ProtocolError(f"a packet of {digits or 'no'} characters, {end - position} are left")
        stop = position + int(digits)
        part = units[2 * position : 2 * stop].decode("utf-16-le", "replace") if wide else text[position:stop]
        position = stop
        yield decode_text(part, 3)


def _decode_binary3(body: bytes | bytearray) -> Iterator[Packet]:
    position = 0
    while position < len(body):
        mark = body.find(b"\xff", position + 1, position + 12)
        digits = body[position + 1 : max(mark, 0)]
        if body[position] > 1 or not digits or max(digits) > 9:
            raise ProtocolError("a packet header that is not 00 or 01, one to ten digits, ff")
        start = mark + 1
        stop = start + int("".join(map(str, digits)))
        if stop > len(body):
            raise ProtocolError(f"a packet of {stop - start} bytes, {len(body) - start} are left")
        if body[position] == 1:
            yield _decode_binary(memoryview(body)[start:stop])
        else:
            try:
                yield decode_text(body[start:stop].decode(), 3)
            except UnicodeDecodeError as error:
                raise ProtocolError("a text packet that is not UTF-8") from error
        position = stop


def _encode_binary3(packet: Packet) -> bytes:
    if isinstance(packet.data, str):
        kind, content = b"\x00", f"{packet.type}{packet.data}".encode("utf-8", "replace")
    else:
        kind, content = b"\x01", bytes((packet.type,)) + packet.data
    return kind + bytes(map(int, str(len(content)))) + b"\xff" + content
