"""Accounts in an htpasswd file: `name:hash` lines, as Apache and nginx use them; passwords and nothing else."""

import contextlib
import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from auth.accounts import (
    Account,
    NameInUse,
    NotSupported,
    UnknownUser,
    UsersUnavailable,
    require_password,
    require_username,
)
from auth.names import valid_username
from auth.passwords import hash_password, known_kind

logger = logging.getLogger(__name__)

#: How long a writer waits for another one.
LOCK_SEC: Final = 5.0
LOCK_STEP_SEC: Final = 0.02

#: Within the class below, `list` is a method.
_Lines = list[str]


class HtpasswdUsers:
    """Accounts in an htpasswd file, read again whenever it has changed.

    Comments and lines that are no account of ours stay as they are. A change writes a new file and puts it in the
    place of the old one, so that whoever reads sees the one or the other; `FILE.lock` keeps writers apart.

    Args:
        path: the file; what a symbolic link points to is changed, not the link.
        create: begin one, readable by its owner only, if there is none.

    Raises:
        UsersUnavailable: there is no such file, or it cannot be read.
    """

    def __init__(self, path: str, create: bool = False) -> None:
        self._path = Path(os.path.realpath(path))
        self._reading = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._accounts: dict[str, Account] = {}
        self._away = False
        if create:
            with _unavailable(self._path):
                self._path.touch(0o600)
        self._read()

    def close(self) -> None:
        """Nothing is held open."""

    def find(self, name: str) -> Account | None:
        return self._read().get(name)

    def list(self, at_most: int | None = None) -> Sequence[Account]:
        return sorted(self._read().values(), key=lambda account: account.name)[:at_most]

    def add(self, name: str, password: str, admin: bool = False) -> None:
        require_username(name)
        require_password(password)
        if admin:
            self._refuse("admins")
        line = f"{name}:{hash_password(password)}"
        with self._changed_lines() as lines:
            if _index(lines, name) is not None:
                raise NameInUse(name)
            lines.append(line)

    def remove(self, name: str) -> None:
        with self._changed_lines() as lines:
            if _index(lines, name) is None:
                raise UnknownUser(name)
            # All of them: a second line of the same name would come to life.
            lines[:] = [line for line in lines if _name(line) != name]

    def set_password(self, name: str, password: str) -> None:
        require_password(password)
        line = f"{name}:{hash_password(password)}"
        with self._changed_lines() as lines:
            index = _index(lines, name)
            if index is None:
                raise UnknownUser(name)
            lines[index] = line

    def upgrade_hash(self, name: str, old_hash: str, new_hash: str) -> bool:
        with self._changed_lines() as lines:
            index = _index(lines, name)
            if index is None or _hash(lines[index]) != old_hash:
                return False
            lines[index] = f"{name}:{new_hash}"
        return True

    def set_admin(self, name: str, admin: bool) -> None:
        self._refuse("admins")

    def allow(self, owner: str, viewer: str) -> None:
        self._refuse("viewers")

    def forbid(self, owner: str, viewer: str) -> None:
        self._refuse("viewers")

    def viewers(self, owner: str) -> frozenset[str]:
        return frozenset()

    def watchable(self, viewer: str) -> frozenset[str]:
        return frozenset()

    def _refuse(self, what: str) -> NoReturn:
        raise NotSupported(
            f"{self._path} is an htpasswd file, which holds names and passwords only;"
            f" for {what} keep the accounts in a database: --users sqlite:///FILE"
        )

    def _read(self) -> dict[str, Account]:
        with self._reading:
            try:
                with _unavailable(self._path):
                    status = self._path.stat()
                    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                    if stamp != self._stamp:
                        self._accounts = self._parse(_read_lines(self._path))
                        self._stamp = stamp
            except UsersUnavailable as error:
                if not self._away:
                    logger.error("nobody can log in: %s", error)
                self._away = True
                raise
            if self._away:
                logger.warning("%s can be read again", self._path)
            self._away = False
            return self._accounts

    def _parse(self, lines: Sequence[str]) -> dict[str, Account]:
        accounts: dict[str, Account] = {}
        for number, line in enumerate(lines, 1):
            name, password_hash = _name(line), _hash(line)
            if not line.strip() or line.startswith("#"):
                continue
            if name in accounts:
                problem = "this name came before, and its first line counts"
            elif not valid_username(name):
                problem = "this is no user's name"
            elif not known_kind(password_hash):
                problem = "its password is not hashed in a way that is accepted here"
            else:
                accounts[name] = Account(name, password_hash=password_hash)
                continue
            logger.warning("%s, line %d: ignored, %s", self._path, number, problem)
        return accounts

    @contextlib.contextmanager
    def _changed_lines(self) -> Iterator[_Lines]:
        """The file's lines, to be changed in place; written when they were, unless the block raises."""
        with _unavailable(self._path), _locked(self._path.with_name(self._path.name + ".lock")):
            lines = _read_lines(self._path)
            before = lines.copy()
            yield lines
            if lines != before:
                _replace(self._path, "".join(line + "\n" for line in lines))


def _name(line: str) -> str:
    return line.partition(":")[0]


def _hash(line: str) -> str:
    # Some programs put further fields behind the hash.
    return line.partition(":")[2].partition(":")[0].strip()


def _index(lines: Sequence[str], name: str) -> int | None:
    return next((index for index, line in enumerate(lines) if _name(line) == name), None)


def _read_lines(path: Path) -> list[str]:
    # Not splitlines, which also splits at characters that a comment may hold.
    lines = path.read_bytes().decode(errors="surrogateescape").split("\n")
    return lines if lines[-1] else lines[:-1]


def _replace(path: Path, content: str) -> None:
    """Put a new file into the place of an old one, with its mode and its owner, so that no reader sees half of it."""
    status = path.stat()
    handle, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, status.st_uid, status.st_gid)
            os.fchmod(handle, status.st_mode & 0o7777)
            file.write(content.encode(errors="surrogateescape"))
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is safe only then
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other threads and other processes respect; it ends with its holder."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SEC
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsersUnavailable(f"{path} is held by another writer for {LOCK_SEC:g} s") from None
                time.sleep(LOCK_STEP_SEC)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _unavailable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsersUnavailable(f"{error.filename or path}: {(error.strerror or str(error)).lower()}") from None
