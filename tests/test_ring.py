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

from ring import (
    ANSWER,
    DELIVERY,
    FAILED,
    READY,
    Answer,
    AnswerParser,
    BrokenRing,
    Delivery,
    FrameHeader,
    Message,
    OwnSlots,
    Ring,
    RingReader,
    Socket,
)

SRC = Path(__file__).resolve().parent.parent / "src"

answers = st.builds(Answer, st.sampled_from([ANSWER, READY, FAILED, DELIVERY]), st.binary(max_size=40))
said_by_a_child = st.lists(st.one_of(st.integers(0, 1000), answers), max_size=20)


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(slots=2, slot_bytes=1000)
    yield ring
    ring.close()


@pytest.fixture
def reader(ring: Ring) -> RingReader:
    return reader_of(ring)


@pytest.fixture
def both_ways() -> Iterator[Ring]:
    """A ring whose child has two slots of its own, of 100 bytes."""
    ring = Ring(slots=2, slot_bytes=1000, own_slots=2, own_slot_bytes=100)
    yield ring
    ring.close()


def reader_of(ring: Ring) -> RingReader:
    connection, memory, *own = (os.dup(descriptor) for descriptor in ring.descriptors)
    ring.close_child_end()
    mapped = mmap.mmap(memory, 2 * ring.slot_bytes, access=mmap.ACCESS_READ)
    os.close(memory)
    return RingReader(
        Socket(fileno=connection), mapped, 2, ring.slot_bytes, *(OwnSlots(memory, 2, 100) for memory in own)
    )


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


@pytest.mark.parametrize("slot", [0, 1, 2, 999, DELIVERY - 1])
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


def test_deliveries_arrive_with_their_headers_among_the_answers_and_their_slots_come_back(both_ways: Ring) -> None:
    reader = reader_of(both_ways)
    reader.ready()
    reader.deliver(b"first", b"x" * 100)
    reader.answer(b"between")
    reader.deliver(b"", bytearray(b"second"))
    assert not reader.room
    assert both_ways.collect() == [
        (READY, b""), Delivery(b"first", b"x" * 100), (ANSWER, b"between"), Delivery(b"", b"second"),
    ]  # fmt: skip
    assert both_ways.answered == 4
    both_ways.tell(b"more")
    assert both_ways.flush()
    assert text_of(reader.receive()) == [b"more"]
    assert list(reader.room) == [0, 1]
    reader.deliver(b"", b"third")
    assert both_ways.collect() == [Delivery(b"", b"third")]


def test_a_delivery_is_copied_before_the_child_can_change_it(both_ways: Ring) -> None:
    reader = reader_of(both_ways)
    reader.deliver(b"", b"as it was checked")
    (delivery,) = both_ways.collect()
    reader.room.append(0)
    os.pwrite(reader._own.descriptor, b"as it is later   ", 0)
    assert delivery == Delivery(b"", b"as it was checked")


def test_a_child_that_waits_for_room_wakes_up_when_a_slot_comes_back(both_ways: Ring) -> None:
    reader = reader_of(both_ways)
    reader.deliver(b"", b"one")
    both_ways.collect()
    both_ways.flush()
    assert reader.receive() == []
    assert list(reader.room) == [1, 0]


def test_a_delivery_larger_than_a_slot_does_not_leave_the_child(both_ways: Ring) -> None:
    reader = reader_of(both_ways)
    with pytest.raises(ValueError, match="101 bytes to deliver, a slot holds 100"):
        reader.deliver(b"", bytes(101))
    assert list(reader.room) == [0, 1]


@pytest.mark.parametrize(
    ("slot", "length", "why"),
    [
        (2, 10, "it brought slot 2, which is not its to write"),
        (65_000, 10, "it brought slot 65000, which is not its to write"),
        (0, 101, "it brought 101 bytes, a slot holds 100"),
        (1, 0xFFFF_FFFF, "it brought 4294967295 bytes, a slot holds 100"),
        (1, 60, "it brought 60 bytes, and its memory ends after 50"),
    ],
)
def test_a_delivery_that_can_not_be_breaks_the_ring(both_ways: Ring, slot: int, length: int, why: str) -> None:
    reader = reader_of(both_ways)
    os.ftruncate(reader._own.descriptor, 150)
    reader._send(pack(">HIHI", DELIVERY, 6, slot, length))
    with pytest.raises(BrokenRing, match=why):
        both_ways.collect()


def test_a_delivery_without_a_slot_breaks_the_ring(both_ways: Ring) -> None:
    reader_of(both_ways)._send(pack(">HI5s", DELIVERY, 5, b"short"))
    with pytest.raises(BrokenRing, match="a delivery of 5 bytes came, expected at least 6"):
        both_ways.collect()


def test_a_child_without_slots_of_its_own_can_bring_nothing(ring: Ring, reader: RingReader) -> None:
    reader._send(pack(">HIHI", DELIVERY, 6, 0, 0))
    with pytest.raises(BrokenRing, match="it brought slot 0, which is not its to write"):
        ring.collect()


def test_a_slot_is_the_childs_again_only_when_it_has_been_told_so(both_ways: Ring) -> None:
    # So nobody who brings the same slot again and again has the server copy for ever.
    reader = reader_of(both_ways)
    reader.deliver(b"", b"one")
    both_ways.collect()
    reader.room.appendleft(0)
    reader.deliver(b"", b"the same slot")
    with pytest.raises(BrokenRing, match="it brought slot 0, which is not its to write"):
        both_ways.collect()


def test_a_slot_is_not_the_childs_while_its_own_message_waits_to_be_sent(both_ways: Ring) -> None:
    reader = reader_of(both_ways)
    both_ways.tell(bytes(4 << 20))
    assert not both_ways.flush()
    reader.deliver(b"", b"one")
    both_ways.collect()
    reader._socket.recv(1 << 20)
    assert not both_ways.flush(), "some of it was sent"
    reader.room.appendleft(0)
    reader.deliver(b"", b"the same slot")
    with pytest.raises(BrokenRing, match="it brought slot 0, which is not its to write"):
        both_ways.collect()


def test_a_slot_is_the_childs_as_soon_as_its_own_message_is_sent_whatever_waits_behind_it(both_ways: Ring) -> None:
    reader = reader_of(both_ways)
    reader.deliver(b"", b"one")
    both_ways.collect()
    both_ways.tell(bytes(1 << 20))
    assert not both_ways.flush()
    assert reader.receive(0.1) == []
    assert list(reader.room) == [1, 0]
    reader.room.rotate(1)
    reader.deliver(b"", b"two")
    assert both_ways.collect() == [Delivery(b"", b"two")]


def test_closing_a_ring_gives_up_all_that_it_had() -> None:
    before = set(os.listdir("/proc/self/fd"))
    ring = Ring(slots=1, slot_bytes=10, own_slots=1, own_slot_bytes=10)
    ring.close()
    ring.close()
    assert set(os.listdir("/proc/self/fd")) == before


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
