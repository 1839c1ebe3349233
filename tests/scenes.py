"""Pictures that a camera might take, and the frames of a stream that are made of them."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from frames import read_header
from processing.frame import Frame
from processing.wire import Job

Scene = NDArray[np.float32]


def frame_of(image: bytes, at: float = 0.0, seq: int = 1) -> Frame:
    """A frame as a plug-in gets it."""
    _, width, height = read_header(image)
    return Frame(Job(7, seq, at, width, height, "Alice", "Alice", ()), image)


class Camera:
    """Looks at a scene, the same at each run: soft shapes, a lit window that is clipped, something dark.

    Args:
        noise: of its sensor, the standard deviation in grey levels.
        quality: of its JPEGs.
    """

    def __init__(self, width: int = 640, height: int = 480, noise: float = 6.0, quality: int = 80) -> None:
        self._random = np.random.default_rng(1)
        self._noise = noise
        self._quality = quality
        scene = np.full((height, width, 3), 120, np.float32)
        for size in (8, 16, 32, 64):
            coarse = self._random.normal(0, 1, (height // size + 2, width // size + 2, 3)).astype(np.float32)
            scene += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * size**0.5 * 4
        scene[height // 8 : height // 4, width // 2 : width * 3 // 4] = 250
        scene[height // 2 : height * 9 // 10, width // 10 : width // 4] = (30, 40, 60)
        self.scene: Scene = scene

    def take(self, at: float = 0.0, scene: Scene | None = None) -> Frame:
        """A picture of the scene, or of another one, with this camera's noise."""
        seen: Any = self.scene if scene is None else scene
        seen = np.clip(seen + self._random.normal(0, self._noise, seen.shape), 0, 255).astype(np.uint8)
        return frame_of(bytes(cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, self._quality])[1]), at)
