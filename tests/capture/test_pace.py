"""Which pictures are taken, by a clock that goes on as the test says."""

import random
from math import inf

import pytest

from capture.pace import CAUGHT_UP_SEC, DRIFT, JUMP_SEC, LATE_SEC, Hurry, Lateness, Pace


def taken(pace: Pace, hz: float, seconds: float, uneven_sec: float = 0.0, start: float = 100.0) -> int:
    """How many pictures of a camera of so many Hz are due."""
    dice = random.Random(1)
    times = [start + number / hz + dice.uniform(0, uneven_sec) for number in range(round(hz * seconds))]
    return sum(pace.is_due(at) for at in sorted(times))


@pytest.mark.parametrize("rate_hz", [0.5, 1, 4, 5, 7.5, 10, 12, 24])
def test_so_many_pictures_a_second_are_due(rate_hz: float) -> None:
    assert taken(Pace(rate_hz), 25, 60) == pytest.approx(rate_hz * 60, abs=1)


def test_all_are_due_without_a_limit_and_none_when_none_are_wanted() -> None:
    assert taken(Pace(inf), 25, 4) == 100
    assert taken(Pace(0), 25, 4) == 0


@pytest.mark.parametrize("hz", [5, 25, 30])
def test_a_camera_that_sends_what_is_wanted_loses_nothing_to_an_uneven_network(hz: float) -> None:
    assert taken(Pace(hz), hz, 60, uneven_sec=0.45 / hz) >= hz * 60 - 1  # of the first two


def test_what_was_held_back_does_not_come_all_at_once_afterwards() -> None:
    pace = Pace(10)
    assert taken(pace, 25, 1) in (9, 10, 11)
    assert sum(pace.is_due(200.0) for _ in range(100)) == 2


def test_the_first_picture_of_a_video_is_due_at_once() -> None:
    pace = Pace(0.1)
    assert pace.is_due(100.0)
    assert not pace.is_due(101.0)
    pace.start_again()
    assert pace.is_due(101.1)


def test_a_rate_that_is_raised_counts_at_once() -> None:
    pace = Pace(0.1)
    pace.is_due(100.0)
    pace.rate_hz = 25
    assert taken(pace, 25, 2, start=100.04) >= 48


def test_a_video_is_as_late_as_it_is_behind_its_least_late_picture() -> None:
    lateness = Lateness()
    assert lateness.of(10.0, 100.3) == 0
    assert lateness.of(10.04, 100.14) == 0
    assert lateness.of(11.0, 103.1) == pytest.approx(2.0, abs=0.01)
    assert lateness.of(None, 104.0) == 0
    assert lateness.of(14.0, 104.1) == pytest.approx(0.0, abs=0.01)


def test_a_camera_with_a_slow_clock_is_not_late() -> None:
    lateness = Lateness()
    assert max(lateness.of(at * (1 - DRIFT / 2), at) for at in range(10_000)) < 0.01


@pytest.mark.parametrize("jump_sec", [-1e6, -JUMP_SEC - 1, JUMP_SEC + 1, 1e6])
def test_time_stamps_that_jump_do_not_make_a_video_late(jump_sec: float) -> None:
    lateness = Lateness()
    assert lateness.of(1e6, 100.0) == 0
    assert lateness.of(1e6 + jump_sec, 100.04) == 0
    assert lateness.of(1e6 + jump_sec + 0.04, 100.08) == pytest.approx(0, abs=0.001)


def test_a_late_video_is_left_out_up_to_its_next_key_picture_until_it_has_caught_up() -> None:
    hurry = Hurry()
    late = LATE_SEC + 0.1
    assert not hurry.leaves_out(0.0, True, 100.0)
    assert not hurry.leaves_out(1.0, False, 101.0)
    assert hurry.leaves_out(1.04, False, 101.04 + late)
    assert not hurry.leaves_out(2.0, True, 102.0 + late)  # shown, as the newest that there is
    assert hurry.leaves_out(2.04, False, 102.04 + late)
    assert hurry.leaves_out(2.08, False, 102.08), "what follows a picture that was left out cannot be decoded"
    assert not hurry.leaves_out(3.0, True, 103.0 + CAUGHT_UP_SEC / 2)
    assert not hurry.leaves_out(3.04, False, 103.04)
