"""The loop of a worker: gives frames to plug-ins, each stream to instances of its own, and reports what they say."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from processing.contract import Instance, Plugin, one_line
from processing.encoding import BadResult, encode
from processing.frame import DecodedFrames, Frame, Undecodable
from processing.log import Log
from processing.watchdog import Watchdog
from processing.wire import BEGUN, FAILED, NOTHING, Job, Report, Run
from ring import RingReader

#: A traceback of each plug-in is written so often: with every frame it would fill the disk.
TRACEBACK_SEC: Final = 1.0
#: Of what went wrong, the server's log gets one line.
MAX_FAILURE_CHARS: Final = 300


class _Stream:
    """A stream as one plug-in knows it: an instance of its own, and the window that is being filled."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instance: Instance | None = None
        self.window: list[Frame] = []


class Worker:
    """Works on what comes through the ring, one frame after the other.

    Args:
        reader: only this thread may use it.
        plugins: numbered as they stand here.
        log: where tracebacks go.
    """

    def __init__(self, reader: RingReader, plugins: Sequence[Plugin], watchdog: Watchdog, log: Log) -> None:
        self._reader = reader
        self._plugins = plugins
        self._watchdog = watchdog
        self._log = log
        self._streams: dict[tuple[int, int], _Stream] = {}  # by stream and plug-in
        self._decoded = DecodedFrames()
        self._traceback_due = [0.0] * len(plugins)

    def run(self) -> NoReturn:
        """Work until the server closes its end.

        Raises:
            EOFError: it has.
        """
        while True:
            for message in self._reader.receive():
                if message.slot is None:
                    self._obey(json.loads(bytes(message.payload)))
                else:
                    job, image = Job.unpack(message.payload)
                    self._work(job, bytes(image))  # a plug-in may keep its frames, the slot is written again
                    self._reader.give_back(message.slot)

    def _obey(self, control: dict[str, object]) -> None:
        stream_id, plugins = control["ended"], control["plugins"]
        assert isinstance(stream_id, int)
        assert isinstance(plugins, list)
        for number in plugins:
            # Of which it has had no frame, it is not asked for a last word.
            if (stream := self._streams.pop((stream_id, number), None)) is not None:
                finish = stream.instance.finish if stream.instance is not None else None
                self._run(number, stream_id, 0, f"the end of {stream.name}", finish)

    def _work(self, job: Job, image: bytes) -> None:
        frame = Frame(job, image)
        kept = False
        for run in job.runs:
            key = job.stream_id, run.plugin
            stream = self._streams.get(key)
            if stream is None:
                stream = self._streams[key] = _Stream(job.stream)
            what = f"frame {job.seq} of {job.stream}"
            self._run(run.plugin, job.stream_id, job.seq, what, self._call(stream, run, frame))
            kept = kept or frame in stream.window[-1:]
        if kept:
            self._decoded.keep(frame)

    def _call(self, stream: _Stream, run: Run, frame: Frame) -> Callable[[], object] | None:
        """What is to be called for this frame; None when it is only kept for its window."""
        plugin = self._plugins[run.plugin]

        def process(argument: object) -> object:
            if stream.instance is None:
                stream.instance = plugin.begin()
            return stream.instance.process(argument)

        if not plugin.description.window:
            return lambda: process(frame)
        if run.position == 0:
            stream.window = []  # what was begun before is not going on
        if run.position != len(stream.window):
            return None
        stream.window.append(frame)
        if len(stream.window) < plugin.description.window:
            return None
        window, stream.window = stream.window, []
        return lambda: process(window)

    def _run(self, number: int, stream_id: int, seq: int, what: str, call: Callable[[], object] | None) -> None:
        """Call a plug-in, if there is something to call, and report what came of it."""
        if len(self._plugins) > 1:
            self._reader.answer(Report(BEGUN, stream_id, seq, number).pack())
        began = time.perf_counter()
        kind, payload = (NOTHING, b"") if call is None else self._outcome(number, what, call)
        seconds = time.perf_counter() - began
        self._reader.answer(Report(kind, stream_id, seq, number, seconds, payload).pack())

    def _outcome(self, number: int, what: str, call: Callable[[], object]) -> tuple[int, bytes]:
        description = self._plugins[number].description
        # What it raises is the plug-in's own as well: to ask for its text may take as long as a call, or raise more.
        with self._watchdog.watching(f"{description.name}, {what},", description.deadline_sec):
            try:
                return encode(call())
            except BaseException as error:  # also SystemExit: one plug-in has no say over the others
                if type(error) not in (Undecodable, BadResult):
                    self._log_failure(number, what, error)
                return FAILED, _failure(error)

    def _log_failure(self, number: int, what: str, error: BaseException) -> None:
        now = time.monotonic()
        if now >= self._traceback_due[number]:
            self._traceback_due[number] = now + TRACEBACK_SEC
            self._log.say(f"processing: {self._plugins[number].description.name}, {what}:\n")
            self._log.say_trace(error, without=__file__)


def _failure(error: BaseException) -> bytes:
    text = str(error) if type(error) in (Undecodable, BadResult) else one_line(error)
    return text[:MAX_FAILURE_CHARS].encode(errors="replace")
