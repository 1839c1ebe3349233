"""200 cameras lose the network at once and are back within 2.5 s; bench/storm.py has 500, more rounds, and figures."""

from pathlib import Path

from running import running_server
from security.storm_attacks import make_accounts, problems_of, storming
from security.storm_clients import Plan

STREAM_SEC = 0.7


def test_all_are_streaming_again_under_their_names_soon_after_they_lost_the_network_at_once(tmp_path: Path) -> None:
    plan = Plan(cameras=200, accounts=20, addresses=5, rate_hz=2)
    source = make_accounts(tmp_path / "users.sqlite", plan)
    with running_server("-a", "--users", source) as server, storming(server, plan) as storm:
        first = storm.play("reset", STREAM_SEC)
        assert first.refusals == {}, "no right password counts as a guess, and nobody waits too long for its check"
        assert len(first.names) == plan.cameras
        before = storm.play("silence", STREAM_SEC)
        resets = [storm.play("reset", STREAM_SEC) for _ in range(3)]
        assert problems_of(resets, plan, before) == []
        silences = [before, *(storm.play("silence", STREAM_SEC) for _ in range(2))]
        assert problems_of(silences, plan, first) == []
        assert min(one.kept for one in (first, *resets, *silences)) > 0.95, "they go on as before"
        assert "Traceback" not in "".join(server.log)
