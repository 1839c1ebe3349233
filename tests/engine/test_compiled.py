"""The compiled reader beside the Python reader: the same bytes in the same cuts, the same messages and errors.

What a reader does is told by test_websocket.py, for both. Here is what only two can be asked, and only C gets wrong.
"""

import errno
import gc
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import frames
from engine import reader as python_reader
from engine.reader import FIRST_BUFFER_BYTES, FRAMES_PER_TURN, IMAGE, REFUSED, MessageReader, WebSocketError
from engine.readers import NotCompiled, choose
from engine.transport import PlainTransport
from frames import Limits, check_image
from peers import ROOT, need
from pictures import picture
from raw_engineio import BINARY, CLOSE, PING, TEXT, client_frame
from running import SRC
from traffic import (
    ANNOUNCEMENTS,
    HEADS,
    ODD_ANNOUNCEMENTS,
    USUAL,
    Fed,
    Lane,
    Setup,
    any_setup,
    conversation,
    image_pair,
    pieces,
    tcp_pair,
)

need("compiled-reader")
from compiled import reader as compiled  # noqa: E402

MAKE: Final = choose("compiled").make
BUILD: Final = ROOT / "scripts" / "build-compiled"
EIO3: Final = USUAL._replace(prefix=b"\x04")
ANNOUNCEMENT: Final = client_frame(TEXT, f'451-7{HEADS[0]},"result"]'.encode())
RANDOM: Final = st.integers(0, 1 << 32).map(random.Random)


def both(setup: Setup = USUAL) -> tuple[Fed, Fed]:
    pair = Fed(MessageReader, setup), Fed(MAKE, setup)
    for fed in pair:
        fed.resume()
    return pair


def assert_same(one: Fed, other: Fed) -> None:
    assert one.came == other.came
    assert one.sink.asked == other.sink.asked


def test_both_readers_have_the_same_numbers() -> None:
    names = [name for name in dir(compiled) if name.isupper() and name != "MIN_SCRATCH_BYTES"]
    assert len(names) == 8
    for name in names:
        assert getattr(compiled, name) == getattr(python_reader, name), name


# -- the same messages


@given(RANDOM)
def test_what_comes_of_any_traffic_is_the_same_at_every_cut(rng: random.Random) -> None:
    setup = any_setup(rng)
    one, other = both(setup)
    for piece in pieces(rng, conversation(rng, setup.prefix, 20_000)):
        for fed in (one, other):
            fed.feed(piece)
        assert_same(one, other)
        if rng.random() < 0.02:
            with_sink = rng.choice((True, False))
            one.resume(with_sink)
            other.resume(with_sink)


@pytest.mark.parametrize("kind", ["unix", "tcp", "through"])
@given(rng=RANDOM)
def test_what_is_received_from_a_socket_is_the_same(kind: str, rng: random.Random) -> None:
    setup = any_setup(rng)
    lanes = [Lane(kind, make, setup) for make in (MessageReader, MAKE)]
    try:
        for lane in lanes:
            lane.fed.resume()
        for piece in pieces(rng, conversation(rng, setup.prefix)):
            for lane in lanes:
                lane.send(piece)
            assert_same(lanes[0].fed, lanes[1].fed)
    finally:
        for lane in lanes:
            lane.close()


@given(RANDOM)
def test_what_is_held_of_images_is_the_same(rng: random.Random) -> None:
    """And so is when it is told."""
    setup = Setup(max_bytes=2_000_000, scratch_bytes=rng.choice((1 << 16, 1 << 19)), prefix=rng.choice((b"", b"\x04")))
    sizes = [rng.choice((10, 5_000, 70_000, 300_000, rng.randrange(1_500_000))) for _ in range(rng.randint(1, 4))]
    lanes = [Lane("tcp", make, setup) for make in (MessageReader, MAKE)]
    try:
        for lane in lanes:
            lane.fed.resume()
        for piece in pieces(rng, b"".join(image_pair(rng, setup.prefix, size=size) for size in sizes)):
            for lane in lanes:
                lane.send(piece)
            one, other = (lane.fed for lane in lanes)
            assert one.told == other.told
            assert one.reader.missing == other.reader.missing
            assert one.reader.skipping == other.reader.skipping
        assert_same(one, other)
        assert other.told[-1:] in ([], [0])
    finally:
        for lane in lanes:
            lane.close()


