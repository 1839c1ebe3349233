"""Logging in to a camera: what goes into `Authorization`, for Basic (RFC 7617) and Digest (RFC 7616).

IP cameras ask for Digest with MD5 mostly, newer ones with SHA-256, old ones without `qop` (RFC 2069). MD5 and SHA-256
are what the protocol names here, not what keeps anything secret.
"""

import hashlib
import re
import secrets
from base64 import b64encode
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

#: The best first: it is the one that is used, where a camera offers several.
_HASHES: Final = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
#: In a WWW-Authenticate: a parameter, the name of a scheme, or anything else, to be skipped.
_PIECE: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))|({_TOKEN})|.')
_ESCAPED: Final = re.compile(r"\\(.)")


class Login(Protocol):
    """How a camera wants to be logged in to."""

    def authorization(self, path: str) -> str:
        """The header's value for a GET of this path with its query."""


class Challenge(NamedTuple):
    """One of the ways that a camera offers.

    Args:
        scheme: in lower case.
        parameters: names in lower case.
    """

    scheme: str
    parameters: dict[str, str]


def read_challenges(header: str) -> list[Challenge]:
    """What a WWW-Authenticate offers, or several of them joined by commas."""
    challenges: list[Challenge] = []
    for name, quoted, plain, scheme in _PIECE.findall(header):
        if scheme:
            challenges.append(Challenge(scheme.lower(), {}))
        elif name and challenges:
            challenges[-1].parameters.setdefault(name.lower(), plain or _ESCAPED.sub(r"\1", quoted))
    return challenges


def login_for(header: str, user: str, password: str) -> Login | None:
    """The best that a camera's WWW-Authenticate offers: Digest before Basic; None if it offers neither."""
    challenges = read_challenges(header)
    for algorithm in _HASHES:
        for scheme, parameters in challenges:
            if scheme == "digest" and parameters.get("algorithm", "MD5").upper().removesuffix("-SESS") == algorithm:
                login = Digest.answering(parameters, user, password)
                if login is not None:
                    return login
    return Basic(user, password) if any(scheme == "basic" for scheme, _ in challenges) else None


class Basic:
    """User and password as they are."""

    def __init__(self, user: str, password: str) -> None:
        self._value = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def authorization(self, path: str) -> str:
        return self._value


class Digest:
    """Proves that the password is known, with a nonce of the camera's, until the camera wants another nonce.

    Args:
        algorithm: MD5 or SHA-256, either with -sess; as the camera wrote it, empty for MD5 unsaid.
        qop: auth, or empty for the way of RFC 2069.
        opaque: the camera's, given back; None if it gave none.
        cnonce: a nonce of ours; tests choose one.
    """

    def __init__(
        self,
        user: str,
        password: str,
        realm: str,
        nonce: str,
        algorithm: str = "",
        qop: str = "auth",
        opaque: str | None = None,
        cnonce: str = "",
    ) -> None:
        name, sess, _ = (algorithm or "MD5").upper().partition("-SESS")
        new_hash = _HASHES[name]
        self._hash: Callable[[str], str] = lambda text: new_hash(text.encode()).hexdigest()
        self._cnonce = cnonce or secrets.token_hex(16)
        self._secret = self._hash(f"{user}:{realm}:{password}")
        if sess:
            self._secret = self._hash(f"{self._secret}:{nonce}:{self._cnonce}")
        self._nonce = nonce
        self._qop = qop
        self._count = 0
        self._fixed = f'username="{_quoted(user)}", realm="{_quoted(realm)}", nonce="{_quoted(nonce)}"'
        self._end = f", algorithm={algorithm}" if algorithm else ""
        if opaque is not None:
            self._end += f', opaque="{_quoted(opaque)}"'

    @classmethod
    def answering(cls, parameters: dict[str, str], user: str, password: str) -> "Digest | None":
        """For a challenge of a known algorithm; None if it wants what we can't: a proof of bodies, too."""
        offered = [qop.strip().lower() for qop in parameters.get("qop", "").split(",") if qop.strip()]
        if "nonce" not in parameters or (offered and "auth" not in offered):
            return None
        return cls(
            user,
            password,
            parameters.get("realm", ""),
            parameters["nonce"],
            parameters.get("algorithm", ""),
            "auth" if offered else "",
            parameters.get("opaque"),
        )

    def authorization(self, path: str) -> str:
        asked = self._hash(f"GET:{path}")
        if not self._qop:
            response = self._hash(f"{self._secret}:{self._nonce}:{asked}")
            return f'Digest {self._fixed}, uri="{path}", response="{response}"{self._end}'
        self._count += 1
        count = f"{self._count:08x}"
        response = self._hash(f"{self._secret}:{self._nonce}:{count}:{self._cnonce}:{self._qop}:{asked}")
        return (
            f'Digest {self._fixed}, uri="{path}", response="{response}", qop={self._qop}, nc={count}, '
            f'cnonce="{self._cnonce}"{self._end}'
        )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
