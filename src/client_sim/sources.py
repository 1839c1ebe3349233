"""Pictures for simulated cameras: drawn, or from a device, a video, a folder or the network.

Every frame is stamped with its client's name and the time of day, so that a person who compares it with a clock sees
how old it is. Pictures are uint8 arrays of shape (height, width, 3), BGR.
"""

import colorsys
import math
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

#: A network camera may take so long for its first picture.
FIRST_PICTURE_SEC = 15.0
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_FONT = cv2.FONT_HERSHEY_DUPLEX
_WHITE = (255, 255, 255)
_AMBER = (60, 190, 255)
_BAND_TOP = 0.77  # of the height; above it is the source's own picture


class SourceError(Exception):
    """There are no pictures to be had from what the user named."""


class Source(Protocol):
    def picture(self) -> Picture:
        """The picture of this moment, of the size asked for; the caller's own."""


class Synthetic:
    """A dial whose hand goes round once a second, its dot once a minute, before a sky of the client's own colour.

    The sky is painted once; a frame costs a copy and a few strokes, so that a small machine can be many cameras.

    Args:
        name: decides the colour.
    """

    def __init__(self, name: str, size_wh: tuple[int, int]) -> None:
        width, height = size_wh
        self._centre = (width // 2, round(_BAND_TOP / 2 * height))
        self._radius = round(min(width, _BAND_TOP * height) * 0.42)
        self._thickness = max(1, self._radius // 40)
        self._sky = _sky(size_wh, hue=zlib.crc32(name.encode()) / 2**32)
        for tick in range(60):
            inner = 0.86 if tick % 5 == 0 else 0.94
            cv2.line(
                self._sky, self._at(tick / 60, inner), self._at(tick / 60, 1.0), _WHITE, self._thickness, cv2.LINE_AA
            )

    def picture(self) -> Picture:
        picture = self._sky.copy()
        seconds = time.time() % 60
        for age in range(8, 0, -1):  # the trail shows the direction even in a single frame
            shade = 255 - 24 * age
            end = self._at((seconds - age * 0.012) % 1, 0.8)
            cv2.line(picture, self._centre, end, (shade, shade, shade), self._thickness, cv2.LINE_AA)
        cv2.line(picture, self._centre, self._at(seconds % 1, 0.8), _WHITE, 2 * self._thickness, cv2.LINE_AA)
        cv2.circle(picture, self._at(seconds / 60, 1.0), 3 * self._thickness + 2, _AMBER, cv2.FILLED, cv2.LINE_AA)
        return picture

    def _at(self, turn: float, reach: float) -> tuple[int, int]:
        angle = 2 * math.pi * turn
        x, y = self._centre
        return round(x + self._radius * reach * math.sin(angle)), round(y - self._radius * reach * math.cos(angle))


def _sky(size_wh: tuple[int, int], hue: float) -> Picture:
    """Dark above, light below, with a glow behind the dial."""
    width, height = size_wh
    above = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.28)[::-1])
    below = np.array(colorsys.hsv_to_rgb((hue + 0.08) % 1, 0.65, 0.75)[::-1])
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    glow = 0.25 * np.exp(-8 * ((x - 0.5) ** 2 + (y - _BAND_TOP / 2) ** 2))
    shade = np.clip(y + glow, 0, 1)[..., np.newaxis]
    sky: Picture = (255 * (above * (1 - shade) + below * shade)).astype(np.uint8)
    return sky


class Folder:
    """The images of a folder in the order of their names, one a frame, again and again."""

    def __init__(self, path: Path, size_wh: tuple[int, int]) -> None:
        self._paths = sorted(p for p in path.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)
        if not self._paths:
            raise SourceError(f"no images in {path}, expected files {', '.join(sorted(_IMAGE_SUFFIXES))}")
        self._size_wh = size_wh
        self._next = 0

    def picture(self) -> Picture:
        path = self._paths[self._next % len(self._paths)]
        self._next += 1
        return _read_image(path, self._size_wh).copy()


@lru_cache(maxsize=64)
def _read_image(path: Path, size_wh: tuple[int, int]) -> Picture:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SourceError(f"can't read the image {path}")
    return fit(picture, size_wh)


