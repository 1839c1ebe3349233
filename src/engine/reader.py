"""The reader of WebSocket (RFC 6455), the server's side: received bytes become messages; no sockets.

A client's frame, section 5.2; lengths are big-endian, and a client always masks:

    FIN RSV1 RSV2 RSV3 opcode(4) | MASK length(7) | [length 16 or 64] | mask(32) | payload

Images take a short way. Nearly all that ever comes is one Socket.IO event, in two messages:

    451-["receiveImage",{"_placeholder":true,"num":0}]       text; an ack's number may stand before the bracket
    ff d8 ff …                                               binary; 04 comes first with Engine.IO 3

The reader knows them by their bytes, asks whether the image may come before it unmasks or copies it, and gives it out
as one `IMAGE`. Whatever looks different in any way goes the long way, through the decoders that know all of Socket.IO.
"""

import codecs
import re
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from websockets.speedups import apply_mask

if TYPE_CHECKING:
    from engine.transport import Transport

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, NO_STATUS, INVALID_DATA, TOO_BIG = 1000, 1002, 1005, 1007, 1009

#: What a reader gives out beside messages, see `MessageReader`; no opcodes.
IMAGE, REFUSED = 0x10, 0x11

#: Who has not sent an image yet is received from in pieces of this; and what is held of a message counts from here on.
FIRST_BUFFER_BYTES: Final = 64 * 1024
#: Of what one receive brings, so many WebSocket frames are read before others have their turn: 64 KB hold 10,000 pings,
#: and reading and answering all of them stops everybody for 0.1 s. Images do not come in such numbers.
FRAMES_PER_TURN: Final = 64
#: The first room for a frame of which next to nothing has come.
FIRST_IMAGE_BYTES: Final = 4 * 1024
#: The longest text that announces an image and takes the short way: its length fits into the header's second byte.
MAX_ANNOUNCEMENT_BYTES: Final = 125
#: After an image of more than this …
LARGE_IMAGE_BYTES: Final = 128 * 1024
#: … and after a refused one so little is received with what announces the next one. Of one that is refused nothing is
#: copied then, and a large one is received where it belongs, and not copied there.
FEW_BYTES: Final = 512

#: Headers: of a payload of up to 125 bytes, of up to 64 KiB, and of more; the first byte, the length and the mask.
_TINY: Final = Struct(">BB4s")
_SMALL: Final = Struct(">BxH4s")
_LARGE: Final = Struct(">BxQ4s")

Buffer = bytes | bytearray | memoryview
#: `(opcode, payload)`, `(IMAGE, image, number, event)` or `(REFUSED, refusal, number, event)`.
Message = tuple[Any, ...]
new_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


class WebSocketError(Exception):
    """The peer broke the protocol or a limit; the connection closes with `code` (section 7.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ImageSink(Protocol):
    """Takes the images of one client that come the short way. Nothing here may wait."""

    def admit(self, size: int, event: str | None) -> object | None:
        """Whether an image of so many bytes may come: None, or why not. Asked before anything of it is looked at."""

    def take(self, image: bytes, event: str | None) -> object | None:
        """An admitted image has come: None, or why it is refused all the same."""

    def refuse(self, refusal: Any) -> None:
        """All bytes of an image that was not admitted have gone by."""

    def answer(self, refusal: Any) -> str:
        """What an ack says of the image that was just taken or refused, as JSON."""


class Announcements:
    """How the text looks that announces an image as the one argument, or the first of two, of an event.

    Attributes:
        before: all up to the bracket, and the ack's number.
        heads: of what follows the number; clients write the placeholder's two keys in either order.
        plain: the most usual one, without a number.
        shortest: the length of the shortest.
    """

    before: Final = b"451-"

    def __init__(self, event: str) -> None:
        name = b'["%s",' % event.encode()
        self.heads = (name + b'{"_placeholder":true,"num":0}', name + b'{"num":0,"_placeholder":true}')
        # An event as second argument; what JSON would write in another way is left to the decoders.
        self._match = re.compile(
            rb'451-(0|[1-9][0-9]{0,14})?(?:%s|%s)(?:,"([ !#-\[\]-~]{1,64})")?\]' % tuple(map(re.escape, self.heads))
        ).fullmatch
        self.plain = self.before + self.heads[0] + b"]"
        self.shortest = len(self.plain)

    def read(self, text: bytes) -> tuple[str | None, str | None] | None:
        """The ack's number and the event of an announcement, as far as it has them; None when it is none."""
        match = self._match(text)
        if match is None:
            return None
        number, event = match.groups()
        return None if number is None else number.decode(), None if event is None else event.decode()


