"""Accounts in a database: SQLite in memory or in a file, PostgreSQL through psycopg2."""

import logging
import os
import socket
import threading
import time

# The plain socket of the C library: in the server, socket.socket is a green one, which belongs to the loop's thread.
from _socket import socket as plain_socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, TypeVar

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    ForeignKey,
    MetaData,
    Row,
    String,
    Table,
    bindparam,
    create_engine,
    event,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from auth.accounts import Account, NameInUse, UnknownUser, UsersUnavailable, require_password, require_username
from auth.passwords import hash_password

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: For connecting, and again for what is asked; nobody at a login waits longer for a database that is away.
DEADLINE_SEC: Final = 5
#: How long a database that is away is left alone before it is tried again: this at first, then twice as long each time.
FIRST_BACKOFF_SEC: Final = 0.5
LAST_BACKOFF_SEC: Final = 8.0

_METADATA: Final = MetaData()
_ACCOUNTS: Final = Table(
    "accounts",
    _METADATA,
    Column("name", String(64), primary_key=True),
    Column("admin", Boolean, nullable=False),
    Column("password_hash", String(255), nullable=False),
)


#: Gives one row in any case, of NULLs for a name that does not exist: to fetch a row takes longer than to fetch none,
#: by microseconds that thousands of guesses would show.
_ONE_ROW: Final = select(literal(1).label("one")).subquery()
_FIND: Final = select(_ACCOUNTS).select_from(_ONE_ROW.outerjoin(_ACCOUNTS, _ACCOUNTS.c.name == bindparam("wanted")))


def _account_column(name: str) -> Column[str]:
    return Column(name, String(64), ForeignKey("accounts.name", ondelete="CASCADE"), primary_key=True)


_VIEWERS: Final = Table("viewers", _METADATA, _account_column("owner"), _account_column("viewer"))


