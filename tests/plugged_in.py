"""Plug-ins of the tests, and a server that runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running import RunningServer, running_server

PLUGINS = """
import gc, os, sys, threading, time

import cv2
import numpy as np


def size(frame):
    height, width, _ = frame.pixels.shape
    return {"width": width, "height": height, "user": frame.user, "stream": frame.stream}


class Counter:
    def __init__(self):
        self.count = 0

    def process(self, frame):
        self.count += 1
        return {"count": self.count, "pid": os.getpid(), "bytes": len(frame.image)}

    def finish(self):
        return {"counted": self.count}


class Fives:
    window = 5

    def process(self, frames):
        return [frame.seq for frame in frames]


def fails(frame):
    raise ValueError("no secret of the server: /etc/passwd")


def ends_its_process(frame):
    if frame.user == "Bob":
        os._exit(3)
    return "well"


def hangs(frame):
    if frame.user == "Bob":
        time.sleep(60)
    return "well"

hangs.deadline = 0.5


def slow(frame):
    time.sleep(0.2)
    return frame.seq


def painted(frame):
    pixels = frame.pixels.copy()
    cv2.rectangle(pixels, (0, 0), (10, 10), (0, 0, 255), -1)
    return pixels


def twice_a_second(frame):
    return frame.seq

twice_a_second.rate = 2


def seldom(frame):
    return frame.seq

seldom.rate = 0.2


class Ends:
    def process(self, frame):
        return frame.seq

    def finish(self):
        time.sleep(1)
        return "the end"

Ends.deadline = 2


def ends_it_later(frame):
    # Not while it is called, so that nobody can know who it was.
    if frame.user == "Bob":
        threading.Timer(0.1, os._exit, (7,)).start()
    return "well"


def babbles(frame):
    if frame.user == "Bob":
        (reader,) = [thing for thing in gc.get_objects() if type(thing).__name__ == "RingReader"]
        reader.answer(b"nonsense")
    return "well"


def leaks(frame, kept=[]):
    if frame.user == "Bob":
        kept.append(b"x" * 600_000_000)
    return "well"


def leaves_somebody_behind(frame):
    if frame.user == "Bob":
        os.system("sleep 30 &")
        os._exit(3)
    return "well"
"""

FAULTY = """
def setup():
    raise RuntimeError("the model is not there")

def never(frame):
    return None
"""


@contextmanager
def plugged_in(folder: Path, *names: str, arguments: tuple[str, ...] = ()) -> Iterator[RunningServer]:
    """A server with these plug-ins of PLUGINS, and its log in its `log`."""
    (folder / "plugins.py").write_text(PLUGINS)
    options = [option for name in names for option in ("--process", f"plugins:{name}")]
    with running_server(*options, *arguments, env={"PYTHONPATH": str(folder)}) as server:
        yield server


def plugin_frames(server: RunningServer, plugin: str) -> dict[str, int]:
    """What became of the frames of a plug-in, by /metrics."""
    return {
        end: _sample(server, f'imageserver_plugin_frames_total{{end="{end}",plugin="{plugin}"}}')
        for end in ("done", "failed", "lost", "dropped")
    } | {"waiting": _sample(server, f'imageserver_plugin_frames_waiting{{plugin="{plugin}"}}')}


def _sample(server: RunningServer, name: str) -> int:
    text: Any = server.get("/metrics")
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
    assert len(values) == 1, f"{name} is {len(values)} times in {text}"
    return int(float(values[0]))
