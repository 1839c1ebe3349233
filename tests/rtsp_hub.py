"""A small server with a hub and one RTSP camera, in a process of its own on a real loop; `RtspHub` drives it from a
test.

It reads commands from standard input and writes what it sees to standard output, a JSON object a line.
"""

import base64
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
SRC = TESTS.parent / "src"


class RtspHub:
    """What a test sees of that server.

    Attributes:
        seen: its newest report.
        log: what it wrote to standard error.
        worst_lag_ms: how late the loop ever was.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen: dict[str, Any] = {}
        self.log: list[str] = []
        self.worst_lag_ms = 0.0
        self.killed = False
        for reader in (self._read_reports, self._read_log):
            threading.Thread(target=reader, daemon=True).start()

    def command(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def until(
        self, condition: Callable[[dict[str, Any]], object], what: str, within_sec: float = 15.0
    ) -> dict[str, Any]:
        """Wait for a report that fulfils the condition, and return it."""
        deadline = time.monotonic() + within_sec
        while not (self.seen and condition(self.seen)):
            assert time.monotonic() < deadline, f"not within {within_sec:g} s: {what}; {self.seen}; {self.log}"
            assert self.process.poll() is None, f"it has ended before: {what}; {self.log}"
            time.sleep(0.01)
        return self.seen

    def until_log(self, text: str, within_sec: float = 15.0) -> None:
        self.until(lambda _: any(text in line for line in self.log), f"a log line with {text!r}", within_sec)

    def until_frames(self, count: int = 5, within_sec: float = 15.0) -> dict[str, Any]:
        """Wait until a stream is live and has so many frames more."""
        live = self.until(lambda seen: seen["stream"], "a stream is live", within_sec)
        wanted = live["frames"] + count
        return self.until(lambda seen: seen["stream"] and seen["frames"] >= wanted, f"{count} frames more", within_sec)

    def newest(self) -> bytes:
        """The newest frame's image."""
        return self.newest_and_when()[0]

    def newest_and_when(self) -> tuple[bytes, float]:
        """The newest frame's image, and when it came, in seconds since 1970."""
        self.seen = {}
        self.command(image=True)
        seen = self.until(lambda seen: seen.get("image"), "an image")
        return base64.b64decode(seen["image"]), seen["received_at"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.killed = True

    def _read_reports(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = json.loads(line)
            self.worst_lag_ms = max(self.worst_lag_ms, report["lag_ms"])
            self.seen = report

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(iter(self.process.stderr.readline, ""))


@contextmanager
def rtsp_hub(url: str, env: dict[str, str] | None = None, **options: Any) -> Iterator[RtspHub]:
    """Start one that watches this address, and end it.

    Args:
        options: `wish_hz` of the one consumer there is (0), `idle_hz` (0), and module constants to change, as
            `{"ingest.rtsp_camera.SILENT_SEC": 1}`.
    """
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(SRC), **(env or {})},
    )
    hub = RtspHub(process)
    hub.command(url=url, **options)
    try:
        yield hub
    finally:
        if process.poll() is None:
            hub.command(stop=True)
        try:
            assert process.wait(10) == 0 or hub.killed, hub.log
        finally:
            process.kill()
            process.wait()


def serve() -> int:
    import importlib

    import green
    from children import Children
    from frames import Limits
    from hub import FrameHub, Rates
    from ingest.camera_users import CameraUsers
    from ingest.door import Door, LocalStreamNames
    from ingest.pull.camera_url import CameraUrl
    from ingest.rtsp_camera import RtspCamera

    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")

    options = json.loads(sys.stdin.readline())
    for name, value in options.pop("constants", {}).items():
        module, _, constant = name.rpartition(".")
        assert hasattr(importlib.import_module(module), constant), name
        setattr(importlib.import_module(module), constant, value)
    hub, children = FrameHub(), Children()
    limits = Limits(**options.get("limits", {}))
    door = Door(
        hub, None, None, LocalStreamNames(), limits, Rates(60, options.get("idle_hz", 0)), {}, CameraUsers(), True,
    )  # type: ignore[arg-type]  # fmt: skip
    watching = hub.subscribe("test", wish_hz=options.get("wish_hz", 0))
    camera = RtspCamera(door, children, CameraUrl.parse(options["url"]), "Alice", "rtsp-1", limits)
    camera.start()
    stopping = green.Once()
    wants_image = False

    def obey(command: dict[str, Any]) -> None:
        nonlocal wants_image
        if "wish_hz" in command:
            watching.wish(command["wish_hz"])
        wants_image = wants_image or "image" in command
        if "close" in command:
            assert camera.stream is not None
            camera.stream.disconnect(command["close"])
        if "stop" in command:
            stopping.set()

    def read_commands() -> None:
        rest = b""
        while data := os.read(0, 1 << 20):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                obey(json.loads(line))

    lag_sec = 0.0

    def measure_lag() -> None:
        nonlocal lag_sec
        while True:
            before = time.monotonic()
            green.sleep(0.005)
            lag_sec = max(lag_sec, time.monotonic() - before - 0.005)

    green.spawn(read_commands)
    green.spawn(measure_lag)
    streams: dict[int, Any] = {}
    while not stopping.is_set():
        streams |= {stream.id: stream for stream in hub.live_streams()}
        stream = camera.stream
        usage = resource.getrusage(resource.RUSAGE_SELF)
        report: dict[str, Any] = {
            "stream": stream and stream.name,
            "frames": stream.frames if stream else 0,
            "info": stream.info if stream else None,
            "rate_hz": stream.rate_hz if stream else 0,
            "wanted_hz": stream.wanted_hz if stream else None,
            "streams": len(streams),
            "refused": dict(sum((s.refused for s in streams.values()), start=type(hub.totals().refused)())),
            "pid": camera.child.pid,
            "state": camera.child.state,
            "restarts": camera.child.restarts,
            "lag_ms": lag_sec * 1000,
            "cpu_sec": usage.ru_utime + usage.ru_stime,
            "files": len(os.listdir("/proc/self/fd")),
            **{name: getattr(camera, name) for name in ("skipped", "replaced", "failures", "unsent")},
            "received": camera.frames,
        }
        if wants_image and stream is not None and stream.latest is not None:
            report["image"] = base64.b64encode(stream.latest.image).decode()
            report["received_at"] = stream.latest.received_at
            wants_image = False
        lag_sec = 0.0
        os.write(1, (json.dumps(report) + "\n").encode())
        green.sleep(0.02)
    camera.stop()
    children.stop()
    assert not list(hub.live_streams())
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(SRC))
    import green

    green.make_green()
    sys.exit(serve())
