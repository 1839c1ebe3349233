"""A plug-in that says how good a picture is: `--process processing.quality:Quality`."""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.frame import Frame

#: Sharpness is measured in a picture that is at least so many pixels wide or high, so that it can be compared.
WORKING_SIZE: Final = 400
#: How far an edge is smeared on purpose, to see how much that takes away from it.
SMEAR: Final = 9
#: An edge is a step of so many levels between neighbours at least, and so many times the picture's usual one …
LEAST_EDGE: Final = 2.0
EDGE_ABOVE_NOISE: Final = 5.0
#: … of which there are so many in any picture that has something in it.
LEAST_EDGES: Final = 0.002
#: Levels up to and from which a pixel counts as clipped: it holds no picture any more.
BLACK: Final = 5
WHITE: Final = 250

#: The share of clipped pixels, and the mean, from which a picture is too dark or too bright.
TOO_MANY_CLIPPED: Final = 0.4
TOO_DARK: Final = 0.12
TOO_BRIGHT: Final = 0.88
#: Below this an edge is as wide as the smear.
TOO_BLURRED: Final = 0.3
#: A picture is another one if more than this share of its pixels have changed by more than one level; a sensor's noise
#: alone changes most of them.
CHANGED: Final = 0.001
#: A picture that stays the same for so long is frozen: the slowest cameras send one a second.
FROZEN_SEC: Final = 3.0

#: uint8 array of shape (height, width).
Grey = NDArray[np.uint8]


class Quality:
    """Whether a picture is sharp, well exposed and alive.

        {"sharpness": 0.71, "mean": 0.48, "black": 0.01, "white": 0.0, "unchanged_sec": 0.0, "problems": []}

    `sharpness` is from 0, all is blurred, to 1; `mean` from 0, black, to 1; `black` and `white` are the shares of
    pixels that are clipped; `problems` are of "dark", "bright", "blurred" and "frozen".
    """

    name = "quality"
    #: A picture does not get worse and better faster.
    rate = 2

    def __init__(self) -> None:
        self._before: Grey | None = None
        self._changed_at = 0.0

    def process(self, frame: Frame) -> dict[str, Any]:
        grey = _grey(frame)
        sharpness = _sharpness(grey)
        mean = float(grey.mean()) / 255
        black = float(np.count_nonzero(grey <= BLACK)) / grey.size
        white = float(np.count_nonzero(grey >= WHITE)) / grey.size
        unchanged_sec = self._unchanged_sec(grey, frame.received_at)
        dark = mean < TOO_DARK or black > TOO_MANY_CLIPPED
        bright = mean > TOO_BRIGHT or white > TOO_MANY_CLIPPED
        problems = {
            "dark": dark,
            "bright": bright,
            "blurred": sharpness < TOO_BLURRED and not (dark or bright),  # there, edges cannot be seen
            "frozen": unchanged_sec >= FROZEN_SEC,
        }
        return {
            "sharpness": round(sharpness, 3),
            "mean": round(mean, 3),
            "black": round(black, 3),
            "white": round(white, 3),
            "unchanged_sec": round(unchanged_sec, 1),
            "problems": [problem for problem, there in problems.items() if there],
        }

    def _unchanged_sec(self, grey: Grey, now: float) -> float:
        before, self._before = self._before, grey
        same = before is not None and before.shape == grey.shape
        if not same or np.count_nonzero(cv2.absdiff(grey, before) > 1) > CHANGED * grey.size:  # type: ignore[arg-type]
            self._changed_at = now
        return max(0.0, now - self._changed_at)


def _grey(frame: Frame) -> Grey:
    scale = next((n for n in (8, 4, 2) if max(frame.width, frame.height) // n >= WORKING_SIZE), 1)
    grey: Any = cv2.cvtColor(frame.pixels if scale == 1 else frame.reduced(scale), cv2.COLOR_BGR2GRAY)
    return np.asarray(grey, np.uint8)


def _sharpness(grey: Grey) -> float:
    """How much of its edges a picture loses when it is smeared, along or across, whichever is less: a shaken camera
    blurs one of them only.

    F. Crété-Roffet et al., The Blur Effect: Perception and Estimation with a New No-Reference Perceptual Blur Metric,
    SPIE 6492 (2007). Here what noise makes of a blurred picture counts as no edge.
    """
    image: Any = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32)
    if min(grey.shape) < 2:
        return 0.0
    sharpness = 1.0
    for axis, size in ((0, (1, SMEAR)), (1, (SMEAR, 1))):
        smeared: Any = cv2.blur(image, size)
        steps = np.abs(np.diff(image, axis=axis))
        edges = steps > max(LEAST_EDGE, EDGE_ABOVE_NOISE * float(np.median(steps[::2, ::2])))
        total = float(steps[edges].sum())
        if np.count_nonzero(edges) <= LEAST_EDGES * edges.size:
            return 0.0
        lost = float(np.maximum(steps - np.abs(np.diff(smeared, axis=axis)), 0)[edges].sum())
        sharpness = min(sharpness, lost / total)
    return sharpness
