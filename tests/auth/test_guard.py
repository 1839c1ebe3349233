import heapq
import math
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth import guard as module
from auth.guard import Guard, Guess, MemoryGuessStore, address_key


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> Guard:
    return Guard(clock=clock)


def guess(number: object, address: str = "192.0.2.1", account: str = "Alice") -> Guess:
    return Guess(address, account, f"{account} {number}".encode())


def fails(guard: Guard, attempt: Guess) -> bool:
    """Whether a wrong guess was checked, and so failed."""
    if not guard.admits(attempt):
        return False
    with guard.under_way(attempt):
        guard.was_wrong(attempt)
    return True


def test_ten_guesses_a_second_fail_and_the_rest_is_not_checked(guard: Guard, clock: Clock) -> None:
    assert [fails(guard, guess(number)) for number in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.99
    assert not fails(guard, guess(12))


@pytest.mark.parametrize(
    ("address", "account"),
    [("192.0.2.1", "account {}"), ("192.0.2.{}", "Alice")],
    ids=["one address, many accounts", "many addresses, one account"],
)
def test_an_address_and_an_account_are_limited_each(address: str, account: str, guard: Guard) -> None:
    guesses = (guess(n, address.format(n), account.format(n)) for n in range(20))
    assert sum(fails(guard, attempt) for attempt in guesses) == 10


def test_others_are_not_concerned(guard: Guard) -> None:
    while fails(guard, guess("flood")):
        pass
    assert guard.admits(guess("right", "192.0.2.2", "Bob"))


def test_an_account_named_like_an_address_is_not_mistaken_for_it(guard: Guard) -> None:
    while fails(guard, guess("flood", "192.0.2.1", "Alice")):
        pass
    assert guard.admits(guess("right", "192.0.2.2", "192.0.2.1"))


def test_guesses_under_way_count_until_they_turn_out_right(guard: Guard) -> None:
    with ExitStack() as stack:
        for number in range(10):
            assert guard.admits(guess(number))
            stack.enter_context(guard.under_way(guess(number)))
        assert not guard.admits(guess(10))
    assert guard.admits(guess(11))


def test_right_ones_are_never_too_many(guard: Guard) -> None:
    for _ in range(1000):
        assert guard.admits(guess("right"))
        with guard.under_way(guess("right")):
            pass


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 30)), max_size=200))
def test_in_no_second_do_more_than_ten_fail(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    guard = Guard(clock=clock)
    failed = []
    for pause, number in steps:
        clock.now += pause
        if fails(guard, guess(number)):
            failed.append(clock.now)
    for begin in failed:
        assert sum(begin <= at < begin + 1 for at in failed) <= 10


def flood(distinct: int | None) -> Iterator[str]:
    number = 0
    while True:
        yield f"wrong {number if distinct is None else number % distinct}"
        number += 1


@pytest.mark.parametrize(
    "distinct", [None, 1, 100], ids=["ever new", "always the same", "a list of 100, over and over"]
)
@pytest.mark.parametrize(
    "address", ["192.0.2.1", "198.51.100.7"], ids=["from the user's own address", "from elsewhere"]
)
@pytest.mark.parametrize("retry_sec", [1, 5])
def test_a_flood_that_does_not_end_keeps_the_true_user_out_for_30_s_at_most(
    distinct: int | None, address: str, retry_sec: int, guard: Guard, clock: Clock
) -> None:
    passwords = flood(distinct)
    waited = 0.0
    failed = 0
    for step in range(1, 200 * 60):
        clock.now += 0.005
        failed += fails(guard, guess(next(passwords), address))
        if step % (200 * retry_sec) == 0 and step > 200 * 5:
            if guard.admits(guess("right", "192.0.2.1")):
                break
            waited += retry_sec
    else:
        pytest.fail("the true user never got in")
    assert waited <= 30
    assert failed <= 10 * (clock.now - 1000 + 1)


class PatientFlood:
    """A flood that sends each guess several times, as a user does who is turned away; when it has found one wrong, it
    takes a new one.

    Args:
        times: how often each guess is sent.
        pause_sec: between two times.
        addresses: from how many it comes.
        names: it guesses at ever new names, not at Alice.
    """

    def __init__(
        self, guard: Guard, rate_hz: float, times: float, pause_sec: float, addresses: list[str], names: bool
    ) -> None:
        self._guard = guard
        self._rate_hz = rate_hz
        self._times = times
        self._pause_sec = pause_sec
        self._addresses = addresses
        self._names = names
        self._waiting: list[tuple[float, int, int, Guess]] = []
        self._number = 0
        self.failed: list[float] = []

    def run(self, clock: Clock, until: float) -> None:
        while clock.now < until:
            clock.now += 1 / self._rate_hz
            if self._waiting and self._waiting[0][0] <= clock.now:
                _, number, times, attempt = heapq.heappop(self._waiting)
            else:
                self._number = number = self._number + 1
                account = f"nobody {number}" if self._names else "Alice"
                times, attempt = 0, guess(number, self._addresses[number % len(self._addresses)], account)
            if fails(self._guard, attempt):
                self.failed.append(clock.now)
            elif times + 1 < self._times:
                heapq.heappush(self._waiting, (clock.now + self._pause_sec, number, times + 1, attempt))


HERE = ["192.0.2.1"]


@pytest.mark.parametrize("rate_hz", [10, 30, 100, 500])
@pytest.mark.parametrize(
    ("times", "pause_sec", "addresses", "names"),
    [
        (2, 0.6, HERE, False),
        (2, 5.0, HERE, False),
        (3, 0.6, HERE, False),
        (4, 0.6, HERE, False),
        (4, 5.0, HERE, False),
        (5, 0.6, HERE, True),
        (math.inf, 0.6, ["198.51.100.7"], False),
        (math.inf, 5.0, [f"198.51.100.{n}" for n in range(60)], False),
    ],
    ids=lambda value: f"{len(value)} addresses" if isinstance(value, list) else None,
)
def test_a_flood_as_patient_as_a_user_keeps_the_true_user_out_for_30_s_at_most(
    rate_hz: float, times: float, pause_sec: float, addresses: list[str], names: bool, guard: Guard, clock: Clock
) -> None:
    flooding = PatientFlood(guard, rate_hz, times, pause_sec, addresses, names)
    flooding.run(clock, 1090)  # long enough for all that it can prepare
    for attempt in range(7):
        if guard.admits(guess("right", "192.0.2.1")):
            break
        flooding.run(clock, 1095 + 5 * attempt)
    else:
        pytest.fail("the true user, who came back every 5 s, was not in after 30 s")
    for begin in flooding.failed:
        assert sum(begin <= at < begin + 1 for at in flooding.failed) <= module.LIMIT


def test_a_slow_flood_that_gives_no_guess_up_keeps_the_true_user_out_for_30_s_at_most(
    guard: Guard, clock: Clock
) -> None:
    """At the user's own address and account, and nothing tells the two apart: here the flood's rate decides."""
    flooding = PatientFlood(guard, 20, math.inf, 0.6, HERE, False)
    flooding.run(clock, 1090)
    for attempt in range(7):
        if guard.admits(guess("right", "192.0.2.1")):
            return
        flooding.run(clock, 1095 + 5 * attempt)
    pytest.fail("the true user, who came back every 5 s, was not in after 30 s")


def test_a_user_who_mistyped_beside_a_patient_flood_from_elsewhere_is_in_after_30_s(guard: Guard, clock: Clock) -> None:
    flooding = PatientFlood(guard, 500, math.inf, 0.6, ["198.51.100.7"], False)
    flooding.run(clock, 1090)
    while not fails(guard, guess("mistyped", "192.0.2.1")):
        flooding.run(clock, clock.now + 5)
    mistyped_at = clock.now
    while not guard.admits(guess("right", "192.0.2.1")):
        flooding.run(clock, clock.now + 5)
    assert clock.now - mistyped_at <= 31


def press(guard: Guard) -> None:
    """Fill this second's places, at `Alice` from 192.0.2.1."""
    while fails(guard, guess("flood")):
        pass
    assert not guard.admits(guess("more", "198.51.100.1"))


@pytest.mark.parametrize("address", ["192.0.2.1", "198.51.100.7"], ids=["wrong lately", "fresh"])
def test_each_return_opens_one_place_more(address: str, guard: Guard, clock: Clock) -> None:
    clock.now += 1
    press(guard)
    clock.now += 1
    first = module.OPEN if address == "192.0.2.1" else module.LIMIT - module.KEPT_FRESH + 1
    most = module.LIMIT - module.KEPT_FRESH if address == "192.0.2.1" else module.LIMIT
    for returns in range(8):
        with ExitStack() as stack:
            places = 0
            while guard.admits(guess("comes again", address)):
                places += 1
                # By others, and at this account: the address of `guess` has its own places.
                stack.enter_context(guard.under_way(guess("other", f"203.0.113.{places}")))
        assert places == min(first + returns, most)
        clock.now += module.RETURN_SEC[0]


def test_a_burst_is_no_return(guard: Guard, clock: Clock) -> None:
    press(guard)
    for _ in range(100):
        assert not guard.admits(guess("patient"))
        clock.now += 0.004
    clock.now += 1
    taken = [fails(guard, guess(f"new {n}")) for n in range(module.OPEN + 1)]
    assert taken == [True] * module.OPEN + [False]
    assert [guard.admits(guess("impatient")) for _ in range(5)] == [False] * 5
    assert guard.admits(guess("patient"))  # came back once
    with guard.under_way(guess("one more")):
        assert not guard.admits(guess("patient"))


def test_what_came_back_and_then_was_wrong_is_as_good_as_new(guard: Guard, clock: Clock) -> None:
    press(guard)
    assert not guard.admits(guess("patient"))
    clock.now += 1
    assert fails(guard, guess("patient"))
    for _ in range(10):
        clock.now += 1
        assert [fails(guard, guess(f"new {clock.now} {n}")) for n in range(3)] == [True] * 3
        assert not guard.admits(guess("patient"))
    clock.now += module.WRONG_SEC + module.PRESSED_SEC
    assert guard.admits(guess("patient"))


def test_one_address_is_fresh_with_one_guess_at_a_time(guard: Guard, clock: Clock) -> None:
    """In parallel as little as one after the other."""
    press(guard)
    clock.now += 1
    with ExitStack() as stack:
        for number in range(20):
            attempt = guess(number, "198.51.100.7")
            if guard.admits(attempt):
                stack.enter_context(guard.under_way(attempt))
        assert guard._under_way[guess(0).keys[1]] == module.OPEN


def test_half_a_minute_after_a_flood_all_is_as_before(guard: Guard, clock: Clock) -> None:
    press(guard)
    clock.now += 5
    assert sum(fails(guard, guess(f"new {n}")) for n in range(20)) == module.OPEN
    clock.now += module.PRESSED_SEC + 0.1
    assert sum(fails(guard, guess(f"newer {n}")) for n in range(20)) == module.LIMIT


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    for bound in ("MAX_KEYS", "MAX_WRONG", "MAX_TURNED_AWAY", "MAX_PAIRS"):
        monkeypatch.setattr(module, bound, 50)
    store = MemoryGuessStore()
    guard = Guard(store, clock)
    for number in range(1000):
        fails(guard, guess(number, f"192.0.2.{number % 7}", f"account {number}"))
        fails(guard, guess(number))
    tables = (store, guard._pressed, guard._wrong, guard._wrong_pairs)
    assert max(len(table._times) for table in tables) <= 50
    assert 0 < len(guard._returned._last) <= 50
    assert not guard._under_way
    clock.now += 2
    fails(guard, guess("later"))
    assert len(store._times) == 2


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix:" + "x" * 100, "unix:" + "x" * 59),
    ],
)
def test_an_address_counts_as_what_one_subscriber_has(address: str, key: str) -> None:
    assert address_key(address) == key
