"""Packets and payloads of both protocols, byte for byte."""

import base64
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import packets
from engine.packets import BINARY_CONTENT, MAX_PACKETS, MESSAGE, SEPARATOR, TEXT_CONTENT, Packet, ProtocolError

TEXT_TYPE = "text/plain;charset=UTF-8"
JPEG = b"\xff\xd8\xff"

texts = st.text(st.characters(codec="utf-8"), max_size=60)
text_packets = st.builds(Packet, st.integers(0, 6), texts)
binary_packets = st.builds(Packet, st.just(MESSAGE), st.binary(max_size=60))
any_packets = st.lists(text_packets | binary_packets, min_size=1, max_size=8)


# -- the examples that clients in the field send and understand


def test_protocol_3_counts_characters_as_javascript_does() -> None:
    """One beyond U+FFFF counts twice: `17` for `420["echo","é😀"]`, which Python says is 16 long."""
    echo = Packet(MESSAGE, '20["echo","é😀"]')
    body = '17:420["echo","é😀"]'.encode()
    assert packets.encode_payload([echo], 3) == (TEXT_CONTENT, body)
    assert packets.decode_payload(body, TEXT_TYPE, 3) == [echo]


def test_protocol_3_puts_an_image_into_an_octet_stream() -> None:
    body = bytes.fromhex("01 04 ff 04 ff d8 ff")
    assert packets.encode_payload([Packet(MESSAGE, JPEG)], 3) == (BINARY_CONTENT, body)
    assert packets.decode_payload(body, BINARY_CONTENT, 3) == [Packet(MESSAGE, JPEG)]


def test_protocol_3_binary_lengths_have_a_byte_for_each_digit_and_count_bytes() -> None:
    event = Packet(MESSAGE, '51-["é",{"_placeholder":true,"num":0}]')
    image = Packet(MESSAGE, bytes(299))
    encoded = ("4" + str(event.data)).encode()
    body = b"\x00\x04\x00\xff" + encoded + b"\x01\x03\x00\x00\xff\x04" + bytes(299)
    assert len(encoded) == 40
    assert packets.encode_payload([event, image], 3) == (BINARY_CONTENT, body)
    assert packets.decode_payload(body, BINARY_CONTENT, 3) == [event, image]


def test_protocol_3_takes_and_gives_base64_where_the_client_wants_no_bytes() -> None:
    hello, image = Packet(MESSAGE, "hello"), Packet(MESSAGE, b"\x01\x02\x03\x04")
    body = b"6:4hello10:b4AQIDBA=="
    assert packets.encode_payload([hello, image], 3, as_base64=True) == (TEXT_CONTENT, body)
    assert packets.decode_payload(body, TEXT_TYPE, 3) == [hello, image]


def test_protocol_4_joins_packets_with_a_record_separator_and_puts_images_into_base64() -> None:
    sent = [Packet(MESSAGE, "hello"), Packet(packets.PING), Packet(MESSAGE, b"\x01\x02\x03\x04")]
    body = b"4hello\x1e2\x1ebAQIDBA=="
    assert packets.encode_payload(sent, 4) == (TEXT_CONTENT, body)
    assert packets.encode_payload(sent, 4, as_base64=True) == (TEXT_CONTENT, body)
    assert packets.decode_payload(body, TEXT_TYPE, 4) == sent


@pytest.mark.parametrize(
    ("packet", "protocol", "as_base64", "message"),
    [
        (Packet(MESSAGE, "hello"), 3, False, "4hello"),
        (Packet(MESSAGE, "hello"), 4, False, "4hello"),
        (Packet(packets.PONG, "probe"), 3, False, "3probe"),
        (Packet(MESSAGE, JPEG), 3, False, b"\x04\xff\xd8\xff"),
        (Packet(MESSAGE, JPEG), 4, False, JPEG),
        (Packet(MESSAGE, JPEG), 3, True, "b4/9j/"),
    ],
)
def test_a_websocket_message_holds_one_packet(
    packet: Packet, protocol: int, as_base64: bool, message: str | bytes
) -> None:
    assert packets.encode_websocket(packet, protocol, as_base64) == message
    assert packets.decode_websocket(message, protocol) == packet


