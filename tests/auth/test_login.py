import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from passlib.hash import apr_md5_crypt, bcrypt

import auth.login
from auth.accounts import Account, Users, UsersUnavailable
from auth.guard import Guard
from auth.login import Authenticator, LoginRefused, LoginUnavailable, TooManyGuesses
from auth.passwords import hash_password
from auth.sql_users import SqlUsers
from auth.users import open_users
from green import Once, Overloaded
from postgres import Postgres

SRC = Path(auth.login.__file__).parent.parent
HERE = "192.0.2.1"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Offload:
    """Runs everything at once, and writes down what a thread was wanted for."""

    def __init__(self) -> None:
        self.purposes: list[str] = []

    def __call__(self, purpose: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.purposes.append(purpose)
        return function(*args, **kwargs)

    @property
    def hashes(self) -> int:
        return self.purposes.count("password")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def offload() -> Offload:
    return Offload()


@pytest.fixture
def users() -> Iterator[SqlUsers]:
    store = open_users(None)
    assert isinstance(store, SqlUsers)
    yield store
    store.close()


@pytest.fixture
def authenticator(users: Users, clock: Clock, offload: Offload) -> Authenticator:
    return Authenticator(users, Guard(clock=clock), offload, Once)


@pytest.mark.parametrize(("name", "password"), [("user1", "pass1"), ("Alice", "123")])
def test_who_knows_the_password_comes_in(name: str, password: str, authenticator: Authenticator) -> None:
    account = authenticator.login(name, password, HERE)
    assert (account.name, account.admin) == (name, False)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("Alice", "124"), ("Alice", ""), ("alice", "123"), ("Alice ", "123"), ("nobody", "123"), ("tcp-1", "123"),
        ("", ""), (None, None), (7, "123"), ("Alice", 123), ("Alice", b"123"),
        ("Alice", "x" * 1025), (["Alice"], "123"), ("Alice", "\ud800"), ("Alice", "123\0"),
    ],
)  # fmt: skip
def test_nobody_else_does_and_all_get_the_same_answer(
    name: object, password: object, authenticator: Authenticator
) -> None:
    with pytest.raises(LoginRefused, match=r"^the name or the password is wrong$"):
        authenticator.login(name, password, HERE)


def test_without_accounts_every_valid_name_and_password_is_right(offload: Offload) -> None:
    authenticator = Authenticator(None, Guard(), offload, Once)
    assert authenticator.login("anybody", "", HERE) == Account("anybody")
    for name, password in [("tcp-1", "x"), ("", "x"), ("Alice", "x" * 1025), ("Alice", None)]:
        with pytest.raises(LoginRefused):
            authenticator.login(name, password, HERE)
    assert offload.purposes == []


def test_everything_that_blocks_goes_to_a_thread(authenticator: Authenticator, offload: Offload) -> None:
    authenticator.login("Alice", "123", HERE)
    assert offload.purposes == ["database", "database", "password"]  # the account, a decoy, the hash


def test_credentials_verified_lately_need_no_hash(authenticator: Authenticator, clock: Clock, offload: Offload) -> None:
    for _ in range(3):
        authenticator.login("Alice", "123", HERE)
        authenticator.login("Alice", "123", "198.51.100.7")
    assert offload.hashes == 1
    clock.now += auth.login.RECOGNISED_SEC
    authenticator.login("Alice", "123", HERE)
    assert offload.hashes == 2


def test_a_changed_password_counts_at_once(users: SqlUsers, authenticator: Authenticator) -> None:
    authenticator.login("Alice", "123", HERE)
    users.set_password("Alice", "new")
    with pytest.raises(LoginRefused):
        authenticator.login("Alice", "123", HERE)
    authenticator.login("Alice", "new", HERE)
    users.remove("Alice")
    with pytest.raises(LoginRefused):
        authenticator.login("Alice", "new", HERE)


def test_the_recognised_are_bounded(
    authenticator: Authenticator, offload: Offload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth.login, "MAX_RECOGNISED", 2)
    for name, password in [("Alice", "123"), ("Bob", "456"), ("user1", "pass1"), ("Alice", "123")]:
        authenticator.login(name, password, HERE)
    assert offload.hashes == 4
    assert len(authenticator._recognised) == 2


@pytest.mark.parametrize("name", ["Alice", "nobody"])
def test_after_ten_wrong_ones_in_a_second_nothing_is_checked_whether_the_name_exists_or_not(
    name: str, authenticator: Authenticator, clock: Clock, offload: Offload
) -> None:
    for number in range(10):
        with pytest.raises(LoginRefused):
            authenticator.login(name, f"wrong {number}", HERE)
    for password in ("wrong", "123", "wrong 1"):
        with pytest.raises(TooManyGuesses, match="this one was not checked"):
            authenticator.login(name, password, HERE)
    assert offload.hashes == 10
    clock.now += 1
    with pytest.raises(LoginRefused):
        authenticator.login(name, "wrong", HERE)


