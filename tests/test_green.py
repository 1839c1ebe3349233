"""Waiting, tasks, timers and threads, on a real loop; the plays are in green_loop.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from running import SRC

PLAYS = Path(__file__).resolve().parent / "green_loop.py"
NAMES = re.findall(r"^def (\w+)\(\) -> None:", PLAYS.read_text(), re.MULTILINE)


def play(name: str) -> str:
    result = subprocess.run(
        [sys.executable, str(PLAYS), name],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n"), result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_on_the_loop(name: str) -> None:
    play(name)


def test_what_a_task_raises_is_in_the_log() -> None:
    output = play("task_that_raises_is_logged_and_ends")
    assert "fail ended with an error" in output
    assert "ValueError: what went wrong" in output


def test_nothing_is_said_about_eventlets_retirement() -> None:
    assert "eprecated" not in play("signal_set_before_the_wait_is_not_lost")