def test_heartbeat_noop_and_close_look_as_clients_expect() -> None:
    for kind, text in ((packets.PONG, "3"), (packets.CLOSE, "1"), (packets.NOOP, "6")):
        assert packets.encode_payload([Packet(kind)], 3) == (TEXT_CONTENT, b"1:" + text.encode())
        assert packets.encode_payload([Packet(kind)], 4) == (TEXT_CONTENT, text.encode())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_every_kind_are_sent_as_bytes(kind: type) -> None:
    """An application emits a bytearray as well as bytes, and no client may get its Python name."""
    image = Packet(MESSAGE, kind(JPEG))
    assert packets.encode_payload([image], 3) == (BINARY_CONTENT, bytes.fromhex("01 04 ff 04 ff d8 ff"))
    assert packets.encode_payload([image], 3, as_base64=True) == (TEXT_CONTENT, b"6:b4/9j/")
    assert packets.encode_payload([image], 4) == (TEXT_CONTENT, b"b/9j/")
    assert bytes(packets.encode_websocket(image, 3)) == b"\x04\xff\xd8\xff"  # type: ignore[arg-type]
    assert bytes(packets.encode_websocket(image, 4)) == JPEG  # type: ignore[arg-type]


# -- round trips


@given(any_packets, st.booleans())
def test_protocol_3_payloads_come_back_as_they_were(sent: list[Packet], as_base64: bool) -> None:
    content_type, body = packets.encode_payload(sent, 3, as_base64)
    assert (content_type == BINARY_CONTENT) == (
        not as_base64 and any(isinstance(packet.data, bytes) for packet in sent)
    )
    assert packets.decode_payload(body, content_type, 3) == sent


@given(
    st.lists(
        st.builds(Packet, st.integers(0, 6), texts.filter(lambda t: SEPARATOR.decode() not in t)) | binary_packets,
        min_size=1,
    )
)
def test_protocol_4_payloads_come_back_as_they_were(sent: list[Packet]) -> None:
    content_type, body = packets.encode_payload(sent, 4)
    assert packets.decode_payload(body, content_type, 4) == sent


@given(text_packets | binary_packets, st.sampled_from((3, 4)), st.booleans())
def test_websocket_packets_come_back_as_they_were(packet: Packet, protocol: int, as_base64: bool) -> None:
    assert packets.decode_websocket(packets.encode_websocket(packet, protocol, as_base64), protocol) == packet


# -- what clients must not send

