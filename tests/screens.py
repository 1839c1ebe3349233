"""What is on an X screen, as a person would see it: windows, their titles and places, and the picture."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from display.layout import Rect
from running import until


class Shown(NamedTuple):
    """A window: its X id, where its picture is, and where it is with all that is drawn around it."""

    id: str
    picture: Rect
    frame: Rect


class Screen:
    def __init__(self, display: str) -> None:
        self.env = {"DISPLAY": display}

    def windows(self) -> dict[str, Shown]:
        """All windows that are mapped and have a title, by title."""
        ids = self._run("xdotool", "search", "--onlyvisible", "--name", "^[A-Za-z0-9~]+$").split()
        shown = {}
        for window in ids:
            title = self._run("xdotool", "getwindowname", window).strip()
            info = dict(
                line.strip().split(":", 1) for line in self._run("xwininfo", "-id", window).splitlines() if ":" in line
            )
            if not info:
                continue  # it went while we looked
            x, y, width, height = (
                int(info[key]) for key in ("Absolute upper-left X", "Absolute upper-left Y", "Width", "Height")
            )
            left, right, top, bottom = self._frame_extents(window)
            frame = Rect(x - left, y - top, width + left + right, height + top + bottom)
            shown[title] = Shown(window, Rect(x, y, width, height), frame)
        return shown

    def until(self, condition: Callable[[dict[str, Shown]], object], what: str) -> dict[str, Shown]:
        """Wait until the windows are as they should be, and return them."""

        windows: dict[str, Shown] = {}

        def fulfilled() -> bool:
            nonlocal windows
            windows = self.windows()
            return bool(condition(windows))

        until(fulfilled, what, within_sec=15)
        return windows

    def until_titles(self, *titles: str) -> dict[str, Shown]:
        return self.until(lambda windows: set(windows) == set(titles), f"windows are {titles}")

    def until_steady(self, *titles: str) -> dict[str, Shown]:
        """Wait until these windows are there and no longer move."""
        before: dict[str, Shown] = {}

        def steady(windows: dict[str, Shown]) -> bool:
            nonlocal before
            same, before = windows == before, windows
            return same and set(windows) == set(titles)

        return self.until(steady, f"windows are {titles}, and stay in their places")

    def picture(self) -> Any:
        """What is seen: uint8 array of shape (height, width, 3), BGR."""
        png = subprocess.run(
            ["import", "-window", "root", "png:-"], env={**os.environ, **self.env}, capture_output=True, check=True
        ).stdout
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)

    def save(self, path: Path) -> None:
        cv2.imwrite(str(path), self.picture())

    def inside(self, window: Shown) -> Any:
        """What is seen of a window's picture."""
        x, y, width, height = window.picture
        return self.picture()[y : y + height, x : x + width]

    def close_by_hand(self, window: Shown) -> None:
        """Click on the cross that the window manager has drawn."""
        x, y, width, _ = window.frame
        self._run("xdotool", "mousemove", "--sync", str(x + width - 10), str(y + 10), "click", "1")

    def move_by_hand(self, window: Shown, x: int, y: int) -> None:
        self._run("xdotool", "windowmove", "--sync", window.id, str(x), str(y))

    def wait_for_window_manager(self) -> None:
        until(
            lambda: "window id" in self._run("xprop", "-root", "_NET_SUPPORTING_WM_CHECK"),
            "the window manager is there",
        )

    def _frame_extents(self, window: str) -> list[int]:
        said = self._run("xprop", "-id", window, "_NET_FRAME_EXTENTS")
        return [int(number) for number in said.split("=")[1].split(",")] if "=" in said else [0, 0, 0, 0]

    def _run(self, *command: str) -> str:
        return subprocess.run(
            command, env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        ).stdout


@contextmanager
def x_server() -> Iterator[Screen]:
    """A screen of our own, on Xvfb."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-noreset", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as number:
        screen = Screen(f":{number.readline().strip()}")
    try:
        yield screen
    finally:
        process.terminate()
        process.wait()
