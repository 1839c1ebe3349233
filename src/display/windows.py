"""The windows themselves, on OpenCV: one a stream, its newest frame, the rate and the age of it in the corner.

Pictures are brought to the window's size here, and the text is written afterwards: it stays readable on a phone's
160 x 120 and on a 4K camera alike. A large picture in a small window is decoded small.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from display.layout import Rect, cells, fit, window_in
from rate import RateMeter
from ring import FrameHeader

#: uint8 array of shape (height, width, 3), BGR.
Picture = NDArray[np.uint8]

#: A picture that stands still is drawn again this often: its age goes on.
REDRAW_SEC: Final = 0.5
#: Window managers move and cut new windows; where a window is after this time is where it was put.
SETTLE_SEC: Final = 1.0

_BACKGROUND: Final = (32, 32, 32)
_WHITE: Final = (255, 255, 255)
_AMBER: Final = (64, 176, 255)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE: Final = 0.5

_REDUCED: Final = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
    (1, cv2.IMREAD_COLOR),
)


class Window:
    """One stream's window.

    Attributes:
        picture_wh: the size of its pictures, upright.
        undecodable: pictures that OpenCV could not decode.
        moved_by_hand: somebody put it where it is; it is left there.
    """

    def __init__(self, header: FrameHeader, plain: bool) -> None:
        self.stream_id = header.stream_id
        self.picture_wh = header.width, header.height
        self.undecodable = 0
        self.moved_by_hand = False
        self._plain = plain
        self._header = header
        self._picture: Picture | None = None
        self._meter = RateMeter(time.monotonic())
        self._drawn_at = 0.0
        self._place: Rect | None = None
        self._placed_at = 0.0
        self._settled: Rect | None = None
        # A window's key is the stream's id: the next stream of this name may begin before this one's end is known.
        self._key = str(header.stream_id)
        cv2.namedWindow(self._key, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setWindowTitle(self._key, header.name)

    @property
    def closed_by_hand(self) -> bool:
        try:
            return cv2.getWindowProperty(self._key, cv2.WND_PROP_VISIBLE) <= 0
        except cv2.error:
            return True  # with the last window, OpenCV's Qt takes itself down, until the next is opened

    def close(self) -> None:
        if not self.closed_by_hand:
            cv2.destroyWindow(self._key)

    def put_in(self, cell: Rect) -> None:
        """Move it to a cell of the screen, unless it is there."""
        place = window_in(cell, self.picture_wh)
        if place != self._place:
            self._place, self._placed_at, self._settled = place, time.monotonic(), None
            cv2.resizeWindow(self._key, place.width, place.height)
            cv2.moveWindow(self._key, place.x, place.y)

    def notice_hand(self) -> None:
        """See whether somebody moved it or changed its size."""
        now = Rect(*cv2.getWindowImageRect(self._key))
        if self._settled is None:
            if time.monotonic() - self._placed_at >= SETTLE_SEC:
                self._settled = now
        elif now != self._settled:
            self.moved_by_hand = True

    def show(self, header: FrameHeader, image: memoryview) -> None:
        """Decode an image and show it; one that does not decode is said to be so in its place."""
        self._header = header
        stored_wh = header.width, header.height
        self._picture = _decode(image, stored_wh, self._size_wh())
        if self._picture is None:
            self.undecodable += 1
        else:
            # Phones store what they see lying on its side, with a note; OpenCV has set it upright.
            height, width = self._picture.shape[:2]
            lying = (width > height) != (stored_wh[0] > stored_wh[1])
            self.picture_wh = stored_wh[::-1] if lying else stored_wh
        self._meter.count(time.monotonic())
        self.draw()

    def draw(self) -> None:
        """Show the newest picture as it is now."""
        self._drawn_at = time.monotonic()
        size_wh = self._size_wh()
        if self._picture is None:
            canvas = _blank(size_wh)
            _write_in_middle(canvas, f"picture {self._header.seq} does not decode")
        else:
            canvas = _letterbox(self._picture, size_wh)
        if not self._plain:
            _write_in_corner(canvas, self._label())
        cv2.imshow(self._key, canvas)

    def draw_if_stale(self) -> None:
        if not self._plain and time.monotonic() - self._drawn_at >= REDRAW_SEC:
            self.draw()

    def _label(self) -> str:
        rate = f"{self._meter.rate_hz(time.monotonic()):.1f} Hz"
        age = age_text(time.time() - self._header.received_at)
        return f"{rate}  {age}" + (f"  {self.undecodable} undecodable" if self.undecodable else "")

    def _size_wh(self) -> tuple[int, int]:
        _, _, width, height = cv2.getWindowImageRect(self._key)
        return max(1, width), max(1, height)


class Windows:
    """All windows, tiled; those that somebody moved or closed by hand are left as they are.

    Args:
        screen: asked anew whenever windows come or go, for screens change.
        plain: pictures only, nothing written on them.
        closed: called when somebody has closed the window of a stream.
    """

    def __init__(self, screen: Callable[[], Rect], plain: bool, closed: Callable[[int], object]) -> None:
        self._screen = screen
        self._plain = plain
        self._closed = closed
        self._windows: dict[int, Window] = {}
        self._unwanted: set[int] = set()
        # The server shares the machine's cores with this process, and there is one small picture at a time to work on.
        cv2.setNumThreads(1)

    def show(self, header: FrameHeader, image: memoryview) -> None:
        """Show a frame in its stream's window, and open that first if there is none."""
        if header.stream_id in self._unwanted:
            return
        window = self._windows.get(header.stream_id)
        if window is None:
            try:
                window = Window(header, self._plain)
            except cv2.error:
                return  # the last window was closed by hand in this moment: the next frame opens this one
            self._windows[header.stream_id] = window
            self._tile()
        elif window.closed_by_hand:
            self._forget(window)
            return
        before = window.picture_wh
        window.show(header, image)
        if window.picture_wh != before:  # a phone was turned
            self._tile()

    def keep_closed(self, stream_id: int) -> None:
        """Show nothing of this stream: its window was closed by hand."""
        self._unwanted.add(stream_id)

    def end(self, stream_id: int) -> None:
        """Close the window of a stream that has ended."""
        self._unwanted.discard(stream_id)
        if window := self._windows.pop(stream_id, None):
            window.close()
            self._tile()

    def look(self) -> None:
        """Let the screen and the mouse have their turn; to be called some ten times a second at least."""
        cv2.pollKey()
        for window in list(self._windows.values()):
            if window.closed_by_hand:
                self._forget(window)
            else:
                window.notice_hand()
                window.draw_if_stale()

    def _forget(self, window: Window) -> None:
        del self._windows[window.stream_id]
        self.keep_closed(window.stream_id)
        self._closed(window.stream_id)
        self._tile()

    def _tile(self) -> None:
        free = [window for window in self._windows.values() if not (window.moved_by_hand or window.closed_by_hand)]
        for window, cell in zip(free, cells(len(free), self._screen()), strict=True):
            window.put_in(cell)