class Video:
    """The newest picture of a device, a video file (over and over, at its own speed) or a stream, for all clients.

    Args:
        origin: the number of a device, or the name of a file or a URL.
    """

    def __init__(self, origin: int | str, size_wh: tuple[int, int]) -> None:
        self._origin = origin
        self._size_wh = size_wh
        self._newest: Picture | None = None
        self._first = threading.Event()
        # Every back end of OpenCV that can't open it would say so at length.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(origin)
        if not self._capture.isOpened():
            raise SourceError(f"can't open {origin} as a camera or a video")
        # A device or a stream sets its own pace by when it delivers; a file would be read at once.
        is_file = isinstance(origin, str) and Path(origin).is_file()
        self._interval_sec = 1 / (self._capture.get(cv2.CAP_PROP_FPS) or 25) if is_file else 0.0
        self._closing = threading.Event()
        # As a daemon, for nothing can interrupt a read of a stream that stands still.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._first.wait(FIRST_PICTURE_SEC) or self._newest is None:
            self.close()
            raise SourceError(f"no picture from {origin}")

    def picture(self) -> Picture:
        newest = self._newest
        assert newest is not None, "the constructor waits for the first"
        return newest.copy()

    def close(self) -> None:
        self._closing.set()
        self._reader.join(timeout=1)

    def _read(self) -> None:
        due = time.monotonic()
        while not self._closing.is_set():
            ok, picture = self._capture.read()
            if ok:
                self._newest = fit(picture, self._size_wh)
                self._first.set()
            elif self._newest is None or not self._rewind():
                break
            if self._interval_sec:
                due += self._interval_sec
                self._closing.wait(max(due - time.monotonic(), 0))
        self._first.set()
        self._capture.release()

    def _rewind(self) -> bool:
        """Begin the file again, or call the stream again, as long as it takes."""
        if self._interval_sec:
            return self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        self._closing.wait(1)
        self._capture.open(self._origin)
        return True


@contextmanager
def open_sources(what: str, names: Sequence[str], size_wh: tuple[int, int]) -> Iterator[list[Source]]:
    """A source for each of the clients so named.

    Args:
        what: `synthetic`, the number of a device, a folder of images, a video file or a URL.

    Raises:
        SourceError: there are no pictures to be had from it.
    """
    if what == "synthetic":
        yield [Synthetic(name, size_wh) for name in names]
    elif Path(what).is_dir():
        yield [Folder(Path(what), size_wh) for _ in names]
    else:
        video = Video(int(what) if what.isdecimal() else what, size_wh)
        try:
            yield [video for _ in names]
        finally:
            video.close()


def take_image(source: Source, name: str, quality: int) -> bytes:
    """A JPEG of this moment, stamped with the client's name and the time."""
    _, image = cv2.imencode(".jpg", _stamped(source, name), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return image.tobytes()


def take_bmp(source: Source, name: str) -> bytes:
    """The same as a BMP file."""
    _, image = cv2.imencode(".bmp", _stamped(source, name))
    return image.tobytes()


def _stamped(source: Source, name: str) -> Picture:
    picture = source.picture()
    stamp(picture, name, datetime.now())
    return picture


def fit(picture: cv2.typing.MatLike, size_wh: tuple[int, int]) -> Picture:
    """The whole picture in a frame of that size, with black borders where the shapes differ."""
    width, height = size_wh
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner_wh = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    x, y = (width - inner_wh[0]) // 2, (height - inner_wh[1]) // 2
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[y : y + inner_wh[1], x : x + inner_wh[0]] = cv2.resize(picture, inner_wh, interpolation=cv2.INTER_AREA)
    return fitted


def stamp(picture: Picture, name: str, time_of_day: datetime) -> None:
    """Write the client's name and below it the time, in milliseconds, on a dark band at the picture's foot."""
    height, width = picture.shape[:2]
    picture[round(_BAND_TOP * height) :] >>= 2
    _write(picture, name, name, (0.9 * width, 0.08 * height), baseline=0.87 * height)
    clock = f"{time_of_day:%H:%M:%S.%f}"[:-3]
    _write(picture, clock, "00:00:00.000", (0.7 * width, 0.08 * height), baseline=0.975 * height)


def _write(picture: Picture, text: str, ruler: str, room_wh: tuple[float, float], baseline: float) -> None:
    """As large as the room allows, centred as the ruler would be: so a running clock's digits stand still."""
    (width, height), _ = _text_size(ruler)
    scale = min(room_wh[0] / width, room_wh[1] / height)
    origin = round((picture.shape[1] - width * scale) / 2), round(baseline)
    cv2.putText(picture, text, origin, _FONT, scale, _WHITE, max(1, round(2 * scale)), cv2.LINE_AA)


@lru_cache
def _text_size(text: str) -> tuple[cv2.typing.Size, int]:
    return cv2.getTextSize(text, _FONT, 1.0, 1)
