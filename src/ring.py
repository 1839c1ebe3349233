"""Slots of shared memory and short messages between the server and a child process: both ends.

Rule 1. A slot is not written again before the child has given it back. Without a free slot the server keeps its frame.
Rule 2. The server's end never waits. The child can neither write to the memory nor change its size.
Rule 3. What a child sends is checked like a stranger's: a child may run somebody's plug-in.
Rule 4. A child that brings images has slots of its own for them, in a memory that it writes. The server copies what
        lies in one when it hears of it, and gives the slot back: once it has checked something, the child cannot change
        it. It maps none of that memory, which the child may cut short at any time.

Server to child, integers in network byte order::

    u16 slot | u32 length | u64 sequence                     the first `length` bytes of this slot
    u16 FFFF | u32 length | u64 sequence | length bytes      a control message, told in order with the slots
    u16 FFFE | u32 slot | u64 0                              this slot of the child's own may be written again

Child to server::

    u16 slot                                                 the slot may be written again
    u16 FFFF | u32 length | length bytes                     an answer: a result, a small picture
    u16 FFFE | u32 length | length bytes                     it is ready to work (no bytes)
    u16 FFFD | u32 length | length bytes                     it can not work: why, in UTF-8
    u16 FFFC | u32 length | u16 slot | u32 n | length - 6 bytes
                                                             a delivery: these bytes, and the first n of its own slot
"""

import ctypes
import mmap
import os
import select
import signal
import sys
import tempfile

# The C type itself: what eventlet puts into `socket` would make the child's end non-blocking as well.
from _socket import socket as Socket
from _socket import socketpair
from collections import deque
from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple, Self

Buffer = bytes | bytearray | memoryview

_MESSAGE: Final = Struct(">HIQ")
_SLOT: Final = Struct(">H")
_ANSWER: Final = Struct(">HI")
_DELIVERY: Final = Struct(">HI")

CONTROL: Final = 0xFFFF
RETURNED: Final = 0xFFFE
ANSWER: Final = 0xFFFF
READY: Final = 0xFFFE
FAILED: Final = 0xFFFD
DELIVERY: Final = 0xFFFC

MAX_SLOTS: Final = 1024
#: The longest answer of a child: a thumbnail or a plug-in's result. It is held in memory until it is whole.
MAX_ANSWER_BYTES: Final = 1 << 20
_RECEIVE_BYTES: Final = 1 << 16
#: Then others have their turn, however much a child has to say.
_RECEIVES_A_TURN: Final = 32
_PR_SET_PDEATHSIG: Final = 1


class BrokenRing(Exception):
    """The other end sends what nobody may send, or is not the one that was expected."""


class FrameHeader(NamedTuple):
    """What stands before the image in a slot that carries a frame.

    In network byte order: u64 stream | u64 seq | f64 received_at | u32 width | u32 height | u8 n | n bytes name
    """

    stream_id: int
    seq: int
    received_at: float
    width: int
    height: int
    name: str

    def pack(self) -> bytes:
        name = self.name.encode()
        return _FRAME.pack(self.stream_id, self.seq, self.received_at, self.width, self.height, len(name)) + name

    @classmethod
    def unpack(cls, slot: memoryview) -> tuple[Self, memoryview]:
        """The header, and the image that follows it, still in its slot."""
        stream_id, seq, received_at, width, height, length = _FRAME.unpack_from(slot)
        image_at = _FRAME.size + length
        name = str(slot[_FRAME.size : image_at], "utf-8")
        return cls(stream_id, seq, received_at, width, height, name), slot[image_at:]


_FRAME: Final = Struct(">QQdIIB")
#: The longest header: a slot must hold it and the largest image.
MAX_FRAME_HEADER_BYTES: Final = _FRAME.size + 255


class Answer(NamedTuple):
    """What a child sent besides the slots that it gave back; `kind` is `ANSWER`, `READY` or `FAILED`, and on its way
    to be a `Delivery` also `DELIVERY`."""

    kind: int
    data: bytes


class Delivery(NamedTuple):
    """What a child brought: a header, and an image from a slot of its own."""

    header: bytes
    body: bytes


