"""`python3 -m auth`: the operator's way to add, change and remove accounts, also while the server runs.

Exit status: 0 done; 1 not done, with one line that says why; 2 asked wrongly.
"""

import argparse
import getpass
import logging
import os
import sys
import tomllib
from collections.abc import Sequence
from typing import Final

from auth.accounts import NameInUse, UnknownUser, Users, UsersError, require_password, require_username
from auth.users import open_users
from settings import has_password

SOURCE_VARIABLE: Final = "IMAGESERVER_USERS"
CONFIG_VARIABLE: Final = "IMAGESERVER_CONFIG"
#: The table of the configuration file, which is the server's own.
CONFIG_TABLE: Final = "imageserver"


class _NotDone(Exception):
    """The message is one line for the operator."""


def main(arguments: Sequence[str]) -> int:
    parser = _make_parser()
    options = parser.parse_args(arguments)
    source = _source(parser, options.users, options.config)
    try:
        users = open_users(source, create=options.command == "add")
        try:
            _run(users, options)
        finally:
            users.close()
    except (UsersError, _NotDone) as error:
        print(f"auth: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("\nauth: nothing was changed", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the list has seen enough; without this, Python complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m auth",
        description="Manages the accounts of an ImageServer, also while it runs.",
        epilog="Passwords are asked for, or read as one line from standard input; they are never arguments.",
        allow_abbrev=False,
    )
    users_help = (
        "the accounts: an htpasswd file, sqlite:///FILE or postgresql://…; a URL with a password belongs into"
        f" the environment variable {SOURCE_VARIABLE} or the configuration file"
    )
    config_help = f"the server's configuration file (TOML, key users in table [{CONFIG_TABLE}])"
    parser.add_argument("--users", metavar="SOURCE", help=users_help)
    parser.add_argument("--config", metavar="FILE", help=config_help)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False)
        # Also taken behind the command; what is not given there must not undo what was given before.
        added.add_argument("--users", metavar="SOURCE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        added.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name != "list":
            added.add_argument("name", metavar="NAME", help="the user")
        return added

    command("add", "add an account").add_argument("--admin", action="store_true", help="one that may do everything")
    command("remove", "remove an account and all that it was allowed")
    command("passwd", "change a password; whoever is logged in with the old one must log in again")
    command("list", "list the accounts: name, admin or -, whose streams they may watch")
    for name, what in (("grant", "let a user be an admin"), ("revoke", "take back what grant gave")):
        command(name, what).add_argument(
            "--view", metavar="OWNER", help="not the admin right, but that of watching this user's streams"
        )
    return parser


def _source(parser: argparse.ArgumentParser, argument: str | None, config: str | None) -> str:
    """Where the accounts are: what was named on the command line, else in the environment, else in the file."""
    if argument and has_password(argument):
        parser.error(
            "a URL with a password is seen by everybody in the list of processes:"
            f" name it in {SOURCE_VARIABLE} or in the configuration file"
        )
    config = config or os.environ.get(CONFIG_VARIABLE)
    source = argument or os.environ.get(SOURCE_VARIABLE) or (config and _configured(parser, config))
    if not source:
        parser.error(f"no accounts are named: give --users SOURCE, {SOURCE_VARIABLE} or --config FILE")
    return source


def _configured(parser: argparse.ArgumentParser, path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file).get(CONFIG_TABLE, {})
    except (OSError, ValueError) as error:
        parser.error(f"{path}: {error}")
    source = table.get("users") if isinstance(table, dict) else None
    if source is not None and not isinstance(source, str):
        parser.error(f"{path}: users is {source!r}, expected a string")
    return source


def _run(users: Users, options: argparse.Namespace) -> None:
    match options.command:
        case "list":
            for account in users.list():
                owners = ", ".join(sorted(users.watchable(account.name)))
                print(account.name, "admin" if account.admin else "-", owners, sep="\t")
        case "add":
            # Looked up before a person has typed a password twice for nothing.
            require_username(options.name)
            if users.find(options.name) is not None:
                raise NameInUse(options.name)
            users.add(options.name, _ask_password(), options.admin)
        case "passwd":
            if users.find(options.name) is None:
                raise UnknownUser(options.name)
            users.set_password(options.name, _ask_password())
        case "remove":
            users.remove(options.name)
        case "grant" | "revoke" if options.view is None:
            users.set_admin(options.name, options.command == "grant")
        case "grant":
            users.allow(options.view, options.name)
        case "revoke":
            users.forbid(options.view, options.name)


def _ask_password() -> str:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise _NotDone("the two passwords differ")
    else:
        # As bytes: what is no UTF-8 must not depend on the locale.
        line = sys.stdin.buffer.readline()
        if not line:
            raise _NotDone("no password came on standard input")
        password = line.rstrip(b"\r\n").decode(errors="surrogateescape")
    require_password(password)
    return password


if __name__ == "__main__":
    logging.disable()  # the stores' reports are for the server's log; here the one line says it
    sys.exit(main(sys.argv[1:]))
