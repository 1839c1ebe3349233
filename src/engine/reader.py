"""The reader of WebSocket (RFC 6455), the server's side: received bytes become messages; no sockets.

A client's frame, section 5.2; lengths are big-endian, and a client always masks:

    FIN RSV1 RSV2 RSV3 opcode(4) | MASK length(7) | [length 16 or 64] | mask(32) | payload
"""

import codecs
from collections.abc import Callable
from typing import Final

from websockets.speedups import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, NO_STATUS, INVALID_DATA, TOO_BIG = 1000, 1002, 1005, 1007, 1009

#: A payload's buffer begins with at most so much and doubles as bytes arrive: a length that is announced and never
#: sent costs this, and not the length. Most cameras' frames fit into it.
FIRST_BUFFER_BYTES: Final = 64 * 1024
#: Of what one receive brings, so many WebSocket frames are read before others have their turn: 64 KB hold 10,000 pings,
#: and reading and answering all of them stops everybody for 0.1 s. Images do not come in such numbers.
FRAMES_PER_TURN: Final = 64

Buffer = bytes | bytearray | memoryview
new_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


class WebSocketError(Exception):
    """The peer broke the protocol or a limit; the connection closes with `code` (section 7.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class MessageReader:
    """Turns received bytes into messages, in whatever pieces they come.

    The caller receives into `buffers()` and says how much came: the rest of a frame under way goes straight into its
    own buffer, what follows it into a scratch buffer that all connections share. So `received` leaves nothing in
    there: as soon as it returns, another connection may receive.

    Text that is not UTF-8 is noticed at its first wrong byte while its message is still under way; of a message that
    is there as soon as it begins, that is left to who decodes it.

    Args:
        max_message_bytes: limit of a message's payload, all fragments together.
        scratch: the shared buffer, at least 14 bytes (the longest header).
        max_text_bytes: the limit of text, when it is another one.
        hold: told how many bytes are held of the message under way, whenever that changes; up to `FIRST_BUFFER_BYTES`
            are not worth telling, and said to be 0.

    Attributes:
        more: what came holds more than is read in one turn, or an error behind what was read; call `received(0)` for
            it before receiving again.
    """

    def __init__(
        self,
        max_message_bytes: int,
        scratch: bytearray,
        max_text_bytes: int | None = None,
        hold: Callable[[int], object] | None = None,
    ) -> None:
        self._max = max_message_bytes
        self._max_text = max_message_bytes if max_text_bytes is None else max_text_bytes
        self._hold = hold or _not_counted
        self._scratch = memoryview(scratch)
        self.more = False
        self._held = 0
        self._error: WebSocketError | None = None
        self._leftover = b""  # the beginning of a header, or what the next turn is for
        self._payload: bytearray | None = None  # of the frame under way
        self._filled = 0
        self._length = 0
        self._mask = b""
        self._first_byte = 0
        self._message: bytearray | None = None  # the fragments so far
        self._message_opcode = 0
        self._decoder: codecs.IncrementalDecoder | None = None  # of the text under way
        self._decoded = -1  # so much of the frame under way has been through it; -1 when it is not text

    def buffers(self) -> tuple[memoryview, ...]:
        """Where the next bytes belong, in this order."""
        if self._payload is None:
            return (self._scratch,)
        rest = memoryview(self._payload)[self._filled :]
        return (rest, self._scratch) if len(self._payload) == self._length else (rest,)

    def received(self, count: int) -> list[tuple[int, bytes]]:
        """Take note of bytes received into `buffers()`; returns the messages that they complete, control frames among
        them.

        Raises:
            WebSocketError: close with its code; the reader is of no further use.
        """
        if self._error is not None:
            raise self._error
        messages: list[tuple[int, bytes]] = []
        if self._payload is not None:
            taken = min(count, len(self._payload) - self._filled)
            self._filled += taken
            count -= taken
            if self._filled < self._length:
                if self._filled == len(self._payload):
                    grown = bytearray(min(self._length, 2 * self._filled))
                    grown[: self._filled] = self._payload
                    self._payload = grown
                    self._tell_held()
                    if self._payload is None:
                        return messages  # it has been told to forget it
                if self._decoded >= 0:
                    self._check_frame_so_far()
                return messages
            payload, self._payload = self._payload, None
            self._add_frame(messages, self._first_byte, apply_mask(payload, self._mask))
            if self._held:
                self._tell_held()
        try:
            self._receive_frames(messages, count)
        except WebSocketError as error:
            if not messages:
                raise
            # What came before was good, and is answered first.
            self._error = error
            self.more = True
        return messages

    def _receive_frames(self, messages: list[tuple[int, bytes]], count: int) -> None:
        view = self._scratch[:count]
        data: Buffer = self._leftover + bytes(view) if self._leftover else view
        self._leftover = b""
        self.more = False
        position, end = 0, len(data)
        for _ in range(FRAMES_PER_TURN):
            start = self._read_header(data, position, end)
            if start < 0:
                self._leftover = bytes(data[position:end])
                return
            stop = start + self._length
            if stop > end:
                self._begin_payload(data, start, end)
                return
            self._add_frame(messages, self._first_byte, apply_mask(data[start:stop], self._mask))
            position = stop
        self._leftover = bytes(data[position:end])
        self.more = True

    def _read_header(self, data: Buffer, position: int, end: int) -> int:
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
        return position + 4

    def _begin_payload(self, data: Buffer, start: int, end: int) -> None:
        self._filled = end - start
        self._payload = bytearray(min(self._length, max(FIRST_BUFFER_BYTES, 2 * self._filled)))
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

    def _add_frame(self, messages: list[tuple[int, bytes]], first_byte: int, payload: bytes) -> None:
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

    def forget(self) -> None:
        """Let go of the message under way; the reader is of no further use."""
        self._payload = self._message = None
        self._leftover = b""
        self._hold = _not_counted

    def _tell_held(self) -> None:
        size = (len(self._payload) if self._payload else 0) + (len(self._message) if self._message else 0)
        if size <= FIRST_BUFFER_BYTES:
            size = 0
        if size != self._held:
            self._held = size
            self._hold(size)


def _not_counted(size: int) -> None:
    """What is held is nobody's concern."""
