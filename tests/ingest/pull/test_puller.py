"""Cameras that are pulled: their pace, their pauses, their streams. The plays are in puller_loop.py, on a real loop."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from running import SRC

PLAYS: Final = Path(__file__).resolve().parent / "puller_loop.py"
NAMES: Final = re.findall(r"^def (\w+)\(\) -> None:", PLAYS.read_text(), re.MULTILINE)
#: These take the threads that the others need, or another name server.
ALONE: Final = [name for name in NAMES if "thread" in name or "unknown" in name or "alone" in name]


class Played(NamedTuple):
    """What has come of plays: what went wrong in each, if something did, and the log."""

    trouble: dict[str, str | None]
    log: list[str]

    def lines_of(self, name: str) -> list[str]:
        return [line.partition(f"{name}/: ")[2] for line in self.log if f"{name}/: " in line]


def play(*names: str) -> Played:
    run = subprocess.run(
        [sys.executable, str(PLAYS), *names],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return Played(dict(map(json.loads, run.stdout.splitlines())), run.stderr.splitlines())


@pytest.fixture(scope="module")
def played() -> Played:
    """All plays that don't mind each other."""
    return play(*(name for name in NAMES if name not in ALONE))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALONE])
def test_on_the_loop(played: Played, name: str) -> None:
    assert played.trouble[name] is None, played.trouble[name]


@pytest.mark.parametrize("name", ALONE)
def test_alone_on_the_loop(name: str) -> None:
    assert play(name).trouble == {name: None}


def test_the_log_follows_a_camera_once_for_each_change(played: Played) -> None:
    name = "stream_begins_with_an_answer_ends_when_there_is_none_and_begins_again_under_its_name"
    assert played.lines_of(name) == ["no answer: no connection", "pulled as stream Alice of Alice"]


def test_the_log_says_that_a_camera_was_given_up(played: Played) -> None:
    assert played.lines_of("camera_that_does_not_answer_is_asked_after_pauses_and_given_up") == [
        "no answer: no connection",
        "given up, no answer for 1.5 s: no connection",
    ]


def test_the_log_says_why_a_camera_is_asked_less_often(played: Played) -> None:
    (line,) = played.lines_of("camera_that_sends_rubbish_is_asked_less_often_and_stays_live")[1:]
    assert line.startswith("asked less often, its answers are refused: the first bytes are '3f', expected a JPEG")


def test_only_a_fault_of_ours_leaves_a_traceback(played: Played) -> None:
    assert [line for line in played.log if "ERROR" in line] == [
        "ERROR:ingest.pull.puller:http://fault_of_ours_is_said_and_the_camera_pulled_again/ could not be pulled"
    ]
