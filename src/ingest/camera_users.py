"""Whose cameras are those that cannot log in: the file of `--tcp-users`, for cameras over plain TCP and pulled ones.

A line is `KEY USER`; the first that fits a camera holds. KEY is one of

    192.168.7.20        the camera's address
    192.168.7.0/24      a network that it is in; IPv6 likewise
    cam:7               the camera's number, as it writes it before each image; over TCP only

What stands behind a `#` is for people. A user's name may hold spaces.
"""

import ipaddress
from pathlib import Path
from typing import NamedTuple, Self

from auth.names import valid_username

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: A camera's number is one byte.
MAX_CAMERA = 255


class CameraUsersError(Exception):
    """The file cannot be read as it should; the message is for the operator."""


class _Line(NamedTuple):
    key: int | Network
    user: str


class CameraUsers:
    """Knows the user of a camera by where it is, or by its number."""

    def __init__(self, lines: tuple[_Line, ...] = ()) -> None:
        self._lines = lines

    @classmethod
    def read(cls, path: str) -> Self:
        """Raises CameraUsersError: there is no such file, or a line of it is wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise CameraUsersError(f"the users of cameras in {path} cannot be read: {reason}") from None
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            key, _, user = line.partition("#")[0].strip().partition(" ")
            if key:
                try:
                    lines.append(_Line(_key(key), _user(user.strip())))
                except ValueError as error:
                    raise CameraUsersError(f"line {number} of {path}: {error}") from None
        return cls(tuple(lines))

    def user_of(self, address: str, camera: int | None = None) -> str | None:
        """Whose camera this is; None where no line fits.

        Args:
            address: IPv4 or IPv6.
            camera: its number, None where it has none.
        """
        ip = plain_address(address)
        for key, user in self._lines:
            if key == camera if isinstance(key, int) else ip is not None and ip in key:
                return user
        return None

    def __len__(self) -> int:
        return len(self._lines)


def plain_address(text: str) -> Address | None:
    """An address as it is meant: an IPv4 one may be written within an IPv6 one, and a zone behind it. None for none."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _key(text: str) -> int | Network:
    if text.startswith("cam:"):
        number = text.removeprefix("cam:")
        if not (number.isascii() and number.isdigit() and int(number) <= MAX_CAMERA):
            raise ValueError(f"{text!r}, expected cam:0 to cam:{MAX_CAMERA}")
        return int(number)
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}, expected an address, a network or cam:NUMBER") from None


def _user(text: str) -> str:
    if not valid_username(text):
        raise ValueError(f"{text!r} is no name that a user may have")
    return text
