"""A small server with a hub and one child, in a process of its own on a real loop; `ServerWithChild` drives it from a
test.

It reads commands from standard input and writes what it sees to standard output, a JSON object a line.
"""

import base64
import json
import logging
import os
import signal
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


class ServerWithChild:
    """What a test sees of that server.

    Attributes:
        seen: its newest report.
        answers: what its child has answered.
        log: what it wrote to standard error.
        worst_lag_ms: how late the loop ever was; a pause of the ingest would show here.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen: dict[str, Any] = {}
        self.answers: list[Any] = []
        self.log: list[str] = []
        self.worst_lag_ms = 0.0
        self._broken_sum: dict[str, Any] | None = None
        for reader in (self._read_reports, self._read_log):
            threading.Thread(target=reader, daemon=True).start()

    def open(self, name: str, image: bytes, rate_hz: float) -> None:
        """Let a stream of that name begin, or go on with another image or rate."""
        self._command({"open": name, "image": base64.b64encode(image).decode(), "rate_hz": rate_hz})

    def end(self, name: str) -> None:
        self._command({"end": name})

    def stop(self) -> None:
        """Let it end its children and exit."""
        self._command({"stop": True})

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

    def running(self) -> int:
        """Wait until a child runs, and return its process id."""
        return int(self.until(lambda seen: seen["state"] == "running", "a child runs")["pid"])

    def assert_nothing_was_miscounted(self) -> None:
        assert self._broken_sum is None, f"published is not sent + lost + dropped + waiting: {self._broken_sum}"

    def _command(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def _read_reports(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = json.loads(line)
            if report["published"] != report["sent"] + report["lost"] + report["dropped"] + report["waiting"]:
                self._broken_sum = report
            self.worst_lag_ms = max(self.worst_lag_ms, report["lag_ms"])
            self.answers += report.pop("answers")
            self.seen = report

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(iter(self.process.stderr.readline, ""))


@contextmanager
def server_with_child(behaviour: str, env: dict[str, str] | None = None, **options: Any) -> Iterator[ServerWithChild]:
    """Start one whose child is child_worker.py, or the display where the behaviour is `display`.

    Args:
        options: as in `children.Child`, and `policy` of the subscription.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, behaviour, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(SRC), **(env or {})},
    )
    server = ServerWithChild(process)
    try:
        yield server
    finally:
        process.kill()
        process.wait()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class NoClient:
    """A `Sender` to nobody."""

    def result(self, result: object) -> None: ...
    def rate(self, rate_hz: float) -> None: ...
    def error(self, code: str, message: str) -> None: ...
    def close(self, reason: str) -> None: ...


def serve(behaviour: str, options: dict[str, Any]) -> int:
    import green
    from children import Child, ChildFailed, Children, Payload
    from display.display import Display, NoScreen
    from frames import Frame, Limits
    from hub import Ended, FrameHub, Policy, Rates, Stream
    from ring import FrameHeader

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def encode(item: Frame | Ended) -> Payload | bytes:
        if isinstance(item, Ended):
            return json.dumps({"ended": item.stream.name}).encode()
        header = FrameHeader(item.stream.id, item.seq, item.received_at, *item.info[1:], item.stream.name)
        return Payload(header.pack(), item.image)

    answers: list[Any] = []
    stopping = green.Once()
    signal.signal(signal.SIGINT, lambda *_: setattr(stopping, "_happened", True))
    hub, children = FrameHub(), Children()
    child: Child[Frame | Ended]
    begin: Callable[[], None]
    if behaviour == "display":
        display = Display(hub, children, Limits(), **options)
        child, begin = display.child, display.start
    else:
        options = {
            "slot_bytes": 1 << 20,
            "on_answer": lambda data: answers.append(json.loads(data)),
            "on_delivery": lambda header, body: answers.append({"brought": [header.decode(), body.decode()]}),
            **options,
        }
        greeting = [json.dumps(message).encode() for message in options.pop("greeting", [])]
        subscription = hub.subscribe("test", policy=Policy(options.pop("policy", "latest")), max_frames=50)
        worker = [str(TESTS / "child_worker.py"), behaviour]
        child = Child("worker", worker, subscription, encode, greeting=lambda: greeting, **options)
        children.add(child)
        begin = child.start

    streams: dict[str, Stream] = {}
    pictures: dict[str, tuple[bytes, float]] = {}

    def offer_all(name: str) -> None:
        due = time.monotonic()
        while name in streams:
            image, rate_hz = pictures[name]
            if rate_hz:
                streams[name].offer(image)
            due = max(due + 1 / (rate_hz or 10), time.monotonic() - 1)
            green.sleep(max(0.0, due - time.monotonic()))

    def obey(command: dict[str, Any]) -> None:
        if name := command.get("open"):
            pictures[name] = base64.b64decode(command["image"]), command["rate_hz"]
            if name not in streams:
                streams[name] = hub.open_stream(name, name, "socketio", NoClient(), Limits(), Rates(0, 5))
                green.spawn(offer_all, name)
        elif name := command.get("end"):
            streams.pop(name).end()
        elif "stop" in command:
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

    try:
        begin()
    except (ChildFailed, NoScreen) as error:
        print(error, file=sys.stderr)
        return 2
    green.spawn(read_commands)
    green.spawn(measure_lag)
    while not stopping.is_set():
        counts = {
            name: getattr(child, name) for name in ("published", "sent", "lost", "dropped", "waiting", "restarts")
        }
        report = {**counts, "pid": child.pid, "state": child.state, "lag_ms": lag_sec * 1000, "answers": answers.copy()}
        answers.clear()
        lag_sec = 0.0
        os.write(1, (json.dumps(report) + "\n").encode())
        green.sleep(0.02)
    children.stop()
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(SRC))
    import green

    green.make_green()
    sys.exit(serve(sys.argv[1], json.loads(sys.argv[2])))
