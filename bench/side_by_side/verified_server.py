"""ImageServer as it is, and beside it a consumer that adds up the CRC-32 of every image that the hub publishes.

When it has been told to stop it prints {"frames", "bytes", "crcs"} as JSON.
"""

import json
import os
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import green
import memory

green.make_green()
memory.share_one_heap()

import app  # noqa: E402
from frames import Frame  # noqa: E402
from hub import Policy  # noqa: E402
from settings import Settings  # noqa: E402


class VerifiedApp(app.App):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.frames = self.bytes = self.crcs = 0
        self._images = self.hub.subscribe("verify", policy=Policy.QUEUE, max_frames=8)
        self._images.ready = self._add_up

    def stop(self) -> None:
        super().stop()
        print(json.dumps({"frames": self.frames, "bytes": self.bytes, "crcs": self.crcs}), flush=True)

    def _add_up(self) -> None:
        """Called in the course of each publishing, so that nothing waits and nothing is dropped."""
        while (item := self._images.take()) is not None:
            if isinstance(item, Frame):
                self.frames += 1
                self.bytes += len(item.image)
                self.crcs += zlib.crc32(item.image)


if __name__ == "__main__":
    app.App = VerifiedApp  # type: ignore[misc]
    status = app.main(sys.argv[1:])
    os._exit(status)
