"""A capture process: receives the video of one camera; the server starts it (ingest/rtsp_camera.py), and tells it which
through a ring."""

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Final

from capture import wire
from capture.outlet import Outlet
from capture.receiver import Receiver
from capture.video import bound_memory
from ring import BrokenRing, Buffer, RingReader

#: What the server does goes before what is decoded for it, and that before what plug-ins find in it.
NICENESS: Final = 5
#: The camera has so long to be told goodbye; the server kills this process a second later.
GOODBYE_SEC: Final = 1.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m capture", description="Receives a camera for an ImageServer.")
    parser.add_argument("ring", help="how to reach the server")
    try:
        reader = RingReader.attach(parser.parse_args(arguments).ring)
    except BrokenRing:
        return 1
    os.nice(NICENESS)
    bound_memory()
    outlet = Outlet(reader)
    receiver = Receiver(outlet)
    reader.ready()
    thread = threading.Thread(target=_run, args=(receiver,), name="receiver", daemon=True)
    thread.start()
    try:
        while True:
            for message in reader.receive():
                _obey(message.payload, receiver)
            outlet.use_room()
    except EOFError:
        receiver.end()
        thread.join(GOODBYE_SEC)
        os._exit(0)  # it may be waiting for the camera still


def _run(receiver: Receiver) -> None:
    try:
        receiver.run()
    except EOFError:
        pass  # the other thread sees it too
    except BaseException as error:
        # Without the text of the exception: ffmpeg's hold the address, and that holds a password.
        sys.stderr.write(f"capture: {type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}")
        sys.stderr.flush()
        os._exit(3)


def _obey(order: Buffer, receiver: Receiver) -> None:
    if order[0] == wire.CALL:
        receiver.call(wire.Call.unpack(order))
    elif order[0] == wire.RATE:
        receiver.want(wire.unpack_rate(order))
    elif order[0] == wire.HANG_UP:
        receiver.hang_up()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
