"""A plug-in that says what moved: `--process processing.motion:Motion`."""

import math
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.frame import Frame, Picture

#: float32 array of shape (height, width).
Grey = NDArray[np.float32]
#: uint8 array of shape (height, width), 0 or 255.
Mask = NDArray[np.uint8]

#: Motion is looked for in a picture that is at least so many pixels wide or high: an eighth of 1280 x 720 costs little,
#: and noise is averaged away in it.
WORKING_SIZE: Final = 150
#: A grey level must differ by so much, of 255 …
LEAST_DIFFERENCE: Final = 12.0
#: … and by so many times what the picture differs elsewhere, by its noise.
TIMES_NOISE: Final = 7.0
#: A background above this is clipped, and does not follow the rest when the exposure changes …
CLIPPED: Final = 235.0
#: … one that should be above this has been so in another exposure, or will be …
NEARLY_CLIPPED: Final = 200.0
#: … and for so long after, only what is darker by far is something that moves there.
GLARE_SEC: Final = 10.0
GLARE_DARKER: Final = 0.5
#: Differences that are nearer than this share of the picture's longer side are one thing.
NEAR: Final = 0.025
#: What is smaller than this share of the picture is noise, and less than so many pixels always.
LEAST_AREA: Final = 0.0004
LEAST_PIXELS: Final = 4
#: A thing moves if this share of it has changed within the last moment; else it has moved, and stays.
MOVING: Final = 0.04
MOMENT_SEC: Final = 0.2
MAX_BOXES: Final = 20
#: If more than this share has changed, the camera or the light has: the picture is the new background.
ALL_CHANGED: Final = 0.6
#: The background follows the picture with these time constants: where nothing is before it, where something has come
#: and stays, which becomes background as well, and where something moves.
FOLLOW_SEC: Final = 1.5
STAY_SEC: Final = 3.0
MOVE_SEC: Final = 60.0


class _Past:
    """What there was before, to compare a picture with.

    Attributes:
        background: what the picture is when nothing moves, in the present exposure.
        peak: its brightest colour.
        moment: the picture of a moment ago.
        glare: of each pixel when the background was clipped last.
    """

    def __init__(self, grey: Grey, peak: Grey, at: float) -> None:
        self.at = self.moment_at = at
        self.background = self.moment = grey
        self.peak = peak
        self.glare = np.full(grey.shape, -math.inf)


class Motion:
    """What moves, for a camera that stands still.

    Noise and changes of the exposure are no motion, nor is a thing that has come and stays. The result is `{"moved":
    share, "boxes": [[x, y, width, height], …]}`, the largest first, in pixels of the upright picture; nothing when
    nothing moves.
    """

    name = "motion"

    def __init__(self) -> None:
        self._past: _Past | None = None

    def process(self, frame: Frame) -> dict[str, Any] | None:
        picture, scale = _small(frame)
        grey, peak = _grey(picture), _peak(picture)
        past, now = self._past, frame.received_at
        if past is None or past.background.shape != grey.shape:
            past = self._past = _Past(grey, peak, now)
        gain = _gain(grey, past.background)
        past.background, past.peak = past.background * gain, past.peak * gain
        past.glare[(peak >= CLIPPED) & (past.peak >= NEARLY_CLIPPED)] = now
        glare = past.glare > now - GLARE_SEC
        differs = _differs(grey, past.background, glare)
        changed = _differs(grey, past.moment * _gain(grey, past.moment), glare)
        things = _moving_things(differs, changed)
        self._follow(past, grey, peak, differs, things.mask, now)
        moved = cv2.countNonZero(things.mask) / grey.size
        boxes = _boxes(things, scale, _upright_wh(frame, grey))
        return {"moved": round(moved, 4), "boxes": boxes} if boxes else None

    def _follow(self, past: _Past, grey: Grey, peak: Grey, differs: Mask, moving: Mask, now: float) -> None:
        elapsed_sec, past.at = max(0.0, now - past.at), now
        if cv2.countNonZero(differs) > ALL_CHANGED * differs.size:
            past.background, past.peak = grey, peak
        else:
            follow, stay, move = (
                np.float32(1 - math.exp(-elapsed_sec / sec)) for sec in (FOLLOW_SEC, STAY_SEC, MOVE_SEC)
            )
            weights = np.where(differs > 0, np.where(moving > 0, move, stay), follow)
            past.background = past.background + (grey - past.background) * weights
            past.peak = past.peak + (peak - past.peak) * weights
        if not 0 <= now - past.moment_at < MOMENT_SEC:
            past.moment, past.moment_at = grey, now


