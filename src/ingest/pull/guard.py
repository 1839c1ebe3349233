"""Whom the server calls when somebody asks it to: an address that a client wrote is looked at here before anything else
is done with it (server-side request forgery, CWE-918).

Rule 1. What is called are addresses, not names: a name is looked up once, here, and what is allowed is pinned.
Rule 2. An address may be written in one way only. Decimal, octal, hexadecimal and short ones (2130706433, 0177.1,
        0x7f.1, 127.1) are neither addresses nor names.
Rule 3. All addresses of a name must be allowed, or none is called.
Rule 4. Whoever asks may be called back. Loopback may from loopback. All else is named by the operator, and what is
        special about a network (it is this machine's, the link's, the cloud's) only where the operator names just that.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from green import Once, Overloaded, resolve
from ingest.camera_users import Address, Network, plain_address

#: How long a registration waits while the name of another one is looked up. One at a time, so that who registers names
#: that nobody knows holds one of the two threads that look up names, and not that of the cameras that are listed.
LOOKUP_WAIT_SEC: Final = 5.0
#: A camera has one address or two; whoever has hundreds shall not have each of them tried.
MAX_ADDRESSES: Final = 8

#: Never meant by a network that merely holds them (0.0.0.0/0 does not open them): IANA's special-purpose registries,
#: and where clouds keep their secrets besides 169.254.169.254.
_SPECIAL: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "100.100.100.200/32", "168.63.129.16/32",
        "::/8", "100::/64", "2001::/23", "2002::/16", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::254/128",
    )
)  # fmt: skip

_LITERAL: Final = re.compile(r"[0-9a-f.:]{2,45}(?:%[a-z0-9_.-]{1,15})?", re.ASCII | re.IGNORECASE)
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
#: A name as DNS has them (RFC 1123, section 2.1). What ends in a number is an address, or nothing (RFC 3696, section
#: 2).
_NAME: Final = re.compile(
    rf"(?!.{{254}})(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\.?\Z){_LABEL}\.?", re.ASCII | re.IGNORECASE
)

Cause = Literal["bad_address", "unknown_name", "forbidden", "busy"]


class Forbidden(Exception):
    """The server does not call there; the message says why.

    Attributes:
        cause: for the numbers.
    """

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause


class PullGuard:
    """Says which addresses may be called.

    Args:
        allowed: the networks that the operator named.
        resolve: looks up a name; given by tests.

    Raises:
        ValueError: one of them is no network.
    """

    def __init__(self, allowed: Sequence[str], resolve: Callable[[str], list[str]] = resolve) -> None:
        self._allowed = [ipaddress.ip_network(network) for network in allowed]
        self._resolve = resolve
        self._looking_up: Once | None = None

    def check(self, host: str, requester: str) -> list[str]:
        """The addresses of a camera that somebody registers, to be called and no others. Waits for a name's lookup.

        Args:
            host: an address or a name, as they wrote it.
            requester: the address that they came from; "" where that is not known, as behind a proxy.

        Raises:
            Forbidden: it is no address, or not one that may be called.
        """
        literal = plain_address(host) if _LITERAL.fullmatch(host) else None
        if literal is not None:
            found = [literal]
        elif _NAME.fullmatch(host):
            found = self._look_up(host)
        else:
            raise Forbidden("bad_address", f"{host[:64]!r} is neither an address nor a name")
        asking = plain_address(requester)
        for address in found:
            if not self._may_call(address, asking):
                what = f"{address} of {host[:64]}" if literal is None else str(address)
                raise Forbidden("forbidden", f"{what} is not in a network of --pull-allow")
        return [str(address) for address in found[:MAX_ADDRESSES]]

    def _may_call(self, address: Address, asking: Address | None) -> bool:
        if asking is not None and (address == asking or (address.is_loopback and asking.is_loopback)):
            return True
        special = [network for network in _SPECIAL if address in network]
        return any(
            address in network and all(_lies_within(network, range_) for range_ in special) for network in self._allowed
        )

    def _look_up(self, name: str) -> list[Address]:
        until = time.monotonic() + LOOKUP_WAIT_SEC
        while (other := self._looking_up) is not None:
            if not other.wait(until - time.monotonic()):
                raise Forbidden("busy", "the names of other cameras are being looked up")
        mine = self._looking_up = Once()
        try:
            found = [plain_address(address) for address in self._resolve(name)]
        except (OSError, Overloaded, UnicodeError) as error:
            raise Forbidden("unknown_name", f"{name[:64]} has no address: {error}") from None
        finally:
            self._looking_up = None
            mine.set()
        addresses = [address for address in found if address is not None]
        if not addresses or len(addresses) < len(found):
            raise Forbidden("unknown_name", f"{name[:64]} has no address")
        return addresses


def _lies_within(network: Network, range_: Network) -> bool:
    return network.version == range_.version and network.subnet_of(range_)  # type: ignore[arg-type]
