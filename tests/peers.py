"""What some tests need beyond the Python environment: other people's programs and clients, installed by `make peers`.

A test that needs one says so with `need("postgresql")`. On a user's machine a missing peer skips the test, and the end
of the run names what was skipped and what it needs; where `CI` is set it fails the test, so that nothing is lost in
silence.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent

#: Where `make peers` puts the clients.
FOLDER: Final = ROOT / ".peers"


class Peer(NamedTuple):
    """Something that a machine may lack.

    Args:
        present: whether it is there.
        remedy: what a person does to get it.
    """

    present: Callable[[], bool]
    remedy: str


def program(name: str) -> Path | None:
    """The program of that name; servers and PostgreSQL's are also looked for where Debian keeps them, off everybody's
    path."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is not None:
        return Path(found)
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    return max(versions, key=lambda path: float(path.parent.parent.name), default=None)


def _programs(*names: str, packages: str) -> Peer:
    return Peer(lambda: all(program(name) is not None for name in names), f"apt-get install {packages}, or make peers")


def _client(folder: str) -> Peer:
    # The mark is the last thing that scripts/peers writes, so that half an installation does not count.
    return Peer(lambda: (FOLDER / folder / ".ready").is_file(), "make peers")


@cache
def _opencv_loads() -> bool:
    # In a process of its own: pytest must not hold cv2 because a test asked whether it is there.
    return subprocess.run([sys.executable, "-c", "import cv2"], capture_output=True, check=False).returncode == 0


def _reader_is_compiled() -> bool:
    return any((ROOT / "src" / "compiled").glob(f"reader{sysconfig.get_config_var('EXT_SUFFIX')}"))


def _rtsp_server_runs() -> bool:
    # It needs the system's Python, for which Debian has GStreamer's bindings.
    command = ["/usr/bin/python3", str(ROOT / "tests" / "clients" / "rtsp_server.py"), "--check"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


PEERS: Final = {
    "postgresql": _programs("initdb", "postgres", "pg_ctl", packages="postgresql"),
    "xvfb": _programs("Xvfb", packages="xvfb"),
    "openbox": _programs("openbox", packages="openbox"),
    "xdotool": _programs("xdotool", packages="xdotool"),
    "x11-utils": _programs("xwininfo", "xprop", packages="x11-utils"),
    "imagemagick": _programs("import", "convert", packages="imagemagick"),
    "openssl": _programs("openssl", packages="openssl"),
    "ffmpeg": _programs("ffmpeg", packages="ffmpeg"),
    "nginx": _programs("nginx", packages="nginx-light"),
    "lighttpd": _programs("lighttpd", packages="lighttpd"),
    "gstreamer": Peer(
        cache(_rtsp_server_runs),
        "apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{good,bad,ugly}, or make peers",
    ),
    "opencv": Peer(_opencv_loads, "apt-get install libgl1 libglib2.0-0, or make peers"),
    "compiled-reader": Peer(_reader_is_compiled, "make install where gcc and Python's headers are"),
    "address-sanitizer": _programs("gcc", packages="gcc libc6-dev"),
    "node": _programs("node", packages="nodejs"),
    "java": _programs("java", "javac", packages="default-jdk-headless"),
    "node-1.7.4": _client("node"),
    "node-2.5.0": _client("node"),
    "node-4.8.4": _client("node"),
    "python-4.6.1": _client("python-4.6.1"),
    "java-1.0.0": _client("java-1.0.0"),
    "java-2.1.2": _client("java-2.1.2"),
}


def need(*names: str) -> None:
    """Run on only where these peers are there. May be called in a test, in a fixture or at the top of a module."""
    for name in names:
        if not PEERS[name].present():
            if os.environ.get("CI"):
                pytest.fail(_complaint(name), pytrace=False)
            pytest.skip(_complaint(name), allow_module_level=True)


def missed(reasons: Iterable[str]) -> Iterator[str]:
    """What the user can do to have everything tested, a line for each peer that tests were skipped for."""
    counts = Counter(reasons)
    for name in PEERS:
        count = counts[f"Skipped: {_complaint(name)}"]
        if count:
            yield f"{count} skipped: {_complaint(name)}"


def _complaint(name: str) -> str:
    return f"{name} is not installed; it takes {PEERS[name].remedy}"
