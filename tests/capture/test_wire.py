"""What is said between the server and a capture process comes out as it went in, and nonsense does no harm."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture import wire
from ring import BrokenRing


@given(st.text(), st.integers(1, 2**40))
def test_a_call_comes_out_as_it_went_in(url: str, max_pixels: int) -> None:
    call = wire.Call(url, max_pixels)
    assert call.pack()[0] == wire.CALL
    assert wire.Call.unpack(memoryview(call.pack())) == call


@pytest.mark.parametrize("rate_hz", [0.0, 0.25, 30.0, inf])
def test_a_rate_comes_out_as_it_went_in(rate_hz: float) -> None:
    assert wire.pack_rate(rate_hz)[0] == wire.RATE
    assert wire.unpack_rate(memoryview(wire.pack_rate(rate_hz))) == rate_hz


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_counts_come_out_as_they_went_in_up_to_the_largest(skipped: int, replaced: int) -> None:
    most = 0xFFFF_FFFF
    assert wire.Counts.unpack(wire.Counts(skipped, replaced).pack()) == (min(skipped, most), min(replaced, most))


def test_a_video_comes_out_as_it_went_in() -> None:
    video = wire.Video("h264", 640, 480)
    assert video.pack()[0] == wire.CONNECTED
    assert wire.Video.unpack(video.pack()[1:]) == video


def test_a_reason_is_one_line_of_what_can_be_printed() -> None:
    report = wire.pack_reason("it went\naway\x1b[31m " + "for ever " * 1000)
    assert report[0] == wire.LOST
    reason = wire.unpack_reason(report[1:])
    assert reason.startswith("it went?away?[31m for ever")
    assert len(reason) == wire.MAX_REASON_CHARS


@given(st.binary(max_size=200))
def test_whatever_a_child_says_does_no_worse_than_break_the_ring(payload: bytes) -> None:
    assert wire.unpack_reason(payload).isprintable()
    for unpack in (wire.Counts.unpack, wire.Video.unpack, wire.unpack_size):
        try:
            unpack(payload)
        except BrokenRing:
            pass


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"{}", b'{"codec": "x", "width": "wide", "height": 1}', b'{"codec": 1, "width": null, "height": 1}',
     b"[" * 100_000, b'{"codec": "x", "width": NaN, "height": 1}', b'{"codec": "x", "width": 1e999, "height": 1}'],
)  # fmt: skip
def test_a_video_that_is_none_breaks_the_ring(payload: bytes) -> None:
    with pytest.raises(BrokenRing, match="a video that nobody understands"):
        wire.Video.unpack(payload)


def test_the_name_of_a_codec_is_printable_whoever_says_it() -> None:
    assert wire.Video.unpack(wire.Video("h264\n2026 ERROR", 1, 1).pack()[1:]).codec == "h264?2026 ERROR"
