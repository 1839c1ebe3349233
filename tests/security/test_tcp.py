"""The way in for cameras over plain TCP under attack: only who attacks is cut off, and nothing grows."""

import struct
import time
from collections.abc import Iterator

import pytest

from desktops import bmp, message, packed
from engine.unfinished import MAX_UNFINISHED_BYTES
from ingest.tcp_gateway import MAX_NEWCOMERS_BYTES
from security.tcp_attacks import (
    BAD_MESSAGES,
    MB,
    Attacked,
    allow_files,
    attacked,
    flooding,
    hold,
    play_bad,
    play_truncated,
    play_unfinished,
)

#: A black picture of nearly the largest size.
LARGE_BMP = bmp(1, 1)[:18] + struct.pack("<ii", 1_740, 1_600) + bmp(1, 1)[26:54] + bytes(1_740 * 3 * 1_600)
#: What an attack may add to the server's memory while it goes on, and what may be left of it.
GROWTH_MB = 20


@pytest.fixture(scope="module", autouse=True)
def _enough_files() -> Iterator[None]:
    undo = allow_files()
    yield
    undo()


@pytest.fixture(scope="module")
def attack() -> Iterator[Attacked]:
    with attacked() as attack:
        yield attack


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_bad_message_ends_its_connection_and_takes_no_memory(attack: Attacked, name: str) -> None:
    played = play_bad(attack, name)
    assert played.ended == played.clients
    assert played.last_ms < 5_000
    assert attack.peak_growth_mb < GROWTH_MB
    assert attack.server.process.poll() is None


def test_messages_that_end_in_the_middle_are_counted(attack: Attacked) -> None:
    played = play_truncated(attack)
    assert played.ended == played.clients
    assert attack.peak_growth_mb < GROWTH_MB


def test_crowds_that_send_nothing_or_little_go_in_time_and_leave_nothing_behind() -> None:
    """As many as locked everybody out of a server that serves 1,024 at once, and more than there are places."""
    with attacked() as attack:
        held = hold(attack, dict.fromkeys(("half-open", "half a head", "slow drip", "half a message"), 275))
        assert held.gone == held.clients == 1_100, held.summary()
        assert held.last_sec < 12, held.summary()
        assert held.newcomer_ms < 2_000, held.summary()
        assert held.files[2] <= held.files[0] + 1, held.summary()
        assert held.rss_mb[2] <= held.rss_mb[0] + GROWTH_MB, held.summary()


def test_300_idle_cameras_go_by_their_deadline() -> None:
    with attacked("--tcp-idle-sec", "3") as attack:
        held = hold(attack, {"idle": 300})
        assert held.gone == held.clients == 300, held.summary()
        assert 2 < held.last_sec < 5, held.summary()
        assert attack.ends("silent") == 300
        assert held.rss_mb[2] <= held.rss_mb[0] + GROWTH_MB, held.summary()


@pytest.mark.parametrize("rate", ["15", "60"])
def test_a_flood_of_frames_costs_itself(rate: str) -> None:
    with attacked("--rate", rate) as attack:
        before = attack.metric("imageserver_refused_frames_total", '"rate"')
        with flooding(attack, message(1, packed(bmp(320, 240))), 500) as counts:
            time.sleep(4)
        assert counts[0] > 4 * 300, "it was no flood"
        assert attack.metric("imageserver_refused_frames_total", '"rate"') - before > counts[0] / 2
        assert attack.peak_growth_mb < GROWTH_MB


def test_a_flood_of_tiny_images_costs_itself() -> None:
    """A thousand of them come with each receive, and are refused a hundred a turn."""
    with attacked("--rate", "15") as attack:
        with flooding(attack, message(1, packed(bmp(1, 1))) * 5_000, 0, connections=3):
            time.sleep(3)
        assert attack.metric("imageserver_refused_frames_total", '"rate"') > 50_000
        assert attack.ends("refused") == 0
        assert attack.peak_growth_mb < GROWTH_MB


def test_images_that_take_long_to_inflate_cost_those_who_send_them() -> None:
    """8 MB that are 8 KB as gzip, over 30 connections: more than the threads can do."""
    with attacked("--tcp-connections", "50") as attack:
        before = attack.metric("imageserver_frames_total")
        with flooding(attack, message(1, packed(LARGE_BMP)), 60, connections=30) as counts:
            time.sleep(4)
        assert attack.ends("refused") == 0
        assert before < attack.metric("imageserver_frames_total") < before + sum(counts) / 2, "it was too much"


@pytest.mark.parametrize(
    ("served", "bound"), [(False, MAX_NEWCOMERS_BYTES), (True, MAX_UNFINISHED_BYTES)], ids=["first ones", "later ones"]
)
def test_unfinished_messages_are_bounded_in_sum(served: bool, bound: int) -> None:
    """Memory that grows with what comes is an eighth ahead of it."""
    with attacked() as attack:
        given_way, grown_mb = play_unfinished(attack, 80, 6 * MB, served)
        assert given_way >= 20
        assert grown_mb < bound / MB * 9 / 8 + GROWTH_MB
