"""What the three generations of pulled cameras answer with, one image each."""

import base64
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import bson
import numpy as np

#: Makes the answer's body of a JPEG and the camera's address.
MakeBody = Callable[[bytes, str], bytes]

#: Those that can be rebuilt by a server of today: protocol 2 is the first with what numpy needs.
PICKLE_PROTOCOLS = (2, 3, 4, 5)

#: Where numpy has the functions that rebuild an array, by its first number.
_NUMPY = {1: b"numpy.core", 2: b"numpy._core"}
_REBUILDERS = (b".multiarray", b".numeric")
#: Of a pickle from protocol 4 on: what precedes the length of its first frame, and a short string.
_FRAME = b"\x95"
_SHORT_STRING = b"\x8c"


@dataclass(frozen=True)
class Pickle:
    """How a camera of the newest generation pickles the bytes of its JPEG; the defaults are the likeliest.

    Args:
        protocol: of pickle.
        column: whether the array has the shape (N, 1), as OpenCV's were for years, or (N,).
        numpy: its major version, 1 or 2.
    """

    protocol: int = 4
    column: bool = True
    numpy: int = 1

    def __call__(self, image: bytes, _address: str) -> bytes:
        # OpenCV's arrays may be written to, which protocol 5 says of them.
        array = np.frombuffer(bytearray(image), np.uint8)
        pickled = pickle.dumps(array.reshape(-1, 1) if self.column else array, self.protocol)
        return zlib.compress(_as_by_numpy(self.numpy, pickled))


@dataclass(frozen=True)
class Bson:
    """How a camera of the documented generation does.

    Args:
        shape: of the picture, which is told beside it: height, width, 3.
        text: whether the base64 is a string, or the bytes that Python makes of it.
    """

    shape: tuple[int, int, int]
    text: bool = False

    def __call__(self, image: bytes, address: str) -> bytes:
        frame = base64.b64encode(image)
        told = {"shape": list(self.shape), "ipaddress": address}
        return bson.encode({"frame": frame.decode() if self.text else frame} | told)


def plain(image: bytes, _address: str) -> bytes:
    return image


def _as_by_numpy(number: int, pickled: bytes) -> bytes:
    """The same pickle from that version of numpy, whichever made this one: they differ in one module's name."""
    wanted = _NUMPY[number]
    for made_by in _NUMPY.values():
        for rebuilder in _REBUILDERS:
            old, new = made_by + rebuilder, wanted + rebuilder
            pickled = pickled.replace(b"c" + old + b"\n", b"c" + new + b"\n", 1)
            string = _SHORT_STRING + bytes([len(old)]) + old
            if string in pickled:
                pickled = pickled.replace(string, _SHORT_STRING + bytes([len(new)]) + new, 1)
                assert pickled[2:3] == _FRAME, "a frame begins after the protocol's number"
                size = int.from_bytes(pickled[3:11], "little") + len(new) - len(old)
                pickled = pickled[:3] + size.to_bytes(8, "little") + pickled[11:]
    return pickled
