"""A worker's own way to the log, which plug-ins that close or replace standard error leave open."""

import faulthandler
import io
import os
import select
import sys
import time
import traceback
from typing import Final

#: A message may wait so long for room in a log that is read slowly; of one that nobody reads it is not kept waiting.
SAY_SEC: Final = 0.5


class Log:
    """Writes to where standard error led when the worker began; to be made before plug-ins are imported."""

    def __init__(self) -> None:
        self._descriptor = os.dup(2)

    def take_what_is_printed(self) -> None:
        """What plug-ins print goes to the log, and what Python says when they crash; frame.py explains descriptor 2."""
        sys.stderr = _Lasting(
            io.BufferedWriter(io.FileIO(os.dup(2), "w")), errors="backslashreplace", line_buffering=True
        )
        sys.stdout = sys.stderr
        faulthandler.enable(self._descriptor)

    def say(self, text: str) -> None:
        """Write a text, ending in a line break, as far as there is room for it within `SAY_SEC`.

        The descriptor itself is not made non-blocking: the server and plug-ins write through the same open file.
        """
        left = memoryview(text.encode(errors="backslashreplace"))
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        deadline = time.monotonic() + SAY_SEC
        while left and room.poll(max(0.0, deadline - time.monotonic()) * 1000):
            try:
                left = left[os.write(self._descriptor, left[: select.PIPE_BUF]) :]
            except OSError:
                return  # it was closed at the other end

    def say_trace(self, error: BaseException, *, without: str = "") -> None:
        """Write an exception's traceback; harmless whatever the exception does when it is asked for its text.

        Args:
            without: a file whose lines it does not begin with.
        """
        try:
            trace = begin = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename == without:
                trace = trace.tb_next
            self.say("".join(traceback.format_exception(type(error), error, trace or begin)))
        except BaseException:  # the exception is the plug-in's too
            self.say("  (its traceback cannot be shown)\n")

    def say_where(self) -> None:
        """Write where all threads are."""
        # faulthandler writes past Python, and would wait for room in the log with all threads held: so into a pipe
        # that it does not wait for.
        reading, writing = os.pipe()
        try:
            os.set_blocking(writing, False)
            faulthandler.dump_traceback(writing)
            os.close(writing)
            with open(reading, "rb", closefd=False) as pipe:
                where = pipe.read().decode(errors="replace")
        finally:
            os.close(reading)
        self.say(where)


class _Lasting(io.TextIOWrapper):
    """Python's own standard error: a plug-in that closes it would close it for all."""

    def close(self) -> None:
        self.flush()
