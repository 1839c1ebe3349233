"""What a camera needs of a Socket.IO connection, whichever generation of the protocol carries it.

A connection hands all that arrives to the function it was given, from threads of its own; the camera takes it from
a queue in its own thread, so no camera has to think about locks.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Transport = Literal["polling", "websocket", "upgrade"]

#: The app's library allows 20 s to connect; nobody wants to wait that long for a simulator's first line.
CONNECT_SEC = 10.0


@dataclass(frozen=True)
class Event:
    """An event that the server has emitted."""

    name: str
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Ack:
    """The server's acknowledgement of the event that asked for one."""

    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Closed:
    """The connection is over and says nothing more.

    Args:
        dismissed: the server has sent DISCONNECT, after which Socket.IO clients don't come back by themselves.
    """

    why: str
    dismissed: bool = False


Message = Event | Ack | Closed
Deliver = Callable[[Message], None]


class Connection(Protocol):
    """A connection that has joined the default namespace."""

    @property
    def transport(self) -> str:
        """What carries it now: `polling` or `websocket`."""

    def emit(self, event: str, *arguments: str | bytes, ack: bool = False) -> None:
        """Raises ConnectionError when the connection is over."""

    def close(self) -> None:
        """Say goodbye; may be called at any time, and twice."""


#: Connects, or raises ConnectionError with a reason that a person can read.
Connect = Callable[[Deliver], Connection]


def reason(error: BaseException) -> str:
    """The first cause's own words, without the classes, addresses and pages of HTML that libraries wrap around them."""
    while error.__context__ is not None:
        error = error.__context__
    message = next((part for part in error.args if isinstance(part, str)), str(error))
    errno = re.search(r"\[Errno -?\d+\] ([^'\")]+)", message)
    return errno[1] if errno else message.partition(" -+-+- ")[0]
