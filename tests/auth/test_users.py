"""What every store that holds all there is does alike: in memory, in a SQLite file, in PostgreSQL."""

import threading
from collections.abc import Callable

import pytest

from auth.passwords import check_password, hash_password
from auth.users import (
    Account,
    NameInUse,
    NotValid,
    UnknownUser,
    Users,
    UsersError,
    UsersUnavailable,
    open_users,
)

Open = Callable[[str | None], Users]


@pytest.fixture
def users(database: str, opened: Open) -> Users:
    return opened(database)


def names(users: Users) -> list[str]:
    return [account.name for account in users.list()]


@pytest.mark.parametrize(
    ("name", "password"), [("user1", "pass1"), ("user2", "pass2"), ("Alice", "123"), ("Bob", "456")]
)
def test_without_a_source_the_demo_accounts_are_there_and_none_is_an_admin(
    name: str, password: str, opened: Open
) -> None:
    account = opened(None).find(name)
    assert account is not None
    assert check_password(password, account.password_hash) == (True, None)
    assert not account.admin


def test_two_stores_in_memory_share_nothing(opened: Open) -> None:
    opened(None).remove("Alice")
    assert names(opened(None)) == ["Alice", "Bob", "user1", "user2"]


def test_what_is_added_is_found_by_its_exact_name(users: Users) -> None:
    users.add("Carol", "opensesame", admin=True)
    users.add("carol", "other")
    found = users.find("Carol")
    assert found is not None
    assert found.admin
    assert check_password("opensesame", found.password_hash).right
    assert users.find("CAROL") is None
    assert users.find("Carol ") is None
    assert names(users) == ["Carol", "carol"]


def test_a_name_is_given_once(users: Users) -> None:
    users.add("Carol", "opensesame")
    with pytest.raises(NameInUse, match="there is a user 'Carol' already"):
        users.add("Carol", "other")
    found = users.find("Carol")
    assert found is not None
    assert check_password("opensesame", found.password_hash).right


@pytest.mark.parametrize(
    ("name", "password", "message"),
    [
        ("tcp-1", "opensesame", "'tcp-1' cannot be a user's name: expected 1-64 letters"),
        ("a:b", "opensesame", "'a:b' cannot be a user's name"),
        ("Carol", "", "cannot be a password: expected 1-1024 bytes"),
        ("Carol", "x" * 1025, "cannot be a password"),
    ],
)
def test_a_name_or_password_that_nobody_may_have_is_refused(
    name: str, password: str, message: str, users: Users
) -> None:
    with pytest.raises(NotValid, match=message):
        users.add(name, password)
    assert users.list() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda users: users.remove("Dave"),
        lambda users: users.set_password("Dave", "opensesame"),
        lambda users: users.set_admin("Dave", True),
        lambda users: users.allow("Dave", "Carol"),
        lambda users: users.allow("Carol", "Dave"),
    ],
)
def test_what_is_done_to_nobody_is_an_error(change: Callable[[Users], None], users: Users) -> None:
    users.add("Carol", "opensesame")
    with pytest.raises(UnknownUser, match="there is no user 'Dave'"):
        change(users)


def test_a_new_password_begins_a_new_epoch_and_a_better_hash_of_the_old_one_is_only_taken_if_it_is_still_that(
    users: Users,
) -> None:
    users.add("Carol", "opensesame")
    first = users.find("Carol")
    users.set_password("Carol", "opensesame")
    second = users.find("Carol")
    assert first is not None
    assert second is not None
    assert first.epoch != second.epoch
    assert not users.upgrade_hash("Carol", first.password_hash, "better")
    assert users.find("Carol") == second
    assert users.upgrade_hash("Carol", second.password_hash, "better")
    assert users.find("Carol") == Account("Carol", password_hash="better")


def test_a_name_that_is_removed_and_added_again_starts_anew(users: Users) -> None:
    users.add("Carol", "opensesame", admin=True)
    users.add("Dave", "opensesame")
    users.allow("Carol", "Dave")
    users.allow("Dave", "Carol")
    before = users.find("Carol")
    users.remove("Carol")
    assert users.find("Carol") is None
    users.add("Carol", "opensesame")
    after = users.find("Carol")
    assert before is not None
    assert after is not None
    assert after.epoch != before.epoch
    assert not after.admin
    assert users.viewers("Carol") == users.watchable("Carol") == users.viewers("Dave") == frozenset()


def test_the_admin_right_comes_and_goes(users: Users) -> None:
    users.add("Carol", "opensesame")
    for admin in (True, True, False):
        users.set_admin("Carol", admin)
        assert [account.admin for account in users.list()] == [admin]


def test_who_may_watch_whom_is_kept_in_both_directions(users: Users) -> None:
    for name in ("Carol", "Dave", "Erin"):
        users.add(name, "opensesame")
    users.allow("Carol", "Dave")
    users.allow("Carol", "Dave")
    users.allow("Carol", "Erin")
    assert users.viewers("Carol") == {"Dave", "Erin"}
    assert users.watchable("Dave") == {"Carol"}
    assert users.viewers("Dave") == frozenset()
    users.forbid("Carol", "Dave")
    users.forbid("Carol", "Dave")
    assert users.viewers("Carol") == {"Erin"}
    assert users.watchable("Dave") == frozenset()


def test_an_account_shows_its_hash_to_no_log() -> None:
    assert "secret" not in repr(Account("Carol", password_hash="secret"))


def test_many_threads_at_once_lose_nothing(users: Users) -> None:
    users.add("Carol", "opensesame")
    problems: list[BaseException] = []
    hashed = hash_password("opensesame")

    def work(number: int) -> None:
        try:
            users.insert([Account(f"user{number}", password_hash=hashed)])  # type: ignore[attr-defined]
            for _ in range(10):
                assert users.find(f"user{number}") is not None
            users.allow("Carol", f"user{number}")
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not problems
    assert len(users.viewers("Carol")) == 8


def test_closing_twice_is_closing_once(users: Users) -> None:
    users.close()
    users.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mysql://h/db", "accounts cannot be kept in mysql, expected sqlite:///FILE or postgresql://…"),
        ("postgresql+psycopg://h/db", r"accounts cannot be kept in postgresql\+psycopg"),
        ("://", "this is no database URL, expected sqlite"),
        ("postgresql://u:hidden@h:port/db", "this is no database URL"),
        ("sqlite:////nowhere/users.db", "unable to open database file"),
        ("/nowhere/users.htpasswd", "/nowhere/users.htpasswd: no such file or directory"),
    ],
)
def test_a_source_that_is_none_is_named_in_one_clear_line(source: str, message: str) -> None:
    with pytest.raises(UsersUnavailable, match=message) as caught:
        open_users(source)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert isinstance(caught.value, UsersError)