@pytest.mark.parametrize("setup", [USUAL, EIO3], ids=["Engine.IO 4", "Engine.IO 3"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 5000, 65535, 65536])
def test_an_image_is_cut_anywhere_and_stays_the_same(setup: Setup, size: int) -> None:
    image = random.Random(size).randbytes(size + (size % 4 == 3))
    sent = ANNOUNCEMENT + client_frame(BINARY, setup.prefix + image) + client_frame(PING, b"?")
    cuts = [*range(1, min(200, len(sent))), *range(200, len(sent), 997), *range(len(sent) - 12, len(sent))]
    for cut in cuts:
        fed = Fed(MAKE, setup)
        fed.resume()
        fed.feed(sent[:cut])
        fed.feed(sent[cut:])
        assert fed.came == [(IMAGE, image, "7", "result"), (PING, b"?")]
        assert fed.sink.asked == [(len(image), "result")]


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("setup", [USUAL, EIO3], ids=["Engine.IO 4", "Engine.IO 3"])
def test_every_byte_of_the_mask_has_its_turn_in_whatever_pieces_an_image_comes(setup: Setup, phase: int) -> None:
    rng = random.Random(phase)
    image = rng.randbytes(300)
    frame = client_frame(BINARY, setup.prefix + image, mask=rng.randbytes(4))
    for size in range(1, 40):
        fed = Fed(MAKE, setup)
        fed.resume()
        fed.feed(ANNOUNCEMENT + frame[: 12 + phase])
        for start in range(12 + phase, len(frame), size):
            fed.feed(frame[start : start + size])
        assert fed.came == [(IMAGE, image, "7", "result")]


@pytest.mark.parametrize("text", ODD_ANNOUNCEMENTS)
def test_odd_announcements_are_told_from_others_as_in_python(text: str) -> None:
    one, other = both()
    for fed in (one, other):
        fed.feed(client_frame(TEXT, text.encode()) + client_frame(BINARY, b"image") + ANNOUNCEMENT)
        fed.feed(client_frame(BINARY, b"another"))
    assert_same(one, other)


HELLO: Final = client_frame(TEXT, b"hello")


@pytest.mark.parametrize(
    ("other", "cut"),
    [
        (HELLO, 3),
        (client_frame(BINARY, bytes(1000)), 500),
        (client_frame(PING, b"?"), 3),
        (HELLO + client_frame(PING, b"?"), len(HELLO) + 6),
        (HELLO + ANNOUNCEMENT + client_frame(BINARY, b"i" * 9), len(HELLO) + 9),
        (HELLO + ANNOUNCEMENT + client_frame(BINARY, b"i" * 9), len(HELLO) + len(ANNOUNCEMENT) + 9),
        (ANNOUNCEMENT + HELLO, len(ANNOUNCEMENT) + 3),
        (client_frame(TEXT, b"hel", fin=False) + client_frame(0, b"lo"), 11),
    ],
)
def test_images_take_the_short_way_again_after_other_messages(other: bytes, cut: int) -> None:
    """And are read in C: or a client that has sent one text would be slower from there on."""
    image = client_frame(BINARY, b"i" * 1000)
    fed = Fed(MAKE)
    fed.resume()
    fed.feed(other[:cut])
    fed.feed(other[cut:])
    fed.feed(ANNOUNCEMENT + image)
    fed.feed(ANNOUNCEMENT)
    fed.feed(image[:500])
    assert len(fed.reader.buffers()) == 1, "the Python reader has a buffer for the rest"
    fed.feed(image[500:])
    assert fed.came[-1] == (IMAGE, b"i" * 1000, "7", "result")


# -- what is received


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    theirs, ours = tcp_pair()
    ours.setblocking(False)
    yield theirs, ours
    theirs.close()
    ours.close()


