"""Decoys: whose password hash stands in for that of a name that does not exist, so that the time of a wrong guess does
not tell.

Kinds of hashes differ in time by more than a thousand: were all missing names compared with one hash, each existing
name whose hash is of another kind would stand out. So a missing name has the hash of an existing account, the same one
as long as that exists, drawn by a key that nobody knows: its times are those of the accounts, in the same shares.
"""

import bisect
import hashlib
import math
import secrets
import threading
from collections.abc import Callable
from typing import Final

from auth.accounts import Users
from auth.passwords import known_kind

#: Of so many accounts decoys are drawn. Of more than that, the first by name are taken for the rest.
SAMPLE: Final = 1000
#: Each account lies on the ring so often, so that all have about the same share of it.
POINTS: Final = 8
#: How old the sample may be.
FRESH_SEC: Final = 60.0


class Decoys:
    """Draws decoys from a store of accounts. Blocks, as the store does; for any thread."""

    def __init__(self, users: Users, clock: Callable[[], float]) -> None:
        self._users = users
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._reading = threading.Lock()
        self._until = -math.inf
        #: Sorted digests of the accounts' names, and their hashes. A missing name takes the next after its own digest:
        #: so one account more or less changes the decoys of few.
        self._ring: tuple[list[bytes], list[str]] = ([], [])

    def hash_for(self, name: str) -> str | None:
        """The decoy of this name, None if there are no accounts. Never depends on whether the name exists.

        Raises:
            UsersUnavailable: the accounts cannot be read.
        """
        with self._reading:
            now = self._clock()
            if now >= self._until:
                self._ring = self._read()
                self._until = now + FRESH_SEC
            digests, hashes = self._ring
        return hashes[bisect.bisect(digests, self._digest(name)) % len(hashes)] if hashes else None

    def _read(self) -> tuple[list[bytes], list[str]]:
        accounts = (account for account in self._users.list(SAMPLE) if known_kind(account.password_hash))
        ring = sorted(
            (self._digest(f"{account.name}\0{point}"), account.password_hash)
            for account in accounts
            for point in range(POINTS)
        )
        return [digest for digest, _ in ring], [password_hash for _, password_hash in ring]

    def _digest(self, name: str) -> bytes:
        return hashlib.blake2b(name.encode(), key=self._key, digest_size=16).digest()
