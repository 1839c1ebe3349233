"""The server's beginning and end: what it prints, what it refuses to start with, and how it stops."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from phones import Phone
from pictures import picture
from running import SRC, running_server, until


def start(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "ImageServer.py", *arguments],
        cwd=SRC,
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | env,
    )


def test_it_says_where_it_listens_in_one_line_of_standard_output() -> None:
    process = subprocess.Popen(
        [sys.executable, "ImageServer.py", "-i", "127.0.0.1", "-p", "0"],
        cwd=SRC, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    rest, _ = process.communicate(timeout=10)
    assert line.startswith("ImageServer listening on http://127.0.0.1:")
    assert rest == ""
    assert process.returncode == 0


def test_a_port_in_use_is_one_clear_line_and_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start("-i", "127.0.0.1", "-p", str(port))
    assert run.returncode == 2
    assert (
        run.stderr.splitlines()[-1] == f"ImageServer.py: cannot listen on 127.0.0.1 port {port}: Address already in use"
    )
    assert "Traceback" not in run.stderr


def test_a_second_server_on_the_port_does_not_share_it() -> None:
    with running_server() as first:
        assert start("-i", "127.0.0.1", "-p", str(first.port)).returncode == 2


def test_a_foreign_address_is_one_clear_line_and_status_2() -> None:
    run = start("-i", "192.0.2.1", "-p", "0")
    assert run.returncode == 2
    assert "cannot listen on 192.0.2.1 port 0" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("transports", [["polling"], ["websocket"]], ids=["polling", "websocket"])
def test_it_stops_within_three_seconds_with_clients_connected(how: signal.Signals, transports: list[str]) -> None:
    with running_server() as server:
        phones = [Phone(server.url, transports) for _ in range(5)]
        for phone in phones:
            phone.log_in()
            phone.send(picture())
        began = time.monotonic()
        server.process.send_signal(how)
        server.process.send_signal(how)
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - began < 3
        for phone in phones:
            assert phone.disconnected.wait(5), "the client is told"
        assert "Traceback" not in "".join(server.log)


def test_a_client_killed_in_the_middle_of_a_frame_costs_its_connection_only() -> None:
    with running_server() as server, Phone(server.url) as phone:
        phone.log_in("Bob", "456")
        with socket.create_connection(("127.0.0.1", server.port)) as half:
            half.sendall(
                b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n"
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert b"101" in half.recv(4096)
            half.sendall(b"\x82\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + bytes(500_000))
        assert phone.send(picture())["accepted"] is True
        until(lambda: list(server.streams()) == ["Bob"], "only Bob is left")
        assert "Traceback" not in "".join(server.log)
