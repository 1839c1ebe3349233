"""What pulled cameras answer with: what their own libraries make of it again."""

import base64
import pickle
import pickletools
import zlib

import bson
import numpy as np
import pytest

from client_sim.pulled_bodies import PICKLE_PROTOCOLS, Bson, Pickle, plain

#: Below and above what pickle keeps in one piece with the rest, and of every byte.
SIZES = (1, 200, 70_000)


def image(size):
    return (b"\xff\xd8" + bytes(range(256)) * (size // 256 + 1))[:size]


def opcodes(pickled):
    """Name and argument of each, which fails where lengths do not agree."""
    return [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("made_by", [1, 2])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("protocol", PICKLE_PROTOCOLS)
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_a_pickle_becomes_the_array_again(protocol, column, made_by, size):
    pickled = zlib.decompress(Pickle(protocol, column, made_by)(image(size), ""))
    array = pickle.loads(pickled)
    assert array.dtype == np.uint8
    assert array.shape == ((size, 1) if column else (size,))
    assert array.tobytes() == image(size)
    assert opcodes(pickled)[0] == ("PROTO", protocol)


@pytest.mark.parametrize("protocol", PICKLE_PROTOCOLS)
@pytest.mark.parametrize(("made_by", "core"), [(1, "numpy.core"), (2, "numpy._core")])
def test_a_pickle_names_the_modules_of_its_numpy(protocol, made_by, core):
    pickled = zlib.decompress(Pickle(protocol, True, made_by)(image(200), ""))
    named = {str(argument).split()[0] for _, argument in opcodes(pickled) if "core." in str(argument)}
    assert named == {f"{core}.numeric" if protocol == 5 else f"{core}.multiarray"}


def test_the_newest_protocol_holds_the_bytes_as_of_an_array_that_may_be_written_to():
    names = [name for name, _ in opcodes(zlib.decompress(Pickle(5)(image(200), "")))]
    assert "BYTEARRAY8" in names


@pytest.mark.parametrize(("text", "kind"), [(False, bytes), (True, str)])
def test_a_document_holds_the_image_as_base64(text, kind):
    document = bson.decode(Bson((480, 640, 3), text)(image(200), "192.168.7.20"))
    assert isinstance(document["frame"], kind)
    assert base64.b64decode(document["frame"]) == image(200)
    assert (document["shape"], document["ipaddress"]) == ([480, 640, 3], "192.168.7.20")


def test_a_plain_body_is_the_image():
    assert plain(image(200), "") == image(200)
