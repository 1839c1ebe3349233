"""Hashes of passwords: argon2id for all that are made here, older kinds known so that they can be replaced.

These functions take tens of milliseconds and 19 MiB, so the server calls them in an `offload` thread.
"""

from typing import Final, NamedTuple

from passlib.context import CryptContext

#: OWASP's first choice for argon2id (Password Storage Cheat Sheet): 19 MiB, two passes, one lane.
#: The older kinds are those that htpasswd files and Unix accounts hold. Plain text is none: every string would be
#: a hash of itself, so whoever reads a file of hashes could log in with them.
_CONTEXT: Final = CryptContext(
    schemes=[
        "argon2",
        "bcrypt",
        "sha512_crypt",
        "sha256_crypt",
        "apr_md5_crypt",
        "md5_crypt",
        "ldap_salted_sha1",
        "ldap_sha1",
        "des_crypt",
    ],
    deprecated="auto",
    argon2__type="ID",
    argon2__memory_cost=19456,
    argon2__time_cost=2,
    argon2__parallelism=1,
)

#: Of a password that nobody knows: the decoy where there is no account.
_NOBODYS: Final = "$argon2id$v=19$m=19456,t=2,p=1$g9AaI+RcS+kdA6C0NgaAcA$jBTsuAKYowZxyOz0Spb9gq51OmVSSKHa2AIYO87jucQ"


class Verdict(NamedTuple):
    """Whether a password is right, and the hash that should replace the one it was checked against, if any."""

    right: bool
    better_hash: str | None = None


def hash_password(password: str) -> str:
    return str(_CONTEXT.hash(password))


def known_kind(password_hash: str) -> bool:
    """Whether a password could be checked against this hash."""
    return _CONTEXT.identify(password_hash) is not None


def check_password(password: str, password_hash: str | None, decoy_hash: str | None = None) -> Verdict:
    """Compare a password with a hash, at the same cost when there is none, which makes every password wrong.

    Args:
        password_hash: None, or of no known kind, where there is nobody to log in.
        decoy_hash: somebody else's, which is compared instead then; None where there is nobody else.
    """
    exists = password_hash is not None and known_kind(password_hash)
    compared = (password_hash if exists else None) or decoy_hash or _NOBODYS
    try:
        right = bool(_CONTEXT.verify(password, compared))
    except ValueError:
        # The hash is malformed, or the password is one that its kind cannot hold: NUL, or for bcrypt over 72 bytes.
        right = False
    if not (right and exists):
        return Verdict(False)
    # Only now, or the time of another hash would tell that this is the password of whose hash the decoy is.
    return Verdict(True, hash_password(password) if _CONTEXT.needs_update(compared, secret=password) else None)
