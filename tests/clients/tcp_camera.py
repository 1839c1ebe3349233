"""A desktop whose cameras' images go as BMP files over plain TCP, with `struct`, `gzip`, a socket and OpenCV.

    python3 tcp_camera.py HOST PORT '{"layout": "!BI", "cameras": [1, 7]}'      prints a line of JSON for each image

    layout      of `struct`: "!BI", "<BI", "=BI", or "BI" with its padding
    cameras     their numbers; each image comes of the next one
    levels      gzip's, in turn
    images      how many there are in all
    size_wh     of an image
    grey        images of one channel, which OpenCV writes with a palette
    at_once     images that are written together, in one piece
    pieces      or pieces of so many bytes in which everything is written
    cut         of one more image only so many bytes are sent

Says goodbye by closing the connection, and prints {"camera": …, "sha256": …, "bytes": …} for each image that was sent.
It is written from the protocol alone and imports nothing of the server.
"""

import gzip
import hashlib
import json
import socket
import struct
import sys
from typing import Any

import cv2
import numpy as np


def picture(number: int, options: dict[str, Any]) -> bytes:
    """A .bmp file with a bright square that moves from image to image, on noise that hardly compresses."""
    width, height = options.get("size_wh", [64, 48])
    channels = () if options.get("grey") else (3,)
    pixels = np.random.default_rng(number).integers(0, 100, (height, width, *channels), dtype=np.uint8)
    left = number * 5 % max(width - 8, 1)
    pixels[4:12, left : left + 8] = 255
    return cv2.imencode(".bmp", pixels)[1].tobytes()


def play(host: str, port: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Send all images on one connection; returns what was sent."""
    sent, at_once, pieces = [], options.get("at_once", 1), options.get("pieces")
    waiting: list[bytes] = []
    with socket.create_connection((host, port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(options.get("images", 10)):
            camera, image, message = next_message(number, options)
            sent.append({"camera": camera, "sha256": hashlib.sha256(image).hexdigest(), "bytes": len(image)})
            if pieces:
                for at in range(0, len(message), pieces):
                    server.sendall(message[at : at + pieces])
                continue
            waiting.append(message)
            if len(waiting) == at_once:
                server.sendall(b"".join(waiting))
                waiting.clear()
        if "cut" in options:
            waiting.append(next_message(len(sent), options)[2][: options["cut"]])
        server.sendall(b"".join(waiting))
    return sent


def next_message(number: int, options: dict[str, Any]) -> tuple[int, bytes, bytes]:
    cameras, levels = options.get("cameras", [1]), options.get("levels", [9])
    image, camera = picture(number, options), cameras[number % len(cameras)]
    body = gzip.compress(image, levels[number % len(levels)])
    return camera, image, struct.pack(options.get("layout", "!BI"), camera, len(body)) + body


if __name__ == "__main__":
    for image in play(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])):
        print(json.dumps(image))
