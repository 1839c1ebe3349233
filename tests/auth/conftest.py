"""A PostgreSQL that all tests of this room share; each that needs one has a database of its own in it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from auth.users import Users, open_users
from postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The source of an empty store that holds all there is."""
    if request.param == "memory":
        return "sqlite://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/users.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def opened() -> Iterator[Callable[[str | None], Users]]:
    """Opens stores and closes them in the end."""
    stores: list[Users] = []

    def open_store(source: str | None) -> Users:
        stores.append(open_users(source, create=True))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