class MessageReader:
    """Turns received bytes into messages, in whatever pieces they come.

    The caller receives into `buffers()` and says how much came: the rest of a frame under way goes straight into its
    own buffer, what follows it into a scratch buffer that all connections share, and of which those get more than
    `FIRST_BUFFER_BYTES` that have sent an image. So `received` leaves nothing in
    there: as soon as it returns, another connection may receive.

    Text that is not UTF-8 is noticed at its first wrong byte while its message is still under way; of a message that
    is there as soon as it begins, that is left to who decodes it.

    Images are known by their announcement while there is a `sink`, and as long as nothing else came: any other message
    may change what the next one means (it may be the login), so that from there on everything is given out as it is,
    until `resume` says that it has been handled. An image under way whose frame is whole: `(IMAGE, image, number,
    event)`, with the ack's number as text, None where no ack is asked for. One that the sink did not admit:
    `(REFUSED, refusal, number, event)`, when its bytes have gone by; nobody kept them.

    Args:
        max_message_bytes: limit of a message's payload, all fragments together.
        scratch: the shared buffer, at least 14 bytes (the longest header), and `MAX_ANNOUNCEMENT_BYTES` for images.
        max_text_bytes: the limit of text, when it is another one.
        hold: told how many bytes are held of the message under way, whenever that changes; up to `FIRST_BUFFER_BYTES`
            are not worth telling, and said to be 0.
        announcements: what announces an image.
        prefix: what an image's message begins with, and is no part of it: nothing or one byte.

    Attributes:
        more: what came holds more than is read in one turn, or an error behind what was read; call `received(0)` for
            it before receiving again.
        missing: so many bytes of the frame under way are still to come.
        skipping: they belong to a refused image: receive and forget them, and say so with `skipped`.
    """

    __slots__ = (
        "_announced", "_announcements", "_decoded", "_decoder", "_error", "_filled", "_first_byte", "_held", "_hold",
        "_last_image_bytes", "_leftover", "_length", "_mask", "_max", "_max_text", "_message", "_message_opcode",
        "_payload", "_prefix", "_refusal", "_scratch", "_short", "_sink", "_wary", "missing", "more", "skipping",
    )  # fmt: skip

    def __init__(
        self,
        max_message_bytes: int,
        scratch: bytearray,
        max_text_bytes: int | None = None,
        hold: Callable[[int], object] | None = None,
        announcements: Announcements | None = None,
        prefix: bytes = b"",
    ) -> None:
        self._max = max_message_bytes
        self._max_text = max_message_bytes if max_text_bytes is None else max_text_bytes
        self._hold = hold or _not_counted
        self._scratch = memoryview(scratch)
        self._announcements = announcements
        self._prefix = prefix
        self._sink: ImageSink | None = None
        self._short = False  # images are known by their announcement
        self.more = False
        self.missing = 0
        self.skipping = False
        self._held = 0
        self._error: WebSocketError | None = None
        self._leftover = b""  # the beginning of a header or an announcement, or what the next turn is for
        self._payload: bytearray | None = None  # of the frame under way
        self._filled = 0
        self._length = 0
        self._mask = b""
        self._first_byte = 0
        self._message: bytearray | None = None  # the fragments so far
        self._message_opcode = 0
        self._decoder: codecs.IncrementalDecoder | None = None  # of the text under way
        self._decoded = -1  # so much of the frame under way has been through it; -1 when it is not text
        self._announced: Any = None  # text, number and event of the announcement whose image is due or under way
        self._refusal: object = None  # of the image that is skipped
        self._wary = False  # the last image was refused
        self._last_image_bytes = 0

    def resume(self, sink: ImageSink | None) -> None:
        """All that was given out has been handled: from now on images may take the short way to this sink."""
        self._sink = sink
        self._short = sink is not None and self._announcements is not None
        self._wary = False

    def receive(self, transport: "Transport") -> list[Message] | None:
        """Receive once, and see what it completes; None at the end. What has come before and was not read in its turn
        is read instead.

        Raises:
            WebSocketError: as `received`.
            OSError: as the transport's.
        """
        if self.more:
            return self.received(0)
        if self.skipping:
            count = transport.skip(self.missing)
            return self.skipped(count) if count else None
        if self._payload is not None:
            self._make_room(self._payload)
            if self._payload is None:
                return []  # it has been told to forget it
        count = transport.receive_into(self.buffers())
        return self.received(count) if count else None

    def _make_room(self, payload: bytearray) -> None:
        """Before more of a frame is received: an announced length alone gets next to no memory, what has begun to come
        twice as much as is there. An image gets four times as much, and a camera whose last image was as large will
        send all of this one too.

        Not sooner, as it is waited for until it is there: a crowd of cameras would have their memory twice.
        """
        if self._announced is not None:
            wanted = max(4 * self._filled, self._last_image_bytes * 3 // 2)
        else:
            wanted = 2 * self._filled
        wanted = min(self._length, max(FIRST_IMAGE_BYTES, wanted))
        if len(payload) < wanted:
            grown = bytearray(wanted)
            grown[: self._filled] = memoryview(payload)[: self._filled]
            self._payload = grown
            self._tell_held()

    def buffers(self) -> tuple[memoryview, ...]:
        """Where the next bytes belong, in this order."""
        payload = self._payload
        if payload is None:
            kept = len(self._leftover)
            if kept:
                self._scratch[:kept] = self._leftover
            return (self._room(kept),)
        rest = memoryview(payload)[self._filled :]
        if len(payload) < self._length:
            return (rest,)
        return (rest, self._room(0))

    def _room(self, start: int) -> memoryview:
        """The part of the scratch to receive into, from `start` on."""
        if self._wary or self._last_image_bytes > LARGE_IMAGE_BYTES:
            return self._scratch[start : start + FEW_BYTES]
        # As much as one turn acts on: what came beyond that would have to be kept aside.
        size = max(FIRST_BUFFER_BYTES, FRAMES_PER_TURN * self._last_image_bytes)
        return self._scratch[start : start + size]

    def received(self, count: int) -> list[Message]:
        """Take note of bytes received into `buffers()`; returns the messages that they complete, control frames among
        them.

        Raises:
            WebSocketError: close with its code; the reader is of no further use.
        """
        if self._error is not None:
            raise self._error
        messages: list[Message] = []
        end = count
        if self._payload is not None:
            end = self._receive_payload(messages, count)
            if end < 0:
                return messages
        elif self._leftover:
            kept = len(self._leftover)
            if not count:  # others have used the scratch since
                self._scratch[:kept] = self._leftover
            end += kept
        try:
            self._receive_frames(messages, end)
        except WebSocketError as error:
            if not messages:
                raise
            # What came before was good, and is answered first.
            self._error = error
            self.more = True
        if self._held or len(self._leftover) > FIRST_BUFFER_BYTES:
            self._tell_held()
        return messages

    def skipped(self, count: int) -> list[Message]:
        """So many bytes of what is to be skipped have gone by."""
        self.missing -= count
        if self.missing:
            return []
        return [self._end_skipping()]

    def _receive_payload(self, messages: list[Message], count: int) -> int:
        """Take note of bytes of the frame under way; returns how many lie in the scratch behind it, -1 when it is not
        whole yet."""
        payload = self._payload
        assert payload is not None
        taken = min(count, len(payload) - self._filled)
        filled = self._filled = self._filled + taken
        if filled < self._length:
            self.missing = self._length - filled
            if filled == len(payload):
                grown = bytearray(min(self._length, 2 * filled))
                grown[:filled] = payload
                self._payload = grown
                self._tell_held()
                if self._payload is None:
                    return -1  # it has been told to forget it
            if self._decoded >= 0:
                self._check_frame_so_far()
            return -1
        self._payload = None
        self.missing = 0
        if self._announced is not None and not self._first_byte & CLOSE:
            self._add_image(messages, payload, self._mask)
        else:
            self._add_frame(messages, self._first_byte, apply_mask(payload, self._mask))
        return count - taken

    def _receive_frames(self, messages: list[Message], end: int) -> None:
        data = self._scratch
        self._leftover = b""
        self.more = False
        position = 0
        for _ in range(FRAMES_PER_TURN):
            if self._short and self._message is None:
                position = self._read_images(messages, data, position, end)
                if position < 0:
                    return
            if len(messages) >= FRAMES_PER_TURN:
                break
            start = self._read_header(messages, data, position, end)
            if start < 0:
                self._leftover = bytes(data[position:end])
                return
            stop = start + self._length
            if stop > end:
                self._begin_payload(data, start, end)
                return
            self._add_frame(messages, self._first_byte, apply_mask(data[start:stop], self._mask))
            position = stop
        if position < end:
            self._leftover = bytes(data[position:end])
            self.more = True

    def _read_images(self, messages: list[Message], data: memoryview, position: int, end: int) -> int:
        """Read images from `position` on; returns where something else begins, -1 when nothing is left to read."""
        announcements, sink, prefix = self._announcements, self._sink, len(self._prefix)
        assert announcements is not None
        assert sink is not None
        while len(messages) < FRAMES_PER_TURN:
            if self._announced is None:
                start = position + _TINY.size
                if end < start:
                    return position if end - position < 2 else self._keep_announcement(data, position, start, end)
                first, size, mask = _TINY.unpack_from(data, position)
                size -= 0x80
                if first != 0x80 | TEXT or not announcements.shortest <= size <= MAX_ANNOUNCEMENT_BYTES:
                    return position
                stop = start + size
                if stop > end:
                    return self._keep_announcement(data, position, start, end)
                text = apply_mask(data[start:stop], mask)
                if text == announcements.plain:
                    self._announced = (text, None, None)
                elif (read := announcements.read(text)) is not None:
                    self._announced = (text, *read)
                else:
                    return position
                position = stop
            rest = end - position
            if rest < _TINY.size:
                return position
            first, length, mask = _TINY.unpack_from(data, position)
            if first != 0x80 | BINARY or length < 0x80:
                return position
            start = position + _TINY.size
            if length == 0xFE:
                if rest < _SMALL.size:
                    return position
                _, length, mask = _SMALL.unpack_from(data, position)
                start = position + _SMALL.size
            elif length == 0xFF:
                if rest < _LARGE.size:
                    return position
                _, length, mask = _LARGE.unpack_from(data, position)
                start = position + _LARGE.size
            else:
                length -= 0x80
            if length < prefix or length > self._max:
                return position
            if prefix:
                if start == end:
                    return self._keep(data, position, end)
                if data[start] ^ mask[0] != self._prefix[0]:
                    return position
            stop = start + length
            refusal = sink.admit(length - prefix, self._announced[2])
            if refusal is not None:
                self._refusal = refusal
                if stop > end:
                    self.skipping = True
                    self.missing = stop - end
                    return -1
                messages.append(self._end_skipping())
            elif stop > end:
                self._mask = mask
                self._first_byte = first
                self._length = length
                self._begin_payload(data, start, end)
                return -1
            else:
                self._add_image(messages, data[start:stop], mask)
            position = stop
            if position == end:
                return -1
        return position

    def _keep_announcement(self, data: memoryview, position: int, start: int, end: int) -> int:
        """Keep the beginning of what may announce an image; what cannot is read at once, as any text is."""
        assert self._announcements is not None
        size = data[position + 1] - 0x80
        if data[position] != 0x80 | TEXT or not self._announcements.shortest <= size <= MAX_ANNOUNCEMENT_BYTES:
            return position
        if end > start:
            so_far = apply_mask(data[start:end], bytes(data[start - 4 : start]))
            before = self._announcements.before
            if not so_far.isascii() or so_far[: len(before)] != before[: len(so_far)]:
                return position
        return self._keep(data, position, end)

    def _keep(self, data: memoryview, position: int, end: int) -> int:
        self._leftover = bytes(data[position:end])
        return -1

    def _add_image(self, messages: list[Message], masked: Buffer, mask: bytes) -> None:
        if self._prefix:
            masked = memoryview(masked)[1:]
            mask = mask[1:] + mask[:1]
        image = apply_mask(masked, mask)
        _, number, event = self._announced
        messages.append((IMAGE, image, number, event))
        self._announced = None
        self._wary = False
        self._last_image_bytes = len(image)

    def _end_skipping(self) -> Message:
        _, number, event = self._announced
        refusal = self._refusal
        self.skipping = False
        self._announced = self._refusal = None
        self._wary = True
        return (REFUSED, refusal, number, event)

    def _read_header(self, messages: list[Message], data: memoryview, position: int, end: int) -> int:
        """Read the header at `position`; returns where its payload begins, -1 when the header is not all there."""
        if end - position < 2:
            return -1
        first, second = data[position], data[position + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if first & 0x70:
            raise WebSocketError(PROTOCOL_ERROR, "a reserved bit is set, but no extension was agreed on")
        if not second & 0x80:
            raise WebSocketError(PROTOCOL_ERROR, "a frame is not masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise WebSocketError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if length > 125 or not first & 0x80:
                raise WebSocketError(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        elif opcode > BINARY:
            raise WebSocketError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._message is not None):
            raise WebSocketError(
                PROTOCOL_ERROR, "a continuation without a beginning, or a beginning inside of a message"
            )
        position += 2
        if length == 126:
            if end - position < 2:
                return -1
            length = data[position] << 8 | data[position + 1]
            position += 2
        elif length == 127:
            if end - position < 8:
                return -1
            length = int.from_bytes(data[position : position + 8], "big")
            position += 8
        if self._message is None or opcode >= CLOSE:
            total, limit = length, self._max_text if opcode == TEXT else self._max
        else:
            total = length + len(self._message)
            limit = self._max_text if self._message_opcode == TEXT else self._max
        if total > limit:
            raise WebSocketError(TOO_BIG, f"a message of {total} bytes or more, at most {limit} are taken")
        if end - position < 4:
            return -1
        self._mask = bytes(data[position : position + 4])
        self._first_byte = first
        self._length = length
        if opcode < CLOSE:
            if self._announced is not None:  # it was an image's, but what follows does not look like one
                messages.append((TEXT, self._announced[0]))
                self._announced = None
            self._short = False
        return position + 4

    def _begin_payload(self, data: memoryview, start: int, end: int) -> None:
        self._filled = end - start
        self.missing = self._length - self._filled
        self._payload = bytearray(min(self._length, self._filled + 1))
        self._payload[: self._filled] = data[start:end]
        if self._length > FIRST_BUFFER_BYTES:
            self._tell_held()
            if self._payload is None:
                return
        opcode = self._first_byte & 0x0F
        if opcode == TEXT or (opcode == CONTINUATION and self._message_opcode == TEXT):
            if opcode == TEXT:
                self._decoder = new_utf8_decoder()
            self._decoded = 0
            self._check_frame_so_far()

    def _add_frame(self, messages: list[Message], first_byte: int, payload: bytes) -> None:
        opcode = first_byte & 0x0F
        if opcode >= CLOSE:
            messages.append((opcode, payload))
            return
        final = bool(first_byte & 0x80)
        if opcode == TEXT and not final and self._decoder is None:
            self._decoder = new_utf8_decoder()
        if self._decoder is not None:
            self._decode(payload[self._decoded :] if self._decoded > 0 else payload, final)
            self._decoded = -1
            if final:
                self._decoder = None
        if final:
            if self._message is not None:
                self._message += payload
                opcode, payload = self._message_opcode, bytes(self._message)
                self._message = None
                self._tell_held()
            messages.append((opcode, payload))
        elif self._message is None:
            self._message = bytearray(payload)
            self._message_opcode = opcode
            self._tell_held()
        else:
            self._message += payload
            self._tell_held()

    def _check_frame_so_far(self) -> None:
        """Send what has come of a text frame through the decoder."""
        assert self._payload is not None
        turn = self._decoded % 4
        mask = self._mask[turn:] + self._mask[:turn]
        self._decode(apply_mask(self._payload[self._decoded : self._filled], mask), final=False)
        self._decoded = self._filled

    def _decode(self, payload: bytes, final: bool) -> None:
        assert self._decoder is not None
        try:
            self._decoder.decode(payload, final)
        except UnicodeDecodeError:
            raise WebSocketError(INVALID_DATA, "text that is not UTF-8") from None
        # Of a surrogate, Python's decoder waits for the third byte; the second tells.
        undecided, _ = self._decoder.getstate()
        if undecided[:1] == b"\xed" and undecided[1:] >= b"\xa0":
            raise WebSocketError(INVALID_DATA, "text that is not UTF-8")

    def hand_back(self) -> bytes | None:
        """Give up what has come and was not read, for another reader to go on with; None while something is under way
        that only this one knows, or images do not take the short way."""
        if (
            not self._short
            or self._payload is not None
            or self._message is not None
            or self._announced is not None
            or self._error is not None
        ):
            return None
        leftover, self._leftover = self._leftover, b""
        self.more = False
        self._tell_held()
        return leftover

    def forget(self) -> None:
        """Let go of the message under way and of the sink; the reader is of no further use."""
        self._payload = self._message = None
        self._leftover = b""
        self._hold = _not_counted
        self._sink = None
        self._short = False

    def _tell_held(self) -> None:
        size = len(self._leftover)
        size += (len(self._payload) if self._payload else 0) + (len(self._message) if self._message else 0)
        if size <= FIRST_BUFFER_BYTES:
            size = 0
        if size != self._held:
            self._held = size
            self._hold(size)


def _not_counted(size: int) -> None:
    """What is held is nobody's concern."""
