"""Crowds that hold connections and do nothing with them: they go in time, and leave nothing behind."""

import os
import resource
from collections.abc import Iterator

import pytest

from probe import probing
from running import RunningServer, running_server
from security.connection_attacks import CROWDS, GONE_SEC, hold

#: As many as locked everybody out of a server that serves 1,024 at once.
COUNT = 1_100
#: Beyond what the server had before: what a crowd may leave, and what another one may add to that.
LEFT_MB, ADDED_MB = 20, 6


@pytest.fixture(scope="module", autouse=True)
def _enough_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


def test_a_crowd_of_every_kind_goes_in_time_and_leaves_nothing_behind(server: RunningServer) -> None:
    share = COUNT // len(CROWDS) + 1
    with probing(server.port):
        first = hold(server, dict.fromkeys(CROWDS, share))
        assert first.gone == first.clients > COUNT, first.summary()
        assert first.last_sec < GONE_SEC / 2, first.summary()
        assert first.newcomer_ms < 2_000, first.summary()
        assert first.files[2] <= first.files[0] + 1, first.summary()
        assert first.rss_mb[2] <= first.rss_mb[0] + LEFT_MB, first.summary()
        if os.environ.get("CI"):  # where there is time
            second = hold(server, dict.fromkeys(CROWDS, share))
            assert second.rss_mb[2] <= first.rss_mb[2] + ADDED_MB, f"{first.summary()}; {second.summary()}"
    assert "Traceback" not in "".join(server.log)
    said = [line for line in server.log if "logged in" not in line and "ended after" not in line]
    assert len(said) < 60, "a line a second per cause, not one a client"
