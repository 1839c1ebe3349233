"""A camera out of hand, in a process of its own: sends frames at a steady rate, whether they are wanted or not.

    python3 flooder.py PORT JSON      until standard input ends; prints what it came to, as JSON

It reads what it is sent, and does nothing else with it. Frames that the connection does not take in time are not made
up for.
"""

import base64
import http.client
import json
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final, NamedTuple

from pictures import padded, picture
from raw_engineio import BINARY, TEXT, RawWebSocket, client_frame

IMAGE_BYTES: Final = 50_000
#: What did not go out for so long is given up; a flood should not end in one great burst.
DEBT_SEC: Final = 0.2


class Flood(NamedTuple):
    """What a flooder does.

    Args:
        account: name and password; None to send without a login.
        acks: ask for an ack of every frame.
        transport: `websocket`, or `polling`, where the rate is what the answers allow.
    """

    account: tuple[str, str] | None = ("Bob", "456")
    acks: bool = False
    transport: str = "websocket"
    rate_hz: float = 500


def frame_head(acks: bool) -> bytes:
    return f'451-{"7" if acks else ""}["receiveImage",{{"_placeholder":true,"num":0}}]'.encode()


def flood_websocket(port: int, flood: Flood, ended: threading.Event, sent: list[int]) -> None:
    frame = client_frame(TEXT, frame_head(flood.acks)) + client_frame(BINARY, padded(picture(), IMAGE_BYTES))
    with RawWebSocket(port, "/socket.io/?EIO=4&transport=websocket") as connection:
        connection.send("40")
        if flood.account is not None:
            connection.send("42" + json.dumps(["authenticate", *flood.account, "loggedIn"]))
            while connection.receive() != '42["loggedIn",true]':
                pass
        threading.Thread(target=_read_all, args=(connection.socket,), daemon=True).start()
        began, given_up = time.monotonic(), 0.0
        while not ended.is_set():
            due = (time.monotonic() - began) * flood.rate_hz - given_up - sent[0]
            if due < 1:
                time.sleep((1 - due) / flood.rate_hz)
                continue
            given_up += max(due - DEBT_SEC * flood.rate_hz, 0)
            connection.send_raw(frame)
            sent[0] += 1


def _read_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while select.select([connection], [], [])[0] and connection.recv(1 << 16):
            pass


def flood_polling(port: int, flood: Flood, ended: threading.Event, sent: list[int]) -> None:
    """One POST after the other, on one connection; its polls come on another."""
    address = "/socket.io/?EIO=4&transport=polling"
    posts, polls = (http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(2))
    polls.request("GET", address)
    sid = json.loads(polls.getresponse().read()[1:])["sid"]
    address += f"&sid={sid}"

    def post(body: bytes) -> None:
        posts.request("POST", address, body, {"Content-Type": "text/plain;charset=UTF-8"})
        answer = posts.getresponse()
        answer.read()
        if answer.status != 200:
            raise ConnectionError(f"a POST was answered {answer.status}")

    def poll() -> None:
        with suppress(OSError, http.client.HTTPException):
            while True:
                polls.request("GET", address)
                answer = polls.getresponse()
                body = answer.read()
                if b'"loggedIn",true' in body:
                    logged_in.set()
                if answer.status != 200:
                    break

    logged_in = threading.Event()
    post(b"40")
    threading.Thread(target=poll, daemon=True).start()
    if flood.account is not None:
        post(b"42" + json.dumps(["authenticate", *flood.account, "loggedIn"]).encode())
        logged_in.wait(10)
    frame = frame_head(flood.acks) + b"\x1eb" + base64.b64encode(padded(picture(), IMAGE_BYTES))
    while not ended.is_set():
        post(frame)
        sent[0] += 1


def main(port: str, flood: str) -> None:
    settings: dict[str, Any] = json.loads(flood)
    wanted = Flood(**settings)
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    sent = [0]
    began = time.monotonic()
    print("begins", flush=True)
    trouble = None
    try:
        (flood_websocket if wanted.transport == "websocket" else flood_polling)(int(port), wanted, ended, sent)
    except (OSError, http.client.HTTPException) as error:
        trouble = f"{type(error).__name__}: {error}"
    print(json.dumps({"sent": sent[0], "seconds": time.monotonic() - began, "trouble": trouble}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
