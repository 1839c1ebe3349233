"""Plays of child_log.py on eventlet's loop, each run in a process of its own by test_child_log.py."""

import green

green.make_green()

import contextlib  # noqa: E402
import itertools  # noqa: E402
import os  # noqa: E402
import posix  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

from child_log import BYTES_PER_SEC, PIECE_BYTES, ChildLog  # noqa: E402
from green import sleep, spawn  # noqa: E402

LEFT_OUT = re.compile(rb"plugins-1: (\d+) bytes of what it printed are left out\n")

#: 20 MB in lines of 100 bytes each.
FLOOD = """
for n in range(20_000):
    os.write(2, b"".join(b"%07d,%02d" % (n, k) + b"." * 89 + b"\\n" for k in range(10)))
"""
FLOOD_BYTES = 20_000_000


class Output:
    """What reaches standard error: a file, or a pipe that a play reads."""

    def __init__(self) -> None:
        self._kept = os.dup(2)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        os.dup2(self._file.fileno(), 2)

    def read(self) -> bytes:
        return os.pread(self._file.fileno(), 1 << 30, 0)


def child(log: ChildLog, code: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", "import os, sys, time\n" + code], stderr=log.writing_end)
    log.close_child_end()
    log.start()
    return process


def ended(process: "subprocess.Popen[bytes]", within_sec: float = 10.0) -> float:
    """Wait for a child's end without holding the loop; returns how long that took."""
    return until(lambda: process.poll() is not None, within_sec)


def until(condition: Callable[[], object], within_sec: float = 10.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_sec
        sleep(0.01)
    return time.monotonic() - began


def full_pipe() -> int:
    """Standard error is a pipe that is full; returns its reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            posix.write(writing, b"-" * PIECE_BYTES)
    os.set_blocking(writing, True)
    os.dup2(writing, 2)
    os.set_blocking(reading, False)
    return reading


def read_all(reading: int) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := posix.read(reading, 1 << 20):
            data += more
    return data


def what_a_child_prints_reaches_standard_error_at_once() -> None:
    output, log = Output(), ChildLog("plugins-1")
    process = child(log, "print('one\\ntwo', file=sys.stderr)\ntime.sleep(60)")
    until(lambda: output.read() == b"one\ntwo\n")
    process.kill()
    log.close()
    assert output.read() == b"one\ntwo\n"
    assert log.left_out == 0


def what_was_printed_last_is_passed_on_at_the_end_also_without_a_line_break() -> None:
    output, log = Output(), ChildLog("plugins-1")
    process = child(log, "os.write(2, b'one\\ntwo')")
    ended(process)
    log.close()
    log.close()
    assert output.read() == b"one\ntwo"


def a_line_that_comes_in_pieces_is_passed_on_whole() -> None:
    output, log = Output(), ChildLog("plugins-1")
    code = "os.write(2, b'one\\nha')\nsys.stdin.read(1)\nos.write(2, b'lf\\n')\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\n" + code], stderr=log.writing_end, stdin=subprocess.PIPE
    )
    log.close_child_end()
    log.start()
    until(lambda: output.read() == b"one\n")
    sleep(0.1)
    assert output.read() == b"one\n"
    process.stdin.write(b"x")
    process.stdin.flush()
    until(lambda: output.read() == b"one\nhalf\n")
    process.kill()
    log.close()


def a_flood_is_passed_on_within_its_budget_in_whole_lines_and_the_rest_is_counted() -> None:
    output, log = Output(), ChildLog("plugins-1")
    ticks = []

    def tick() -> None:
        while True:
            sleep(0.005)
            ticks.append(time.monotonic())

    spawn(tick)
    # A line, and then many at once: the budget ends within one of them.
    many = "line = b'.' * 99 + b'\\n'\nos.write(2, line)\ntime.sleep(0.1)\nos.write(2, line * 999)\n"
    took = ended(child(log, many + FLOOD))
    assert max(later - sooner for sooner, later in itertools.pairwise(ticks)) < 0.5, "the loop goes on"
    log.close()
    text = output.read()
    said = sum(map(int, LEFT_OUT.findall(text)))
    passed = LEFT_OUT.sub(b"", text)
    assert said == log.left_out > 0
    assert len(passed) + said == FLOOD_BYTES + 100_000, (len(passed), said)
    assert BYTES_PER_SEC - PIECE_BYTES <= len(passed) <= BYTES_PER_SEC * (int(took) + 2) + PIECE_BYTES
    assert {len(line) for line in passed.splitlines()} == {99}
    assert passed.endswith(b"0019999,09" + b"." * 89 + b"\n"), "the last words"
    assert len(LEFT_OUT.findall(text)) <= took + 2


def what_comes_when_there_is_budget_again_is_passed_on_after_a_word_of_what_was_left_out() -> None:
    output, log = Output(), ChildLog("plugins-1")
    code = "os.write(2, (b'x' * 99 + b'\\n') * 2000)\ntime.sleep(1.5)\nos.write(2, b'later\\n')\ntime.sleep(60)"
    process = child(log, code)
    until(lambda: LEFT_OUT.search(output.read()))
    assert b"later" not in output.read(), "it is said though nothing comes"
    until(lambda: output.read().endswith(b"later\n"))
    process.kill()
    log.close()
    text = output.read()
    (said,) = map(int, LEFT_OUT.findall(text))
    assert said == log.left_out == 200_000 - text.count(b"x" * 99) * 100
    assert text.index(b"x\n") < text.index(b"left out") < text.index(b"later")


def a_long_line_is_bounded_too() -> None:
    output, log = Output(), ChildLog("plugins-1")
    process = child(log, "for _ in range(100):\n    os.write(2, b'x' * 100_000)\ntime.sleep(60)")
    until(lambda: LEFT_OUT.search(output.read()))
    assert len(log._line) + len(log._last_words) <= 2 * PIECE_BYTES
    assert BYTES_PER_SEC - PIECE_BYTES <= LEFT_OUT.sub(b"", output.read()).count(b"x") <= 2 * BYTES_PER_SEC
    process.kill()
    log.close()


def where_nobody_reads_standard_error_neither_the_loop_nor_the_child_waits() -> None:
    reading, log = full_pipe(), ChildLog("plugins-1")
    began = time.monotonic()
    process = child(log, "os.write(2, b'unheard\\n')\n" + FLOOD + "\ntime.sleep(60)")
    until(lambda: log.left_out >= FLOOD_BYTES - BYTES_PER_SEC)
    assert time.monotonic() - began < 10
    assert os.get_blocking(2), "others share it"
    assert set(read_all(reading)) == set(b"-")
    until(lambda: LEFT_OUT.search(read_all(reading)))  # somebody reads now
    process.kill()
    log.close()


def with_a_full_standard_error_the_end_does_not_wait() -> None:
    full_pipe()
    log = ChildLog("plugins-1")
    process = child(log, FLOOD)
    ended(process)
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 1


def a_standard_error_whose_reader_has_gone_costs_nothing() -> None:
    os.close(full_pipe())
    log = ChildLog("plugins-1")
    os.close(2)
    ended(child(log, "os.write(2, b'unheard\\n' * 100)"))
    log.close()
    assert log.left_out == 800


def a_child_that_has_ended_costs_the_loop_nothing() -> None:
    output, log = Output(), ChildLog("plugins-1")
    ended(child(log, "os.write(2, b'one\\n')"))
    until(output.read)
    before = time.process_time()
    sleep(0.5)
    assert time.process_time() - before < 0.1
    log.close()


def what_a_child_has_started_and_still_prints_does_not_keep_the_end() -> None:
    Output()
    log = ChildLog("plugins-1")
    code = """
import subprocess
print(*[subprocess.Popen(["cat", "/dev/zero"], stdout=2).pid for _ in range(4)], flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=log.writing_end, stdout=subprocess.PIPE)
    log.close_child_end()
    log.start()
    started = list(map(int, process.stdout.readline().split()))
    ended(process)
    until(lambda: log.left_out > 1_000_000)
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 1
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def its_descriptors_are_closed_whether_it_was_started_or_not() -> None:
    before = os.listdir("/proc/self/fd")
    ChildLog("plugins-1").close()
    log = ChildLog("plugins-1")
    log.start()
    log.close()
    assert os.listdir("/proc/self/fd") == before


if __name__ == "__main__":
    said = os.dup(2)
    try:
        globals()[sys.argv[1]]()
    except BaseException:
        os.dup2(said, 2)
        raise
    print("done", flush=True)
    os._exit(0)
