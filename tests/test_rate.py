"""The bucket, the meter, the gates and the wanted rate, on a clock of their own."""

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rate import LOWER_AFTER_SEC, NO_LIMIT_HZ, InSum, OncePerSecond, RateMeter, Rates, TokenBucket, WantedRate
from streams import Clock


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


# -- the wanted rate


class Wanted:
    """A wanted rate on a clock of its own, with what it said.

    Attributes:
        changes: each value since the first, with its time.
        told: what the client was told, with its time.
    """

    def __init__(self, rates: Rates, wishes: list[float | None], cap_hz: float | None = None) -> None:
        self.clock = Clock()
        self.changes: list[tuple[float, float | None]] = []
        self.told: list[tuple[float, float]] = []
        self.rate = WantedRate(
            rates,
            cap_hz,
            wishes,
            self.clock,
            self.clock.call_later,
            lambda hz: self.changes.append((round(self.clock.now - 100, 3), hz)),
            lambda hz: self.told.append((round(self.clock.now - 100, 3), hz)),
        )


@pytest.mark.parametrize(
    ("limit", "idle", "cap", "wishes", "wanted"),
    [
        (60, 5, None, [], 5),
        (60, 5, None, [0], 5),
        (60, 5, None, [0, 30], 30),
        (60, 5, None, [1], 1),
        (60, 5, None, [1, None], 60),
        (60, 5, None, [100], 60),
        (3, 5, None, [], 3),
        (60, 0, None, [], 0),
        (60, 0, None, [0, 2], 2),
        (0, 5, None, [], 5),
        (0, 5, None, [30], 30),
        (0, 5, None, [None], None),
        (0, 5, 2, [None], 2),
        (60, 5, 2, [], 2),
        (60, 5, 0, [None], 0),
        (60, 5, 100, [None], 60),
    ],
)
def test_the_largest_wish_is_wanted_within_the_limit_and_the_cap(
    limit: float, idle: float, cap: float | None, wishes: list[float | None], wanted: float | None
) -> None:
    rate = Wanted(Rates(limit, idle), wishes, cap).rate
    assert rate.hz == wanted
    assert rate.hz is None or isinstance(rate.hz, float)


def test_a_wish_that_falls_and_comes_back_changes_nothing() -> None:
    wanted = Wanted(Rates(60, 5), [30])
    wanted.rate.wishes([])
    wanted.clock.go_on(LOWER_AFTER_SEC - 0.1)
    wanted.rate.wishes([30])
    wanted.clock.go_on(100)
    assert (wanted.changes, wanted.told, wanted.clock.calls) == ([], [], 0)


def test_the_rate_falls_to_the_largest_wish_of_the_time_before() -> None:
    wanted = Wanted(Rates(60, 5), [30])
    wanted.rate.wishes([20])
    wanted.clock.go_on(2)
    wanted.rate.wishes([])
    wanted.clock.go_on(2)
    wanted.rate.wishes([10])
    wanted.clock.go_on(2)
    assert wanted.changes == [(5.0, 20)]
    wanted.clock.go_on(100)
    assert wanted.changes == [(5.0, 20), (10.0, 10)]


def test_the_rate_falls_no_deeper_than_to_a_wish_that_came_meanwhile() -> None:
    wanted = Wanted(Rates(60, 5), [30])
    wanted.rate.wishes([])
    wanted.clock.go_on(2)
    wanted.rate.wishes([20])
    wanted.clock.go_on(100)
    assert wanted.changes == [(5.0, 20)]


def test_a_cap_counts_at_once_both_ways() -> None:
    wanted = Wanted(Rates(60, 5), [30])
    wanted.rate.cap(2)
    wanted.rate.cap(40)
    wanted.rate.cap(0)
    wanted.rate.cap(None)
    assert [hz for _, hz in wanted.changes] == [2, 30, 0, 30]
    wanted.clock.go_on(100)
    assert wanted.told == [(0.0, 2), (1.0, 30)]


def test_a_client_is_told_once_a_second_at_most_and_of_the_last_value_in_the_end() -> None:
    wanted = Wanted(Rates(60, 5), [])
    for number in range(1, 11):
        wanted.rate.wishes([5 + number])
        wanted.clock.go_on(0.25)
    wanted.clock.go_on(100)
    assert wanted.told == [(0.0, 6), (1.0, 9), (2.0, 13), (3.0, 15)]


def test_what_is_taken_back_before_it_is_told_is_not_told() -> None:
    wanted = Wanted(Rates(60, 5), [])
    wanted.rate.wishes([10])
    wanted.rate.wishes([20])
    wanted.rate.cap(10)
    wanted.clock.go_on(100)
    assert wanted.told == [(0.0, 10)]