class SqlUsers:
    """Accounts in a database.

    Args:
        source: `sqlite://` (in memory), `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`.

    Raises:
        UsersUnavailable: the URL is not one of these, or the database cannot be reached.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._engine, self._lock = _make_engine(source)
        self._state = threading.Lock()  # beside the two lines below, which several threads write
        self._backoff_sec = 0.0
        self._away_until = 0.0
        self._run(_create_tables)

    def close(self) -> None:
        self._engine.dispose()

    def find(self, name: str) -> Account | None:
        row = self._run(lambda db: db.execute(_FIND, {"wanted": name}).one())
        found = Account(row.name or "", bool(row.admin), row.password_hash or "")
        return found if found.name else None

    def list(self, at_most: int | None = None) -> Sequence[Account]:
        select = _ACCOUNTS.select()
        if at_most is not None:
            select = select.order_by(_ACCOUNTS.c.name).limit(at_most)
        rows = self._run(lambda db: db.execute(select).all())
        # In the order of bytes, whatever the database's language.
        return sorted(map(_account, rows), key=lambda account: account.name)

    def add(self, name: str, password: str, admin: bool = False) -> None:
        require_username(name)
        require_password(password)
        self.insert([Account(name, admin, hash_password(password))])

    def insert(self, accounts: Iterable[Account]) -> None:
        """Add accounts whose passwords are hashed already: all of them or none."""
        rows = [{"name": a.name, "admin": a.admin, "password_hash": a.password_hash} for a in accounts]
        try:
            self._run(lambda db: db.execute(_ACCOUNTS.insert(), rows))
        except IntegrityError:
            raise NameInUse(", ".join(str(row["name"]) for row in rows)) from None

    def remove(self, name: str) -> None:
        if not self._run(lambda db: db.execute(_ACCOUNTS.delete().where(_ACCOUNTS.c.name == name)).rowcount):
            raise UnknownUser(name)

    def set_password(self, name: str, password: str) -> None:
        require_password(password)
        self._update(name, password_hash=hash_password(password))

    def upgrade_hash(self, name: str, old_hash: str, new_hash: str) -> bool:
        same = (_ACCOUNTS.c.name == name) & (_ACCOUNTS.c.password_hash == old_hash)
        update = _ACCOUNTS.update().where(same).values(password_hash=new_hash)
        return bool(self._run(lambda db: db.execute(update).rowcount))

    def set_admin(self, name: str, admin: bool) -> None:
        self._update(name, admin=admin)

    def allow(self, owner: str, viewer: str) -> None:
        def insert(db: Connection) -> None:
            for name in (owner, viewer):
                if db.execute(_ACCOUNTS.select().where(_ACCOUNTS.c.name == name)).first() is None:
                    raise UnknownUser(name)
            if db.execute(_VIEWERS.select().where(pair)).first() is None:
                db.execute(_VIEWERS.insert(), {"owner": owner, "viewer": viewer})

        pair = (_VIEWERS.c.owner == owner) & (_VIEWERS.c.viewer == viewer)
        try:
            self._run(insert)
        except IntegrityError:
            # Meanwhile somebody else allowed the same, or removed one of the two; looking again tells which.
            self._run(insert)

    def forbid(self, owner: str, viewer: str) -> None:
        pair = (_VIEWERS.c.owner == owner) & (_VIEWERS.c.viewer == viewer)
        self._run(lambda db: db.execute(_VIEWERS.delete().where(pair)))

    def viewers(self, owner: str) -> frozenset[str]:
        of_owner = _VIEWERS.select().where(_VIEWERS.c.owner == owner)
        return self._run(lambda db: frozenset(row.viewer for row in db.execute(of_owner)))

    def watchable(self, viewer: str) -> frozenset[str]:
        of_viewer = _VIEWERS.select().where(_VIEWERS.c.viewer == viewer)
        return self._run(lambda db: frozenset(row.owner for row in db.execute(of_viewer)))

    def _update(self, name: str, **values: object) -> None:
        if not self._run(lambda db: db.execute(_ACCOUNTS.update().where(_ACCOUNTS.c.name == name), values).rowcount):
            raise UnknownUser(name)

    def _run(self, statements: Callable[[Connection], T]) -> T:
        """Run statements in one transaction.

        A connection from the pool may have died unnoticed, so what fails at once on one is tried again on a new one.
        A database that is away is not asked by everybody in turn, which would hold all threads for the length of the
        deadline: for a while they are told so at once.
        """
        began = self._clock()
        if began < self._away_until:
            raise UsersUnavailable("the user database cannot be used, and is left alone for a few seconds")
        try:
            try:
                result = self._transaction(statements)
            except DBAPIError as error:
                if not error.connection_invalidated or self._clock() - began > DEADLINE_SEC / 2:
                    raise
                result = self._transaction(statements)
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise self._away(error) from None
        self._back()
        return result

    def _transaction(self, statements: Callable[[Connection], T]) -> T:
        with self._lock, self._engine.connect() as db, _deadline(db), db.begin():
            return statements(db)

    def _away(self, error: SQLAlchemyError) -> UsersUnavailable:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        with self._state:
            if not self._backoff_sec:
                logger.error("the user database cannot be used, nobody can log in: %s", reason)
            self._backoff_sec = min(self._backoff_sec * 2 or FIRST_BACKOFF_SEC, LAST_BACKOFF_SEC)
            self._away_until = self._clock() + self._backoff_sec
        return UsersUnavailable(f"the user database cannot be used: {reason}")

    def _back(self) -> None:
        with self._state:
            if self._backoff_sec:
                logger.warning("the user database can be used again")
            self._backoff_sec = 0.0


def _make_engine(source: str) -> tuple[Engine, AbstractContextManager[object]]:
    """The engine, and what a transaction holds meanwhile: a lock where all threads share one connection."""
    try:
        url = make_url(source)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise UsersUnavailable("this is no database URL, expected sqlite:///FILE or postgresql://…") from None
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg2"):
        return _postgresql_engine(url.set(drivername="postgresql+psycopg2")), nullcontext()
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        in_memory = url.database in (None, "", ":memory:")
        connect_args = {"check_same_thread": False, "timeout": DEADLINE_SEC}
        if in_memory:
            engine = create_engine(url, poolclass=StaticPool, connect_args=connect_args)
        else:
            engine = create_engine(url, connect_args=connect_args)
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        return engine, threading.Lock() if in_memory else nullcontext()
    raise UsersUnavailable(f"accounts cannot be kept in {url.drivername}, expected sqlite:///FILE or postgresql://…")


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url,
        pool_timeout=DEADLINE_SEC,
        connect_args={"connect_timeout": DEADLINE_SEC, "options": f"-c statement_timeout={DEADLINE_SEC * 1000}"},
    )


@contextmanager
def _deadline(db: Connection) -> Iterator[None]:
    """End the connection when the time is over, which wakes the thread that waits for an answer on it.

    The server's own statement_timeout covers a slow statement; this covers a server that is frozen, or a network that
    swallows everything, for which libpq has no limit.
    """
    if db.dialect.name != "postgresql":
        yield  # SQLite's only wait is for a lock, and that has its own limit
        return
    connection: Any = db.connection.dbapi_connection
    # A descriptor of our own: libpq may close its own at any time, and the number would soon be somebody else's.
    link = plain_socket(fileno=os.dup(connection.fileno()))
    # A little later than the server's own limit, whose message says more.
    watch = threading.Timer(DEADLINE_SEC + 0.5, link.shutdown, [socket.SHUT_RDWR])
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        watch.join()
        link.close()


def _create_tables(db: Connection) -> None:
    if db.dialect.name == "postgresql":
        # Two servers that start at once: IF NOT EXISTS alone lets both create, and one fail.
        db.execute(text("SELECT pg_advisory_xact_lock(hashtext('imageserver accounts'))"))
    _METADATA.create_all(db)


def _account(row: Row[Any]) -> Account:
    return Account(row.name, row.admin, row.password_hash)
