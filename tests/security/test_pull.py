"""Registrations that mean somebody else, and cameras that mean ill, against the whole server."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from http_cameras import Camera, answer, answering
from ingest.door import LIFE_LINES_PER_SEC
from pickles import RUN
from pictures import picture
from probe import probing
from registering import register
from running import RunningServer, running_server, until
from security.outside import Watched
from security.processes import cpu_sec, open_files
from security.pull_attacks import (
    LOOPBACK,
    cameras,
    forge,
    own_address,
    play_pickles,
    register_crowd,
)
from security.pull_cameras import KINDS

#: Of ingest/pull/gateway.py, and of serving.py.
MAX_PULLERS, RESERVED_FILES = 1_000, 200
#: What one camera may cost, in megabytes (docs/security.md).
GROWTH_MB = 20


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


def pulled(server: RunningServer) -> list[dict]:  # type: ignore[type-arg]
    return [item for item in server.get("/api/v1/streams")["items"] if item["via"] == "pull"]


# -- whom it calls


def test_this_machine_is_not_called_for_somebody_behind_a_proxy(server: RunningServer) -> None:
    assert forge(server, None) == ([], 0)


@pytest.mark.parametrize("allowed", [(), ("--pull-allow", "0.0.0.0/0", "--pull-allow", "::/0")], ids=["none", "all"])
def test_this_machine_is_not_called_for_somebody_else(allowed: tuple[str, ...]) -> None:
    own = own_address()
    if own is None:
        pytest.skip("this machine has no address beside the loopback")
    with running_server("-i", "0.0.0.0", *allowed) as server:
        assert forge(server, own) == ([], 0)


def test_it_would_be_called_if_it_were_not_looked_at() -> None:
    """So that the tests above would see a call."""
    with running_server("--pull-allow", "127.0.0.0/8", "--pull-allow", "::1/128") as server:
        forged = forge(server, None)
    assert {"127.0.0.1", "127.255.255.254", "localhost"} <= set(forged.taken) < set(LOOPBACK)
    assert forged.called >= 2


# -- what it runs


def test_no_pickle_runs_what_its_sender_wants(tmp_path: Path) -> None:
    with running_server("--rate", "60", "--idle-rate", "60") as server:
        watched = Watched(server)
        played = play_pickles(server, tmp_path)
        assert played.played > 100 > len(RUN) > 30
        assert not played.ran
        assert sum(played.refused.values()) == played.played
        assert watched.peak_growth_mb < GROWTH_MB
        watched.assert_log_is_calm()


# -- what cameras cost


@pytest.mark.parametrize(
    "kind", ["an endless body", "an endless MJPEG part", "all but the last byte", "a bomb", "a flood of MJPEG"]
)
def test_one_camera_costs_little(kind: str) -> None:
    with running_server() as server, cameras(kind) as port:
        watched = Watched(server)
        began_cpu_sec = cpu_sec(server.process.pid)
        assert register_crowd(server, port, 1) == 1
        time.sleep(4)
        assert watched.peak_growth_mb < GROWTH_MB
        assert (cpu_sec(server.process.pid) - began_cpu_sec) / watched.elapsed_sec < 0.2
        watched.assert_log_is_calm(causes=4)


def test_cameras_that_mean_ill_cost_the_good_ones_nothing() -> None:
    with running_server() as server, Camera(answering(answer(picture()))) as good:
        files = open_files(server.process.pid)
        with probing(server.port) as probe, cameras("all") as port:
            watched = Watched(server)
            registered = 3 * len(KINDS)
            assert register_crowd(server, port, registered) == registered
            assert register(server.port, "127.0.0.1", good.port)
            time.sleep(6)
            mine = next(stream for stream in pulled(server) if stream["name"] == f"pull-{registered + 1}")
            assert mine["rate_hz"] > 0.9 * mine["wanted_hz"]
            assert not mine["refused"]
            probe.stop()
            watched.assert_log_is_calm(causes=2 * LIFE_LINES_PER_SEC)
        until(
            lambda: [s["name"] for s in pulled(server) if s["live"] and s["frames"]] == [mine["name"]], "the others end"
        )
        # The good one has a connection, and threads have two files to wake the loop with.
        until(lambda: open_files(server.process.pid) <= files + 5, "the connections are closed")


def test_a_thousand_silent_cameras_keep_nobody_out() -> None:
    with running_server() as server, Camera(answering(answer(picture()))) as good:
        files = open_files(server.process.pid)
        places = min(MAX_PULLERS, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVED_FILES) // 8)
        with probing(server.port) as probe, cameras("silent") as port:
            watched = Watched(server)
            assert register_crowd(server, port, places + 100) == places + 100
            assert open_files(server.process.pid) <= files + places + 10
            assert register(server.port, "127.0.0.1", good.port)
            until(lambda: [stream for stream in pulled(server) if stream["frames"]], "the good one is pulled")
            probe.stop()
            assert watched.peak_growth_mb < 2 * GROWTH_MB
            assert server.stop() == 0
            assert watched.elapsed_sec < 60
            watched.assert_log_is_calm(causes=2 * LIFE_LINES_PER_SEC)