def test_the_end_and_errors_of_a_connection_are_told_apart(ends: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = ends
    transport = PlainTransport(ours)
    fed = Fed(MAKE)
    fed.resume()
    with pytest.raises(BlockingIOError):
        fed.reader.receive(transport)
    theirs.sendall(ANNOUNCEMENT + client_frame(BINARY, b"x" * 100)[:50])
    assert fed.reader.receive(transport) == []
    with pytest.raises(BlockingIOError):
        fed.reader.receive(transport)
    theirs.shutdown(socket.SHUT_WR)
    assert fed.reader.receive(transport) is None
    ours.close()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        fed.reader.receive(transport)
    assert caught.value.errno == errno.EBADF


def test_a_connection_that_is_reset_is_an_error(ends: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = ends
    fed = Fed(MAKE)
    fed.resume()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(ConnectionResetError):
        fed.reader.receive(PlainTransport(ours))


def test_a_refused_image_goes_by_and_the_next_one_comes() -> None:
    refused, taken = b"r" * 100_003, b"t" * 100_000
    for kind in ("tcp", "unix", "through"):
        lane = Lane(kind, MAKE)
        lane.fed.resume()
        for image in (refused, taken, refused, refused, taken):
            lane.send(ANNOUNCEMENT + client_frame(BINARY, image))
        kinds = [message[0] for message in lane.fed.came]
        assert kinds == [REFUSED, IMAGE, REFUSED, REFUSED, IMAGE]
        assert [message[1] for message in lane.fed.came if message[0] == IMAGE] == [taken, taken]
        lane.close()


@pytest.mark.parametrize("plain", [True, False])
def test_a_transport_that_says_nonsense_is_not_believed(plain: bool) -> None:
    class Liar:
        fileno = -1
        said: Any = 1 << 40

        def receive_into(self, buffers: Any) -> Any:
            return self.said

        def skip(self, size: int) -> Any:
            return self.said

    liar: Any = Liar()
    liar.plain = plain
    fed = Fed(MAKE)
    fed.resume()
    for said in (1 << 40, -1, "much", len(fed.scratch) + 1):
        liar.said = said
        with pytest.raises((ValueError, TypeError)):
            fed.reader.receive(liar)
    liar.plain = False
    fed.feed(ANNOUNCEMENT + client_frame(BINARY, bytes(10_003))[:100])
    assert fed.reader.skipping
    for said in (10_003, -1, 1 << 70):
        liar.said = said
        with pytest.raises((ValueError, OverflowError)):
            fed.reader.receive(liar)


# -- callbacks


class Trouble(Exception):
    pass


class Asked:
    """A sink that does something when it is asked."""

    def __init__(self, does: Callable[[], object]) -> None:
        self.does = does

    def admit(self, size: int, event: str | None) -> object:
        return self.does()


def raise_trouble(*_: object) -> None:
    raise Trouble


def reader_for(hold: Callable[[int], object] | None = None) -> Any:
    return MAKE(2_000_000, bytearray(1 << 16), None, hold, ANNOUNCEMENTS)


def put(one: Any, data: bytes) -> Any:
    (buffer,) = one.buffers()
    buffer[: len(data)] = data
    return one.received(len(data))


def test_an_error_of_the_sink_or_of_who_counts_comes_through() -> None:
    one = reader_for()
    one.resume(Asked(raise_trouble))
    with pytest.raises(Trouble):
        put(one, ANNOUNCEMENT + client_frame(BINARY, b"image"))
    assert not one.more
    one.forget()
    other = reader_for(hold=raise_trouble)
    other.resume(Asked(lambda: None))
    data = ANNOUNCEMENT + client_frame(BINARY, bytes(200_000))
    put(other, data[:60_000])
    with pytest.raises(Trouble):
        put(other, data[60_000:65_000])
    other.forget()


def test_a_reader_may_be_told_to_forget_by_whom_it_calls() -> None:
    data = ANNOUNCEMENT + client_frame(BINARY, bytes(200_000))
    one = reader_for()
    one.resume(Asked(lambda: one.forget()))
    assert put(one, data[:60_000]) == []
    assert one.missing == 0
    other = reader_for(hold=lambda size: other.forget())
    other.resume(Asked(lambda: None))
    assert put(other, data[:60_000]) == []
    assert other.missing > 0
    assert put(other, data[60_000:65_000]) == []
    assert other.missing == 0


def test_a_reader_cannot_be_used_by_whom_it_calls() -> None:
    for use, argument in (("received", 0), ("receive", None), ("skipped", 0), ("resume", None)):
        one = reader_for()
        one.resume(Asked(partial(getattr(one, use), argument)))
        with pytest.raises(RuntimeError, match="is being used"):
            put(one, ANNOUNCEMENT + client_frame(BINARY, b"image"))
    other = reader_for()
    other.resume(Asked(other.buffers))
    with pytest.raises(RuntimeError, match="is being used"):
        put(other, ANNOUNCEMENT + client_frame(BINARY, b"image"))


@pytest.mark.parametrize("refuses", [True, False])
def test_a_reader_may_be_told_to_forget_by_its_transport(refuses: bool) -> None:
    class Forgetful:
        plain = False

        def receive_into(self, buffers: Any) -> int:
            one.forget()
            return 10

        def skip(self, size: int) -> int:
            one.forget()
            return 10

    for sent in (b"", ANNOUNCEMENT[:9], ANNOUNCEMENT + client_frame(BINARY, bytes(90_000))[:1000]):
        one = reader_for()
        one.resume(Asked(lambda: "no" if refuses else None))
        put(one, sent)
        assert one.receive(Forgetful()) == []
        assert one.missing == 0


def test_after_a_refused_image_and_after_a_large_one_little_is_received_beside_the_next() -> None:
    setup = Setup(max_bytes=1_000_000, scratch_bytes=1 << 19)
    one, other = both(setup)
    for size in (10, 11, 10, 100_003, 300_000, 100_003, 10):
        for fed in (one, other):
            fed.feed(ANNOUNCEMENT + client_frame(BINARY, bytes(size)))
            fed.feed(ANNOUNCEMENT[:20])
        rooms = [len(fed.reader.buffers()[0]) for fed in (one, other)]
        assert rooms[0] == rooms[1]
        assert (rooms[0] == 512) == (size in (11, 100_003, 300_000))
        for fed in (one, other):
            fed.feed(ANNOUNCEMENT[20:] + client_frame(BINARY, bytes(size)))
    assert_same(one, other)


class NothingThere:
    """A transport over TLS, as far as a reader looks at it, with nothing to receive; `offered` is where it could."""

    plain = False

    def __init__(self, offered: list[memoryview]) -> None:
        self._offered = offered

    def receive_into(self, buffers: Sequence[memoryview]) -> int:
        self._offered += buffers
        raise BlockingIOError


def test_the_rest_of_an_image_has_room_whatever_came_before_it() -> None:
    """Little is received beside it, and not of it: over TLS it would come 512 bytes at a time."""
    for fed in both(Setup(max_bytes=1_000_000, scratch_bytes=1 << 19)):
        fed.feed(ANNOUNCEMENT + client_frame(BINARY, bytes(300_000)))
        fed.feed((ANNOUNCEMENT + client_frame(BINARY, bytes(400_000)))[:1000])
        assert fed.reader.missing > 300_000
        offered: list[memoryview] = []
        with pytest.raises(BlockingIOError):
            fed.reader.receive(NothingThere(offered))
        assert sum(map(len, offered)) >= fed.reader.missing


@pytest.mark.parametrize("size", [1_500, 5_000])
def test_of_small_images_no_more_is_received_than_a_turn_acts_on(size: int) -> None:
    """The rest would have to be kept aside, and a third of the time would go into that."""
    for fed in both(Setup(max_bytes=1_000_000, scratch_bytes=1 << 19)):
        fed.feed(ANNOUNCEMENT + client_frame(BINARY, bytes(size)))
        assert len(fed.reader.buffers()[0]) == max(FIRST_BUFFER_BYTES, FRAMES_PER_TURN * size) < 1 << 19


@pytest.mark.parametrize("count", [-1, (1 << 16) + 1, 1 << 62, 1 << 70, "1", None])
def test_counts_that_cannot_be_are_refused(count: Any) -> None:
    one = reader_for()
    one.resume(Asked(lambda: "no"))
    with pytest.raises((ValueError, OverflowError, TypeError)):
        one.received(count)
    put(one, ANNOUNCEMENT + client_frame(BINARY, bytes(60_003))[:1000])
    with pytest.raises((ValueError, OverflowError, TypeError)):
        one.skipped(count)
    with pytest.raises(ValueError, match="cannot have been received"):
        one.received(10)
    assert one.missing == 60_003 - 1000 + 8  # and the header


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None, -1, bytearray(200), None, None, b""),
        (None, 1, b"bytes", None, None, b""),
        (None, 1, bytearray(200), None, [b"list"], b""),
        (None, 1, bytearray(200), None, (b"",), b""),
        (None, 1, bytearray(200), None, ("str",), b""),
        (None, 1, bytearray(200), None, (), b""),
        (None, 1, bytearray(200), None, None, b"two"),
        (None, 1, bytearray(200), None, None, "str"),
        (None, 1 << 70, bytearray(200), None, None, b""),
    ],
)
def test_a_reader_is_not_made_from_anything(arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        compiled.Reader(*arguments)
    with pytest.raises(TypeError):
        compiled.Reader(*arguments, more=1)  # type: ignore[call-arg]


def test_the_scratch_stays_where_it_is() -> None:
    scratch = bytearray(1 << 16)
    one = MAKE(1000, scratch, announcements=ANNOUNCEMENTS)
    with pytest.raises(BufferError):
        scratch += b"x"
    del one
    scratch += b"x"


# -- memory


def test_a_length_that_is_announced_and_never_sent_takes_no_more_than_the_first_buffer() -> None:
    data = ANNOUNCEMENT + struct.pack("!BBQ", 0x82, 0xFF, 1_900_000) + b"mask" + b"x"
    one = reader_for()
    one.resume(Asked(lambda: None))
    tracemalloc.start()
    try:
        put(one, data)
        assert tracemalloc.get_traced_memory()[1] < FIRST_BUFFER_BYTES + 50_000
    finally:
        tracemalloc.stop()
    assert one.missing == 1_900_000 - 1


def test_an_image_that_is_given_out_is_as_large_as_it_is() -> None:
    """A bytes object that was resized has no room left at its end."""
    image = random.Random(1).randbytes(1_234_568)
    fed = Fed(MAKE, Setup(max_bytes=2_000_000))
    fed.resume()
    tracemalloc.start()
    try:
        fed.feed(ANNOUNCEMENT + client_frame(BINARY, image))
        before = tracemalloc.get_traced_memory()[0]
        assert sys.getsizeof(fed.came[0][1]) == sys.getsizeof(image)
        del fed.came[:]
        freed = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(image) <= freed < len(image) + 10_000


def test_nothing_is_left_of_a_thousand_readers_whatever_they_were_doing() -> None:
    def one_round(seed: int) -> None:
        rng = random.Random(seed)
        setup = any_setup(rng)._replace(scratch_bytes=4096)
        fed = Fed(MAKE, setup)
        fed.resume()
        for piece in pieces(rng, conversation(rng, setup.prefix, 3000)):
            fed.feed(piece)
            if rng.random() < 0.05:
                break

    for seed in range(300):
        one_round(seed)
    gc.collect()
    tracemalloc.start()
    try:
        one_round(0)
        growths = []
        for _ in range(2):  # what is left behind once, by whatever else this process does, is none of theirs
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for seed in range(1000):
                one_round(seed)
            gc.collect()
            growths.append(tracemalloc.get_traced_memory()[0] - before)
        assert min(growths) < 20_000, growths
    finally:
        tracemalloc.stop()


def test_images_leave_no_references_behind() -> None:
    """What a reader is given and gives out has as many references afterwards as before."""
    fed = Fed(MAKE, EIO3)
    taken, refused = image_pair(random.Random(1), b"\x04", size=100), image_pair(random.Random(1), b"\x04", size=103)
    fed.resume()
    event: Any = None

    def references() -> list[int]:
        watched = (None, True, IMAGE, REFUSED, event, b"", fed.sink, fed.told, fed.scratch, compiled.Reader)
        return [sys.getrefcount(thing) for thing in watched]

    fed.feed(taken + refused)
    fed.came.clear()
    before = references()
    for _ in range(2000):
        fed.feed(taken + refused + client_frame(PING) + client_frame(TEXT, b"x"))
        fed.feed(taken[:50])
        fed.feed(taken[50:])
    assert len(fed.came) == 2000 * 5
    fed.came.clear()
    fed.sink.asked.clear()
    after = references()
    assert all(now - then < 100 for then, now in zip(before, after, strict=True)), (before, after)


@pytest.mark.parametrize("forgets", [True, False])
def test_a_reader_ends_with_its_owner(forgets: bool) -> None:
    """At once when it has been told to forget, and else when Python looks for cycles."""

    class Owner:
        def __init__(self) -> None:
            self.reader = MAKE(2_000_000, bytearray(1 << 16), None, self.hold, ANNOUNCEMENTS)
            self.reader.resume(self)  # type: ignore[arg-type]

        def hold(self, size: int) -> None: ...

        def admit(self, size: int, event: str | None) -> object:
            return self if size == 9 else None

    for data in (ANNOUNCEMENT, ANNOUNCEMENT + client_frame(BINARY, bytes(9))[:9], client_frame(CLOSE)[:3]):
        owner = Owner()
        put(owner.reader, data)
        reference = weakref.ref(owner)
        gc.disable()
        try:
            if forgets:
                owner.reader.forget()
            del owner
            assert (reference() is None) == forgets
        finally:
            gc.enable()
        gc.collect()
        assert reference() is None


def test_an_idle_reader_is_small() -> None:
    """Five thousand may wait."""
    scratch = bytearray(1 << 16)
    gc.collect()
    tracemalloc.start()
    try:
        readers = [MAKE(1000, scratch, None, None, ANNOUNCEMENTS) for _ in range(1000)]
        assert tracemalloc.get_traced_memory()[0] < 1000 * 1500
    finally:
        tracemalloc.stop()
    assert len(readers) == 1000


# -- JPEG


def segment(marker: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(payload) if length is None else length) + payload


def frame_header(marker: int, width: int, height: int, components: int = 3) -> bytes:
    return segment(marker, struct.pack(">BHHB", 8, height, width, components) + bytes(3 * components))


SEGMENTS: Final = st.one_of(
    st.builds(segment, st.integers(0, 255), st.binary(max_size=20)),
    st.builds(segment, st.sampled_from((0xC4, 0xDB, 0xE0, 0xE1, 0xFE)), st.binary(max_size=40)),
    st.builds(segment, st.integers(0, 255), st.binary(max_size=9), st.integers(0, 30)),
    st.builds(
        frame_header,
        st.sampled_from((0xC0, 0xC1, 0xC2, 0xC4, 0xC8, 0xCC, 0xCF)),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.integers(0, 5),
    ),
    st.sampled_from((b"\xff", b"\xff\xff\xff", b"\xff\x01", b"\xff\xd0", b"\xff\xd8", b"\xff\xd9", b"\xff\x00", b"")),
)
SCAN: Final = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x12\xff\x00\x34"


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(SEGMENTS, max_size=5))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), frame_header(0xC0, 7, 5))
    scan = draw(st.sampled_from((SCAN, SCAN, SCAN[:4], b"", segment(0xDA, b""))))
    end = draw(st.sampled_from((b"\xff\xd9", b"\xff\xd9", b"\xff\xd9\0", b"\xff", b"")))
    image = b"\xff\xd8" + b"".join(parts) + scan + end
    return image[: draw(st.integers(0, len(image)))] if draw(st.integers(0, 9)) == 0 else image


