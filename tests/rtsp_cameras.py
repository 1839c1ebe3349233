"""RTSP cameras for tests: a real server (clients/rtsp_server.py), and one that answers as a test says."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from peers import need
from running import until

PROGRAM: Final = Path(__file__).resolve().parent / "clients" / "rtsp_server.py"
#: Of GStreamer's own libraries: the first picture of a pipeline takes so long on a shared core.
PATIENCE_SEC: Final = 20.0


class RtspServer:
    """A real server, that runs.

    Attributes:
        said: the lines that it has said since it listens.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.said: list[str] = []
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), f"the RTSP server said {line!r}"
        self.port = int(line.split()[-1])
        threading.Thread(target=self._read, daemon=True).start()

    def url(self, path: str, login: str = "") -> str:
        return f"rtsp://{login}{'@' if login else ''}127.0.0.1:{self.port}{path}"

    def until_said(self, word: str, times: int = 1, within_sec: float = PATIENCE_SEC) -> None:
        until(lambda: self.said.count(word) >= times, f"the camera says {word!r} {times} times", within_sec)

    def stand_still(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(line.strip() for line in iter(self.process.stdout.readline, ""))


@contextmanager
def rtsp_server(*arguments: str) -> Iterator[RtspServer]:
    """A real server with these arguments."""
    need("gstreamer")
    process = subprocess.Popen(
        ["/usr/bin/python3", str(PROGRAM), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    try:
        yield RtspServer(process)
    finally:
        process.kill()
        process.wait()


#: Called with each request, and how many came before on its connection; returns what is sent, whole or in pieces,
#: or None to close the connection. It may take its time.
Answer = Callable[[bytes, int], bytes | Iterator[bytes] | None]


class ScriptedCamera:
    """A camera that answers as a test says.

    Attributes:
        connections: how many there have been.
        requests: all that came.
    """

    def __init__(self, answer: Answer) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            count = 0
            while request := connection.recv(65_536):
                self.requests.append(request)
                answer = self._answer(request, count)
                if answer is None:
                    return
                for piece in (answer,) if isinstance(answer, bytes) else answer:
                    connection.sendall(piece)
                count += 1


@contextmanager
def scripted_camera(answer: Answer) -> Iterator[ScriptedCamera]:
    camera = ScriptedCamera(answer)
    try:
        yield camera
    finally:
        camera.close()


def reply(request: bytes, status: str = "200 OK", *headers: str, body: bytes = b"") -> bytes:
    """An answer to this request (RFC 2326, section 7)."""
    (number,) = [line.partition(b":")[2].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"cseq")]
    lines = [f"RTSP/1.0 {status}", f"CSeq: {number.decode()}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class DamagingWay:
    """A way to a camera on which video changes, and the conversation about it does not.

    Args:
        port: the camera's.
        damage: makes of a packet's payload what comes of it, of the same length.
    """

    def __init__(self, port: int, damage: Callable[[bytes], bytes]) -> None:
        self._camera_port = port
        self._damage = damage
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                camera = socket.create_connection(("127.0.0.1", self._camera_port))
                threading.Thread(target=self._pass_requests, args=(client, camera), daemon=True).start()
                threading.Thread(target=self._pass_video, args=(camera, client), daemon=True).start()

    @staticmethod
    def _pass_requests(client: socket.socket, camera: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                camera.sendall(data)
            camera.shutdown(socket.SHUT_RDWR)

    def _pass_video(self, camera: socket.socket, client: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            while more := camera.recv(65_536):
                data += more
                while (end := _end_of_first(data)) <= len(data):
                    piece, data = data[:end], data[end:]
                    # RFC 2326, section 10.12: 4 bytes before a packet, and RFC 3550, section 5.1: the packet's own 12
                    client.sendall(piece[:16] + self._damage(piece[16:]) if piece[:1] == b"$" else piece)
            client.shutdown(socket.SHUT_RDWR)


def _end_of_first(data: bytes) -> int:
    """Where the first packet or answer ends; beyond the data if they do not hold all of it."""
    if data[:1] == b"$" and len(data) >= 4:
        return 4 + int.from_bytes(data[2:4], "big")
    head, end, _ = data.partition(b"\r\n\r\n")
    if data[:1] == b"$" or not end:
        return len(data) + 1
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
    return len(head) + 4 + length


def connections_to(port: int, pid: int) -> int:
    """How many TCP connections a process has to a port of the loopback."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(os.readlink(descriptor))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[2].rpartition(":")[2], 16) == port and row[3] == "01" and f"socket:[{row[9]}]" in sockets
        for row in rows
    )


def slept(seconds: float) -> bool:
    """Time in which nothing shall happen has passed."""
    time.sleep(seconds)
    return True
