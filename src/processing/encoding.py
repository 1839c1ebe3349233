"""What a plug-in returns, made ready for the way: JSON, or a picture."""

import json
from typing import Any, Final

import cv2
import numpy as np

from frames import InvalidFrame, read_header
from processing.wire import MAX_PICTURE_BYTES, MAX_VALUE_BYTES, MAX_VALUE_DEPTH, NOTHING, PICTURE, VALUE, is_too_deep

#: An annotated picture is looked at, and sent for each frame: half the bytes of quality 95, OpenCV's own default.
JPEG_QUALITY: Final = 85
#: What every browser shows. (A BMP is shown as well, and twenty times as large.)
PICTURES: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
TOO_DEEP: Final = f"the result has more than {MAX_VALUE_DEPTH} lists or objects in one another"


class BadResult(ValueError):
    """A plug-in returned what nobody can be sent; the message says what, and what may be."""


def encode(result: object) -> tuple[int, bytes]:
    """The kind of a report (`NOTHING`, `VALUE` or `PICTURE`) and its payload.

    Raises:
        BadResult: it is neither JSON data nor a picture, or too large, or nested too deep.
    """
    if result is None:
        return NOTHING, b""
    if isinstance(result, bytes | bytearray | memoryview):
        return PICTURE, _checked(bytes(result))
    if isinstance(result, np.ndarray) and _is_picture(result):
        return PICTURE, _checked(_jpeg(result))
    return VALUE, _json(result)


def _is_picture(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))


def _jpeg(pixels: np.ndarray[Any, Any]) -> bytes:
    try:
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    except cv2.error:
        raise BadResult(f"the result is a picture of shape {pixels.shape}, which JPEG does not hold") from None
    return encoded.tobytes()


def _checked(picture: bytes) -> bytes:
    try:
        media_type = read_header(picture).media_type
    except InvalidFrame as error:
        raise BadResult(f"the result's bytes are no picture: {error}") from None
    if media_type not in PICTURES:
        raise BadResult(f"the result is {media_type}, expected JPEG, PNG or WebP")
    if len(picture) > MAX_PICTURE_BYTES:
        raise BadResult(f"the result is a picture of {len(picture)} bytes, at most {MAX_PICTURE_BYTES} are sent")
    return picture


def _json(result: object) -> bytes:
    try:
        # Not ASCII only: of a text that is no Unicode, such as half a surrogate pair, UTF-8 says so here.
        text = json.dumps(result, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        value = text.encode()
    except RecursionError:
        raise BadResult(TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        raise BadResult(f"the result is no JSON: {error}") from None
    if len(value) > MAX_VALUE_BYTES:
        raise BadResult(f"the result is {len(value)} bytes of JSON, at most {MAX_VALUE_BYTES} are sent")
    if is_too_deep(value):
        raise BadResult(TOO_DEEP)
    return value


def _plain(thing: object) -> object:
    """What numpy has beside Python's own numbers and lists."""
    if isinstance(thing, np.ndarray | np.generic):
        plain: object = thing.tolist()
        if not isinstance(plain, np.generic):  # some have no counterpart, and stay what they are
            return plain
    raise TypeError(f"it holds {type(thing).__name__} {str(thing)[:50]!r}")