class AnswerParser:
    """Splits what a child sends into slot numbers and answers, however the bytes were cut on their way."""

    def __init__(self, max_answer_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[int | Answer]:
        """Parse what came, and keep an unfinished end for the next time.

        Raises:
            BrokenRing: an answer is longer than it may be.
        """
        data = self._rest + data
        at = 0
        while len(data) - at >= _SLOT.size:
            (slot,) = _SLOT.unpack_from(data, at)
            if slot < DELIVERY:
                yield slot
                at += _SLOT.size
                continue
            if len(data) - at < _ANSWER.size:
                break
            kind, length = _ANSWER.unpack_from(data, at)
            if length > self._max_answer_bytes:
                raise BrokenRing(f"an answer of {length} bytes came, at most {self._max_answer_bytes} are taken")
            end = at + _ANSWER.size + length
            if len(data) < end:
                break
            yield Answer(kind, data[at + _ANSWER.size : end])
            at = end
        self._rest = data[at:]


class Ring:
    """The server's end: writes frames into free slots, sends messages about them, reads what comes back.

    Args:
        slots: how many frames the child may have at once.
        slot_bytes: the largest payload. Pages of the memory are taken from the machine only once they are written.
        max_answer_bytes: the longest answer that is taken from the child.
        own_slots: how many slots the child has of its own, for deliveries.
        own_slot_bytes: the largest body of a delivery.

    Attributes:
        free: slots that may be written.
        held: sequence numbers of the messages whose slots the child has, by slot, the oldest first.
        returned: how many slots came back.
        answered: how many answers and deliveries.
    """

    def __init__(
        self,
        slots: int,
        slot_bytes: int,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        own_slots: int = 0,
        own_slot_bytes: int = 0,
    ) -> None:
        if not (0 < slots <= MAX_SLOTS and 0 <= own_slots <= MAX_SLOTS):
            raise ValueError(f"{slots} slots and {own_slots} of the child's own, expected 1 to {MAX_SLOTS}")
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.free = list(range(slots))
        self.held: dict[int, int] = {}
        self.returned = 0
        self.answered = 0
        self._slots = slots
        self._sequence = 0
        self._outbox = bytearray()
        self._answers = AnswerParser(max_answer_bytes)
        self._own_slots = own_slots
        self._own_slot_bytes = own_slot_bytes
        self._own_in_hand = set(range(own_slots))  # the child may write these
        self._own_returning: deque[tuple[int, int]] = deque()  # the others, each with where its message ends …
        self._said_bytes = 0  # … in all that was ever said
        self._own_memory = -1
        self._memory, self._child_memory = _shared_memory(slots * self.slot_bytes)
        if own_slots:
            self._own_memory = _own_memory()
        self._socket, self._child_socket = socketpair()
        self._socket.setblocking(False)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the child must inherit, under the same numbers."""
        own = (self._own_memory,) if self._own_slots else ()
        return self._child_socket.fileno(), self._child_memory, *own

    @property
    def argument(self) -> str:
        """What the child's end needs to know, as a command line argument for `RingReader.attach`."""
        own = (self._own_memory, self._own_slots, self._own_slot_bytes)
        connection = self._child_socket.fileno()
        return ":".join(map(str, (connection, self._child_memory, self._slots, self.slot_bytes, *own, os.getpid())))

    def close_child_end(self) -> None:
        """Give up the child's descriptors once it has inherited them, or its end would never look closed."""
        if self._child_memory >= 0:
            self._child_socket.close()
            os.close(self._child_memory)
            self._child_memory = -1

    def fileno(self) -> int:
        return self._socket.fileno()

    def put(self, header: bytes, body: Buffer) -> int:
        """Write a payload into a free slot; `flush` sends word of it.

        Returns:
            its sequence number.

        Raises:
            ValueError: the payload does not fit into a slot.
        """
        head, length = len(header), len(header) + len(body)
        if length > self.slot_bytes:
            raise ValueError(f"a payload of {length} bytes, a slot holds {self.slot_bytes}")
        slot = self.free.pop()
        at = slot * self.slot_bytes
        self._memory[at : at + head] = header
        self._memory[at + head : at + length] = body
        self._sequence += 1
        self.held[slot] = self._sequence
        self._outbox += _MESSAGE.pack(slot, length, self._sequence)
        return self._sequence

    def tell(self, control: bytes) -> int:
        """Say a control message, in order with the payloads; `flush` sends it. Returns its sequence number."""
        self._sequence += 1
        self._outbox += _MESSAGE.pack(CONTROL, len(control), self._sequence) + control
        return self._sequence

    def flush(self) -> bool:
        """Send what was put and told, as much of it as the socket takes now; returns whether that was all.

        Raises:
            EOFError: the child has gone.
        """
        while self._outbox:
            try:
                sent = self._socket.send(self._outbox)
            except BlockingIOError:
                return False
            except OSError:
                raise EOFError from None
            del self._outbox[:sent]
            self._said_bytes += sent
            while self._own_returning and self._own_returning[0][1] <= self._said_bytes:
                self._own_in_hand.add(self._own_returning.popleft()[0])
        return True

    def collect(self) -> list[Answer | Delivery]:
        """Take back the slots that the child has returned, and what it answered and brought; does not wait for more.

        `flush` gives it back the slots of what it brought. Before that it can bring no more, so that nobody has to copy
        more than these hold.

        Raises:
            EOFError: the child has gone, and all that it said before has been returned.
            BrokenRing: it sent nonsense.
        """
        answers: list[Answer | Delivery] = []
        for _ in range(_RECEIVES_A_TURN):
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return answers
            except OSError:
                data = b""
            if not data:
                if answers:
                    return answers
                raise EOFError
            for item in self._answers.feed(data):
                if isinstance(item, Answer):
                    answers.append(self._received(item.data) if item.kind == DELIVERY else item)
                    self.answered += 1
                elif self.held.pop(item, None) is None:
                    raise BrokenRing(f"it gave back slot {item}, which it does not have")
                else:
                    self.free.append(item)
                    self.returned += 1
            if len(data) < _RECEIVE_BYTES:
                break
        return answers

    def _received(self, data: bytes) -> Delivery:
        try:
            slot, length = _DELIVERY.unpack_from(data)
        except StructError:
            raise BrokenRing(f"a delivery of {len(data)} bytes came, expected at least {_DELIVERY.size}") from None
        if slot not in self._own_in_hand:
            raise BrokenRing(f"it brought slot {slot}, which is not its to write")
        if length > self._own_slot_bytes:
            raise BrokenRing(f"it brought {length} bytes, a slot holds {self._own_slot_bytes}")
        body = os.pread(self._own_memory, length, slot * self._own_slot_bytes)
        if len(body) < length:
            raise BrokenRing(f"it brought {length} bytes, and its memory ends after {len(body)}")
        self._own_in_hand.remove(slot)
        self._outbox += _MESSAGE.pack(RETURNED, slot, 0)
        self._own_returning.append((slot, self._said_bytes + len(self._outbox)))
        return Delivery(data[_DELIVERY.size :], body)

    @property
    def owed(self) -> tuple[int, int] | None:
        """What the child has yet to deal with, None when there is nothing.

        While this stays the same and is not None, the child gets nowhere.
        """
        return (next(iter(self.held.values()), 0), len(self._outbox)) if self.held or self._outbox else None

    def say_goodbye(self) -> None:
        """Let the child read the end of the stream; what it still returns can be collected."""
        try:
            self._socket.shutdown(1)  # SHUT_WR
        except OSError:
            pass  # it has gone already

    def close(self) -> None:
        """Harmless when it is closed."""
        self.close_child_end()
        self._socket.close()
        self._memory.close()
        if self._own_memory >= 0:
            os.close(self._own_memory)
            self._own_memory = -1


def _shared_memory(size: int) -> tuple[mmap.mmap, int]:
    """Memory to write, and a descriptor with which it can be mapped for reading only."""
    if sys.platform == "linux":
        writable = os.memfd_create("ring", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{writable}"
    else:
        writable, path = tempfile.mkstemp(prefix="ring-")
    try:
        readable = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(writable, size)
            return mmap.mmap(writable, size), readable
        except BaseException:
            os.close(readable)
            raise
    finally:
        os.close(writable)  # the map has a descriptor of its own
        if sys.platform != "linux":
            os.unlink(path)


def _own_memory() -> int:
    """Memory for a child to write, and for the server to read: a descriptor for both."""
    if sys.platform == "linux":
        return os.memfd_create("ring", os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp(prefix="ring-")
    os.unlink(path)
    return descriptor


class Message(NamedTuple):
    """What a child receives: the payload of a slot, or a control message (`slot` is None).

    The payload is valid until the slot is given back.
    """

    slot: int | None
    sequence: int
    payload: memoryview


class OwnSlots(NamedTuple):
    """A memory that a child writes: its descriptor, how many slots it has, and how large they are."""

    descriptor: int
    slots: int
    slot_bytes: int


NO_OWN_SLOTS: Final = OwnSlots(-1, 0, 0)


class RingReader:
    """The child's end: receives messages, gives slots back, answers, delivers. It blocks, and belongs to one thread;
    but another one may answer and deliver, if it is the only one that does.

    Attributes:
        room: the child's own slots that may be written.
        room_bytes: what each of them holds.
    """

    def __init__(
        self, connection: Socket, memory: mmap.mmap, slots: int, slot_bytes: int, own: OwnSlots = NO_OWN_SLOTS
    ) -> None:
        self._socket = connection
        self._socket.setblocking(True)
        self._poll = select.poll()  # not select(): a busy server hands down descriptors beyond its 1,024
        self._poll.register(connection.fileno(), select.POLLIN)
        self._memory = memoryview(memory)
        self._slots = slots
        self._slot_bytes = slot_bytes
        self._own = own
        self.room = deque(range(own.slots))
        self.room_bytes = own.slot_bytes
        self._came_back = 0  # slots for deliveries, so far
        self._received = b""

    @classmethod
    def attach(cls, argument: str) -> Self:
        """Become the child that a `Ring.argument` was written for: tied to the server's life, deaf to Ctrl-C.

        The terminal sends Ctrl-C to the whole group, but when to end is for the server to say, by closing its end. When
        the server is killed the kernel closes it, and on Linux ends the child even where that is busy elsewhere.
        """
        descriptor, memory, slots, slot_bytes, *own, parent = map(int, argument.split(":"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise BrokenRing("the server has gone")
        os.set_inheritable(descriptor, False)  # the server sees the end when this process ends, whoever it has started
        if own[0] >= 0:
            os.set_inheritable(own[0], False)
        try:
            mapped = mmap.mmap(memory, slots * slot_bytes, access=mmap.ACCESS_READ)
        finally:
            os.close(memory)
        return cls(Socket(fileno=descriptor), mapped, slots, slot_bytes, OwnSlots(*own))

    def receive(self, timeout_sec: float | None = None) -> list[Message]:
        """Everything that has come, at least one message; nothing when the time is over first, or when only slots for
        deliveries came back.

        Raises:
            EOFError: the server has closed its end: the child's work is done.
        """
        deadline_ms = None if timeout_sec is None else timeout_sec * 1000
        while True:
            if not self._poll.poll(deadline_ms):
                return []
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise EOFError
            self._received += data
            came_back = self._came_back
            if (messages := list(self._parsed())) or self._came_back > came_back:
                return messages

    def _parsed(self) -> Iterator[Message]:
        data, at = self._received, 0
        while len(data) - at >= _MESSAGE.size:
            slot, length, sequence = _MESSAGE.unpack_from(data, at)
            begin = at + _MESSAGE.size
            if slot == CONTROL:
                if len(data) - begin < length:
                    break
                yield Message(None, sequence, memoryview(data)[begin : begin + length])
                at = begin + length
            elif slot == RETURNED:
                self.room.append(length)
                self._came_back += 1
                at = begin
            else:
                in_memory = slot * self._slot_bytes
                yield Message(slot, sequence, self._memory[in_memory : in_memory + length])
                at = begin
        self._received = data[at:]

    def give_back(self, *slots: int) -> None:
        """Let the server write these slots again; their payloads must not be looked at any more."""
        self._send(b"".join(map(_SLOT.pack, slots)))

    def answer(self, data: bytes) -> None:
        self._send(_ANSWER.pack(ANSWER, len(data)) + data)

    def deliver(self, header: bytes, body: Buffer) -> None:
        """Bring an image, in a slot of which there must be `room`.

        Raises:
            ValueError: it does not fit into a slot.
        """
        if len(body) > self.room_bytes:
            raise ValueError(f"{len(body)} bytes to deliver, a slot holds {self.room_bytes}")
        slot = self.room.popleft()
        left, at = memoryview(body), slot * self.room_bytes
        while left:
            written = os.pwrite(self._own.descriptor, left, at)
            left, at = left[written:], at + written
        said = _DELIVERY.pack(slot, len(body)) + header
        self._send(_ANSWER.pack(DELIVERY, len(said)) + said)

    def ready(self) -> None:
        """Say that work may come."""
        self._send(_ANSWER.pack(READY, 0))

    def failed(self, reason: str) -> None:
        """Say why this child can not work; it should end next."""
        data = reason.encode()
        self._send(_ANSWER.pack(FAILED, len(data)) + data)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
