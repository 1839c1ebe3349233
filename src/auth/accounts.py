"""Accounts, and what every store of them can do. Stores block: the server calls them in `offload` threads."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from auth.names import MAX_PASSWORD_BYTES, valid_password, valid_username


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in.

    Args:
        admin: sees everything and may change everything.
        password_hash: empty where nobody is asked for a password (a server without `-a`).
    """

    name: str
    admin: bool = False
    password_hash: str = field(default="", repr=False)

    @property
    def epoch(self) -> int:
        """Another number after every change of the password; what was signed in an earlier epoch is worth nothing.

        Derived from the hash, whose salt is new each time, so that no store has to count, and a name that is removed
        and added again starts no second first epoch. Tokens carry it openly: 32 bits of digest are enough to tell two
        hashes apart, and too few to try passwords against, the salt being unknown.
        """
        return int.from_bytes(hashlib.blake2b(self.password_hash.encode(), digest_size=4).digest())


class UsersError(Exception):
    """A store cannot do what it was asked; the message is one line for a person."""


class UsersUnavailable(UsersError):
    """The store cannot be reached, read or written now."""


class UnknownUser(UsersError):
    """There is no account of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no user {name!r}")


class NameInUse(UsersError):
    """There is an account of this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a user {name!r} already")


class NotValid(UsersError):
    """A name or a password that nobody may have."""


class NotSupported(UsersError):
    """This kind of store holds no such thing."""


def require_username(name: str) -> None:
    """Raises `NotValid`."""
    if not valid_username(name):
        raise NotValid(
            f"{name!r} cannot be a user's name: expected 1-64 letters, digits, '.', '_', '@', '-' or spaces,"
            " with a letter or digit at both ends, and not tcp-N or pull-N"
        )


def require_password(password: str) -> None:
    """Raises `NotValid`."""
    if not valid_password(password) or not password:
        raise NotValid(f"this cannot be a password: expected 1-{MAX_PASSWORD_BYTES} bytes of UTF-8")


class Users(Protocol):
    """A store of accounts and of who may watch whom.

    Passwords come in as they are and are hashed by the store. Every method may raise `UsersUnavailable`; those that
    change something raise `UnknownUser` for a name that must exist and does not, and `NotValid` for a name or password
    that nobody may have.
    """

    def find(self, name: str) -> Account | None: ...

    def list(self, at_most: int | None = None) -> Sequence[Account]:
        """All accounts, or the first of them, sorted by name."""

    def add(self, name: str, password: str, admin: bool = False) -> None:
        """Raises `NameInUse`."""

    def remove(self, name: str) -> None:
        """Remove an account and all that it allowed or was allowed."""

    def set_password(self, name: str, password: str) -> None: ...

    def upgrade_hash(self, name: str, old_hash: str, new_hash: str) -> bool:
        """Replace a hash by a better one of the same password; False if it is not `old_hash` any more."""

    def set_admin(self, name: str, admin: bool) -> None: ...

    def allow(self, owner: str, viewer: str) -> None:
        """Let `viewer` watch the streams of `owner`; allowing twice is allowing once."""

    def forbid(self, owner: str, viewer: str) -> None:
        """Take `allow` back; harmless if it was never given."""

    def viewers(self, owner: str) -> frozenset[str]:
        """Who may watch the streams of `owner`, besides the owner and admins."""

    def watchable(self, viewer: str) -> frozenset[str]:
        """Whose streams `viewer` may watch, besides their own."""

    def close(self) -> None:
        """Let go of files and connections; harmless when done twice."""