MALFORMED = {
    "nothing, protocol 3": (b"", TEXT_TYPE, 3),
    "nothing, protocol 4": (b"", TEXT_TYPE, 4),
    "nothing, binary": (b"", BINARY_CONTENT, 3),
    "no type": (b"abc", TEXT_TYPE, 4),
    "type 7": (b"7", TEXT_TYPE, 4),
    "a type that is a digit elsewhere": ("٤hello".encode(), TEXT_TYPE, 4),
    "an empty packet at the end": (b"4hello\x1e", TEXT_TYPE, 4),
    "an empty packet in the middle": (b"4a\x1e\x1e4b", TEXT_TYPE, 4),
    "base64 that is none": (b"b!!!!", TEXT_TYPE, 4),
    "base64 that is cut": (b"bAQIDBA=", TEXT_TYPE, 4),
    "base64 in letters from elsewhere": ("bé===".encode(), TEXT_TYPE, 4),
    "text that is not UTF-8, protocol 4": (b"4\xff\xfe", TEXT_TYPE, 4),
    "text that is not UTF-8, protocol 3": (b"2:4\xff", TEXT_TYPE, 3),
    "no length": (b"4hello", TEXT_TYPE, 3),
    "only a length": (b"6", TEXT_TYPE, 3),
    "a length without its colon at the end": (b"6:4hello0", TEXT_TYPE, 3),
    "a length without digits": (b":4hello", TEXT_TYPE, 3),
    "a negative length": (b"-1:4", TEXT_TYPE, 3),
    "a length in other digits": ("٦:4hello".encode(), TEXT_TYPE, 3),
    "a length of zero": (b"0:", TEXT_TYPE, 3),
    "a length beyond the end": (b"7:4hello", TEXT_TYPE, 3),
    "a length beyond the end, wide": ("9:4hello😀".encode(), TEXT_TYPE, 3),
    "a length of a thousand digits": (b"1" * 1000 + b":4", TEXT_TYPE, 3),
    "a length that cuts a character in two, and leaves its half": ("2:4😀".encode(), TEXT_TYPE, 3),
    "binary of a wrong type": (b"5:b3AQI=", TEXT_TYPE, 3),
    "a binary header without an end": (b"\x00\x01\x02", BINARY_CONTENT, 3),
    "a binary header that begins with 2": (b"\x02\x01\xff4", BINARY_CONTENT, 3),
    "a binary length without digits": (b"\x00\xff4", BINARY_CONTENT, 3),
    "a binary length with a digit of ten": (b"\x00\x0a\xff" + b"4" * 10, BINARY_CONTENT, 3),
    "a binary length in ASCII": (b"\x001\xff4", BINARY_CONTENT, 3),
    "a binary length of eleven digits": (b"\x00" + b"\x01" * 11 + b"\xff4", BINARY_CONTENT, 3),
    "a binary length beyond the end": (b"\x01\x09\xff\x04abc", BINARY_CONTENT, 3),
    "a binary packet of no bytes": (b"\x01\x00\xff", BINARY_CONTENT, 3),
    "a binary packet of a wrong type": (b"\x01\x02\xff\x05a", BINARY_CONTENT, 3),
    "a text packet in a binary payload that is not UTF-8": (b"\x00\x02\xff4\xff", BINARY_CONTENT, 3),
    "a text packet in a binary payload without a type": (b"\x00\x00\xff", BINARY_CONTENT, 3),
    "too many packets, protocol 4": (SEPARATOR.join([b"6"] * (MAX_PACKETS + 1)), TEXT_TYPE, 4),
    "too many packets, protocol 3": (b"1:6" * (MAX_PACKETS + 1), TEXT_TYPE, 3),
    "too many packets, binary": (b"\x00\x01\xff6" * (MAX_PACKETS + 1), BINARY_CONTENT, 3),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_payload_is_a_protocol_error(name: str) -> None:
    body, content_type, protocol = MALFORMED[name]
    with pytest.raises(ProtocolError):
        packets.decode_payload(body, content_type, protocol)


@pytest.mark.parametrize(
    ("body", "content_type", "protocol"),
    [
        (SEPARATOR.join([b"6"] * MAX_PACKETS), TEXT_TYPE, 4),
        (b"1:6" * MAX_PACKETS, TEXT_TYPE, 3),
        (b"\x00\x01\xff6" * MAX_PACKETS, BINARY_CONTENT, 3),
    ],
    ids=["protocol 4", "protocol 3", "binary"],
)
def test_as_many_packets_as_are_allowed_are_taken(body: bytes, content_type: str, protocol: int) -> None:
    assert packets.decode_payload(body, content_type, protocol) == [Packet(packets.NOOP)] * MAX_PACKETS


@pytest.mark.parametrize("message", ["", "7", "b!", "hello", b"", b"\x05abc"], ids=repr)
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_malformed_websocket_message_is_a_protocol_error(message: str | bytes, protocol: int) -> None:
    if protocol == 4 and isinstance(message, bytes):
        assert packets.decode_websocket(message, 4) == Packet(MESSAGE, message)  # anything is binary data here
        return
    with pytest.raises(ProtocolError):
        packets.decode_websocket(message, protocol)


@given(st.binary(max_size=80), st.sampled_from((3, 4)), st.sampled_from((TEXT_TYPE, BINARY_CONTENT, "")))
def test_any_body_is_packets_or_a_protocol_error(body: bytes, protocol: int, content_type: str) -> None:
    try:
        assert packets.decode_payload(body, content_type, protocol)
    except ProtocolError:
        pass


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.lists(st.integers(-2, 12), max_size=3))
def test_any_lengths_before_any_text_are_packets_or_a_protocol_error(text: str, lengths: list[int]) -> None:
    """Wrong lengths cut characters in two; nothing but a protocol error may come of it."""
    body = "".join(f"{length}:{text}" for length in lengths).encode()
    try:
        packets.decode_payload(body, TEXT_TYPE, 3)
    except ProtocolError:
        pass


def test_a_body_of_separators_is_not_taken_apart_before_it_is_refused() -> None:
    body = b"6\x1e" * 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            packets.decode_payload(body, TEXT_TYPE, 4)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()


def test_a_long_image_in_base64_is_taken() -> None:
    image = bytes(range(256)) * 4000
    body = b"b" + base64.b64encode(image)
    assert packets.decode_payload(body, TEXT_TYPE, 4) == [Packet(MESSAGE, image)]


@pytest.mark.parametrize("protocol", [3, 4])
def test_base64_may_be_broken_into_lines_as_the_java_client_does_it(protocol: int) -> None:
    text = ("b" if protocol == 4 else "b4") + "AAEC\nAwQF\n"
    assert packets.decode_text(text, protocol) == Packet(packets.MESSAGE, bytes(range(6)))
