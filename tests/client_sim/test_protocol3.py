"""Engine.IO 3 as bytes: what is sent can be read by servers, what servers send is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sim.protocol3 import decode_payload, encode_payload

OCTETS, TEXT = "application/octet-stream", "text/plain; charset=UTF-8"


def test_a_post_is_as_the_java_client_sends_it():
    assert encode_payload(["2probe", b"\x04\xff\xd8\xff"]) == b"\x00\x06\xff2probe" + b"\x01\x04\xff\x04\xff\xd8\xff"


def test_lengths_are_decimal_digits_one_a_byte_and_count_bytes():
    assert encode_payload(["4" + "é" * 60])[:5] == b"\x00\x01\x02\x01\xff"


@given(st.lists(st.text(min_size=1) | st.binary(min_size=1), min_size=1))
def test_what_is_encoded_decodes_to_the_same(packets):
    assert decode_payload(encode_payload(packets), OCTETS) == packets


@pytest.mark.parametrize(
    ("body", "packets"),
    [
        ("97:0" + "x" * 96 + "2:40", ["0" + "x" * 96, "40"]),
        ('17:420["echo","é😀"]', ['420["echo","é😀"]']),
        ("1:6", ["6"]),
        ("0:", [""]),
    ],
)
def test_a_text_answer_counts_utf16_units(body, packets):
    assert decode_payload(body.encode(), TEXT) == packets


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", TEXT),
        (b"", OCTETS),
        (b"9:40", TEXT),
        (b"x:40", TEXT),
        (b"40", TEXT),
        (b"\xff\xfe", TEXT),
        (b"\x00\x09\xff40", OCTETS),
        (b"\x00\x02", OCTETS),
        (b"\x00\xff", OCTETS),
    ],
)
def test_what_is_no_payload_is_refused(body, content_type):
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part of it is wrong
        decode_payload(body, content_type)


@given(st.binary(min_size=1), st.sampled_from([OCTETS, TEXT]))
def test_no_answer_whatever_raises_anything_else(body, content_type):
    try:
        decode_payload(body, content_type)
    except ValueError:
        pass
