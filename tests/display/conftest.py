"""Screens to show windows on: X servers of our own, without a window manager and with one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import peers
from screens import Screen


@contextmanager
def x_server() -> Iterator[Screen]:
    peers.need("opencv", "xvfb", "xdotool", "imagemagick")
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


@pytest.fixture(scope="session")
def screen() -> Iterator[Screen]:
    """Without a window manager: windows are where they were put, and nothing is drawn around them."""
    with x_server() as screen:
        yield screen


@pytest.fixture(scope="session")
def desktop() -> Iterator[Screen]:
    """With a window manager that draws titles, and a cross to click on."""
    peers.need("openbox")
    with x_server() as screen:
        manager = subprocess.Popen(
            ["openbox"], env={**os.environ, **screen.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        screen.wait_for_window_manager()
        yield screen
        manager.terminate()
        manager.wait()