class _Things(NamedTuple):
    """What moves.

    Args:
        labels: of each pixel, of which thing it is part or near.
        largest: the labels of those that move, the largest first.
        mask: of all that move.
    """

    labels: NDArray[np.int32]
    largest: list[int]
    mask: Mask


_NEXT: Final = np.ones((3, 3), np.uint8)


def _small(frame: Frame) -> tuple[Picture, int]:
    """A picture that is large enough, and how much smaller it is than the whole one."""
    scale = next((n for n in (8, 4, 2) if max(frame.width, frame.height) // n >= WORKING_SIZE), 1)
    return frame.pixels if scale == 1 else frame.reduced(scale), scale


def _grey(picture: Picture) -> Grey:
    """Without colours, and without the noise of single pixels."""
    grey: Any = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.GaussianBlur(grey, (3, 3), 0), np.float32)


def _peak(picture: Picture) -> Grey:
    """The brightest colour of each pixel and of those beside it."""
    blue, green, red = cv2.split(cv2.dilate(picture, _NEXT))
    return np.asarray(cv2.max(cv2.max(blue, green), red), np.float32)


def _upright_wh(frame: Frame, grey: Grey) -> tuple[int, int]:
    """The size of `frame.pixels`, which need not be decoded for it."""
    lying = (grey.shape[1] > grey.shape[0]) != (frame.width > frame.height)
    return (frame.height, frame.width) if lying else (frame.width, frame.height)


def _gain(grey: Grey, reference: Grey) -> np.float32:
    """How much brighter most of the picture is; a thing that moves is the lesser part of it."""
    now, then = grey[::2, ::2].ravel(), reference[::2, ::2].ravel()
    fair = (now < CLIPPED) & (then < CLIPPED) & (then > 8)
    return np.float32(np.median(now[fair] / then[fair])) if np.count_nonzero(fair) > 16 else np.float32(1)


def _differs(grey: Grey, reference: Grey, glare: NDArray[np.bool_]) -> Mask:
    """255 where the picture is another one, else 0."""
    difference = np.abs(grey - np.minimum(reference, 255))
    noise = float(np.median(difference[::2, ::2])) / 0.6745  # the median of a normal distribution is 0.6745 sigma
    differs = difference > max(LEAST_DIFFERENCE, TIMES_NOISE * noise)
    differs &= ~glare | (grey < GLARE_DARKER * reference)
    return differs.astype(np.uint8) * np.uint8(255)


def _moving_things(differs: Mask, changed: Mask) -> _Things:
    near = max(3, round(NEAR * max(differs.shape))) | 1
    count, labels = cv2.connectedComponents(cv2.dilate(differs, np.ones((near, near), np.uint8)))
    sizes = np.bincount(labels[differs > 0], minlength=count)
    changes = np.bincount(labels[(differs & changed) > 0], minlength=count)
    moving = (sizes >= max(LEAST_PIXELS, LEAST_AREA * differs.size)) & (changes >= MOVING * sizes) & (changes > 1)
    largest = sorted(np.flatnonzero(moving).tolist(), key=lambda label: -int(sizes[label]))
    return _Things(np.asarray(labels, np.int32), largest, differs * moving[labels])


def _boxes(things: _Things, scale: int, upright_wh: tuple[int, int]) -> list[list[int]]:
    """Around the largest of them, in pixels of the whole picture."""
    boxes = []
    for label in things.largest[:MAX_BOXES]:
        x, y, width, height = cv2.boundingRect(np.where(things.labels == label, things.mask, np.uint8(0)))
        right, below = (min(end * scale, most) for end, most in zip((x + width, y + height), upright_wh, strict=True))
        boxes.append([x * scale, y * scale, right - x * scale, below - y * scale])
    return boxes
