"""Who may do what: a user owns what they send, and this is the only place where that is written.

With `-a`: the owner, the viewers whom the owner or an admin named, and admins. Without: everybody sees everything,
and changes are taken from this machine only, because a name that nobody checked owns nothing.
"""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What somebody may want to do with what a user owns."""

    SEE = "see"
    SET_RATE = "set_rate"
    NAME_VIEWERS = "name_viewers"
    CHANGE_ACCOUNT = "change_account"
    DISCONNECT = "disconnect"
    ADMINISTER = "administer"


#: What needs no admin if it is one's own.
_OWNERS: Final = frozenset({Action.SEE, Action.SET_RATE, Action.NAME_VIEWERS, Action.CHANGE_ACCOUNT})


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who asks.

    Args:
        name: whom a login has shown them to be; None on a server without `-a`, which cannot know.
        admin: may do everything.
        watchable: whose streams they may watch, besides their own.
        sees_all: may watch everything, as on a server without `-a`.
        only_stream: the one stream that they may see, and nothing else may they do.
    """

    name: str | None
    admin: bool = False
    watchable: frozenset[str] = frozenset()
    sees_all: bool = False
    only_stream: str | None = None

    @classmethod
    def anybody(cls, address: str = "") -> "Viewer":
        """Whoever comes from this address to a server without `-a`."""
        return cls(None, admin=is_loopback(address), sees_all=True)


def may(viewer: Viewer | None, action: Action, owner: str, stream: str | None = None) -> bool:
    """Whether somebody may do something with what `owner` owns.

    Args:
        viewer: None is somebody who has not logged in where that is needed, and may nothing.
        stream: the name of the stream that it is about, if it is about one.
    """
    if viewer is None:
        return False
    if viewer.only_stream is not None and (action is not Action.SEE or stream != viewer.only_stream):
        return False
    if viewer.admin:
        return True
    if viewer.name is not None and viewer.name == owner:
        return action in _OWNERS
    return action is Action.SEE and (viewer.sees_all or owner in viewer.watchable)


def is_loopback(address: str) -> bool:
    """Whether it is an address of this machine for itself; False for what is no address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
