"""Both ends of the ring in one process, and what the child's end may do to the memory."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring import ANSWER, FAILED, READY, Answer, AnswerParser, BrokenRing, FrameHeader, Message, Ring, RingReader, Socket

SRC = Path(__file__).resolve().parent.parent / "src"

answers = st.builds(Answer, st.sampled_from([ANSWER, READY, FAILED]), st.binary(max_size=40))
said_by_a_child = st.lists(st.one_of(st.integers(0, 1000), answers), max_size=20)


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(slots=2, slot_bytes=1000)
    yield ring
    ring.close()


@pytest.fixture
def reader(ring: Ring) -> RingReader:
    connection, memory = (os.dup(descriptor) for descriptor in ring.descriptors)
    ring.close_child_end()
    mapped = mmap.mmap(memory, 2 * ring.slot_bytes, access=mmap.ACCESS_READ)
    os.close(memory)
    return RingReader(Socket(fileno=connection), mapped, 2, ring.slot_bytes)


def text_of(messages: list[Message]) -> list[bytes]:
    return [bytes(message.payload) for message in messages]


def test_payloads_and_control_messages_arrive_in_the_order_they_were_given(ring: Ring, reader: RingReader) -> None:
    ring.put(b"head ", b"body")
    ring.tell(b'{"ended": 7}')
    ring.put(b"", bytearray(b"second"))
    ring.flush()
    messages = reader.receive()
    assert text_of(messages) == [b"head body", b'{"ended": 7}', b"second"]
    assert [message.slot is None for message in messages] == [False, True, False]
    assert [message.sequence for message in messages] == [1, 2, 3]


def test_a_slot_is_free_again_only_when_the_child_has_given_it_back(ring: Ring, reader: RingReader) -> None:
    ring.put(b"", b"one")
    assert ring.free
    ring.put(b"", b"two")
    assert not ring.free
    assert ring.flush()
    first, second = reader.receive()
    assert first.slot is not None
    assert second.slot is not None
    reader.give_back(second.slot)
    ring.collect()
    assert ring.free == [second.slot]
    assert ring.held == {first.slot: 1}
    ring.put(b"", b"three")
    assert bytes(first.payload) == b"one"


def test_the_largest_payload_fits_and_one_byte_more_is_refused_without_taking_a_slot(ring: Ring) -> None:
    ring.put(b"1", bytes(ring.slot_bytes - 1))
    with pytest.raises(ValueError, match=f"a payload of {ring.slot_bytes + 1} bytes, a slot holds {ring.slot_bytes}"):
        ring.put(b"1", bytes(ring.slot_bytes))
    assert len(ring.free) == 1


def test_a_control_message_larger_than_the_socket_waits_in_the_outbox_and_arrives_whole(
    ring: Ring, reader: RingReader
) -> None:
    control = os.urandom(1 << 20)
    ring.tell(control)
    assert not ring.flush()
    assert ring.owed is not None
    received: list[Message] = []
    while not received:
        received = reader.receive(0.01)
        ring.flush()
    assert text_of(received) == [control]
    assert ring.owed is None


def test_answers_and_slots_are_told_apart(ring: Ring, reader: RingReader) -> None:
    reader.ready()
    ring.put(b"", b"frame")
    ring.flush()
    (message,) = reader.receive()
    assert message.slot is not None
    reader.answer(b"\xff\xff\x00\x00")
    reader.give_back(message.slot)
    reader.failed("the screen has gone")
    assert ring.collect() == [(READY, b""), (ANSWER, b"\xff\xff\x00\x00"), (FAILED, b"the screen has gone")]
    assert ring.returned == 1


@given(said_by_a_child, st.lists(st.integers(0, 400), max_size=30))
def test_what_a_child_says_is_read_the_same_however_it_was_cut(said: list[int | Answer], cuts: list[int]) -> None:
    data = b"".join(
        pack(">HI", item.kind, len(item.data)) + item.data if isinstance(item, Answer) else pack(">H", item)
        for item in said
    )
    ends = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    parser = AnswerParser(max_answer_bytes=40)
    heard = [item for begin, end in pairwise(ends) for item in parser.feed(data[begin:end])]
    assert heard == said


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_whatever_a_child_sends_does_no_worse_than_break_the_ring(data: list[bytes]) -> None:
    parser = AnswerParser(max_answer_bytes=100)
    with suppress(BrokenRing):
        for piece in data:
            list(parser.feed(piece))


def test_an_answer_that_is_too_long_breaks_the_ring_before_it_is_read() -> None:
    with pytest.raises(BrokenRing, match="an answer of 2000000000 bytes came, at most 1048576 are taken"):
        list(AnswerParser(1 << 20).feed(pack(">HI", ANSWER, 2_000_000_000)))


@pytest.mark.parametrize("slot", [0, 1, 2, 999, FAILED - 1])
def test_giving_back_a_slot_that_it_does_not_have_breaks_the_ring(ring: Ring, reader: RingReader, slot: int) -> None:
    reader.give_back(slot)
    with pytest.raises(BrokenRing, match=f"it gave back slot {slot}, which it does not have"):
        ring.collect()


def test_the_child_reads_the_end_when_the_server_closes_and_the_server_when_the_child_does(
    ring: Ring, reader: RingReader
) -> None:
    ring.put(b"", b"last")
    ring.flush()
    ring.say_goodbye()
    (message,) = reader.receive()
    with pytest.raises(EOFError):
        reader.receive()
    assert message.slot is not None
    reader.give_back(message.slot)
    reader.answer(b"done")
    reader._socket.close()
    assert ring.collect() == [(ANSWER, b"done")]
    assert ring.returned == 1
    with pytest.raises(EOFError):
        ring.collect()


def test_the_child_can_neither_write_to_the_memory_nor_cut_it_short(ring: Ring) -> None:
    _, memory = ring.descriptors
    with pytest.raises(PermissionError):
        mmap.mmap(memory, ring.slot_bytes)
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(memory, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(memory, b"x")


def test_a_reader_whose_server_has_gone_before_it_came_does_not_begin() -> None:
    code = (
        "import os, ring\n"
        "r = ring.Ring(1, 10)\n"
        "print(r.argument.rsplit(':', 1)[0])\n"
        "try: ring.RingReader.attach(r.argument.rsplit(':', 1)[0] + ':1')\n"
        "except ring.BrokenRing as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, check=True)
    assert "the server has gone" in run.stdout


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.text(max_size=60),
    st.binary(max_size=50),
)
def test_a_frame_comes_out_of_a_slot_as_it_went_in(
    stream_id: int, seq: int, at: float, width: int, height: int, name: str, image: bytes
) -> None:
    header = FrameHeader(stream_id, seq, at, width, height, name)
    read, read_image = FrameHeader.unpack(memoryview(header.pack() + image))
    assert read == header
    assert bytes(read_image) == image
