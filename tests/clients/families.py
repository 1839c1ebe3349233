"""The clients that people have, and how to run a program of ours on each of them.

A program is written once per family: node/NAME.js, python/NAME.py, java/NAME.java. It says in JSON lines what it sees.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peers

HERE: Final = Path(__file__).resolve().parent
CLIENTS: Final = ("node-1.7.4", "node-2.5.0", "node-4.8.4", "python-4.6.1", "python-5", "java-1.0.0", "java-2.1.2")
TRANSPORTS: Final = ("polling", "websocket", "upgrade")

#: All that our programs do takes a few seconds.
DEADLINE_SEC: Final = 60

Json = dict[str, Any]


class Transcript(NamedTuple):
    """What a program said.

    Attributes:
        status: its exit status; programs end by themselves when their connections are closed.
        complaints: its standard error.
    """

    events: list[Json]
    status: int
    complaints: str

    def only(self, name: str) -> Json:
        """Its one event of this name."""
        found = [event for event in self.events if event["event"] == name]
        seen = [event["event"] for event in self.events]
        assert len(found) == 1, f"{len(found)} × {name!r} among {seen}; it complains: {self.complaints or 'not'}"
        return found[0]


class Runner:
    """Runs our programs.

    Args:
        make_folder: makes a new folder.
    """

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._java_classes: dict[str, Path] = {}

    def run(
        self,
        client: str,
        program: str,
        arguments: Sequence[str | Path],
        on_event: Callable[[Json], None] = lambda event: None,
    ) -> Transcript:
        """Run a program on a client to its end, and hear what it says while it does."""
        events = []
        complaints = self._make_folder(client) / "stderr"
        with (
            complaints.open("w") as stderr,
            subprocess.Popen(
                [*self._command(client, program), *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env={**os.environ, "LC_ALL": "C.UTF-8"},  # Java's input and output are in the locale's encoding
            ) as process,
        ):
            deadline = threading.Timer(DEADLINE_SEC, process.kill)
            deadline.start()
            assert process.stdout is not None
            for line in process.stdout:
                events.append(json.loads(line))
                on_event(events[-1])
            status = process.wait()
            deadline.cancel()
        return Transcript(events, status, complaints.read_text())

    def _command(self, client: str, program: str) -> list[str | Path]:
        family, _, version = client.partition("-")
        if family == "node":
            peers.need("node", client)
            library = peers.FOLDER / "node" / "node_modules" / f"socket.io-client-{version}"
            return ["node", HERE / "node" / f"{program}.js", library]
        if family == "java":
            peers.need("java", client)
            return ["java", "-cp", self._class_path(client), program.capitalize()]
        python: str | Path = sys.executable
        if client != "python-5":  # the server's own version
            peers.need(client)
            python = peers.FOLDER / client / "bin" / "python"
        return [python, HERE / "python" / f"{program}.py"]

    def _class_path(self, client: str) -> str:
        library = peers.FOLDER / client / "*"
        if client not in self._java_classes:
            classes = self._java_classes[client] = self._make_folder(client)
            subprocess.run(["javac", "-cp", library, "-d", classes, *(HERE / "java").glob("*.java")], check=True)
        return f"{self._java_classes[client]}:{library}"