@given(jpegs())
def test_a_jpeg_of_which_c_tells_the_size_is_taken_by_python_with_the_same(image: bytes) -> None:
    size = compiled.read_jpeg(image)
    try:
        info = check_image(image, Limits(max_pixels=1 << 40))
    except frames.InvalidFrame:
        assert size is None
    else:
        assert size in (None, (info.width, info.height))


@given(st.binary(max_size=200), st.integers(0, 3))
def test_whatever_python_refuses_is_no_jpeg_to_c(data: bytes, cut: int) -> None:
    for image in (data, b"\xff\xd8" + data + b"\xff\xd9", PICTURE[: 200 * cut] + data + PICTURE[-2:]):
        size = compiled.read_jpeg(image)
        if size is not None:
            info = check_image(image, Limits(max_pixels=1 << 40))
            assert size == (info.width, info.height)


PICTURE: Final = picture()


def test_what_cameras_send_is_read_in_c() -> None:
    info = check_image(PICTURE, Limits())
    assert info.media_type == "image/jpeg"
    assert compiled.read_jpeg(PICTURE) == (info.width, info.height)
    exif = b"\xff\xd8" + segment(0xE1, bytes(5000)) + b"\xff" + PICTURE[2:]
    assert compiled.read_jpeg(exif) == (info.width, info.height)


