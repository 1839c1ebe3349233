"""Every client talks to some other application (application.py) on `engine.Server`, in both directions and in bytes.

All of them play the same (talker.js, talker.py, Talker.java), over one transport and with a second connection over the
other: be greeted, have things echoed in an ack, answer an ack of the server's, tell everybody, join a namespace with a
token, be refused by another.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest

import peers
from clients.families import HERE, Runner, Transcript

BYTES: Final = {"bytes": bytes(range(256)).hex()}
BYTES_REVERSED: Final = {"bytes": bytes(reversed(range(256))).hex()}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, HERE / "application.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(peers.ROOT / "src")},
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@pytest.fixture(scope="module")
def text(client_and_transport: tuple[str, str]) -> str:
    """Something to say: beyond ASCII and beyond 16 bits, unless the client itself spoils that."""
    client, transport = client_and_transport
    # Over polling, socket.io-client 1.7.4 encodes its UTF-8 a second time.
    return "plain" if client == "node-1.7.4" and transport != "websocket" else "é😀"


@pytest.fixture(scope="module")
def talker(client_and_transport: tuple[str, str], text: str, runner: Runner, url: str) -> Transcript:
    client, transport = client_and_transport
    return runner.run(client, "talker", [url, transport, text])


def test_event_of_the_connect_handler_comes_after_the_connection(talker: Transcript) -> None:
    assert talker.only("welcome")["args"] == ["first", BYTES]


def test_ack_brings_text_numbers_and_nested_bytes_back(talker: Transcript, text: str) -> None:
    nested: dict[str, Any] = {"number": 1.5, "bytes": BYTES, "list": [{"bytes": "ff"}, None, True]}
    assert talker.only("echo")["args"] == [text, nested]


def test_client_acknowledges_with_bytes(talker: Transcript, text: str) -> None:
    assert talker.only("you said")["args"] == [BYTES_REVERSED, text]


def test_bytes_for_everybody_reach_polling_and_websocket_alike(talker: Transcript) -> None:
    assert talker.only("told")["args"] == [BYTES, BYTES]


def test_namespace_is_joined_with_a_token(talker: Transcript, client_and_transport: tuple[str, str]) -> None:
    # python-socketio 4 has no way to say one.
    expected = [] if client_and_transport[0] == "python-4.6.1" else ["abc"]
    assert talker.only("token")["args"] == expected


def test_refusal_of_a_namespace_carries_its_data(talker: Transcript) -> None:
    assert talker.only("denied")["code"] == 42


def test_talker_ends_when_its_connections_are_closed(talker: Transcript) -> None:
    talker.only("done")
    assert talker.status == 0, talker.complaints
