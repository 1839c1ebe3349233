"""The two readers of WebSockets, and which one it is: they do the same, and one of them needs a C compiler."""

import logging
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, Protocol

from engine.reader import Announcements, ImageSink, Message, MessageReader
from engine.transport import Transport

logger = logging.getLogger(__name__)

Wanted = Literal["auto", "python", "compiled"]
WANTED: Final[tuple[Wanted, ...]] = ("auto", "python", "compiled")


class Reader(Protocol):
    """What a WebSocket asks of its reader; `MessageReader` says what it is."""

    @property
    def more(self) -> bool: ...
    @property
    def missing(self) -> int: ...
    @property
    def skipping(self) -> bool: ...
    def receive(self, transport: Transport, /) -> list[Message] | None: ...
    def received(self, count: int, /) -> list[Message]: ...
    def buffers(self) -> tuple[memoryview, ...]: ...
    def skipped(self, count: int, /) -> list[Message]: ...
    def resume(self, sink: ImageSink | None, /) -> None: ...
    def forget(self) -> None: ...


class MakeReader(Protocol):
    """Makes the reader of one WebSocket, from what `MessageReader` is made from."""

    def __call__(
        self,
        max_message_bytes: int,
        scratch: bytearray,
        max_text_bytes: int | None = None,
        hold: Callable[[int], object] | None = None,
        announcements: Announcements | None = None,
        prefix: bytes = b"",
    ) -> Reader: ...


class Choice(NamedTuple):
    """One of the readers.

    Attributes:
        name: "python" or "compiled".
        make: makes one.
        read_jpeg: the width and height of a whole JPEG with nothing unusual about it, None for every other image; None
            where that is not compiled.
    """

    name: Literal["python", "compiled"]
    make: MakeReader
    read_jpeg: Callable[[bytes], tuple[int, int] | None] | None


PYTHON: Final = Choice("python", MessageReader, None)


class NotCompiled(Exception):
    """The compiled reader is wanted, and is not there; the message is for who wants it."""


def choose(wanted: Wanted) -> Choice:
    """The reader of that name; `auto` is the compiled one where it has been built for this Python.

    Raises:
        NotCompiled: it is wanted by name, and has not.
    """
    if wanted == "python":
        return PYTHON
    try:
        return _compiled()
    except ImportError as error:
        if wanted == "compiled":
            raise NotCompiled(
                f"the compiled reader cannot be used ({error}): `make install` builds it where a C compiler and the"
                " headers of Python are"
            ) from None
        if not isinstance(error, ModuleNotFoundError):
            logger.warning(
                "the compiled reader is there and cannot be used, the Python reader takes its place: %s", error
            )
        return PYTHON


def _compiled() -> Choice:
    import compiled.reader as compiled

    def make(
        max_message_bytes: int,
        scratch: bytearray,
        max_text_bytes: int | None = None,
        hold: Callable[[int], object] | None = None,
        announcements: Announcements | None = None,
        prefix: bytes = b"",
    ) -> Any:
        fallback = MessageReader(max_message_bytes, scratch, max_text_bytes, hold, announcements, prefix)
        heads = None if announcements is None else announcements.heads
        return compiled.Reader(fallback, max_message_bytes, scratch, hold, heads, prefix)

    return Choice("compiled", make, compiled.read_jpeg)
