"""The demo as a newcomer meets it."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers import need
from running import SRC, until

need("opencv")

from client_sim.demo import PORT, figures_table  # noqa: E402


class RunningDemo:
    def __init__(self, process):
        self.process = process
        self.said = ""
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern):
        """Read on until it has said this."""
        while not (found := re.search(pattern, self.said, re.MULTILINE)):
            line = self._lines.get(timeout=30)
            assert line, f"the demo ended, having said {self.said!r}"
            self.said += line
        return found

    @property
    def server_pid(self):
        (pid,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


@contextmanager
def running_demo(**environment):
    without_screen = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    process = subprocess.Popen(
        [sys.executable, "-m", "client_sim.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=without_screen | {"PYTHONPATH": str(SRC)} | environment,
        text=True,
    )
    with process:
        try:
            yield RunningDemo(process)
        finally:
            if process.poll() is None:
                process.terminate()  # with its server
                process.wait(10)


def is_running(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_says_what_to_look_at_shows_all_streams_and_leaves_nobody_behind(ended_by):
    with running_demo() as demo:
        url = demo.wait_for(r"^The server runs at (http://127\.0\.0\.1:\d+), with five simulated cameras:")[1]
        for stream in ("user1", "user2", "Alice", "tcp-1", "pull-1"):
            demo.wait_for(rf"^  {stream} +yes +\d+\.\d +\d+ +\d+\.\d MB +640x480 +\d+ ms +0 +\d+ ")
        demo.wait_for(r"^  Alice .* \d+x\d+ at \d+,\d+$")
        assert f"{url}/api/v1/streams" in demo.said
        assert urllib.request.urlopen(f"{url}/api/v1/streams", timeout=10).status == 200
        server_pid = demo.server_pid
        demo.process.send_signal(ended_by)
        assert demo.process.wait(10) == 0
        demo.wait_for(r"^Ended, with [1-9]\d* frames sent\.$")
        assert demo.process.stderr.read() == ""
        assert not is_running(server_pid)


def test_ctrl_c_before_the_server_listens_ends_it_cleanly_too():
    with running_demo() as demo:
        server_pid = until(lambda: Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text(), "")
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(10) == 0
        assert demo.process.stderr.read() == ""
        assert not is_running(int(server_pid))


def test_where_the_usual_port_is_taken_it_finds_another():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", PORT))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        with running_demo() as demo:
            port = int(demo.wait_for(r"^The server runs at http://127\.0\.0\.1:(\d+)")[1])
            assert port != PORT
            demo.wait_for(rf"-m client_sim --server http://127\.0\.0\.1:{port} --user Bob")


def test_a_screen_that_cannot_be_opened_is_no_obstacle():
    with running_demo(DISPLAY=":4242") as demo:
        demo.wait_for("^There is no screen here")


def test_what_the_user_has_set_for_other_servers_does_not_matter():
    with running_demo(IMAGESERVER_AUTH="true", IMAGESERVER_RATE="1") as demo:
        demo.wait_for(r"^  Alice +yes +1\d\.\d")


def test_a_server_that_ends_by_itself_is_told_with_its_last_words():
    with running_demo() as demo:
        demo.wait_for("^Ctrl-C ends it")
        os.kill(demo.server_pid, signal.SIGTERM)
        assert demo.process.wait(10) == 1
        complaints = demo.process.stderr.read()
        assert "demo: the server has ended by itself:" in complaints
        assert "stopping" in complaints


def test_a_stream_without_frames_has_its_line_too():
    stream = {"name": "user1", "live": False, "frames": 0, "bytes": 0, "refused": {"rate": 2}, "dropped": {}}
    stream |= {"rate_hz": 0.0, "size_wh": None, "age_ms": None}
    _, line = figures_table([stream], lambda _name: {})
    assert line.split() == ["user1", "no", "0.0", "0", "0.0", "MB", "-", "-", "2", "0", "-"]
