"""The server's side of the windows: subscribes to all streams, and keeps a child process that shows them."""

import json
from collections.abc import Iterator
from typing import Final

from children import Child, ChildFailed, Children, Payload, decoding_environ
from display.screen import NoScreen
from frames import Frame, Limits
from hub import Ended, FrameHub
from ring import MAX_FRAME_HEADER_BYTES, FrameHeader

#: A window is shown at most so many frames a second: an eye does not miss the others.
MAX_HZ: Final = 30.0
#: Frames go to the child together, for to wake it costs the server more than to hand it a frame. Nobody sees that in a
#: window that is drawn at most `MAX_HZ` times a second.
GATHER_SEC: Final = 1 / MAX_HZ
#: What 16 streams at 30 Hz bring in that time.
SLOTS: Final = 16

__all__ = ["Display", "NoScreen"]


class Display:
    """A window for every stream.

    Args:
        children: ends the child with all others.
        limits: of the images that may come.
        plain: pictures only, without rate and age.
    """

    def __init__(self, hub: FrameHub, children: Children, limits: Limits, plain: bool) -> None:
        self._hub = hub
        self._closed: set[int] = set()
        self.child: Child[Frame | Ended] = Child(
            "display",
            ["-m", "display", *(["--plain"] if plain else [])],
            hub.subscribe("display", rate_hz=MAX_HZ),
            self._encode,
            slots=SLOTS,
            slot_bytes=MAX_FRAME_HEADER_BYTES + limits.max_frame_bytes,
            gather_sec=GATHER_SEC,
            greeting=self._greeting,
            on_answer=self._remember_closed,
            environ=decoding_environ(limits.max_pixels),
        )
        children.add(self.child)

    def start(self) -> None:
        """Open the screen; windows come with the frames.

        Raises:
            NoScreen: there is none.
        """
        try:
            self.child.start()
        except ChildFailed as error:
            raise NoScreen(str(error)) from None

    def _encode(self, item: Frame | Ended) -> Payload | bytes:
        if isinstance(item, Ended):
            self._closed.discard(item.stream.id)
            return json.dumps({"ended": item.stream.id}).encode()
        stream, info = item.stream, item.info
        header = FrameHeader(stream.id, item.seq, item.received_at, info.width, info.height, stream.name)
        return Payload(header.pack(), item.image)

    def _remember_closed(self, answer: bytes) -> None:
        stream_id = json.loads(answer)["closed"]
        if any(stream.id == stream_id for stream in self._hub.live_streams()):
            self._closed.add(stream_id)

    def _greeting(self) -> Iterator[bytes]:
        """A window that was closed by hand stays closed, also when the child that it was closed in has gone."""
        for stream_id in self._closed:
            yield json.dumps({"closed": stream_id}).encode()
