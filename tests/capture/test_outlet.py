"""A real ring between an outlet and what would be the server."""

import mmap
import os
import threading
import time
from collections.abc import Iterator

import pytest

from capture import wire
from capture.outlet import ALIVE_SEC, Outlet
from ring import ANSWER, Answer, Delivery, OwnSlots, Ring, RingReader, Socket

SLOTS = 2


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(slots=1, slot_bytes=1, own_slots=SLOTS, own_slot_bytes=1000)
    yield ring
    ring.close()


@pytest.fixture
def reader(ring: Ring) -> RingReader:
    connection, memory, own = (os.dup(descriptor) for descriptor in ring.descriptors)
    ring.close_child_end()
    mapped = mmap.mmap(memory, ring.slot_bytes, access=mmap.ACCESS_READ)
    return RingReader(Socket(fileno=connection), mapped, 1, ring.slot_bytes, OwnSlots(own, SLOTS, 1000))


@pytest.fixture
def outlet(reader: RingReader) -> Outlet:
    return Outlet(reader)


def brought(ring: Ring) -> list[tuple[bytes, int, int]]:
    """What has come, and what is told of pictures that did not."""
    return [
        (item.body, *wire.Counts.unpack(item.header)) for item in ring.collect() if isinstance(item, Delivery)
    ]  # fmt: skip


def test_while_there_is_no_room_the_newest_picture_waits_and_the_others_are_counted(
    ring: Ring, reader: RingReader, outlet: Outlet
) -> None:
    for picture in (b"1", b"2", b"3", b"4", b"5"):
        outlet.put(picture)
    assert brought(ring) == [(b"1", 0, 0), (b"2", 0, 0)]
    ring.flush()
    reader.receive()
    outlet.use_room()
    assert brought(ring) == [(b"5", 0, 2)]


def test_room_without_a_picture_is_no_harm(ring: Ring, outlet: Outlet) -> None:
    outlet.use_room()
    outlet.put(b"1")
    assert brought(ring) == [(b"1", 0, 0)]


def test_pictures_that_were_not_wanted_are_told_with_the_next_one(ring: Ring, outlet: Outlet) -> None:
    outlet.skip()
    outlet.skip()
    outlet.put(b"1")
    outlet.put(b"2")
    assert brought(ring) == [(b"1", 2, 0), (b"2", 0, 0)]


def test_a_picture_that_waits_does_not_outlive_its_video(ring: Ring, reader: RingReader, outlet: Outlet) -> None:
    for picture in (b"1", b"2", b"3"):
        outlet.put(picture)
    outlet.forget()
    brought(ring)
    ring.flush()
    reader.receive()
    outlet.use_room()
    outlet.put(b"4")
    assert brought(ring) == [(b"4", 0, 1)]


def test_a_picture_larger_than_a_slot_is_only_told_of(ring: Ring, outlet: Outlet) -> None:
    outlet.put(bytes(1001))
    (answer,) = ring.collect()
    assert answer == Answer(ANSWER, wire.pack_size(1001))
    assert wire.unpack_size(wire.pack_size(1001)[1:]) == 1001


def test_it_says_that_it_is_at_work_when_it_has_said_nothing_for_a_while(ring: Ring, outlet: Outlet) -> None:
    now = time.monotonic()
    outlet.put(b"1")
    outlet.skip()
    outlet.stay_alive(now + ALIVE_SEC / 2)
    assert len(ring.collect()) == 1
    outlet.stay_alive(now + 2 * ALIVE_SEC)
    outlet.stay_alive(now + 2.1 * ALIVE_SEC)
    assert ring.collect() == [Answer(ANSWER, bytes([wire.ALIVE]) + wire.Counts(1, 0).pack())]


def test_two_threads_lose_nothing(ring: Ring, reader: RingReader, outlet: Outlet) -> None:
    count, heard = 2_000, []

    def put() -> None:
        for number in range(count):
            outlet.put(b"%d" % number)

    def serve() -> None:
        while not heard or heard[-1][0] != b"%d" % (count - 1):
            heard.extend(brought(ring))
            ring.flush()

    threads = [threading.Thread(target=put), threading.Thread(target=serve)]
    for thread in threads:
        thread.start()
    while threads[1].is_alive():
        reader.receive(0.01)
        outlet.use_room()
    threads[0].join()
    numbers = [int(body) for body, *_ in heard]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(replaced for *_, replaced in heard) == count