@pytest.mark.parametrize("image", [PICTURE + b"\0", PICTURE[:-1], bytearray(PICTURE), memoryview(PICTURE), b"", None])
def test_what_is_unusual_is_left_to_python(image: Any) -> None:
    assert compiled.read_jpeg(image) is None


def test_a_jpeg_of_nothing_but_segments_or_fill_costs_no_more_than_its_bytes() -> None:
    for filler in (b"\xff\xfe\0\2" * 500_000, b"\xff" * 2_000_000, b"\xff\x01" * 1_000_000):
        assert compiled.read_jpeg(b"\xff\xd8" + filler + b"\xff\xd9") is None


# -- which one it is


def test_a_reader_is_chosen_by_its_name() -> None:
    assert choose("python").name == "python"
    assert choose("python").make is MessageReader
    assert choose("python").read_jpeg is None
    assert choose("compiled").name == choose("auto").name == "compiled"
    assert choose("auto").read_jpeg is compiled.read_jpeg


CHOOSE = """
import logging
from engine.readers import NotCompiled, choose

logging.basicConfig(format="%(message)s")
print(choose("auto").name)
try:
    choose("compiled")
except NotCompiled as error:
    print(error)
"""


def chosen(source: Path) -> tuple[list[str], str]:
    run = subprocess.run(
        [sys.executable, "-c", CHOOSE], env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines(), run.stderr


@pytest.fixture
def uncompiled(tmp_path: Path) -> Path:
    """The sources, with nothing built."""
    return shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))


