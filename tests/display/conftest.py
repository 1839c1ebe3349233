"""Screens to show windows on: X servers of our own, without a window manager and with one."""

import os
import subprocess
from collections.abc import Iterator

import pytest

import peers
from screens import Screen, x_server


@pytest.fixture(scope="session")
def screen() -> Iterator[Screen]:
    """Without a window manager: windows are where they were put, and nothing is drawn around them."""
    peers.need("opencv", "xvfb", "xdotool", "imagemagick")
    with x_server() as screen:
        yield screen


@pytest.fixture(scope="session")
def desktop() -> Iterator[Screen]:
    """With a window manager that draws titles, and a cross to click on."""
    peers.need("opencv", "xvfb", "xdotool", "imagemagick", "openbox")
    with x_server() as screen:
        manager = subprocess.Popen(
            ["openbox"], env={**os.environ, **screen.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        screen.wait_for_window_manager()
        yield screen
        manager.terminate()
        manager.wait()
