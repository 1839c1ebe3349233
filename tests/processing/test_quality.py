"""Bad pictures are told from good ones, and a picture that stands still from one that lives."""

import cv2
import numpy as np
import pytest

from pictures import picture
from processing.quality import Quality
from scenes import Camera, frame_of


def quality(camera: Camera, **change: float) -> dict:
    scene = camera.scene
    if "blur" in change:
        scene = cv2.GaussianBlur(scene, (0, 0), change["blur"])
    if "shake" in change:
        scene = cv2.blur(scene, (int(change["shake"]), 1))
    return Quality().process(camera.take(scene=scene * change.get("light", 1.0)))


@pytest.mark.parametrize("size", [(640, 480), (1280, 720)])
@pytest.mark.parametrize("noise", [0, 3, 6])
def test_a_blurred_picture_is_told_from_a_sharp_one_in_spite_of_noise(size: tuple[int, int], noise: float) -> None:
    camera = Camera(*size, noise=noise)
    sharp, softer, blurred = (quality(camera, blur=blur) for blur in (0.3, 1.5, 8))
    assert sharp["sharpness"] > softer["sharpness"] > blurred["sharpness"]
    assert (sharp["problems"], blurred["problems"]) == ([], ["blurred"])


def test_a_camera_that_was_shaken_makes_blurred_pictures() -> None:
    assert quality(Camera(1280, 720), shake=30)["problems"] == ["blurred"]


@pytest.mark.parametrize(("light", "problems"), [(0.05, ["dark"]), (0.5, []), (1.0, []), (1.4, []), (3.0, ["bright"])])
def test_exposure(light: float, problems: list[str]) -> None:
    assert quality(Camera(), light=light)["problems"] == problems


@pytest.mark.parametrize(
    ("level", "mean", "black", "white"), [(0, 0.0, 1.0, 0.0), (128, 0.502, 0.0, 0.0), (255, 1.0, 0.0, 1.0)]
)
def test_mean_and_clipped_shares(level: int, mean: float, black: float, white: float) -> None:
    image = bytes(cv2.imencode(".png", np.full((100, 100, 3), level, np.uint8))[1])
    said = Quality().process(frame_of(image))
    assert [said[key] for key in ("mean", "black", "white", "sharpness")] == [mean, black, white, 0.0]


def test_a_frozen_picture_is_noticed_and_one_that_stands_still_is_not() -> None:
    camera = Camera(noise=1.5)
    alive = Quality()
    assert all("frozen" not in alive.process(camera.take(at / 2))["problems"] for at in range(20))
    frozen = Quality()
    image = camera.take().image
    said = [frozen.process(frame_of(image, 100 + at / 2)) for at in range(10)]
    assert [one["unchanged_sec"] for one in said] == [at / 2 for at in range(10)]
    assert ["frozen" in one["problems"] for one in said] == [False] * 6 + [True] * 4
    assert frozen.process(camera.take(105))["unchanged_sec"] == 0


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 200), (64, 48)])
def test_the_smallest_pictures_have_a_quality_too(extension: str, width: int, height: int) -> None:
    said = Quality().process(frame_of(picture(extension, width, height)))
    assert 0 <= said["sharpness"] <= 1
