"""What holds for all tests: a run ends by naming what it could not run, and what that needs."""

import pytest
from hypothesis import settings

import peers

# On a shared core a single slow example says nothing about the code; timings have tests of their own.
settings.register_profile(
    "shared-cores", parent=settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("shared-cores")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    lines = list(peers.missed(report.longrepr[2] for report in skipped))
    if lines:
        terminalreporter.section("not run on this machine")
        for line in lines:
            terminalreporter.line(line)
