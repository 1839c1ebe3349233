"""A plug-in that reads QR codes, barcodes and ArUco markers: `--process processing.codes:Codes`."""

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.frame import Frame

#: The markers that are looked for: the smaller a dictionary, the less often it is found where none is.
DICTIONARIES: Final = {
    "4X4_50": cv2.aruco.DICT_4X4_50,
    "5X5_100": cv2.aruco.DICT_5X5_100,
    "6X6_250": cv2.aruco.DICT_6X6_250,
    "APRILTAG_36h11": cv2.aruco.DICT_APRILTAG_36h11,
}
#: A QR code holds up to 3 KB; together they must fit into one result.
MAX_CODES: Final = 20

#: uint8 array of shape (height, width).
Grey = NDArray[np.uint8]


class Codes:
    """What codes are in the picture, with their corners, in pixels of the upright picture; nothing when there are none.

    {"type": "QR", "text": "https://…", "corners": [[x, y], [x, y], [x, y], [x, y]]}
    {"type": "EAN_13", "text": "4006381333931", "corners": …}
    {"type": "ARUCO", "dictionary": "4X4_50", "id": 7, "corners": …}
    """

    name = "codes"
    #: Nobody holds a code before a camera for less than a fifth of a second, and to look for it takes 30 ms.
    rate = 5

    def __init__(self) -> None:
        # One for each stream: detectors keep pictures from one call to the next.
        self._qr: Any = cv2.QRCodeDetectorAruco()
        self._bars: Any = cv2.barcode.BarcodeDetector()
        self._markers: Any = cv2.aruco.ArucoDetector(
            [cv2.aruco.getPredefinedDictionary(number) for number in DICTIONARIES.values()]
        )

    def process(self, frame: Frame) -> list[dict[str, Any]] | None:
        grey: Any = cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2GRAY)
        codes: list[dict[str, Any]] = []
        for read in (self._read_qr, self._read_bars, self._read_markers):
            try:
                codes += read(grey)
            except cv2.error:
                pass  # a detector that trips over a picture has found nothing in it
        return codes[:MAX_CODES] or None

    def _read_qr(self, grey: Grey) -> Iterator[dict[str, Any]]:
        found, texts, corners, _ = self._qr.detectAndDecodeBytesMulti(grey)
        for text, quad in zip(texts, corners, strict=True) if found else ():
            if text:  # else it was seen and could not be read
                yield {"type": "QR", "text": text.decode(errors="replace"), "corners": _points(quad)}

    def _read_bars(self, grey: Grey) -> Iterator[dict[str, Any]]:
        found, texts, kinds, corners = self._bars.detectAndDecodeWithType(grey)
        for text, kind, quad in zip(texts, kinds, corners, strict=True) if found else ():
            if text:
                yield {"type": kind, "text": text, "corners": _points(quad)}

    def _read_markers(self, grey: Grey) -> Iterator[dict[str, Any]]:
        corners, ids, _, numbers = self._markers.detectMarkersMultiDict(grey)
        names = list(DICTIONARIES)
        for quad, marker, number in zip(corners, _flat(ids), _flat(numbers), strict=True):
            yield {"type": "ARUCO", "dictionary": names[number], "id": marker, "corners": _points(quad)}


def _points(quad: NDArray[np.float32]) -> list[list[float]]:
    points: list[list[float]] = quad.reshape(4, 2).astype(float).round(1).tolist()
    return points


def _flat(numbers: NDArray[np.int32] | None) -> list[int]:
    return [] if numbers is None else numbers.ravel().tolist()
