import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auth.access import Action, Viewer, may
from auth.accounts import Account, Users, UsersUnavailable
from auth.login import LoginRefused, LoginUnavailable
from auth.sessions import Sessions
from auth.users import open_users
from green import Overloaded

SECRET = b"k" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def offload(_purpose: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users() -> Iterator[Users]:
    store = open_users(None)
    yield store
    store.close()


@pytest.fixture
def sessions(users: Users, clock: Clock) -> Sessions:
    return Sessions(SECRET, users, offload, clock)


def alice(users: Users) -> Account:
    account = users.find("Alice")
    assert account is not None
    return account


def test_a_token_is_known_again_until_it_expires(sessions: Sessions, users: Users, clock: Clock) -> None:
    token, expires = sessions.issue(alice(users))
    assert expires == clock.now + 12 * 3600
    claims = sessions.check(token)
    assert claims is not None
    assert (claims.user, claims.account, claims.expires, claims.only_stream) == ("Alice", alice(users), expires, None)
    assert sessions.log_in(token) == claims
    clock.now = expires - 1
    assert sessions.check(token) is not None
    clock.now = expires
    assert sessions.check(token) is None


def test_a_changed_password_ends_every_session_and_a_better_hash_of_another_none(
    sessions: Sessions, users: Users
) -> None:
    token, _ = sessions.issue(alice(users))
    users.set_password("Bob", "new")
    assert sessions.check(token) is not None
    users.set_password("Alice", "123")
    assert sessions.check(token) is None


def test_a_user_who_is_removed_and_added_again_is_somebody_else(sessions: Sessions, users: Users) -> None:
    token, _ = sessions.issue(alice(users))
    users.remove("Alice")
    assert sessions.check(token) is None
    users.add("Alice", "123")
    assert sessions.check(token) is None


def test_rights_are_looked_up_and_not_carried(sessions: Sessions, users: Users) -> None:
    token, _ = sessions.issue(alice(users))
    assert sessions.viewer_of(token) == Viewer("Alice")
    users.set_admin("Alice", True)
    users.allow("Bob", "Alice")
    assert sessions.viewer_of(token) == Viewer("Alice", admin=True, watchable=frozenset({"Bob"}))


def test_a_read_only_token_shows_one_stream_and_sends_nothing(sessions: Sessions, users: Users) -> None:
    token, _ = sessions.issue(alice(users), hours=1, read_only_stream="Alice~2")
    viewer = sessions.viewer_of(token)
    assert viewer == Viewer("Alice", only_stream="Alice~2")
    assert may(viewer, Action.SEE, "Alice", stream="Alice~2")
    with pytest.raises(LoginRefused, match="the token is not valid"):
        sessions.log_in(token)


def test_a_token_of_another_secret_or_with_other_content_is_worth_nothing(sessions: Sessions, users: Users) -> None:
    other, _ = Sessions(b"other" * 8, users, offload).issue(alice(users))
    assert sessions.check(other) is None
    token, _ = sessions.issue(alice(users))
    content, _, signature = token.rpartition(".")
    claims = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
    forged = base64.urlsafe_b64encode(json.dumps(["Bob", *claims[1:]]).encode()).decode().rstrip("=")
    assert sessions.check(f"{forged}.{signature}") is None


@pytest.mark.parametrize("token", [None, 7, b"x", "", ".", "a.b", "x" * 100_000, "\ud800", "é.é", [], {"a": 1}])
def test_what_is_no_token_is_refused_and_no_error(token: object, sessions: Sessions) -> None:
    assert sessions.check(token) is None
    assert sessions.viewer_of(token) is None
    with pytest.raises(LoginRefused):
        sessions.log_in(token)


@given(at=st.integers(0, 400), bit=st.integers(0, 6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_token_with_any_bit_changed_never_names_somebody_else(
    at: int, bit: int, sessions: Sessions, users: Users
) -> None:
    token = bytearray(sessions.issue(alice(users))[0].encode())
    token[at % len(token)] ^= 1 << bit
    claims = sessions.check(token.decode())
    # The last character of a base64 text has bits that mean nothing.
    assert claims is None or claims.user == "Alice"


def test_without_accounts_a_token_is_for_the_name_and_shows_everything(clock: Clock) -> None:
    sessions = Sessions(SECRET, None, offload, clock)
    token, _ = sessions.issue(Account("anybody"))
    assert sessions.log_in(token).user == "anybody"
    assert sessions.viewer_of(token, "192.0.2.1") == Viewer.anybody("192.0.2.1")


def test_a_token_from_before_accounts_were_asked_for_is_worth_nothing(sessions: Sessions) -> None:
    token, _ = Sessions(SECRET, None, offload).issue(Account("Alice"))
    assert sessions.check(token) is None


def test_accounts_that_are_away_are_told_apart_from_a_wrong_token(
    sessions: Sessions, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = sessions.issue(alice(users))

    def away(_: str) -> Account:
        raise UsersUnavailable("away")

    monkeypatch.setattr(users, "find", away)
    with pytest.raises(LoginUnavailable):
        sessions.log_in(token)
    with pytest.raises(UsersUnavailable):
        sessions.viewer_of(token)


def test_where_no_thread_comes_free_the_accounts_are_unavailable(users: Users) -> None:
    def overloaded(_purpose: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise Overloaded("no database thread came free")

    token, _ = Sessions(SECRET, users, offload).issue(alice(users))
    sessions = Sessions(SECRET, users, overloaded)
    with pytest.raises(UsersUnavailable):
        sessions.check(token)
    with pytest.raises(LoginUnavailable):
        sessions.log_in(token)
