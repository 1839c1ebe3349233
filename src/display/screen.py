"""The screen that windows are shown on: whether there is one, and the part of it that is ours.

OpenCV ends the whole process when it finds no screen, so the child asks first.
"""

import contextlib
import ctypes
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p
from typing import Final

from display.layout import Rect

_ANY_PROPERTY_TYPE: Final = 0
#: Where the screen can't be asked (not X11): what nearly every screen has.
_USUAL: Final = Rect(0, 0, 1280, 720)


class NoScreen(Exception):
    """Windows can't be shown here; the message says why."""


def prepare_qt() -> None:
    """Make OpenCV's Qt work with the machine's X libraries; to be called before OpenCV is imported.

    OpenCV's wheel brings an old libX11-xcb along, which knows libX11's private structures as they once were. With a
    newer libX11 (1.8) it does not take the events over for Qt, but writes beside the mark: some events are lost between
    the two, and now and then a window stays black. The machine's own libX11-xcb fits its libX11, and Qt calls the one
    that was loaded first, for all.
    """
    if sys.platform == "linux":
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")  # under Wayland, Qt says at length that it will use X11
        with contextlib.suppress(OSError):
            ctypes.CDLL("libX11-xcb.so.1", ctypes.RTLD_GLOBAL)


class Screen:
    """The screen, held open: Xvfb begins anew when its last client leaves, which would be between us and Qt.

    Raises:
        NoScreen: there is none, or it does not let us in.
    """

    def __init__(self) -> None:
        self._x11: ctypes.CDLL | None = None
        if sys.platform == "darwin":
            return
        if not os.environ.get("DISPLAY"):
            if os.environ.get("WAYLAND_DISPLAY"):
                raise NoScreen("no screen for windows: they need X11, and DISPLAY is not set (Xwayland sets it)")
            raise NoScreen("no screen for windows: DISPLAY is not set")
        try:
            self._x11 = ctypes.CDLL("libX11.so.6")
        except OSError as error:
            raise NoScreen(f"no screen for windows: {error}") from None
        self._x11.XOpenDisplay.restype = c_void_p
        self._x11.XDefaultRootWindow.restype = c_ulong
        self._x11.XInternAtom.restype = c_ulong
        self._display = c_void_p(self._x11.XOpenDisplay(None))
        if not self._display:
            raise NoScreen(f"no screen for windows: the X server at DISPLAY={os.environ['DISPLAY']} can't be opened")
        self._root = c_ulong(self._x11.XDefaultRootWindow(self._display))

    def area(self) -> Rect:
        """The part of the screen that panels and docks leave to windows, as it is now."""
        if self._x11 is None:
            return _USUAL
        work_area = self._root_numbers(self._x11, b"_NET_WORKAREA")  # EWMH: x, y, width, height of each desktop
        if len(work_area) >= 4:
            return Rect(*work_area[:4])
        x, y, width, height, rest = c_int(), c_int(), c_uint(), c_uint(), c_ulong()
        self._x11.XGetGeometry(
            self._display, self._root, byref(rest), byref(x), byref(y), byref(width), byref(height), byref(rest),
            byref(rest),
        )  # fmt: skip
        return Rect(0, 0, width.value, height.value)

    def _root_numbers(self, x11: ctypes.CDLL, name: bytes) -> list[int]:
        """A property of the root window that is a list of numbers; window managers leave them there."""
        atom = c_ulong(x11.XInternAtom(self._display, c_char_p(name), c_int(1)))
        if not atom:
            return []
        kind, form, count, rest, data = c_ulong(), c_int(), c_ulong(), c_ulong(), POINTER(c_long)()
        status = x11.XGetWindowProperty(
            self._display, self._root, atom, c_long(0), c_long(4), c_int(0), c_ulong(_ANY_PROPERTY_TYPE),
            byref(kind), byref(form), byref(count), byref(rest), byref(data),
        )  # fmt: skip
        if status != 0 or not data:
            return []
        try:
            return [data[index] for index in range(count.value)] if form.value == 32 else []
        finally:
            x11.XFree(data)
