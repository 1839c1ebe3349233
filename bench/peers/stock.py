"""python-socketio on eventlet, as its documentation shows it: stock.py [--verify]"""

import json
import sys
import warnings
import zlib
from typing import Any, Final

warnings.simplefilter("ignore")  # eventlet's, that it is deprecated

import eventlet  # noqa: E402
import eventlet.wsgi  # noqa: E402
import socketio  # noqa: E402

MAX_MESSAGE_BYTES: Final = 16_000_000
VERIFY: Final = "--verify" in sys.argv

server = socketio.Server(async_mode="eventlet", max_http_buffer_size=MAX_MESSAGE_BYTES, http_compression=False)
figures = {"frames": 0, "bytes": 0, "crcs": 0}
frames_of: dict[str, int] = {}


@server.event
def authenticate(sid: str, _user: str, _password: str, event: str) -> None:
    server.emit(event, True, to=sid)


@server.on("receiveImage")
def receive_image(sid: str, image: bytes) -> dict[str, Any]:
    frames_of[sid] = frames_of.get(sid, 0) + 1
    figures["frames"] += 1
    figures["bytes"] += len(image)
    if VERIFY:
        figures["crcs"] += zlib.crc32(image)
    return {"accepted": True, "seq": frames_of[sid]}


@server.event
def disconnect(sid: str, _reason: str) -> None:
    frames_of.pop(sid, None)


def show_figures(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(figures).encode()]


listener = eventlet.listen(("127.0.0.1", 0), backlog=1024)
print(f"stock listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
# Its pool is 1,000 connections unless it is told otherwise, and more are wanted for those that are idle.
eventlet.wsgi.server(listener, socketio.WSGIApp(server, show_figures), log_output=False, max_size=20_000)
