"""A camera that is pulled, as ConvergeCast's client is one: Flask serves the picture, BSON says where.

    python3 converge_cast.py SERVER_URL '{"generation": "newest", "times": 2}'      prints a line of JSON for each thing

    generation      of the body: newest (zlib of a pickle of a numpy array), documented (BSON with Base64), plain (JPEG)
    protocol        of the pickle
    column          the pickled array has the shape (N, 1), as older versions of OpenCV give it
    headers         further headers of the answers, as some cameras have them
    path            `/server` or `/server/`
    times           how often it registers itself
    late_sec        so long after that it begins to listen, as it does in any case after it has registered itself
    ipaddress       what it says its address is
    port            where it listens, 0 for a free one; and what it says, unless that is 5000 and `unsaid`
    unsaid          it does not say its port

Prints {"port": …}, then {"answer": …} for each registration, then {"served": n} for each picture that was fetched.
It is written from docs/protocol.md with what such clients use, and imports nothing of the server.
"""

import base64
import json
import pickle
import socket
import sys
import threading
import time
import zlib
from typing import Any

import bson
import cv2
import numpy as np
import requests
from flask import Flask, Response
from werkzeug.serving import make_server

WIDTH, HEIGHT = 96, 64


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


class Pictures:
    """What the camera sees: the number of the picture as a brightness."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._generation: str = options.get("generation", "newest")
        self._protocol: int = options.get("protocol", pickle.DEFAULT_PROTOCOL)
        self._column: bool = options.get("column", False)
        self.count = 0

    def body(self) -> bytes:
        self.count += 1
        picture = np.full((HEIGHT, WIDTH, 3), self.count % 250, np.uint8)
        _, encoded = cv2.imencode(".jpg", picture)
        encoded = encoded.reshape(-1, 1) if self._column else encoded.reshape(-1)
        if self._generation == "newest":
            return zlib.compress(pickle.dumps(encoded, self._protocol))
        if self._generation == "documented":
            frame = base64.b64encode(encoded.tobytes()).decode()
            return bytes(bson.encode({"frame": frame, "shape": list(picture.shape), "ipaddress": "127.0.0.1"}))
        return bytes(encoded.tobytes())


def make_camera(options: dict[str, Any]) -> Flask:
    camera = Flask("camera")
    pictures = Pictures(options)
    headers: dict[str, str] = options.get("headers", {})

    @camera.route("/video/")  # Flask itself redirects /video here
    def video() -> Response:
        body = pictures.body()
        kind = "image/jpeg" if options.get("generation") == "plain" else "application/octet-stream"
        say(served=pictures.count)
        return Response(body, headers={"Content-Type": kind, **headers})

    return camera


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def main() -> None:
    url, options = sys.argv[1], json.loads(sys.argv[2])
    port = options.get("port") or free_port()
    say(port=port)
    registration = {"ipaddress": options.get("ipaddress", "127.0.0.1")}
    if not options.get("unsaid"):
        registration["ports"] = port
    for _ in range(options.get("times", 1)):
        answer = requests.post(url + options.get("path", "/server"), data=bson.encode(registration), timeout=10)
        say(answer=[answer.status_code, answer.text, len(answer.history)])
    time.sleep(options.get("late_sec", 0.0))
    server = make_server("127.0.0.1", port, make_camera(options), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until whoever started it has gone, or wants it to stop


if __name__ == "__main__":
    main()
