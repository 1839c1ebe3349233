"""A child for tests that behaves as its first argument says, well or badly; started by `children.Child`, never
imported."""

import hashlib
import json
import os
import sys
import time

from ring import FrameHeader, RingReader


def main(behaviour: str, ring: str) -> int:
    if behaviour == "ends at once":
        return 3
    reader = RingReader.attach(ring)
    if behaviour == "refuses":
        reader.failed("it is too cold to work")
        return 2
    if behaviour != "is never ready":
        reader.ready()
    if behaviour == "brings what is not its":
        reader.receive()  # by then the server knows that it is ready
        reader.room.append(1)
    try:
        for number in range(10 if behaviour.startswith("brings") else 0):
            while not reader.room:
                reader.receive()
            reader.deliver(b"%d" % number, b"image %d" % number)
        if behaviour == "tells its environment":
            reader.answer(json.dumps(dict(os.environ)).encode())
        while True:
            for message in reader.receive():
                if message.slot is None:
                    reader.answer(json.dumps({"told": json.loads(bytes(message.payload))}).encode())
                    continue
                if behaviour == "spins":
                    while True:
                        pass
                if behaviour == "ends at a frame":
                    return 4
                if behaviour == "gives back what it has not":
                    reader.give_back(message.slot, message.slot)
                if behaviour == "says too much":
                    reader.answer(bytes(2 << 20))
                if behaviour == "closes its end":
                    os.closerange(3, 1000)
                    time.sleep(60)
                if behaviour == "reports":
                    header, image = FrameHeader.unpack(message.payload)
                    seen = [header.name, header.seq, header.width, hashlib.sha256(image).hexdigest()]
                    reader.answer(json.dumps({"frame": seen}).encode())
                if behaviour != "keeps its slots":
                    reader.give_back(message.slot)
    except EOFError:
        if behaviour == "is deaf to the end":
            time.sleep(60)
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[-1]))
