"""Other people's programs as cameras: ffmpeg sends MJPEG or writes a picture again and again, nginx and lighttpd serve
such a picture."""

import base64
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import peers

SIZE_WH: Final = (320, 240)
RATE_HZ: Final = 20
#: Far more than it takes.
START_SEC: Final = 20.0
USER: Final = "admin"
PASSWORD: Final = 's3cret:"pass'

_SOURCE: Final = (
    "-hide_banner", "-loglevel", "error", "-re", "-f", "lavfi",
    "-i", f"testsrc=size={SIZE_WH[0]}x{SIZE_WH[1]}:rate={RATE_HZ}", "-pix_fmt", "yuvj420p",
)  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running_ffmpeg(*output: str) -> Iterator["subprocess.Popen[bytes]"]:
    """ffmpeg with a moving picture for its input."""
    with _running("ffmpeg", *_SOURCE, *output) as process:
        yield process


@contextmanager
def ffmpeg_camera(port: int, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A camera that sends MJPEG to the first who asks, and ends when that one goes."""
    output = (*options, "-f", "mpjpeg", "-listen", "1", f"http://127.0.0.1:{port}/video")
    with running_ffmpeg(*output) as process:
        yield process


@contextmanager
def ffmpeg_picture(folder: Path) -> Iterator[Path]:
    """A picture that is always another one."""
    picture = folder / "picture.jpg"
    with running_ffmpeg("-update", "1", "-atomic_writing", "1", "-y", str(picture)):
        _until(picture.is_file)
        yield picture


NGINX: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ image/jpeg jpg; }}
    open_file_cache off;
    keepalive_requests 10;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/pictures;
        index picture.jpg;
        location /secret/ {{
            alias {folder}/pictures/;
            auth_basic "camera";
            auth_basic_user_file {folder}/nginx-users;
        }}
    }}
}}
"""

LIGHTTPD: Final = """
server.modules = ( "mod_auth", "mod_authn_file" )
server.document-root = "{folder}/pictures"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/lighttpd.log"
mimetype.assign = ( ".jpg" => "image/jpeg" )
auth.backend = "plain"
auth.backend.plain.userfile = "{folder}/lighttpd-users"
auth.require = (
    "/basic" => ( "method" => "basic", "realm" => "camera", "require" => "valid-user" ),
    "/md5" => ( "method" => "digest", "realm" => "camera", "require" => "valid-user", "algorithm" => "MD5" ),
    "/sha256" => ( "method" => "digest", "realm" => "camera", "require" => "valid-user", "algorithm" => "SHA-256" ),
    "/both" => ( "method" => "digest", "realm" => "camera", "require" => "valid-user", "algorithm" => "SHA-256|MD5" ),
)
"""


@contextmanager
def nginx_camera(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Serves the pictures of a folder's `pictures`: /picture.jpg, /video/ (and /video), /secret/picture.jpg."""
    digest = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    (folder / "nginx-users").write_text(f"{USER}:{{SHA}}{digest}\n")
    _link(folder, "video")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    with _running("nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.log")) as process:
        _until(lambda: _listens(port))
        yield process


@contextmanager
def lighttpd_camera(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Serves the pictures of a folder's `pictures`: /basic, /md5, /sha256 and /both, with a login each."""
    (folder / "lighttpd-users").write_text(f"{USER}:{PASSWORD}\n")
    (folder / "lighttpd.conf").write_text(LIGHTTPD.format(folder=folder, port=port))
    for name in ("basic", "md5", "sha256", "both"):
        _link(folder, name)
    with _running("lighttpd", "-D", "-f", str(folder / "lighttpd.conf")) as process:
        _until(lambda: _listens(port))
        yield process


def _link(folder: Path, name: str) -> None:
    """Serve the pictures also in a folder of this name."""
    link = folder / "pictures" / name
    if not link.exists():
        link.symlink_to(".", target_is_directory=True)


@contextmanager
def _running(name: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [str(peers.program(name)), *arguments], stdin=subprocess.DEVNULL, env=os.environ | {"LC_ALL": "C"}
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SEC
    while not condition():
        assert time.monotonic() < deadline, "the camera does not start"
        time.sleep(0.02)
