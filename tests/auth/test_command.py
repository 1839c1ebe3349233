"""`python3 -m auth`, run as a person or a script runs it."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import auth.accounts
from auth.passwords import check_password
from auth.users import Users
from postgres import PASSWORD, Postgres

SRC = Path(auth.accounts.__file__).parent.parent
SECRET = "open sesame"


def run(*arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "auth", *arguments],
        cwd=SRC,
        env={"PATH": os.environ["PATH"]} | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def succeed(*arguments: str, stdin: str = "", **environment: str) -> str:
    done = run(*arguments, stdin=stdin, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/users.db"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_the_life_of_an_account(database: str, opened: Callable[[str | None], Users]) -> None:
    store: dict[str, str] = {"IMAGESERVER_USERS": database}
    assert succeed("add", "Carol", "--admin", stdin=SECRET + "\n", **store) == ""
    succeed("add", "Dave", stdin=SECRET, **store)
    assert succeed("list", **store) == "Carol\tadmin\t\nDave\t-\t\n"
    succeed("grant", "Dave", "--view", "Carol", **store)
    succeed("grant", "Dave", **store)
    assert succeed("list", **store) == "Carol\tadmin\t\nDave\tadmin\tCarol\n"
    succeed("revoke", "Dave", **store)
    succeed("revoke", "Dave", "--view", "Carol", **store)
    assert succeed("list", **store) == "Carol\tadmin\t\nDave\t-\t\n"
    succeed("passwd", "Dave", stdin="another\r\n", **store)
    account = opened(database).find("Dave")
    assert account is not None
    assert check_password("another", account.password_hash).right
    succeed("remove", "Carol", **store)
    assert succeed("list", **store) == "Dave\t-\t\n"


def test_an_htpasswd_file_is_begun_by_the_first_account(tmp_path: Path) -> None:
    path = str(tmp_path / "users.htpasswd")
    missing = run("--users", path, "list")
    assert (missing.returncode, missing.stderr) == (1, f"auth: {path}: no such file or directory\n")
    succeed("--users", path, "add", "Carol", stdin=SECRET)
    assert succeed("list", "--users", path) == "Carol\t-\t\n"
    refused = run("--users", path, "grant", "Carol")
    assert refused.returncode == 1
    assert "holds names and passwords only" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["add", "Carol"], SECRET, "there is a user 'Carol' already"),
        (["add", "tcp-1"], SECRET, "'tcp-1' cannot be a user's name: expected 1-64 letters"),
        (["add", "Dave"], "", "no password came on standard input"),
        (["add", "Dave"], "\n", "this cannot be a password: expected 1-1024 bytes of UTF-8"),
        (["add", "Dave"], "x" * 1025, "this cannot be a password"),
        (["passwd", "Dave"], SECRET, "there is no user 'Dave'"),
        (["remove", "Dave"], "", "there is no user 'Dave'"),
        (["grant", "Dave"], "", "there is no user 'Dave'"),
        (["grant", "Carol", "--view", "Dave"], "", "there is no user 'Dave'"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_status_1(
    arguments: list[str], stdin: str, message: str, source: str
) -> None:
    succeed("--users", source, "add", "Carol", stdin=SECRET)
    done = run("--users", source, *arguments, stdin=stdin)
    assert done.returncode == 1
    assert done.stderr.startswith(f"auth: {message}")
    assert done.stderr.count("\n") == 1
    assert succeed("--users", source, "list") == "Carol\t-\t\n"


def test_a_password_that_is_no_utf8_is_refused(source: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "auth", "--users", source, "add", "Carol"],
        cwd=SRC, input=b"\xff\xfe\n", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(b"auth: this cannot be a password")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["add"], "the following arguments are required: NAME"),
        (["add", "Carol", SECRET], "unrecognized arguments"),
        (["list"], "no accounts are named: give --users SOURCE, IMAGESERVER_USERS or --config FILE"),
        (["--users", "postgresql://u:hidden@127.0.0.1/db", "list"], "a URL with a password is seen by everybody"),
        (["--config", "/nowhere.toml", "list"], "/nowhere.toml: "),
    ],
)
def test_what_is_asked_wrongly_is_status_2(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "auth", *arguments], cwd=SRC, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_url_with_a_password_is_read_from_the_configuration_file_or_the_environment(
    postgres: Postgres, tmp_path: Path
) -> None:
    config = tmp_path / "imageserver.toml"
    config.write_text(f'[imageserver]\nport = 8081\nusers = "{postgres.new_database()}"\n')
    succeed("--config", str(config), "add", "Carol", stdin=SECRET)
    assert succeed("list", IMAGESERVER_CONFIG=str(config)) == "Carol\t-\t\n"
    # What is nearer wins: the argument, then the environment, then the file.
    other = {"IMAGESERVER_USERS": f"sqlite:///{tmp_path}/other.db"}
    assert succeed("--config", str(config), "list", **other) == ""
    config.write_text("[imageserver]\nusers = 7\n")
    done = run("--config", str(config), "list")
    assert done.returncode == 2
    assert "users is 7, expected a string" in done.stderr


def test_a_database_that_is_away_is_one_clear_line(postgres: Postgres) -> None:
    url = postgres.new_database()
    postgres.stop()
    try:
        done = run("list", IMAGESERVER_USERS=url)
    finally:
        postgres.start()
    assert done.returncode == 1
    assert done.stderr.startswith("auth: the user database cannot be used: ")
    assert done.stderr.count("\n") == 1


def at_a_terminal(source: str, *typed: str) -> tuple[int, str]:
    """Run `add Carol` at a terminal, type each text when it is asked for, and return status and what was to be seen."""
    terminal, end = pty.openpty()
    # getpass asks at the controlling terminal, which a process can only choose for itself.
    program = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, '-m', 'auth', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--users", source, "add", "Carol"],
        cwd=SRC, stdin=end, stdout=end, stderr=end, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    seen = b""
    try:
        for prompt, text in zip((b"Password: ", b"Again: "), typed, strict=False):
            while not seen.endswith(prompt):
                seen += os.read(terminal, 1024)
            os.write(terminal, text.encode())
        while True:
            seen += os.read(terminal, 1024)
    except OSError:  # how the end of a terminal looks on Linux
        pass
    finally:
        os.close(terminal)
    return process.wait(30), seen.decode()


def test_at_a_terminal_the_password_is_asked_for_twice_and_not_shown(source: str) -> None:
    status, seen = at_a_terminal(source, SECRET + "\n", SECRET + "\n")
    assert status == 0
    assert SECRET not in seen
    assert succeed("--users", source, "list") == "Carol\t-\t\n"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((SECRET + "\n", "open says me\n"), "auth: the two passwords differ"),
        (("\x03",), "auth: nothing was changed"),
        (("\x04",), "auth: nothing was changed"),
    ],
    ids=["two that differ", "Ctrl-C", "Ctrl-D"],
)
def test_at_a_terminal_one_may_still_turn_back(typed: tuple[str, ...], message: str, source: str) -> None:
    status, seen = at_a_terminal(source, *typed)
    assert status == 1
    assert message in seen
    assert succeed("--users", source, "list") == ""


def test_whoever_reads_only_the_beginning_of_the_list_hears_no_complaint(source: str) -> None:
    succeed("--users", source, "add", "Carol", stdin=SECRET)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "auth", "--users", source, "list"],
        cwd=SRC, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.stderr == ""
