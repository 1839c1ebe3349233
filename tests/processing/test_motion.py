"""What moves is found, and what does not is not, in pictures as cameras take them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from processing.motion import Motion
from scenes import Camera, Scene, frame_of

SIZES = [(160, 120), (640, 480), (1280, 720)]
Change = Callable[[Scene, int], Scene]


def chequered(width: int, height: int) -> Scene:
    """A thing that is seen before any background."""
    rows, columns = np.indices((height, width)) // max(4, width // 4)
    return np.where((rows + columns) % 2, 20.0, 220.0)[:, :, np.newaxis].astype(np.float32)


def results(camera: Camera, change: Change, frames: int, rate_hz: float = 10.0) -> Iterator[dict[str, Any] | None]:
    """What the plug-in says of a stream whose scene changes from frame to frame."""
    motion = Motion()
    for index in range(frames):
        yield motion.process(camera.take(index / rate_hz, change(camera.scene.copy(), index)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("noise", "quality"), [(0, 90), (6, 80), (15, 80), (30, 80), (10, 20)])
def test_noise_is_no_motion(size: tuple[int, int], noise: float, quality: int) -> None:
    camera = Camera(*size, noise=noise, quality=quality)
    assert list(results(camera, lambda scene, _: scene, 12)) == [None] * 12


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize(
    "light",
    [
        lambda index: 1 + 0.2 * np.sin(index),
        lambda index: np.random.default_rng(index).uniform(0.7, 1.3),
        lambda index: 1 - 0.6 * index / 40,
        lambda index: 1.0 if index < 20 else 0.4,
    ],
    ids=["flickers", "jumps", "fades", "goes out"],
)
def test_light_that_changes_is_no_motion(size: tuple[int, int], light: Callable[[int], float]) -> None:
    assert list(results(Camera(*size), lambda scene, index: scene * light(index), 40)) == [None] * 40


@pytest.mark.parametrize(
    ("size", "rate_hz", "flicker"),
    [(SIZES[0], 10, 0.15), (SIZES[1], 2, 0.0), (SIZES[1], 2, 0.15), (SIZES[1], 30, 0.15), (SIZES[2], 10, 0.15)],
)
def test_what_moves_is_found_where_it_is(size: tuple[int, int], rate_hz: float, flicker: float) -> None:
    width, height = size
    wide, high = width // 10, height // 5

    def place(index: int) -> tuple[int, int]:
        return int(width * (0.05 + 0.8 * index / 30)), height // 3

    def pass_by(scene: Scene, index: int) -> Scene:
        x, y = place(index)
        scene[y : y + high, x : x + wide] = chequered(wide, high)
        return scene * (1 + flicker * np.sin(index))

    found = list(results(Camera(*size), pass_by, 30, rate_hz))
    assert found[0] is None
    hits = 0
    for index, result in enumerate(found[6:], 6):
        assert result is not None, index
        x, y = place(index)
        left, top, box_wide, box_high = result["boxes"][0]
        margin = width * 0.03
        hits += abs(left - x) < margin and abs(left + box_wide - x - wide) < margin
        assert abs(top - y) < margin
        assert abs(top + box_high - y - high) < margin
        assert 0.005 < result["moved"] < 0.05
    assert hits >= 20


def test_several_things_that_move_have_a_box_each_the_largest_first() -> None:
    def pass_by(scene: Scene, index: int) -> Scene:
        for y, size in ((40, 30), (200, 60), (380, 45)):
            scene[y : y + size, 20 + 10 * index : 20 + 10 * index + size] = (220, 40, 220)
        return scene

    *_, last = results(Camera(), pass_by, 20)
    assert last is not None
    assert [round(box[1], -1) for box in last["boxes"]] == [200, 380, 40]


def test_what_has_come_and_stays_moves_no_more_and_where_it_was_nothing_does() -> None:
    def come(scene: Scene, index: int) -> Scene:
        x = 100 if index < 10 else 400
        scene[240:360, x : x + 80] = (20, 20, 220)
        return scene

    found = [result is not None for result in results(Camera(), come, 60, 5)]
    assert found[10]
    assert not any(found[:10] + found[13:])


def test_a_picture_of_another_size_begins_anew() -> None:
    motion = Motion()
    for at, camera in enumerate((Camera(640, 480), Camera(320, 240), Camera(320, 240))):
        assert motion.process(camera.take(at)) is None


def test_boxes_lie_within_the_upright_picture() -> None:
    def upright(camera: Camera, at: float, x: int) -> bytes:
        scene = camera.scene.copy()
        scene[300:, x:] = (220, 40, 220)
        image = camera.take(at, scene).image
        orientation = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        return image[:2] + orientation + image[2:]

    camera, motion = Camera(637, 479), Motion()
    assert motion.process(frame_of(upright(camera, 0, 637), 0)) is None
    frame = frame_of(upright(camera, 0.1, 500), 0.1)
    assert (frame.width, frame.height) == (637, 479)
    assert frame.pixels.shape[:2] == (637, 479)
    result = motion.process(frame)
    assert result is not None
    ((left, top, width, height),) = result["boxes"]
    assert (left, top + height) == (0, 637)
    assert abs(left + width - (479 - 300)) < 15
    assert abs(top - 500) < 15


def test_the_background_is_learned_though_something_always_moves() -> None:
    def to_and_fro(scene: Scene, index: int) -> Scene:
        x = int(280 + 250 * np.sin(index / 3))
        scene[200:280, x : x + 80] = chequered(80, 80)
        return scene

    found = list(results(Camera(), to_and_fro, 150))
    widths = [result["boxes"][0][2] for result in found[100:] if result is not None]
    assert len(widths) > 45
    assert np.median(widths) < 110