def test_no_limit_is_told_as_more_than_any_camera_has() -> None:
    wanted = Wanted(Rates(0, 5), [])
    wanted.rate.wishes([None])
    wanted.clock.go_on(2)
    wanted.rate.wishes([])
    wanted.clock.go_on(10)
    assert wanted.told == [(0.0, NO_LIMIT_HZ), (7.0, 5)]


def test_the_first_value_is_told_once_and_the_next_no_sooner_than_any_other() -> None:
    wanted = Wanted(Rates(60, 5), [])
    wanted.rate.tell_first()
    wanted.clock.go_on(0.01)
    wanted.rate.cap(1)
    wanted.rate.tell_first()
    wanted.clock.go_on(100)
    wanted.rate.tell_first()
    assert wanted.told == [(0.0, 5), (1.0, 1)]


def test_who_has_not_been_told_of_less_is_not_told_that_there_is_no_limit() -> None:
    wanted = Wanted(Rates(0, 5), [None])
    wanted.rate.tell_first()
    wanted.clock.go_on(0.5)
    wanted.rate.cap(2)
    wanted.rate.cap(None)
    wanted.clock.go_on(100)
    assert wanted.told == [(0.5, 2), (1.5, NO_LIMIT_HZ)]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [(5, 30, [(1.0, 30)]), (5, 5, []), (5, None, [(1.0, NO_LIMIT_HZ)]), (None, 5, [(0.01, 5)]), (None, None, [])],
)
def test_a_client_whose_stream_is_another_now_is_told_no_sooner_and_only_what_it_does_not_know(
    before: float | None, now: float | None, told: list[tuple[float, float]]
) -> None:
    first = Wanted(Rates(0, 5), [before])
    first.rate.tell_first()
    assert first.told == ([] if before is None else [(0.0, before)])
    first.rate.stop()
    second = Wanted(Rates(0, 5), [now])
    second.clock.go_on(0.01)
    second.rate.tell_first(first.rate)
    second.clock.go_on(100)
    assert second.told == told


def test_one_that_was_stopped_says_nothing_more() -> None:
    wanted = Wanted(Rates(60, 5), [])
    wanted.rate.wishes([10])
    wanted.rate.wishes([20])
    wanted.rate.wishes([7])
    wanted.rate.stop()
    assert wanted.clock.calls == 0
    wanted.rate.cap(1)
    assert wanted.rate.hz == 1
    wanted.clock.go_on(100)
    assert wanted.told == [(0.0, 10)]


WISHES = st.lists(st.sampled_from((None, 0, 1, 4, 10, 50)), max_size=3)


@given(
    st.sampled_from((0, 20, 60)),
    st.sampled_from((0, 5)),
    st.lists(
        st.tuples(
            st.one_of(WISHES, st.sampled_from(("cap 3", "cap 30", "no cap"))),
            st.sampled_from((0.0, 0.3, 2.0, 4.9, 7.0)),
        ),
        max_size=30,
    ),
)
def test_the_rate_is_never_less_than_a_wish_and_no_client_is_told_too_often(
    limit: float, idle: float, steps: list[tuple[list[float | None] | str, float]]
) -> None:
    wanted = Wanted(Rates(limit, idle), [])
    limit_hz, cap_hz, wish_hz = limit or inf, inf, float(idle)
    for what, pause in steps:
        if isinstance(what, str):
            cap_hz = {"cap 3": 3.0, "cap 30": 30.0, "no cap": inf}[what]
            wanted.rate.cap(None if cap_hz == inf else cap_hz)
        else:
            wanted.rate.wishes(what)
            wish_hz = max((inf if wish is None else wish for wish in what if wish != 0), default=idle)
        target = min(limit_hz, cap_hz, wish_hz)
        for _ in range(round(pause * 10)):
            hz = inf if wanted.rate.hz is None else wanted.rate.hz
            assert target <= hz <= min(limit_hz, cap_hz)
            wanted.clock.go_on(0.1)
    wanted.clock.go_on(2 * LOWER_AFTER_SEC + 0.1)
    final = min(limit_hz, cap_hz, wish_hz)
    assert wanted.rate.hz == (None if final == inf else final)
    wanted.clock.go_on(1)
    last = wanted.told[-1][1] if wanted.told else Wanted(Rates(limit, idle), []).rate.hz
    assert last == (NO_LIMIT_HZ if wanted.rate.hz is None else wanted.rate.hz)
    assert all(later[0] - sooner[0] >= 0.999 for sooner, later in pairwise(wanted.told))
    assert all(sooner[1] != later[1] for sooner, later in pairwise(wanted.told))
    assert wanted.clock.calls == 0