def test_being_recognised_does_not_get_anybody_past_the_guard(authenticator: Authenticator, clock: Clock) -> None:
    authenticator.login("Alice", "123", HERE)
    for number in range(10):
        with pytest.raises(LoginRefused):
            authenticator.login("Alice", f"wrong {number}", HERE)
    with pytest.raises(TooManyGuesses):
        authenticator.login("Alice", "123", "198.51.100.7")
    clock.now += 1
    authenticator.login("Alice", "123", HERE)


def test_an_older_hash_is_replaced_at_the_first_login(
    users: SqlUsers, authenticator: Authenticator, offload: Offload
) -> None:
    users.insert([Account("Carol", True, apr_md5_crypt.hash("opensesame"))])
    with pytest.raises(LoginRefused):
        authenticator.login("Carol", "wrong", HERE)
    came_in = authenticator.login("Carol", "opensesame", HERE)
    assert came_in.password_hash.startswith("$argon2id$")
    assert users.find("Carol") == came_in
    assert authenticator.login("Carol", "opensesame", HERE) == came_in
    assert offload.hashes == 2


def test_an_older_hash_that_cannot_be_replaced_keeps_nobody_out(
    tmp_path: Path, offload: Offload, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "users.htpasswd"
    path.write_text(f"Carol:{apr_md5_crypt.hash('opensesame')}\n")
    users = open_users(str(path))

    def read_only(*_: str) -> bool:
        raise UsersUnavailable(f"{path}: read-only file system")

    monkeypatch.setattr(users, "upgrade_hash", read_only)
    authenticator = Authenticator(users, Guard(), offload, Once)
    assert authenticator.login("Carol", "opensesame", HERE).password_hash.startswith("$apr1$")
    assert authenticator.login("Carol", "opensesame", HERE).password_hash.startswith("$apr1$")
    assert offload.hashes == 1
    assert "the password hash of Carol stays of an older kind" in caplog.text
    assert "opensesame" not in caplog.text


@pytest.mark.parametrize("problem", [UsersUnavailable("away"), Overloaded("no thread")])
def test_accounts_that_are_away_are_no_wrong_guess(
    problem: Exception, users: SqlUsers, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> Account:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(users, "find", away)
        for _ in range(30):
            with pytest.raises(LoginUnavailable, match=r"^logins cannot be checked at the moment, try again later$"):
                authenticator.login("Alice", "123", HERE)
    authenticator.login("Alice", "123", HERE)


def test_no_password_stays_in_memory(authenticator: Authenticator) -> None:
    authenticator.login("user1", "pass1", HERE)
    with pytest.raises(LoginRefused):
        authenticator.login("user1", "secret guess", HERE)
    remembered = repr(vars(authenticator)) + repr(vars(authenticator._guard._wrong))
    assert "pass1" not in remembered
    assert "secret guess" not in remembered


def rank_sum_z(one: list[float], other: list[float]) -> float:
    """How many standard deviations the Mann-Whitney rank sum of the first lies from that of equal distributions."""
    pairs = len(one) * len(other)
    above = sum((a > b) + (a == b) / 2 for a in one for b in other)
    return (above - pairs / 2) / math.sqrt(pairs * (len(one) + len(other) + 1) / 12)


@pytest.mark.parametrize("kinds", ["argon2", "of all kinds"])
def test_times_do_not_tell_whether_a_name_exists(kinds: str, clock: Clock, offload: Offload) -> None:
    if kinds == "argon2":
        hashes = [hash_password("opensesame")]
    else:  # some fast, some slow
        hashes = [make("opensesame") for make in (apr_md5_crypt.hash, bcrypt.using(rounds=8).hash, hash_password)]
    users = SqlUsers("sqlite://")
    accounts = 60 if kinds == "argon2" else 120
    users.insert(Account(f"camera{n}", password_hash=hashes[n % len(hashes)]) for n in range(accounts))
    authenticator = Authenticator(users, Guard(clock=clock), offload, Once)
    times: dict[str, list[float]] = {"camera": [], "nobody": []}
    for number in range(accounts):
        for name, taken in times.items():
            clock.now += 1
            began = time.thread_time()  # of this thread's work only, whatever else the machine does
            with pytest.raises(LoginRefused):
                authenticator.login(f"{name}{number}", "wrong", HERE)
            taken.append(time.thread_time() - began)
    assert abs(rank_sum_z(*times.values())) < 3.3  # equal distributions go beyond it once in a thousand times


def test_a_missing_name_takes_the_same_steps(users: SqlUsers, clock: Clock) -> None:
    steps = []
    for name in ("Alice", "nobody"):
        offload = Offload()
        with pytest.raises(LoginRefused):
            Authenticator(users, Guard(clock=clock), offload, Once).login(name, "wrong", HERE)
        steps.append(offload.purposes)
    assert steps[0] == steps[1]


@pytest.mark.parametrize("broken", ["", "opensesame", "$2b$12$short"])
def test_a_broken_hash_does_not_stand_out_by_its_time(
    broken: str, users: SqlUsers, authenticator: Authenticator, offload: Offload
) -> None:
    users.insert([Account("Carol", password_hash=broken)])
    with pytest.raises(LoginRefused):
        authenticator.login("Carol", "opensesame", HERE)
    assert offload.purposes == ["database", "database", "password"]


def test_a_decoys_password_lets_nobody_in_and_changes_nothing(tmp_path: Path, offload: Offload) -> None:
    path = tmp_path / "users.htpasswd"
    path.write_text(f"Carol:{apr_md5_crypt.hash('opensesame')}\n")
    before = path.read_text()
    authenticator = Authenticator(open_users(str(path)), Guard(), offload, Once)
    for _ in range(2):
        with pytest.raises(LoginRefused):
            authenticator.login("nobody", "opensesame", HERE)
    assert offload.hashes == 2
    assert path.read_text() == before
    assert not authenticator._recognised


def test_addresses_take_turns_and_a_full_line_still_takes_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth.login, "MAX_IN_LINE", 6)
    served: list[str] = []

    class Turn:
        """Does not wait, so that one thread can stand in line for everybody."""

        def __init__(self) -> None:
            self.address = address

        def set(self) -> None:
            served.append(self.address)

        def is_set(self) -> bool:
            return False

        def wait(self, timeout_sec: float | None = None) -> bool:
            return True

    line = auth.login._Line(1, Turn)
    entered = []
    for address in "FFFFFGGFH":
        entered.append(line.enter(address, 10))
    assert entered == [True] * 7 + [False, True]  # the first has the place, six wait, and H is new
    for _ in entered[1:]:
        line.leave()
    assert "".join(served) == "FGHFGFF"
    assert (line._free, line._length) == (1, 0)


# -- many at once, on a real loop


def play(scene: str, *arguments: str) -> Any:
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("on_the_loop.py")), scene, *arguments],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["leftover"], report["free"]) == (0, auth.login.PLACES), "somebody still holds a place in line"
    return report


