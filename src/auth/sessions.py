"""Signed tokens in place of a table of sessions: who, in which epoch of their password, until when, and for what."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from itsdangerous import BadData, URLSafeSerializer

from auth.access import Viewer
from auth.accounts import Account, Users, UsersUnavailable
from auth.login import LoginRefused, LoginUnavailable, Offload
from green import Overloaded

T = TypeVar("T")

HOURS: Final = 12.0
#: Longer than any token of ours; what is longer is not worth an HMAC.
MAX_TOKEN_CHARS: Final = 1024


class Claims(NamedTuple):
    """What a valid token says.

    Args:
        account: as it is now: rights are looked up, never carried.
        expires: in seconds since 1970.
        only_stream: the one stream that it is good for, to look at only.
    """

    account: Account
    expires: float
    only_stream: str | None

    @property
    def user(self) -> str:
        return self.account.name


class Sessions:
    """Gives out tokens and knows them again. Runs on the loop.

    Args:
        secret: signs them; servers that share their users share it.
        users: None for a server without `-a`.
    """

    def __init__(
        self,
        secret: bytes,
        users: Users | None,
        offload: Offload,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._users = users
        self._offload = offload
        self._clock = clock
        self._serializer = URLSafeSerializer(
            secret,
            salt="imageserver session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def issue(self, account: Account, hours: float = HOURS, read_only_stream: str | None = None) -> tuple[str, float]:
        """A token and when it expires, in seconds since 1970.

        Args:
            read_only_stream: good for looking at the stream of this name and for nothing else.
        """
        expires = int(self._clock() + hours * 3600)
        return str(self._serializer.dumps([account.name, account.epoch, expires, read_only_stream])), float(expires)

    def check(self, token: object) -> Claims | None:
        """What a token says; None if it is not ours, has expired, or the password has changed since. Waits.

        Raises:
            UsersUnavailable: the account cannot be looked up.
        """
        if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        try:
            content: Any = self._serializer.loads(token)
        except BadData:
            return None
        name, epoch, expires, only_stream = content  # as `issue` wrote it: the signature says so
        if self._clock() >= expires:
            return None
        account = Account(name) if self._users is None else self._look_up(self._users.find, name)
        if account is None or account.epoch != epoch:
            return None
        return Claims(account, float(expires), only_stream)

    def log_in(self, token: object) -> Claims:
        """What a token says that is good for sending. Waits.

        Raises:
            LoginRefused: it is not valid, or good for looking only, or (`LoginUnavailable`) could not be checked.
        """
        try:
            claims = self.check(token)
        except UsersUnavailable:
            raise LoginUnavailable from None
        if claims is None or claims.only_stream is not None:
            raise LoginRefused("the token is not valid, or no longer")
        return claims

    def viewer_of(self, token: object, address: str = "") -> Viewer | None:
        """Who shows this token; None if it is not valid. Waits.

        Args:
            address: where they come from, which counts on a server without `-a`.

        Raises:
            UsersUnavailable: the account cannot be looked up.
        """
        claims = self.check(token)
        if claims is None:
            return None
        if self._users is None:
            viewer = Viewer.anybody(address)
        else:
            watchable = self._look_up(self._users.watchable, claims.user)
            viewer = Viewer(claims.user, claims.account.admin, watchable)
        return viewer if claims.only_stream is None else replace(viewer, only_stream=claims.only_stream)

    def _look_up(self, function: Callable[[str], T], name: str) -> T:
        try:
            return self._offload("database", function, name)
        except Overloaded as error:
            raise UsersUnavailable(str(error)) from None
