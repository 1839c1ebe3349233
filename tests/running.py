"""The real server in a process of its own, on a free port, for tests that talk to it from outside."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

SRC = Path(__file__).resolve().parent.parent / "src"

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, within_sec: float = 10.0) -> T:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + within_sec
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {within_sec:g} s: {what}"
        time.sleep(0.01)
    return answer


class RunningServer:
    """A server that listens; its log can be read while it runs."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rsplit(":", 1)[1])
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def get(self, path: str, token: str | None = None) -> Any:
        """The JSON (or text) that a path answers with."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=10) as answer:
            body = answer.read()
            return json.loads(body) if answer.headers["Content-Type"].startswith("application/json") else body.decode()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def token(self, username: str, password: str) -> str:
        status, answer = self.post("/api/v1/token", {"username": username, "password": password})
        assert status == 200, answer
        return str(answer["token"])

    def streams(self, token: str | None = None) -> dict[str, dict[str, Any]]:
        """The live streams, by name."""
        return {item["name"]: item for item in self.get("/api/v1/streams", token)["items"] if item["live"]}

    def stop(self) -> int:
        """End it as an operator does, and return its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=10)
        self._reader.join(timeout=5)
        return status

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)


@contextmanager
def running_server(
    *arguments: str, program: Sequence[str] = ("ImageServer.py",), env: dict[str, str] | None = None
) -> Iterator[RunningServer]:
    """A server on a free port of the loopback, stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, *program, "-i", "127.0.0.1", "-p", "0", *arguments],
        cwd=SRC,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    )
    assert process.stdout is not None
    line = _first_line(process, within_sec=30)
    if not line.startswith("ImageServer listening on "):
        process.kill()
        assert process.stderr is not None
        raise AssertionError(f"the server said {line!r}: {process.stderr.read()}")
    server = RunningServer(process, line.split()[-1])
    try:
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _first_line(process: "subprocess.Popen[str]", within_sec: float) -> str:
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    try:
        return lines.get(timeout=within_sec).strip()
    except queue.Empty:
        return ""
