"""Every option, once: flag, environment variable, configuration key, default, unit, help."""

import ipaddress
import re
from collections.abc import Sequence
from math import inf
from typing import Any, Final, Literal, NamedTuple, NoReturn
from urllib.parse import urlsplit

import configargparse

from frames import Limits

PREFIX: Final = "IMAGESERVER_"


class Option(NamedTuple):
    """One option.

    Args:
        name: as in `--name`; the environment variable is `IMAGESERVER_NAME`, the configuration key `name`.
        default: its type is the option's, unless `kind` says otherwise.
        why: why this default, for docs and readers.
        more: shorter or older spellings.
    """

    name: str
    default: Any
    help: str
    why: str
    metavar: str = ""
    more: tuple[str, ...] = ()
    kind: Any = None
    repeatable: bool = False


def _at_least(lowest: float, kind: type) -> Any:
    def convert(text: str) -> Any:
        value = kind(text)
        if not value >= lowest:  # also refuses NaN
            raise configargparse.ArgumentTypeError(f"{text} is less than {lowest:g}")
        if value == inf:
            raise configargparse.ArgumentTypeError(f"{text} is not finite")
        return value

    convert.__name__ = "number" if kind is float else "whole number"
    return convert


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise configargparse.ArgumentTypeError(f"{text!r} is not a port, expected 0 to 65535")
    return int(text)


_rate_hz: Final = _at_least(0, float)


def _user_rate(text: str) -> tuple[str, float]:
    user, equals, hz = text.rpartition("=")
    if not user or not equals:
        raise configargparse.ArgumentTypeError(f"{text!r}, expected USER=HZ")
    try:
        return user, _rate_hz(hz)
    except ValueError:
        raise configargparse.ArgumentTypeError(f"{text!r}, expected USER=HZ with a number") from None


def _reader(text: str) -> str:
    if text not in ("auto", "python", "compiled"):
        raise configargparse.ArgumentTypeError(f"{text!r} is not a reader, expected auto, python or compiled")
    return text


