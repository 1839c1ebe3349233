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
    if peers.missing:
        terminalreporter.section("not run on this machine")
        for name, count in sorted(peers.missing.items()):
            terminalreporter.line(f"{name}: {count} skipped; it needs: {peers.PEERS[name].remedy}")