def test_where_nothing_is_built_the_python_reader_reads_and_the_other_is_refused_clearly(uncompiled: Path) -> None:
    for name in (None, "reader.cpython-27-x86_64-linux-gnu.so"):
        if name:
            (uncompiled / "compiled" / name).write_bytes(b"of another Python")
        (auto, refusal), log = chosen(uncompiled)
        assert auto == "python"
        assert "`make install` builds it where a C compiler" in refusal
        assert log == ""


def test_a_library_that_cannot_be_loaded_is_told_and_does_without(uncompiled: Path) -> None:
    (uncompiled / "compiled" / f"reader{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"broken")
    (auto, refusal), log = chosen(uncompiled)
    assert auto == "python"
    assert "the compiled reader cannot be used" in refusal
    assert "the Python reader takes its place" in log


def test_not_compiled_is_an_exception_of_its_own() -> None:
    assert issubclass(NotCompiled, Exception)
    assert not issubclass(NotCompiled, ImportError | WebSocketError)


def build(folder: Path, *flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(BUILD), "--into", str(folder), *flags],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_where_it_cannot_be_built_the_installation_goes_on_and_nothing_old_is_left(tmp_path: Path) -> None:
    old = tmp_path / f"reader{sysconfig.get_config_var('EXT_SUFFIX')}"
    for flags, compiler, complaint in (((), "no-such-compiler", "there is no C compiler"), (("-nonsense",), "", "")):
        old.write_bytes(b"of an older source")
        run = build(tmp_path, *flags, **({"CC": compiler} if compiler else {}))
        assert run.returncode == 0
        assert "images are received by the Python reader" in run.stderr
        assert complaint in run.stderr
        assert list(tmp_path.iterdir()) == []


# -- under the sanitizers

#: On a user's machine a first look; with CI set, tens of thousands of conversations.
ROUNDS: Final = 20_000 if os.environ.get("CI") else 3_000


@pytest.mark.timeout(600)
def test_no_traffic_and_no_misuse_reads_or_writes_beside_its_memory(tmp_path: Path) -> None:
    need("address-sanitizer")
    run = build(tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-Wall", "-Wextra")
    (library,) = tmp_path.iterdir()
    assert run.stderr == ""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    fuzz = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fuzz_compiled.py")), str(library), str(ROUNDS)],
        env=os.environ
        | {
            "LD_PRELOAD": runtime.stdout.strip(),
            # Python leaves much behind when it ends; freed memory is watched for a while, which need not be all of it.
            "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=64",
            "PYTHONMALLOC": "malloc",  # or the sanitizer sees Python's pools and not what lies in them
        },
        capture_output=True,
        text=True,
    )
    assert fuzz.returncode == 0, fuzz.stderr[-5000:]
    assert f"{ROUNDS} rounds, nothing found" in fuzz.stdout
