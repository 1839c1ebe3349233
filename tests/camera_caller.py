"""Calls cameras over HTTP on eventlet's loop, as a test tells it in lines of JSON (http_cameras.py writes them):

    {"url": …, "addresses": […], "max_frame_bytes": …, "trust": …}     a camera from now on; `trust` is a file
        "lookups": [[…], …]                                            what name servers say, one time after the other
    {"fetch": 3, "close_after": 0.1, "work_sec": 0.001}                fetch three bodies, and do something with each;
                                                                       close it meanwhile
    {"close": true}

Every line is answered by one: what came of each fetch, how much CPU time the loop took at most without a turn for
others, and the most bytes that were counted as unfinished.
"""

import green

green.make_green()

import base64  # noqa: E402
import json  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import ingest.pull.connection as connection  # noqa: E402
import ingest.pull.http_camera as http_camera  # noqa: E402
from engine.unfinished import Holder, Unfinished  # noqa: E402
from frames import InvalidFrame  # noqa: E402
from green import call_later, sleep, spawn  # noqa: E402
from ingest.pull.camera_url import CameraUrl  # noqa: E402
from ingest.pull.http_camera import FetchFailed, HttpCamera  # noqa: E402

TICK_SEC = 0.002


class Caller:
    def __init__(self) -> None:
        self.camera: Any = None
        self.unfinished = Unfinished()
        self.most_held = 0
        self.stalled_sec = 0.0
        hold = self.unfinished.hold

        def watched(holder: Holder, size: int, place: str = "") -> None:
            hold(holder, size, place)
            self.most_held = max(self.most_held, self.unfinished.bytes)

        self.unfinished.hold = watched  # type: ignore[method-assign]

    def do(self, line: dict[str, Any]) -> dict[str, Any]:
        if "url" in line:
            http_camera.ANSWER_SEC = line.get("answer_sec", 10.0)  # type: ignore[misc]
            connection.CONNECT_SEC = line.get("connect_sec", 5.0)  # type: ignore[misc]
            self.unfinished._max = line.get("max_unfinished", 1 << 28)
            http_camera.resolve = (lambda host: line["lookups"].pop(0)) if "lookups" in line else green.resolve
            if self.camera is not None:
                self.camera.close()
            self.camera = HttpCamera(
                CameraUrl.parse(line["url"]),
                line.get("addresses"),
                line.get("max_frame_bytes", 1 << 20),
                self.unfinished,
                ssl.create_default_context(cafile=line["trust"]) if "trust" in line else None,
            )
        elif "fetch" in line:
            if "close_after" in line:
                call_later(line["close_after"], self.camera.close)
            self.stalled_sec, self.most_held = 0.0, 0
            ticking = spawn(self.tick)
            fetched = [self.fetch(line.get("work_sec", 0.0)) for _ in range(line["fetch"])]
            ticking.kill()
            assert self.unfinished.bytes == 0, "all is given out or forgotten"
            return {"fetched": fetched, "stalled_sec": self.stalled_sec, "most_held": self.most_held}
        else:
            self.camera.close()
        return {}

    def fetch(self, work_sec: float) -> dict[str, Any]:
        began = time.monotonic()
        try:
            body = self.camera.next_body()
            outcome = {"body": base64.b64encode(body).decode()}
        except FetchFailed as error:
            outcome = {"cause": error.cause, "said": str(error)}
        except InvalidFrame as error:
            outcome = {"code": error.code, "said": str(error)}
        sec = time.monotonic() - began
        working_until = time.thread_time() + work_sec
        while time.thread_time() < working_until:
            pass
        return outcome | {"pushes": self.camera.pushes, "sec": sec}

    def tick(self) -> None:
        last = time.thread_time()
        while True:
            sleep(TICK_SEC)
            now = time.thread_time()  # other processes' time is not ours
            self.stalled_sec = max(self.stalled_sec, now - last)
            last = now


if __name__ == "__main__":
    caller = Caller()
    for text in sys.stdin:
        print(json.dumps(caller.do(json.loads(text))), flush=True)