def test_equal_logins_at_once_share_one_hash() -> None:
    report = play("equal_and_right")
    assert report["outcomes"] == {"in": 500}
    assert report["hashes"] == 1


def test_equal_wrong_ones_share_one_too_and_each_counts_as_a_guess() -> None:
    report = play("equal_and_wrong")
    assert report["outcomes"] == {"refused": 10, "too many": 40}
    assert report["hashes"] == 1


def test_a_burst_of_guesses_does_not_learn_which_one_is_recognised() -> None:
    report = play("burst_of_guesses")
    assert report["outcomes"] == {"refused": 10, "too many": 291}


def test_500_who_come_back_at_once_are_all_in_soon() -> None:
    report = play("everybody_comes_back")
    assert report["outcomes"] == {"in": 500}
    assert report["hashes"] == 0
    assert report["p99_sec"] < 2.5


def test_whoever_goes_away_while_waiting_leaves_nothing_behind() -> None:
    assert play("killed_in_line")["outcomes"] == {"in": 1}


def test_whoever_waits_too_long_is_told_to_come_again() -> None:
    assert play("slow_hash")["outcomes"] == {"refused": 2, "too many": 2}


def test_a_true_user_gets_in_through_a_flood_at_the_own_account_and_address() -> None:
    report = play("flood_with_a_true_user")
    assert report["last"] == "in"
    assert report["waited_sec"] <= 30
    assert report["outcomes"]["refused"] <= 10 * (report["lasted_sec"] + 1)


def test_more_guesses_than_can_be_hashed_delay_the_others_by_one_of_each_address() -> None:
    """50 addresses, 1,000 guesses a second: whoever comes from elsewhere waits for 50 hashes, not for all in line."""
    report = play("many_addresses")
    assert [outcome for outcome, _ in report["users"]] == ["in"] * 2
    assert report["in_line"] > 200
    assert max(taken for _, taken in report["users"]) < 5


def test_the_loop_goes_on_while_hashes_are_computed(postgres: Postgres) -> None:
    for source in ([], [postgres.new_database()]):
        # What holds the loop up does so each time; other programs on the machine do not.
        assert min(play("loop_goes_on", *source)["worst_sec"] for _ in range(3)) < 0.1


def test_a_frozen_database_holds_up_logins_for_its_deadline_and_nothing_else(postgres: Postgres) -> None:
    player = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("on_the_loop.py")), "frozen_database", postgres.new_database()],
        env={"PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert player.stdout is not None
    assert player.stdout.readline() == "ready\n"
    with postgres.frozen():
        out, err = player.communicate("go\n", timeout=60)
    assert player.returncode == 0, err
    report = json.loads(out)
    assert report["outcomes"] == {"unavailable": 20}
    assert report["lasted_sec"] < 8
    assert report["ticks"] > report["lasted_sec"] / 0.05 * 0.7
    assert err.count("the user database cannot be used") == 1
