"""Opens the store of accounts that the operator named: in memory, an htpasswd file, or a database."""

from auth.accounts import (
    Account,
    NameInUse,
    NotSupported,
    NotValid,
    UnknownUser,
    Users,
    UsersError,
    UsersUnavailable,
)
from auth.htpasswd_users import HtpasswdUsers
from auth.sql_users import SqlUsers

__all__ = [
    "Account",
    "NameInUse",
    "NotSupported",
    "NotValid",
    "UnknownUser",
    "Users",
    "UsersError",
    "UsersUnavailable",
    "open_users",
]

#: Accounts to try the server with: user1/pass1, user2/pass2, Alice/123, Bob/456. Hashed ahead, to start quickly.
_HASH = "$argon2id$v=19$m=19456,t=2,p=1$"
_DEMO_ACCOUNTS = (
    Account("user1", password_hash=_HASH + "vHeu9X6vdW4tJaS01novZQ$4ukwmwxQK7HWLVjFUwp6FTAd2J7I9Y7fTsm9Qnv2Bq0"),
    Account("user2", password_hash=_HASH + "1npPKYWQMkZojbE2Zmxt7Q$xYNFP508zrx1lkCWiWBTetNO6PxZXlzvcTyylLj04MY"),
    Account("Alice", password_hash=_HASH + "EcJYC2HsfW9NqZWSck6plQ$28mBuVhfr0XdY+jQ70zbeBf4ibALyFVhjlzOOnUqJmc"),
    Account("Bob", password_hash=_HASH + "4bx3jjHmPOccw/i/FwLgvA$MYqD5oW6D1nYjcp7Kym8X7LWRnL8R+2Mu5zcHFN7lmM"),
)


def open_users(source: str | None, create: bool = False) -> Users:
    """Open a store of accounts. Blocks.

    Args:
        source: None for the demo accounts in memory, a database's URL, or else the path of an htpasswd file.
        create: begin an htpasswd file that is not there yet.

    Raises:
        UsersUnavailable: there is no such store, or it cannot be reached.
    """
    if source is None:
        users = SqlUsers("sqlite://")
        users.insert(_DEMO_ACCOUNTS)
        return users
    if "://" in source:
        return SqlUsers(source)
    return HtpasswdUsers(source, create)
