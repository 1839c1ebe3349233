"""Hundreds of cameras in one process, cheap enough to share two cores with the server: they stream, lose the network
all at once, and come back at once.

    python3 storm_clients.py PORT JSON      obeys commands on standard input and answers on standard output, a JSON
                                            object a line, until standard input ends

A camera does what a phone does, in its turn: WebSocket handshake, CONNECT, `authenticate`, then frames with acks, each
after the ack of the one before. What they send was made ahead, and what comes is only looked at as far as needed.
"""

import errno
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pictures import padded, picture
from raw_engineio import BINARY, PONG, TEXT, client_frame

#: A round that takes longer has failed.
ROUND_SEC: Final = 30.0
#: A camera that was closed comes again after this time.
AGAIN_SEC: Final = 0.1
_HELLO: Final = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Plan(NamedTuple):
    """What the cameras are.

    Args:
        cameras: how many.
        accounts: `user0` … `user<accounts - 1>`, shared out evenly; all have the same password.
        addresses: 127.0.0.1 and those after it, shared out likewise.
        rate_hz: of each camera.
    """

    cameras: int = 500
    accounts: int = 50
    addresses: int = 1
    password: str = "secret"
    rate_hz: float = 1.0
    image_bytes: int = 20_000


class Camera:
    """One of them, and its connection of the moment."""

    def __init__(self, storm: "Storm", number: int) -> None:
        plan = storm.plan
        user = f"user{number % plan.accounts}"
        login = "42" + json.dumps(["authenticate", user, plan.password, "loggedIn"])
        self._login = client_frame(TEXT, login.encode())
        self._storm = storm
        self._address = f"127.0.0.{1 + number % plan.addresses}"
        self.streaming = False
        self.waits_for_ack = False
        self.socket: socket.socket | None = None
        self._received = b""
        self._to_send = memoryview(b"")

    def connect(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._address != "127.0.0.1":
            self.socket.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            self.socket.bind((self._address, 0))
        self._received = b""
        self._to_send = memoryview(_HELLO)
        self.streaming = self.waits_for_ack = False
        code = self.socket.connect_ex(("127.0.0.1", self._storm.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self._storm.poll.register(self.socket, select.EPOLLIN | select.EPOLLOUT)
        self._storm.by_fileno[self.socket.fileno()] = self

    def leave(self, silently: bool) -> None:
        """Lose the network: with a reset, or without a word, the socket left as it is."""
        assert self.socket is not None
        del self._storm.by_fileno[self.socket.fileno()]
        self._storm.poll.unregister(self.socket)
        self.streaming = False
        if silently:
            self._storm.silent.append(self.socket)
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
        self.socket = None

    def send(self, data: bytes | memoryview) -> None:
        assert self.socket is not None
        if self._to_send:
            self._to_send = memoryview(bytes(self._to_send) + data)
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self._to_send = memoryview(data)[sent:]
        if self._to_send:
            self._storm.poll.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def writable(self) -> None:
        data, self._to_send = self._to_send, memoryview(b"")
        assert self.socket is not None
        self._storm.poll.modify(self.socket, select.EPOLLIN)
        if data:
            self.send(data)

    def readable(self) -> None:
        assert self.socket is not None
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed it")
        data = self._received + data
        if data.startswith(b"HTTP/"):
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._received = head
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                raise ConnectionError(head.split(b"\r\n")[0].decode())
        while len(data) >= 2:  # a server's frame: not masked, and short here
            length, start = data[1], 2
            if length == 126:
                length, start = int.from_bytes(data[2:4]), 4
            if len(data) < start + length:
                break
            self._take(data[0] & 0x0F, data[start : start + length])
            data = data[start + length :]
        self._received = data

    def _take(self, opcode: int, payload: bytes) -> None:
        if payload.startswith(b"43"):
            self.waits_for_ack = False
            self._storm.acknowledged(self, b'"accepted":true' in payload)
        elif payload.startswith(b"0{"):
            self.send(client_frame(TEXT, b"40"))
        elif payload.startswith(b"40"):
            self.send(self._login)
        elif payload == b'42["loggedIn",true]':
            self.streaming = True
            self._storm.send_frame(self)
        elif payload == b"2":
            self.send(client_frame(TEXT, b"3"))
        elif opcode == 0x9:  # a ping
            self.send(client_frame(PONG, payload))
        elif opcode == 0x8 or (payload.startswith((b"41", b"42")) and not payload.startswith(b'42["setRate"')):
            raise ConnectionError(payload[:80].decode(errors="replace"))


class Storm:
    def __init__(self, port: int, plan: Plan) -> None:
        self.port = port
        self.plan = plan
        self.poll = select.epoll()
        self.by_fileno: dict[int, Camera] = {}
        self.silent: list[socket.socket] = []
        self.refusals: Counter[str] = Counter()
        self._frame = client_frame(TEXT, b'451-7["receiveImage",{"_placeholder":true,"num":0}]')
        self._frame += client_frame(BINARY, padded(picture(), plan.image_bytes))
        self._cameras = [Camera(self, number) for number in range(plan.cameras)]
        self._again: list[tuple[float, Camera]] = []
        self._cut_at = 0.0
        self._first_frame_sec: dict[Camera, float] = {}
        self._missed = self._sent = 0
        self._turn = 0

    def send_frame(self, camera: Camera) -> None:
        if camera.waits_for_ack:
            self._missed += 1
            return
        self._sent += 1
        camera.waits_for_ack = True
        camera.send(self._frame)

    def acknowledged(self, camera: Camera, accepted: bool) -> None:
        if accepted:
            self._first_frame_sec.setdefault(camera, time.monotonic() - self._cut_at)
        else:
            self.refusals["a frame was refused"] += 1

    def cut(self, how: str) -> dict[str, Any]:
        """Cut all that are connected (`reset`, `silence`), let them come back at once, and wait until they stream."""
        for old in self.silent:
            old.close()
        self.silent.clear()
        self._again.clear()
        self.refusals.clear()
        self._first_frame_sec.clear()
        began, cpu_before = time.monotonic(), time.process_time()
        self._cut_at = began
        for camera in self._cameras:
            if camera.socket is not None:
                camera.leave(silently=how == "silence")
        for camera in self._cameras:
            camera.connect()
        while len(self._first_frame_sec) < len(self._cameras) and time.monotonic() < began + ROUND_SEC:
            self._look(0.05)
        seconds = time.monotonic() - began
        return {
            "times": sorted(self._first_frame_sec.values()),
            "refusals": dict(self.refusals),
            "cpu": (time.process_time() - cpu_before) / seconds,
            "seconds": seconds,
        }

    def stream(self, seconds: float) -> dict[str, Any]:
        """Send at the cameras' rate for so long."""
        self._missed = self._sent = 0
        self.refusals.clear()
        began = last = time.monotonic()
        due = 0.0
        while (now := time.monotonic()) < began + seconds:
            due += (now - last) * self.plan.rate_hz * len(self._cameras)
            last = now
            while due >= 1:
                due -= 1
                self._turn = (self._turn + 1) % len(self._cameras)
                camera = self._cameras[self._turn]
                if camera.streaming:
                    self.send_frame(camera)
            self._look(0.005)
        return {"sent": self._sent, "missed": self._missed, "refusals": dict(self.refusals)}

    def _look(self, wait_sec: float) -> None:
        now = time.monotonic()
        while self._again and self._again[0][0] <= now:
            self._again.pop(0)[1].connect()
        for fileno, events in self.poll.poll(wait_sec):
            camera = self.by_fileno.get(fileno)
            if camera is None:
                continue
            try:
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    camera.readable()
                if events & select.EPOLLOUT and camera.socket is not None:
                    camera.writable()
            except OSError as error:
                self.refusals[str(error)] += 1
                camera.leave(silently=False)
                self._again.append((time.monotonic() + AGAIN_SEC, camera))


def main(port: str, plan: str) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    settings: dict[str, Any] = json.loads(plan)
    storm = Storm(int(port), Plan(**settings))
    for line in sys.stdin:
        command: Sequence[Any] = json.loads(line)
        answer = storm.cut(command[1]) if command[0] == "cut" else storm.stream(command[1])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
