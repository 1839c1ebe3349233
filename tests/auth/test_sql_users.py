"""A real PostgreSQL that stops, freezes and comes back."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auth import sql_users
from auth.accounts import UsersUnavailable
from auth.sql_users import SqlUsers
from postgres import PASSWORD, Postgres


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(postgres: Postgres, clock: Clock) -> Iterator[SqlUsers]:
    store = SqlUsers(postgres.new_database(), clock)
    yield store
    store.close()


def test_the_older_spelling_of_the_url_works_too(postgres: Postgres) -> None:
    SqlUsers(postgres.new_database().replace("postgresql://", "postgres://")).close()
    SqlUsers(postgres.new_database().replace("postgresql://", "postgresql+psycopg2://")).close()


def test_a_database_that_was_restarted_is_used_again_unnoticed(postgres: Postgres, users: SqlUsers) -> None:
    users.add("Carol", "opensesame")
    postgres.stop()
    postgres.start()
    assert users.find("Carol") is not None


def test_a_database_that_is_away_is_reported_once_and_asked_again_later_and_later(
    postgres: Postgres, users: SqlUsers, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    users.add("Carol", "opensesame")
    postgres.stop()
    try:
        with pytest.raises(UsersUnavailable, match=r"the user database cannot be used: .*onnection"):
            users.find("Carol")
        with pytest.raises(UsersUnavailable, match="left alone for a few seconds"):
            users.find("Carol")
        for _ in range(6):
            clock.now += sql_users.LAST_BACKOFF_SEC
            with pytest.raises(UsersUnavailable, match="onnection"):
                users.find("Carol")
        clock.now += sql_users.LAST_BACKOFF_SEC - 0.1
        with pytest.raises(UsersUnavailable, match="left alone"):
            users.find("Carol")
    finally:
        postgres.start()
    clock.now += sql_users.LAST_BACKOFF_SEC
    assert users.find("Carol") is not None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "nobody can log in" in caplog.messages[0]
    assert "can be used again" in caplog.messages[1]
    assert PASSWORD not in caplog.text


def test_a_database_that_is_frozen_is_given_up_in_time(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_users, "DEADLINE_SEC", 2)  # libpq's least for connecting
    users = SqlUsers(postgres.new_database())
    with postgres.frozen():
        began = time.monotonic()
        with pytest.raises(UsersUnavailable, match="the user database cannot be used"):
            users.find("Carol")
        taken = time.monotonic() - began
    assert 2 <= taken < 4
    users.close()


def test_a_new_connection_to_a_frozen_database_is_given_up_in_time(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_users, "DEADLINE_SEC", 2)
    url = postgres.new_database()
    with postgres.frozen():
        began = time.monotonic()
        with pytest.raises(UsersUnavailable, match="timeout"):
            SqlUsers(url)
        taken = time.monotonic() - began
    assert taken < 4


def test_a_statement_that_waits_for_a_lock_is_given_up_by_the_database_itself(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_users, "DEADLINE_SEC", 2)
    url = postgres.new_database()
    users = SqlUsers(url)
    users.add("Carol", "opensesame")
    holder = SqlUsers(url)
    held, done = threading.Event(), threading.Event()

    def hold(db: sql_users.Connection) -> None:
        db.execute(sql_users.text("LOCK TABLE accounts"))
        held.set()
        done.wait(10)

    thread = threading.Thread(target=holder._run, args=(hold,))
    thread.start()
    assert held.wait(10)
    try:
        with pytest.raises(UsersUnavailable, match="statement timeout"):
            users.find("Carol")
    finally:
        done.set()
        thread.join(10)
        users.close()
        holder.close()


def test_a_wrong_password_for_the_database_is_told_without_the_password(postgres: Postgres) -> None:
    with pytest.raises(UsersUnavailable, match="password authentication failed") as caught:
        SqlUsers(postgres.url(password="hidden"))
    assert "hidden" not in str(caught.value)


def test_servers_that_start_at_once_on_an_empty_database_all_start(postgres: Postgres) -> None:
    url = postgres.new_database()
    problems: list[BaseException] = []
    ready = threading.Barrier(6)

    def start() -> None:
        try:
            ready.wait(10)
            SqlUsers(url).close()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not problems


def test_a_sqlite_file_that_another_process_holds_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_users, "DEADLINE_SEC", 1)
    users = SqlUsers(f"sqlite:///{tmp_path}/users.db")
    holder = sqlite3.connect(tmp_path / "users.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UsersUnavailable, match="database is locked"):
        users.add("Carol", "opensesame")
    holder.close()
    users.close()
