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


def test_what_was_turned_away_and_then_found_wrong_is_not_preferred_again(guard: Guard, clock: Clock) -> None:
    while fails(guard, guess("flood")):
        pass
    clock.now += 0.6
    for number in range(10):
        guard.admits(guess(number))
    clock.now += 0.6
    # Now the flood takes its part of the limit, and the patient ones the rest.
    new = sum(fails(guard, guess(f"new {n}")) for n in range(20))
    patient = sum(fails(guard, guess(number)) for number in range(10))
    assert (new, patient) == (module.LIMIT - module.KEPT, module.KEPT)
    clock.now += 1.1
    assert sum(fails(guard, guess(f"newer {n}")) for n in range(20)) == module.LIMIT - module.KEPT
    assert [guard.admits(guess(number)) for number in range(10)] == [False] * module.KEPT + [True] * 7


def test_half_a_minute_after_a_flood_all_is_as_before(guard: Guard, clock: Clock) -> None:
    while fails(guard, guess("flood")):
        pass
    clock.now += 5
    assert sum(fails(guard, guess(f"new {n}")) for n in range(20)) == module.LIMIT - module.KEPT
    clock.now += module.PRESSED_SEC + 0.1
    assert sum(fails(guard, guess(f"newer {n}")) for n in range(20)) == module.LIMIT


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    for bound in ("MAX_KEYS", "MAX_WRONG", "MAX_TURNED_AWAY"):
        monkeypatch.setattr(module, bound, 50)
    store = MemoryGuessStore()
    guard = Guard(store, clock)
    for number in range(1000):
        fails(guard, guess(number, f"192.0.2.{number % 7}", f"account {number}"))
        fails(guard, guess(number))
    tables = (store._times, guard._pressed._times, guard._turned_away._times, guard._wrong._times)
    assert max(map(len, tables)) <= 50
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
