"""The bucket, the meter and the gate, on a clock of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rate import InSum, OncePerSecond, RateMeter, TokenBucket


@pytest.mark.parametrize("rate_hz", [0.1, 0.5, 1, 5, 60, 250.5])
def test_a_second_of_frames_is_let_through_at_once_and_then_the_rate(rate_hz: float) -> None:
    bucket = TokenBucket(rate_hz, now=1000.0)
    burst = sum(bucket.take(1000.0) for _ in range(1000))
    assert burst == max(1, int(rate_hz))
    let_through = sum(bucket.take(1000.0 + step / 500) for step in range(50_001))  # 100 s at 500 Hz
    assert let_through == pytest.approx(100 * rate_hz, abs=1.5)


def test_rate_zero_lets_everything_through() -> None:
    bucket = TokenBucket(0, now=0.0)
    assert all(bucket.take(0.0) for _ in range(10_000))


def test_a_long_rest_is_worth_one_second() -> None:
    bucket = TokenBucket(10, now=0.0)
    assert sum(bucket.take(86_400.0) for _ in range(100)) == 10


def test_frames_at_just_the_rate_are_all_let_through() -> None:
    for rate_hz in (1, 3, 7, 10, 60):
        bucket = TokenBucket(rate_hz, now=0.0)
        assert all(bucket.take(number / rate_hz) for number in range(100 * rate_hz))


@given(st.floats(0.1, 100), st.lists(st.floats(0, 5), max_size=200))
def test_no_more_than_the_rate_and_a_second_ever_gets_through(rate_hz: float, pauses: list[float]) -> None:
    bucket = TokenBucket(rate_hz, now=0.0)
    now, let_through = 0.0, 0
    for pause in pauses:
        now += pause
        let_through += bucket.take(now)
    assert let_through <= rate_hz * now + max(rate_hz, 1.0) + 1e-6


def test_the_meter_shows_the_rate_of_the_last_second() -> None:
    meter = RateMeter(now=0.0)
    assert meter.rate_hz(0.0) == 0
    for number in range(1, 51):
        meter.count(number / 10)
    assert meter.rate_hz(5.0) == pytest.approx(10)
    for number in range(1, 41):
        meter.count(5 + number / 20)
    assert meter.rate_hz(7.0) == pytest.approx(20)


def test_the_meter_takes_bursts_for_what_they_are_together() -> None:
    meter = RateMeter(now=0.0)
    for second in range(1, 6):
        for _ in range(5):
            meter.count(float(second))
    assert meter.rate_hz(5.0) == pytest.approx(5)


def test_the_meter_of_a_slow_camera_does_not_flicker() -> None:
    meter = RateMeter(now=0.0)
    for number in range(1, 10):
        meter.count(4.0 * number)
        for later in (0.0, 1.5, 3.9):
            assert meter.rate_hz(4.0 * number + later) == pytest.approx(0.25)


def test_the_meter_of_a_camera_that_stopped_is_zero_and_starts_again() -> None:
    meter = RateMeter(now=0.0)
    for number in range(1, 21):
        meter.count(number / 10)
    assert meter.rate_hz(2.0 + RateMeter.IDLE_SEC - 0.1) == pytest.approx(10)
    assert meter.rate_hz(2.0 + RateMeter.IDLE_SEC + 0.1) == 0


def test_a_thing_is_said_once_a_second_for_each_cause() -> None:
    said = OncePerSecond()
    assert [said.allows("rate", now) for now in (0.0, 0.3, 0.99, 1.0, 1.5, 2.0, 9.0)] == [
        True, False, False, True, False, True, True,
    ]  # fmt: skip
    assert said.allows("truncated", 9.1)
    assert not said.allows("rate", 9.1)


def test_the_gate_remembers_a_bounded_number_of_causes() -> None:
    said = OncePerSecond(max_keys=3)
    for cause in "abc":
        assert said.allows(cause, 0.0)
    assert not said.allows("a", 0.5)
    assert said.allows("d", 0.5)  # and `a`, the oldest, is forgotten
    assert said.allows("a", 0.6)
    assert not said.allows("c", 0.7)
    assert len(said._last) == 3


def test_a_line_is_written_once_a_second_for_each_cause_and_says_how_many_were_not() -> None:
    lines = InSum(lines_per_sec=20, now=0.0)
    assert [lines.count("login", now) for now in (0.0, 0.1, 0.2, 1.1, 2.2)] == [
        "", None, None, " (lines left out before: 2)", "",
    ]  # fmt: skip


def test_ever_new_causes_share_so_many_lines_a_second() -> None:
    lines = InSum(lines_per_sec=20, now=0.0)
    written = [lines.count(f"user{number}", number / 100) for number in range(500)]
    assert 100 <= sum(text is not None for text in written) <= 121
    assert "left out before" in str(lines.count("user9999", 9.0))
