"""Which names and passwords may be used at all; checked once, at the door (docs/protocol.md)."""

import re
from typing import Final, TypeGuard

MAX_PASSWORD_BYTES: Final = 1024

#: Spelled out, not `\w` or `\d`, which also match letters and digits of other scripts.
_USERNAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@ -]{0,62}[A-Za-z0-9])?")
#: The server's own names for cameras that come without a user.
_RESERVED: Final = re.compile(r"(?:tcp|pull)-[0-9]+")


def valid_username(name: object) -> TypeGuard[str]:
    """1-64 of `A-Za-z0-9._@-` and space, a letter or digit at both ends, and none of the server's own names."""
    return isinstance(name, str) and _USERNAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None


def valid_password(password: object) -> TypeGuard[str]:
    """A string of at most 1,024 bytes in UTF-8."""
    if not isinstance(password, str) or len(password) > MAX_PASSWORD_BYTES:
        return False
    try:
        return len(password.encode()) <= MAX_PASSWORD_BYTES
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can carry
        return False
