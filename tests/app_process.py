"""tests/app_server.py, running: the real `App`, whose clock and engine tests turn, and that tells what it counts."""

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from raw_engineio import PATIENCE_SEC
from readers import settings_of
from running import SRC, until

PROGRAM: Final = Path(__file__).resolve().parent / "app_server.py"


class AppProcess:
    """One server.

    Args:
        tls: what its clients trust, if it speaks TLS.
    """

    def __init__(self, port: int, process: "subprocess.Popen[str]", log: Path, tls: ssl.SSLContext | None) -> None:
        self.port = port
        self.process = process
        self.tls = tls
        self._log = log
        self._http: http.client.HTTPConnection | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ask(self, path: str) -> Any:
        """What GET /test/… answers."""
        if self._http is None:
            if self.tls is not None:
                self._http = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_SEC, context=self.tls)
            else:
                self._http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SEC)
        try:
            self._http.request("GET", f"/test/{path}")
            answer = self._http.getresponse()
            body = answer.read()
        except (http.client.HTTPException, OSError):  # it was idle for longer than the server waits
            self._http.close()
            self._http.request("GET", f"/test/{path}")
            answer = self._http.getresponse()
            body = answer.read()
        assert answer.status == 200, body
        return json.loads(body)

    def until_nothing_is_left(self, more: dict[str, int] | None = None) -> dict[str, Any]:
        """Wait until no client has left anything behind; returns all that is counted."""
        expected = more or {}
        seen: dict[str, Any] = {}

        def gone() -> bool:
            seen.update(self.ask("left"))
            kept = ("sessions", "in rooms", "joining", "environs", "unfinished packets", "unfinished bytes",
                    "connections", "streams", "tcp connections", "http connections")  # fmt: skip
            return all(seen[name] == expected.get(name, 0) for name in kept)

        try:
            until(gone, "all clients gone")
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from None
        return seen

    def stop(self) -> int:
        """As an operator does; returns the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=PATIENCE_SEC)


@contextmanager
def app_process(log: Path, reader: str, *, trust: ssl.SSLContext | None = None, **options: Any) -> Iterator[AppProcess]:
    """A server with this reader and the options of app_server.py; it ends without a traceback.

    Args:
        trust: what its clients trust, if it is given a certificate.
    """
    options["settings"] = settings_of(reader) | options.get("settings", {})
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC)},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.strip().isdigit(), log.read_text()
        server = AppProcess(int(line), process, log, trust)
        yield server
        if process.poll() is None:
            assert server.stop() == 0
        assert "Traceback" not in server.log, server.log
    finally:
        process.kill()
        process.wait()
