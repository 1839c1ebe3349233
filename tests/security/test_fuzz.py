"""Ten thousand clients out of their minds (a thousand where `CI` is not set), and a good camera that notices nothing.

`FUZZ_SEED` and `FUZZ_CASES` choose others. A failing case is printed as it was played, and again as small as it could
be made.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from probe import probing
from running import RunningServer, running_server, until
from security.fuzzer import Case, Fuzzer, cases, per_second, value_of
from security.outside import Watched
from serving import CROWD, GIVE_BACK_PAUSE_SEC, GIVE_BACK_SEC

IN_CI: Final = bool(os.environ.get("CI"))
CASES: Final = int(os.environ.get("FUZZ_CASES", "10000" if IN_CI else "1000"))
SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
#: So many cases fill what the server keeps anyway (caches, arenas, ended streams); growth is measured from there.
WARM_UP: Final = CASES // 4
#: A leak of 2 KB a case shows, where that is more than what 1,000 ended streams that stay listed take, and what the
#: allocator keeps.
MAX_GROWTH_MB: Final = max(4.0, (CASES - WARM_UP) * 2e-3)
#: The server answers so much to a case, on average, at the least.
MIN_BYTES: Final = 100
#: Interval and timeout of the heartbeat, and a little: no session without a client is older.
ALL_GONE_SEC: Final = 60.0
#: No ack of the good camera may take longer.
LONGEST_ACK_MS: Final = 500.0


def let_memory_settle(port: int) -> None:
    """Let a crowd come and go, after which the server gives back what is free: above all the 19 MiB that a password was
    hashed in, which the C library keeps or not as it happens."""
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(CROWD + 20)]
    time.sleep(0.3)  # until all have been accepted, or it was no crowd
    for client in crowd:
        client.close()
    time.sleep(GIVE_BACK_PAUSE_SEC + 2 * GIVE_BACK_SEC + 0.5)  # it may have given back a moment ago


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


@pytest.mark.timeout(400)
def test_a_fuzzer_finds_no_case_that_harms_anybody_but_its_own_connection(server: RunningServer) -> None:
    token = server.token("Alice", "123")
    with probing(server.port) as probe:
        watched = Watched(server)
        descriptors = watched.descriptors
        fuzzer = Fuzzer(server.port)
        warm = watched
        played = read = 0
        last: deque[Case] = deque(maxlen=3)

        def check_log() -> None:
            # What is new of it, or no smaller case could be found.
            nonlocal read
            log = watched.log[read:]
            read += len(log)
            assert not [line for line in log if "Traceback" in line or " ERROR " in line], "".join(log)

        # Here and not around the test, for all cases are played against the same server.
        @seed(SEED)
        @settings(
            max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
        )  # fmt: skip
        @given(cases())
        def play(case: Case) -> None:
            nonlocal played, warm
            played += 1
            last.append(case)
            try:
                fuzzer.play(case)
                check_log()
                if played % 500 == 0:
                    fuzzer.ask("/metrics", b"imageserver_handler_errors_total0.0", token)
                    fuzzer.ask("/readyz", b'{"status":"ok"}')
            except AssertionError:
                # The log comes a moment later, so it may have been the one before.
                print(f"case {played} of seed {SEED}, with what was played before: {[*last]}")
                raise
            if played == WARM_UP:
                let_memory_settle(server.port)
                warm = Watched(server)

        play()
        took_sec = watched.elapsed_sec
        # Where there is time, sessions that nobody ends are left to their deadlines.
        fuzzer.close(farewell=not IN_CI)

        def only_the_probe_is_left() -> bool:
            metrics = server.get("/metrics", token)
            return value_of(metrics, "connections") == value_of(metrics, "streams") == 1

        until(only_the_probe_is_left, "all sessions but the probe's have ended", ALL_GONE_SEC)
        until(lambda: watched.descriptors <= descriptors, "all descriptors are given back", ALL_GONE_SEC)
        metrics = server.get("/metrics", token)
        figures = probe.stop()
        let_memory_settle(server.port)
        growth_mb = warm.growth_mb
    counted = {
        name: int(value_of(metrics, f"{name}_total"))
        for name in ("frames", "refused_frames", "logins", "refused_logins", "protocol_errors", "handler_errors")
    }
    print(
        f"\n{played} cases in {took_sec:.0f} s ({dict(fuzzer.counts)}), {fuzzer.bytes} bytes from the server,"
        f" {fuzzer.timeouts} timeouts,"
    )
    print(f"{counted}, growth {growth_mb:.1f} MB, {len(watched.log)} lines of log; {figures.summary()}")
    check_log()
    assert counted["handler_errors"] == 0
    assert counted["protocol_errors"] > played / 20, "the cases get as far as the protocol"
    assert counted["logins"] > played / 50, "and into an account"
    assert counted["frames"] - sum(figures.accepted) > played / 50 < counted["refused_frames"], "and to the hub"
    assert fuzzer.bytes > MIN_BYTES * played, "and are answered"
    assert not fuzzer.timeouts, "nobody waited for an answer in vain"
    assert growth_mb < MAX_GROWTH_MB
    figures.check()
    assert figures.ack_ms[-1] < LONGEST_ACK_MS, figures.summary()
    crowded = {what: count for what, count in per_second(watched.log).items() if count > 2}
    assert not crowded, f"lines of one cause in one second: {crowded}"
    assert not [line for line in watched.log if not line.removesuffix("\n").isprintable()]
    assert server.stop() == 0
