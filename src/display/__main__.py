"""The child process that shows the windows; the server starts it (display.py) and feeds it through a ring."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from display.screen import NoScreen, Screen, prepare_qt
from ring import BrokenRing, FrameHeader, Message, RingReader

if TYPE_CHECKING:
    from display.windows import Windows

#: How long a mouse click waits for us at most while no frames come.
IDLE_SEC: Final = 0.03


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m display", description="The windows of an ImageServer.")
    parser.add_argument("--plain", action="store_true", help="pictures only, without rate and age")
    parser.add_argument("ring", help="how to reach the server")
    options = parser.parse_args(arguments)
    try:
        reader = RingReader.attach(options.ring)
    except BrokenRing:
        return 1
    try:
        screen = Screen()
        prepare_qt()
        from display.windows import Windows
    except NoScreen as error:
        reader.failed(str(error))
        return 2
    except ImportError as error:
        reader.failed(f"no windows without OpenCV: {error}")
        return 2

    def closed(stream_id: int) -> None:
        reader.answer(json.dumps({"closed": stream_id}).encode())

    _silence_libraries()
    windows = Windows(screen.area, options.plain, closed)
    try:
        reader.ready()
        while True:
            _show(reader, reader.receive(IDLE_SEC), windows)
            windows.look()
    except EOFError:
        return 0


def _silence_libraries() -> None:
    """Keep out of the server's log what libjpeg and libpng say of every damaged picture; Python's own errors stay."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _show(reader: RingReader, messages: Sequence[Message], windows: "Windows") -> None:
    """Do what the messages say; of each stream only the newest frame is worth decoding."""
    frames = {message.sequence: FrameHeader.unpack(message.payload) for message in messages if message.slot is not None}
    newest = {header.stream_id: sequence for sequence, (header, _) in frames.items()}
    for message in messages:
        if message.slot is None:
            _obey(json.loads(bytes(message.payload)), windows)
        else:
            header, image = frames[message.sequence]
            if newest[header.stream_id] == message.sequence:
                windows.show(header, image)
    reader.give_back(*(message.slot for message in messages if message.slot is not None))


def _obey(control: dict[str, int], windows: "Windows") -> None:
    if "ended" in control:
        windows.end(control["ended"])
    elif "closed" in control:
        windows.keep_closed(control["closed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
