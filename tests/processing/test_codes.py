"""Codes are read with their corners, several kinds in one picture."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pictures import picture
from processing.codes import DICTIONARIES, MAX_CODES, Codes
from scenes import Camera, frame_of

Grey = NDArray[np.uint8]


#: GS1 General Specifications, 5.2.1: the digits' bars in their odd form, and which of two forms the left ones have.
ODD = "0001101 0011001 0010011 0111101 0100011 0110001 0101111 0111011 0110111 0001011"
PARITY = "OOOOOO OOEOEE OOEEOE OOEEEO OEOOEE OEEOOE OEEEOO OEOEOE OEOEEO OEEOEO"


def qr(text: str) -> Grey:
    code = np.asarray(cv2.QRCodeEncoder.create().encode(text))
    return cv2.resize(code, None, fx=5, fy=5, interpolation=cv2.INTER_NEAREST)


def marker(dictionary: str, number: int) -> Grey:
    return cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(DICTIONARIES[dictionary]), number, 100)


def ean(number: str) -> Grey:
    """An EAN-13 barcode."""
    odd = ODD.split()
    right = ["".join("10"[int(bit)] for bit in digit) for digit in odd]
    even = [digit[::-1] for digit in right]
    parity = PARITY.split()[int(number[0])]
    left = [(odd if kind == "O" else even)[int(digit)] for kind, digit in zip(parity, number[1:7], strict=True)]
    bits = "101" + "".join(left) + "01010" + "".join(right[int(digit)] for digit in number[7:]) + "101"
    row = np.array([255 * (bit == "0") for bit in bits], np.uint8)
    return np.repeat(np.tile(row, (100, 1)), 3, axis=1)


def poster(*codes: tuple[Grey, int, int]) -> bytes:
    """A picture of 1280 x 720 with codes on white paper, each at (x, y)."""
    scene = Camera(1280, 720).scene.copy()
    for code, x, y in codes:
        height, width = code.shape
        scene[y - 25 : y + height + 25, x - 25 : x + width + 25] = 255
        scene[y : y + height, x : x + width] = code[:, :, np.newaxis]
    return Camera(1280, 720).take(scene=scene).image


def assert_corners(code: dict, x: int, y: int, width: int, height: int, margin: int = 5) -> None:
    corners = np.array(code["corners"])
    assert corners.shape == (4, 2)
    assert abs(corners.min(axis=0) - (x, y)).max() < margin, code
    assert abs(corners.max(axis=0) - (x + width, y + height)).max() < margin, code


def test_codes_of_all_kinds_are_read_in_one_picture() -> None:
    image = poster(
        (qr("https://example.org/käse?a=1"), 100, 60),
        (qr("second"), 450, 60),
        (ean("4006381333931"), 800, 100),
        (marker("4X4_50", 7), 100, 500),
        (marker("6X6_250", 200), 400, 500),
        (marker("APRILTAG_36h11", 5), 700, 500),
    )
    codes = Codes().process(frame_of(image))
    assert codes is not None
    found = {code.get("text") or (code["dictionary"], code["id"]): code for code in codes}
    assert {key: code["type"] for key, code in found.items()} == {
        "https://example.org/käse?a=1": "QR",
        "second": "QR",
        "4006381333931": "EAN_13",
        ("4X4_50", 7): "ARUCO",
        ("6X6_250", 200): "ARUCO",
        ("APRILTAG_36h11", 5): "ARUCO",
    }
    assert_corners(found["4X4_50", 7], 100, 500, 100, 100)
    assert_corners(found["4006381333931"], 800, 100, 285, 100, margin=100)  # bars look the same further up
    size = qr("second").shape[0] - 20  # its encoder leaves two modules of white around it
    assert_corners(found["second"], 460, 70, size, size)
    assert all(len(code) == len(set(code)) for code in codes)


@pytest.mark.parametrize("image", [picture(width=640, height=480), picture(), Camera(1280, 720).take().image])
def test_nothing_is_said_where_there_is_no_code(image: bytes) -> None:
    assert Codes().process(frame_of(image)) is None


def test_there_are_so_many_codes_at_most() -> None:
    markers = [(marker("4X4_50", number), 40 + 150 * (number % 8), 30 + 140 * (number // 8)) for number in range(40)]
    codes = Codes().process(frame_of(poster(*markers)))
    assert codes is not None
    assert len(codes) == MAX_CODES