def _plugin(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise configargparse.ArgumentTypeError(f"{text!r} is not a plug-in, expected MODULE:NAME")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise configargparse.ArgumentTypeError(f"{text!r} is not a network, expected one as 192.168.7.0/24") from None


def _camera_url(text: str) -> str:
    try:
        url = urlsplit(text)
        known = url.scheme in ("http", "https", "rtsp", "rtsps") and url.hostname and url.port != 0
    except ValueError:  # the port is no number, the brackets of an IPv6 address do not match
        known = False
    if not known or not text.isprintable() or " " in text:
        raise configargparse.ArgumentTypeError("expected a camera's address as http://HOST/PATH or rtsp://HOST/PATH")
    return text


OPTIONS: Final = (
    Option("ip", "0.0.0.0", "address to listen on", "phones reach it; 127.0.0.1 keeps others out", "IP", ("-i",)),
    Option("port", 8080, "port to listen on, 0 for a free one", "as it has always been", "PORT", ("-p",), _port),
    Option(
        "auth", False, "check names and passwords",
        "a first try needs no accounts; the log says that it is open", "", ("-a", "-auth"),
    ),
    Option("display", False, "show every stream in a window of its own", "servers have no screen", "", ("-d",)),
    Option(
        "display-plain", False, "windows without rate and age in the corner", "people want to see whether it runs",
    ),
    Option(
        "rate", 60.0, "most frames a second of a stream, 0 for no limit",
        "above any camera's rate, below a flood", "HZ", ("-r",), _rate_hz,
    ),
    Option(
        "idle-rate", 5.0, "frames a second wanted of a stream while nobody wishes for any, 0 for none",
        "above the phone app's 3", "HZ", (), _rate_hz,
    ),
    Option(
        "user-rate", [], "a user's own limit in place of --rate, as Alice=10, 0 for none; repeatable",
        "all users are alike", "USER=HZ", (), _user_rate, True,
    ),
    Option(
        "users", None, "accounts: an htpasswd file or a database URL (default: in memory, demo accounts)",
        "nothing to set up", "SOURCE", (), str,
    ),
    Option(
        "max-frame-bytes", 8 << 20, "largest image taken, in bytes",
        "a 12 megapixel JPEG fits", "BYTES", (), _at_least(1, int),
    ),
    Option(
        "max-pixels", 50_000_000, "largest image taken, in pixels",
        "decoding it costs 150 MB, which a window can bear", "N", (), _at_least(1, int),
    ),
    Option(
        "max-connections", None, "connections served at once (default: the limit of open files, less 200)",
        "each takes an open file, and the system says how many there are", "N", (), _at_least(1, int),
    ),
    Option(
        "reader", "auto", "how frames are read: python, compiled (needs a C compiler at `make install`), or auto",
        "the compiled one is the faster, and is not there where nobody could compile it", "READER", (), _reader,
    ),
    Option(
        "tcp-port", None, "port for cameras that send over plain TCP, 0 for a free one (default: none)",
        "a way in that nobody uses is closed", "PORT", (), _port,
    ),
    Option(
        "tcp-users", None, "whose cameras those over TCP and the pulled ones are: a file of lines KEY USER",
        "they are the users tcp-1, tcp-2, … and with -a nobody's, and not let in", "FILE", (), str,
    ),
    Option(
        "tcp-idle-sec", 60.0, "a camera over TCP may be silent for so many seconds between its images",
        "a still scene at one image a minute", "SEC", (), _at_least(1, float),
    ),
    Option(
        "tcp-connections", 1_000, "connections over plain TCP at once", "each takes an open file", "N", (),
        _at_least(1, int),
    ),
    Option(
        "pull", [], "a camera to pull: http:// (a JPEG, or an MJPEG stream) or rtsp://; repeatable",
        "cameras register themselves, or are listed here", "URL", (), _camera_url, True,
    ),
    Option(
        "pull-allow", [], "a network of cameras that others may register, as 10.1.0.0/16; repeatable",
        "a camera registers itself, and nobody chooses whom the server calls", "CIDR", (), _network, True,
    ),
    Option(
        "process", [], "a plug-in to give the frames to, as MODULE:NAME; repeatable", "none is needed to show frames",
        "MODULE:NAME", (), _plugin, True,
    ),
    Option(
        "process-workers", None, "processes that run the plug-ins (default: a core each, less one)",
        "the server has a core for itself", "N", (), _at_least(1, int),
    ),
    Option(
        "process-memory", 2 << 30, "most memory of such a process, in bytes",
        "a model of a gigabyte fits, and a leak ends before the machine swaps", "BYTES", (), _at_least(64 << 20, int),
    ),
    Option(
        "origins", [], "an origin, as https://example.org, whose pages may connect; repeatable",
        "only pages of this server may", "ORIGIN", (), str, True,
    ),
)  # fmt: skip


class Settings(NamedTuple):
    """What the operator wants; an attribute an option."""

    ip: str = "0.0.0.0"
    port: int = 8080
    auth: bool = False
    display: bool = False
    display_plain: bool = False
    rate: float = 60.0
    idle_rate: float = 5.0
    user_rate: tuple[tuple[str, float], ...] = ()
    users: str | None = None
    max_frame_bytes: int = 8 << 20
    max_pixels: int = 50_000_000
    max_connections: int | None = None
    reader: Literal["auto", "python", "compiled"] = "auto"
    tcp_port: int | None = None
    tcp_users: str | None = None
    tcp_idle_sec: float = 60.0
    tcp_connections: int = 1_000
    pull: tuple[str, ...] = ()
    pull_allow: tuple[str, ...] = ()
    process: tuple[str, ...] = ()
    process_workers: int | None = None
    process_memory: int = 2 << 30
    origins: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        return Limits(self.max_frame_bytes, self.max_pixels)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the command line, the environment and the configuration file, in this order of precedence.

    Raises:
        SystemExit: status 2 and one clear line for what is wrong, 0 for `--help`.
    """
    parser = make_parser()
    for argument in arguments:
        if has_password(argument):
            parser.error(
                "a URL with a password belongs into the environment (IMAGESERVER_USERS, IMAGESERVER_PULL) or into the"
                " configuration file, not here"
            )
    values = vars(parser.parse_args(list(arguments)))
    return Settings(**{field: _frozen(values[field]) for field in Settings._fields})


class _Parser(configargparse.ArgumentParser):  # type: ignore[misc]
    """Shows no password, also of an option that it does not know."""

    def error(self, message: str) -> NoReturn:
        super().error(without_passwords(message))
        raise AssertionError("it exits")


def make_parser() -> configargparse.ArgumentParser:
    parser = _Parser(
        prog="ImageServer.py",
        description="Takes frames from phones, desktops and cameras, and shows them.",
        config_file_parser_class=configargparse.TomlConfigParser(["imageserver"]),
        add_env_var_help=False,
        add_config_file_help=False,
        allow_abbrev=False,
        epilog="Each option is also an environment variable IMAGESERVER_<OPTION> and a key of the configuration file.",
    )
    parser.add_argument(
        "--config",
        is_config_file=True,
        metavar="FILE",
        env_var=PREFIX + "CONFIG",
        help="TOML file of options, table [imageserver]",
    )
    for option in OPTIONS:
        keywords: dict[str, Any] = {
            "help": option.help,
            "default": option.default,
            "env_var": _environment_name(option),
        }
        if option.default is False:
            keywords["action"] = "store_true"
        else:
            keywords |= {"metavar": option.metavar, "type": option.kind or type(option.default)}
            if option.repeatable:
                keywords["action"] = "append"
            if option.default not in (None, []):
                keywords["help"] += f" (default: {option.default})"
        parser.add_argument(*option.more, f"--{option.name}", **keywords)
    return parser


def _environment_name(option: Option) -> str:
    return PREFIX + option.name.upper().replace("-", "_")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


#: A password in an address: before its host, or under one of the names that cameras and databases have for it, in the
#: query or, as some cameras want it, in the path.
_SECRETS: Final = re.compile(r"(?P<before>://)[^\s@]*:[^\s@]*(?=@)|(?P<name>(?:pas\w*|pwd)=)[^&\s,\]]*", re.IGNORECASE)


def has_password(text: str) -> bool:
    """Whether a URL holds a password, which must not stand on a command line: a process list shows it to everybody."""
    return "://" in text and _SECRETS.search(text) is not None


def without_passwords(text: str) -> str:
    """The same text, to be shown."""
    return _SECRETS.sub(lambda match: f"{match['before'] or match['name']}…", text)
