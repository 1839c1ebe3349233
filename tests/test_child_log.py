"""What children print, on a real loop and from real processes; the plays are in child_log_loop.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from running import SRC

PLAYS = Path(__file__).resolve().parent / "child_log_loop.py"
NAMES = re.findall(r"^def (\w+)\(\) -> None:", PLAYS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_loop(name: str) -> None:
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
