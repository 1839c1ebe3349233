"""A real worker of plug-ins in a process of its own; the test stands at the server's end of its ring."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frames import read_header
from pictures import picture
from processing import wire
from processing.wire import Job, Report, Run
from ring import FAILED, READY, Answer, Ring

SRC = Path(__file__).resolve().parent.parent / "src"

KINDS = {wire.NOTHING: "nothing", wire.VALUE: "value", wire.PICTURE: "picture", wire.FAILED: "failed"}


class Told(NamedTuple):
    """A report, as a test likes to read it."""

    plugin: str
    kind: str
    stream: int
    seq: int
    value: Any
    seconds: float


class WorkerProcess:
    """A worker that was started as the server starts it.

    Args:
        folder: its working directory, unless there is another; its log is there.
        specs: MODULE:NAME of its plug-ins.
        stderr: a descriptor for its standard error; none for the log.

    Attributes:
        failure: why it says that it cannot work, None when it can.
        plugins: what they said of themselves.
        begun: plug-in, stream and frame of what it has begun.
    """

    def __init__(
        self,
        folder: Path,
        *specs: str,
        memory_bytes: int = 0,
        env: Mapping[str, str] | None = None,
        slots: int = 2,
        cwd: Path | None = None,
        stderr: int | None = None,
    ) -> None:
        self.ring = Ring(slots, wire.MAX_JOB_HEADER_BYTES + (4 << 20))
        self.log_file = folder / "worker.log"
        self.failure: str | None = None
        self.plugins: list[dict[str, Any]] = []
        self.begun: list[tuple[str, int, int]] = []
        self.ready = False
        self._told: list[Told] = []
        path = os.pathsep.join(filter(None, [str(SRC), (env or {}).get("PYTHONPATH", "")]))
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "processing", "--memory", str(memory_bytes), *specs, self.ring.argument],
                pass_fds=self.ring.descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log if stderr is None else stderr,
                cwd=cwd or folder,
                env={**os.environ, **(env or {}), "PYTHONPATH": path},
            )
        self.ring.close_child_end()
        self.until(lambda: self.ready or self.failure is not None, "it is ready or cannot be")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.ring.close()

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def send(
        self,
        seq: int = 1,
        image: bytes | None = None,
        position: int = 0,
        *,
        stream: int = 7,
        plugins: Sequence[int] | None = None,
        received_at: float | None = None,
    ) -> None:
        """Hand over a frame, for all plug-ins unless some are named, and wait for nothing."""
        image = picture() if image is None else image
        _, width, height = read_header(image)
        job = Job(
            stream,
            seq,
            time.time() if received_at is None else received_at,
            width,
            height,
            f"stream {stream}",
            f"user {stream}",
            tuple(Run(plugin, position) for plugin in (range(len(self.plugins)) if plugins is None else plugins)),
        )
        self.until(lambda: self.ring.free, "a slot is free")
        self.ring.put(job.pack(), image)
        self.ring.flush()

    def end(self, stream: int = 7, plugins: Sequence[int] | None = None) -> None:
        """Say that a stream has ended."""
        numbers = list(range(len(self.plugins)) if plugins is None else plugins)
        self.ring.tell(json.dumps({"ended": stream, "plugins": numbers}).encode())
        self.ring.flush()

    def told(self, count: int = 1, within_sec: float = 10.0) -> list[Told]:
        """Wait for what came of so many runs more."""
        self.until(lambda: len(self._told) >= count, f"{count} reports", within_sec)
        told, self._told = self._told[:count], self._told[count:]
        return told

    def ask(self, *arguments: Any, **options: Any) -> Told:
        """What the only plug-in says of a frame."""
        self.send(*arguments, **options)
        (told,) = self.told()
        return told

    def status(self, within_sec: float = 10.0) -> int:
        """Wait for its end."""
        return self.process.wait(within_sec)

    def stop(self) -> int:
        """Close the server's end, as when it stops, and wait for the worker's."""
        self.ring.say_goodbye()
        return self.status()

    def until(self, condition: Callable[[], object], what: str, within_sec: float = 20.0) -> None:
        """Take what comes until something holds.

        Raises:
            EOFError: the worker has gone.
        """
        deadline = time.monotonic() + within_sec
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"not within {within_sec:g} s: {what}; {self.log}"
            select.select([self.ring], [], [], left)
            for answer in self.ring.collect():
                self._receive(answer)

    def _receive(self, answer: Answer) -> None:
        if answer.kind == READY:
            self.ready = True
        elif answer.kind == FAILED:
            self.failure = answer.data.decode()
        else:
            report = Report.unpack(answer.data)
            if report.kind == wire.DESCRIPTION:
                assert not self.ready, "it describes its plug-ins before it is ready"
                self.plugins = json.loads(report.payload)
                return
            name = self.plugins[report.plugin]["name"]
            if report.kind == wire.BEGUN:
                self.begun.append((name, report.stream_id, report.seq))
                return
            value: Any = report.payload or None
            if report.kind == wire.VALUE:
                value = json.loads(report.payload)
            elif report.kind == wire.FAILED:
                value = report.payload.decode()
            self._told.append(Told(name, KINDS[report.kind], report.stream_id, report.seq, value, report.seconds))