def age_text(age_sec: float) -> str:
    """How old a picture is, in the unit that a person would choose."""
    if age_sec < 1:
        return f"{max(age_sec, 0) * 1000:.0f} ms"
    if age_sec < 60:
        return f"{age_sec:.1f} s"
    return f"{age_sec / 60:.0f} min" if age_sec < 3600 else f"{age_sec / 3600:.0f} h"


def _decode(image: memoryview, picture_wh: tuple[int, int], window_wh: tuple[int, int]) -> Picture | None:
    """The picture, at half, a quarter or an eighth of its size if that fills the window; None if it does not decode."""
    shrink = min(picture_wh[0] / window_wh[0], picture_wh[1] / window_wh[1])
    flag = next(flag for factor, flag in _REDUCED if factor <= max(shrink, 1))
    try:
        picture: Any = cv2.imdecode(np.frombuffer(image, np.uint8), flag)
    except cv2.error:
        return None
    return picture  # type: ignore[no-any-return]


def _blank(size_wh: tuple[int, int]) -> Picture:
    return np.full((size_wh[1], size_wh[0], 3), _BACKGROUND, np.uint8)


def _letterbox(picture: Picture, size_wh: tuple[int, int]) -> Picture:
    """The whole picture in the middle of a canvas of this size; a new array."""
    height, width = picture.shape[:2]
    width, height = fit((width, height), size_wh)
    scaled: Any = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    if (width, height) == size_wh:
        return scaled  # type: ignore[no-any-return]
    canvas = _blank(size_wh)
    x, y = (size_wh[0] - width) // 2, (size_wh[1] - height) // 2
    canvas[y : y + height, x : x + width] = scaled
    return canvas


def _write_in_corner(canvas: Picture, text: str) -> None:
    """White on a darkened ground: readable on snow and at night."""
    (width, height), below = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    ground = canvas[: height + below + 8, : width + 12]
    ground //= 3
    cv2.putText(canvas, text, (6, height + 4), _FONT, _FONT_SCALE, _WHITE, 1, cv2.LINE_AA)


def _write_in_middle(canvas: Picture, text: str) -> None:
    (width, height), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    scale = _FONT_SCALE * min(1.0, (canvas.shape[1] - 8) / width)
    at = max(0, (canvas.shape[1] - int(width * scale / _FONT_SCALE)) // 2), (canvas.shape[0] + height) // 2
    cv2.putText(canvas, text, at, _FONT, scale, _AMBER, 1, cv2.LINE_AA)
