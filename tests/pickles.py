"""Pickles: of images, as cameras send them, and such as were made to do harm to whoever loads them.

`RUN` are those that run what their sender wants, which is here to make a file; `EXHAUST` those that take all memory or
time. Both do with `pickle.loads`, see tests/ingest/pull/test_array_pickle.py. `WRONG` are those that are not what numpy
writes.

    echo 'RUN 0 /tmp/ran' | python3 pickles.py      loads one with `pickle.loads`, as no server may
"""

import io
import pickle
import resource
import struct
import sys
from collections.abc import Callable
from typing import Final

import numpy as np

PROTOCOLS: Final = (2, 3, 4, 5)


def arrays(data: bytes) -> dict[str, np.ndarray]:
    """These bytes as uint8 arrays of every kind that cameras may pickle."""
    flat = np.frombuffer(bytearray(data), np.uint8)
    return {
        "of shape (N,)": flat,
        "of shape (N, 1)": flat.reshape(-1, 1),
        "that is read only": np.frombuffer(data, np.uint8),
        "in Fortran's order": np.array(flat.reshape(-1, 1), order="F"),
        "of every second byte": flat.repeat(2)[::2],
        "of a column": flat.repeat(3).reshape(-1, 3)[:, 1:2],
        "of a row that was turned": flat.reshape(1, -1).T,
        "backwards": flat[::-1].copy()[::-1],
    }


def by_python(array: np.ndarray, protocol: int) -> bytes:
    """As Python's own pickler writes it, where the one in C is not there."""
    out = io.BytesIO()
    pickle._Pickler(out, protocol).dump(array)  # type: ignore[attr-defined]
    return out.getvalue()


def of_numpy_1(pickled: bytes) -> bytes:
    """The same, with the names that numpy had before 2.0."""
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        pickled = pickled.replace(b"c" + new + b"\n", b"c" + old + b"\n")
        pickled = pickled.replace(bytes((0x8C, len(new))) + new, bytes((0x8C, len(old))) + old)
    if pickled[2] == 0x95:  # the frame is one shorter
        pickled = pickled[:3] + struct.pack("<Q", struct.unpack("<Q", pickled[3:11])[0] - 1) + pickled[11:]
    return pickled


#: What numpy 1.26.4 wrote of these bytes, by protocol and shape.
NUMPY_1_BYTES: Final = b"\xff\xd8\x00\n\r\x80\xc3\xff\xd9"
NUMPY_1: Final = {
    (2, (9,)): (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_codecs\n"
        b"encode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x87q\x08Rq\t(K"
        b"\x01K\t\x85q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00u1q\x0c\x89\x88\x87q\rRq\x0e(K\x03X\x01\x00"
        b"\x00\x00|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89h\x03X\x0f\x00\x00\x00\xc3\xbf"
        b"\xc3\x98\x00\n\r\xc2\x80\xc3\x83\xc3\xbf\xc3\x99q\x11h\x05\x86q\x12Rq\x13tq\x14b."
    ),
    (3, (9,)): (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02C\x01bq"
        b"\x03\x87q\x04Rq\x05(K\x01K\t\x85q\x06cnumpy\ndtype\nq\x07X\x02\x00\x00\x00u1q\x08\x89\x88\x87q\tR"
        b"q\n(K\x03X\x01\x00\x00\x00|q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0cb\x89C\t\xff\xd8"
        b"\x00\n\r\x80\xc3\xff\xd9q\rtq\x0eb."
    ),
    (4, (9,)): (
        b"\x80\x04\x95\x91\x00\x00\x00\x00\x00\x00\x00\x8c\x15numpy.core.multiarray\x94\x8c\x0c_reconstruct"
        b"\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K"
        b"\x01K\t\x85\x94h\x03\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|"
        b"\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\t\xff\xd8\x00\n\r\x80\xc3\xff\xd9\x94t"
        b"\x94b."
    ),
    (5, (9,)): (
        b"\x80\x05\x95|\x00\x00\x00\x00\x00\x00\x00\x8c\x12numpy.core.numeric\x94\x8c\x0b_frombuffer\x94"
        b"\x93\x94(\x96\t\x00\x00\x00\x00\x00\x00\x00\xff\xd8\x00\n\r\x80\xc3\xff\xd9\x94\x8c\x05numpy\x94"
        b"\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff"
        b"\xffJ\xff\xff\xff\xffK\x00t\x94bK\t\x85\x94\x8c\x01C\x94t\x94R\x94."
    ),
    (2, (9, 1)): (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02c_codecs\n"
        b"encode\nq\x03X\x01\x00\x00\x00bq\x04X\x06\x00\x00\x00latin1q\x05\x86q\x06Rq\x07\x87q\x08Rq\t(K"
        b"\x01K\tK\x01\x86q\ncnumpy\ndtype\nq\x0bX\x02\x00\x00\x00u1q\x0c\x89\x88\x87q\rRq\x0e(K\x03X\x01"
        b"\x00\x00\x00|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89h\x03X\x0f\x00\x00\x00\xc3"
        b"\xbf\xc3\x98\x00\n\r\xc2\x80\xc3\x83\xc3\xbf\xc3\x99q\x11h\x05\x86q\x12Rq\x13tq\x14b."
    ),
    (3, (9, 1)): (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02C\x01bq"
        b"\x03\x87q\x04Rq\x05(K\x01K\tK\x01\x86q\x06cnumpy\ndtype\nq\x07X\x02\x00\x00\x00u1q\x08\x89\x88"
        b"\x87q\tRq\n(K\x03X\x01\x00\x00\x00|q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0cb\x89C\t"
        b"\xff\xd8\x00\n\r\x80\xc3\xff\xd9q\rtq\x0eb."
    ),
    (4, (9, 1)): (
        b"\x80\x04\x95\x93\x00\x00\x00\x00\x00\x00\x00\x8c\x15numpy.core.multiarray\x94\x8c\x0c_reconstruct"
        b"\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K"
        b"\x01K\tK\x01\x86\x94h\x03\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c"
        b"\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\t\xff\xd8\x00\n\r\x80\xc3\xff\xd9"
        b"\x94t\x94b."
    ),
    (5, (9, 1)): (
        b"\x80\x05\x95~\x00\x00\x00\x00\x00\x00\x00\x8c\x12numpy.core.numeric\x94\x8c\x0b_frombuffer\x94"
        b"\x93\x94(\x96\t\x00\x00\x00\x00\x00\x00\x00\xff\xd8\x00\n\r\x80\xc3\xff\xd9\x94\x8c\x05numpy\x94"
        b"\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff"
        b"\xffJ\xff\xff\xff\xffK\x00t\x94bK\tK\x01\x86\x94\x8c\x01C\x94t\x94R\x94."
    ),
}


# Pickles by hand, opcode by opcode (pickletools).


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def short(value: str) -> bytes:
    encoded = value.encode()
    return b"\x8c" + bytes((len(encoded),)) + encoded


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def named_on_stack(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def program(*opcodes: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes((protocol,)) + b"".join(opcodes) + b"."


def of_array(data: bytes = b"1234", shape: bytes | None = None, dtype: bytes | None = None, **other: bytes) -> bytes:
    """An array as protocol 2 to 4 build it, with a part or other exchanged; no start, and no end."""
    made = other.get("made", called(RECONSTRUCT, NDARRAY, b"K\0\x85", b"C\1b"))
    shape = b"K" + bytes((len(data),)) + b"\x85" if shape is None else shape
    dtype = UINT8 if dtype is None else dtype
    version, order = other.get("version", b"K\1"), other.get("order", b"\x89")
    content = other.get("content", b"C" + bytes((len(data),)) + data)
    return made + b"(" + version + shape + dtype + order + content + b"tb"


RECONSTRUCT: Final = named("numpy._core.multiarray", "_reconstruct")
FROMBUFFER: Final = named("numpy._core.numeric", "_frombuffer")
NDARRAY: Final = named("numpy", "ndarray")
DTYPE: Final = named("numpy", "dtype")
STATE: Final = b"(K\3" + short("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
UINT8: Final = called(DTYPE, short("u1"), b"\x89", b"\x88") + STATE + b"b"


def _touch(path: str) -> str:
    return f"echo it ran >{path}"


def _python(path: str) -> str:
    return f"open({path!r}, 'w').close()"


def _line(command: str) -> bytes:
    return b"S" + repr(command).encode() + b"\n"


_SYSTEM: Final = named("os", "system")


def _map(path: str) -> bytes:
    """Something that runs when it is gone through."""
    return called(named("builtins", "map"), _SYSTEM, text(_touch(path)) + b"\x85")


def _by_builtin(path: str) -> bytes:
    os = called(named("builtins", "__import__"), text("os"))
    return program(called(called(named("builtins", "getattr"), os, text("system")), text(_touch(path))))


def _by_setstate(path: str) -> bytes:
    place = named("argparse", "Namespace") + b")\x81"
    taught = place + b"}" + text("__setstate__") + _SYSTEM + b"sb"
    return program(taught + text(_touch(path)) + b"b")


def _by_extension(opcode: bytes, code: int, module: str, name: str, path: str) -> bytes:
    registered = called(named("copyreg", "add_extension"), text(module), text(name), b"J" + struct.pack("<i", code))
    return program(registered, b"0", opcode, text(_touch(path)), b"\x85R")


#: By how they do it: the pickle, given the path of the file that it is to make.
RUN: Final[dict[str, Callable[[str], bytes]]] = {
    "REDUCE in protocol 0": lambda path: b"cos\nsystem\n(" + _line(_touch(path)) + b"tR.",
    "REDUCE": lambda path: program(_SYSTEM, text(_touch(path)), b"\x85R"),
    "REDUCE by another name": lambda path: program(named("posix", "system"), text(_touch(path)), b"\x85R"),
    "STACK_GLOBAL": lambda path: program(named_on_stack("os", "system"), text(_touch(path)), b"\x85R", protocol=4),
    "STACK_GLOBAL of names in the memo": lambda path: program(
        short("system"), b"\x940", short("os"), b"\x940h\1h\0\x93", text(_touch(path)), b"\x85R", protocol=4
    ),
    "a name with dots, in a module of numpy": lambda path: program(
        named_on_stack("numpy", "_core._add_newdocs_scalars.os.system"), text(_touch(path)), b"\x85R", protocol=4
    ),
    "INST": lambda path: b"(" + _line(_touch(path)) + b"ios\nsystem\n.",
    "OBJ": lambda path: program(b"(", _SYSTEM, text(_touch(path)), b"o"),
    "NEWOBJ": lambda path: program(named("builtins", "tuple"), _map(path), b"\x85\x81"),
    "NEWOBJ_EX": lambda path: program(named("builtins", "tuple"), _map(path), b"\x85}\x92", protocol=4),
    "REDUCE that goes through an iterator": lambda path: program(called(named("builtins", "list"), _map(path))),
    "BUILD by a __setstate__ of one's own": _by_setstate,
    "EXT1": lambda path: _by_extension(b"\x82\xf1", 0xF1, "os", "system", path),
    "EXT2": lambda path: _by_extension(b"\x83\xf1\xf2", 0xF2F1, "posix", "system", path),
    "EXT4": lambda path: _by_extension(b"\x84\xf1\xf2\xf3\x04", 0x04F3F2F1, "subprocess", "getoutput", path),
    "getattr": _by_builtin,
    "eval": lambda path: program(called(named("builtins", "eval"), text(_python(path)))),
    "exec, as Python 2 called it": lambda path: program(called(named("__builtin__", "eval"), text(_python(path)))),
    "open": lambda path: program(called(named("io", "open"), text(path), text("w"))),
    "a class that starts a process": lambda path: program(
        called(named("subprocess", "Popen"), b"(" + text("touch") + text(path) + b"t"), protocol=3
    ),
    "pathlib": lambda path: program(
        called(named("pathlib", "Path.touch"), called(named("pathlib", "Path"), text(path))), protocol=4
    ),
    "a pickle in the pickle": lambda path: program(
        called(
            named("pickle", "loads"),
            b"B" + struct.pack("<I", len(RUN["REDUCE"](path))) + RUN["REDUCE"](path),
        ),
        protocol=3,
    ),
    "numpy's memmap": lambda path: program(
        called(named("numpy", "memmap"), text(path), text("u1"), text("w+"), b"K\0", b"K\1\x85")
    ),
    "numpy's save": lambda path: program(called(named("numpy", "savetxt"), text(path), b"K\1\x85")),
    "numpy's runstring": lambda path: program(
        called(named("numpy.testing._private.utils", "runstring"), text(_python(path)), b"}")
    ),
    "numpy's load, of a file that holds a pickle": lambda path: program(
        called(named("io", "open"), text(path), text("wb")),
        b"0",
        called(named("numpy", "load"), text(path), b"N", b"\x88"),
    ),
    "a codec of one's own": lambda path: program(
        called(named("_codecs", "register"), called(named("functools", "partial"), named("io", "open"), text(path))),
        b"0",
        called(named("_codecs", "encode"), text("x"), text("w")),
    ),
    "behind an array, in place of it": lambda path: program(of_array(), b"0", RUN["REDUCE"](path)[2:-1]),
    "before an array": lambda path: program(RUN["REDUCE"](path)[2:-1], b"0", of_array()),
    "below an array": lambda path: program(RUN["REDUCE"](path)[2:-1], of_array()),
    "for an array's shape": lambda path: program(of_array(shape=RUN["REDUCE"](path)[2:-1])),
    "for an array's bytes": lambda path: program(of_array(content=RUN["REDUCE"](path)[2:-1])),
    "for a dtype": lambda path: program(of_array(dtype=RUN["REDUCE"](path)[2:-1])),
    "for a dtype's state": lambda path: program(
        of_array(dtype=called(DTYPE, short("u1"), b"\x89\x88") + RUN["REDUCE"](path)[2:-1] + b"b")
    ),
    "for the array that is to be filled": lambda path: program(of_array(made=RUN["REDUCE"](path)[2:-1])),
    "in an array of objects": lambda path: program(
        of_array(
            shape=b"K\1\x85",
            dtype=called(DTYPE, short("O8"), b"\x89", b"\x88"),
            content=b"]" + RUN["REDUCE"](path)[2:-1] + b"a",
        )
    ),
    "in a second pickle's protocol": lambda path: program(b"\x80\x05", RUN["REDUCE"](path)[2:-1], b"\x80\x02"),
}


def _laughs(depth: int, last: bytes) -> bytes:
    """A tuple of two of the same, of two of the same, and so on."""
    return text("lol") + b"q\0" + b"0h\0h\0\x86q\0" * depth + last


#: By what they would take.
EXHAUST: Final = {
    "time: a key that is hashed for ever": program(b"}", _laughs(60, b""), b"Ns"),
    "time: two structures that are compared for ever": program(
        called(named("_operator", "eq"), _laughs(60, b""), _laughs(60, b""))
    ),
    "time: a repr for ever": program(called(named("builtins", "repr"), _laughs(60, b""))),
    "time: a power": program(called(named("builtins", "pow"), b"K\7", b"J\0\0\0\x40")),
    "memory: a long memo": program(b"Nr\xff\xff\xff\x3f"),
    "memory: bytearray": program(called(named("builtins", "bytearray"), b"\x8a\5\0\0\0\0\1")),
    "memory: an empty array of 8 GiB": program(called(named("numpy", "zeros"), b"\x8a\5\0\0\0\0\2", short("u1"))),
    "memory: an array of 8 GiB before it is filled": program(
        called(RECONSTRUCT, NDARRAY, b"\x8a\5\0\0\0\0\2\x85", b"C\1b")
    ),
    "memory: a codec that makes much of little": program(
        called(named("builtins", "bytes.ljust"), b"C\1x", b"\x8a\5\0\0\0\0\1"), protocol=4
    ),
    "memory: a length of 4 EiB": program(b"\x96\0\0\0\0\0\0\0\x40", protocol=5),
}

_LONG: Final = b"B" + struct.pack("<I", 1000) + bytes(1000)

#: What numpy does not write, and what is no pickle at all: the code that it is refused with.
WRONG: Final = {
    "nothing": ("truncated", b""),
    "one byte": ("truncated", b"\x80"),
    "a text": ("not_an_image", b"an array, or so it says"),
    "protocol 0": ("not_an_image", pickle.dumps(np.zeros(4, np.uint8), protocol=0)),
    "protocol 1": ("not_an_image", pickle.dumps(np.zeros(4, np.uint8), protocol=1)),
    "protocol 6": ("not_an_image", program(of_array(), protocol=6)),
    "protocol 255": ("not_an_image", program(of_array(), protocol=255)),
    "a protocol within": ("not_an_image", program(b"\x80\x02", of_array())),
    "no end": ("truncated", program(of_array())[:-1]),
    "bytes behind the end": ("not_an_image", program(of_array()) + b"."),
    "only an end": ("not_an_image", program()),
    "only a mark": ("not_an_image", program(b"(")),
    "bytes, and no array": ("not_an_image", program(b"C\4abcd")),
    "a text, and no array": ("not_an_image", program(text("abcd"))),
    "a tuple with an array": ("not_an_image", program(of_array(), b"\x85")),
    "two arrays": ("not_an_image", program(of_array(), of_array())),
    "an array below a mark": ("not_an_image", program(of_array(), b"(")),
    "a mark below an array": ("not_an_image", program(b"(", of_array())),
    "an empty array": ("not_an_image", program(called(RECONSTRUCT, NDARRAY, b"K\0\x85", b"C\1b"))),
    "a dtype": ("not_an_image", program(UINT8)),
    "a name": ("not_an_image", program(NDARRAY)),
    "a name that ends too early": ("truncated", program(NDARRAY)[:-3]),
    "a name without an end": ("truncated", program(b"c", b"numpy" * 100)),
    "a name in another case": ("not_an_image", program(of_array(made=named("numpy", "NDArray")))),
    "a name with a space": ("not_an_image", program(named("numpy ", "ndarray"))),
    "a name with a return": ("not_an_image", program(b"cnumpy\r\nndarray\r\n")),
    "a name of other letters that look alike": ("not_an_image", program(named("numpу", "ndarray"))),
    "a name that is no UTF-8": ("not_an_image", program(b"cnumpy\xff\nndarray\n")),
    "a name of bytes": ("not_an_image", program(b"C\5numpyC\7ndarray\x93", protocol=4)),
    "names of a tuple": ("not_an_image", program(_laughs(60, b"q\0h\0\x93"), protocol=4)),
    "a name below a mark": ("not_an_image", program(short("numpy"), b"(", short("ndarray"), b"\x93", protocol=4)),
    "a name with dots": ("not_an_image", program(named_on_stack("numpy", "ndarray.tofile"), protocol=4)),
    "a name that is split elsewhere": ("not_an_image", program(named("numpy._core", "multiarray._reconstruct"))),
    "another name of the same": ("not_an_image", program(of_array(made=named("numpy.core.multiarray", "ndarray")))),
    "another function of numpy": ("not_an_image", program(called(named("numpy._core.multiarray", "fromfile")))),
    "PERSID": ("not_an_image", program(b"Pwho\n")),
    "BINPERSID": ("not_an_image", program(b"NQ")),
    "an integer of lines": ("not_an_image", program(b"I4\n")),
    "a long": ("not_an_image", program(b"\x8a\1\4")),
    "a long of 2 GiB": ("not_an_image", program(b"\x8b\xff\xff\xff\x7f")),
    "a long of less than nothing": ("not_an_image", program(b"\x8b\xff\xff\xff\xff")),
    "a long of many digits": ("not_an_image", program(b"L" + b"9" * 100_000 + b"L\n")),
    "a list": ("not_an_image", program(b"]")),
    "a set": ("not_an_image", program(b"\x8f", protocol=4)),
    "a dictionary": ("not_an_image", program(b"}")),
    "a float": ("not_an_image", program(b"G" + bytes(8))),
    "buffers from elsewhere": ("not_an_image", program(called(FROMBUFFER, b"\x97", UINT8, b"K\4\x85", short("C")))),
    "a copy of the top": ("not_an_image", program(of_array(), b"20")),
    "pops": ("not_an_image", program(b"N" * 100, b"0" * 100, of_array())),
    "pops to a mark": ("not_an_image", program(b"(", b"N" * 100, b"1", of_array())),
    "endless opcodes": ("not_an_image", program(b"N" * 8_000_000)),
    "endless marks": ("not_an_image", program(b"(" * 8_000_000)),
    "endless tuples": ("not_an_image", program(b"N", b"\x85" * 8_000_000)),
    "endless frames": ("not_an_image", program((b"\x95" + bytes(8)) * 1_000_000, protocol=4)),
    "endless memo": ("not_an_image", program(b"N", b"\x94" * 8_000_000, protocol=4)),
    "a frame in a frame": (
        "not_an_image",
        program(b"\x95" + struct.pack("<Q", 10), b"\x95" + bytes(8), of_array(), protocol=4),
    ),
    "a frame that ends within a name": (
        "not_an_image",
        program(b"\x95" + struct.pack("<Q", 10), of_array(), protocol=4),
    ),
    "a frame of 16 EiB": ("truncated", program(b"\x95" + b"\xff" * 8, of_array(), protocol=4)),
    "bytes of 4 GiB": ("truncated", program(b"B\xff\xff\xff\xff")),
    "a text of 4 GiB": ("truncated", program(b"X\xff\xff\xff\xff")),
    "a length cut off": ("truncated", b"\x80\x05\x96\0\0"),
    "a text cut off within a letter": ("truncated", program(text("\xff"))[:-2]),
    "bytes cut off": ("truncated", program(_LONG)[:500]),
    "no such thing in the memo": ("not_an_image", program(b"h\0")),
    "a mark in the memo": ("not_an_image", program(b"(q\0h\0")),
    "a mark out of the memo": (
        "not_an_image",
        program(of_array(version=b"q\0K\1", dtype=UINT8.replace(STATE, b"h\0" + STATE[1:]))),
    ),
    "nothing for the memo": ("not_an_image", program(b"q\0")),
    "a tuple of nothing": ("not_an_image", program(b"\x87")),
    "a tuple without a mark": ("not_an_image", program(b"NNt")),
    "a tuple of a mark": ("not_an_image", program(b"N(\x86")),
    "a call of nothing": ("not_an_image", program(b"R")),
    "a call of a name by a name": ("not_an_image", program(NDARRAY, NDARRAY, b"R")),
    "a call of an array": ("not_an_image", program(called(of_array()))),
    "a build of nothing": ("not_an_image", program(b"b")),
    "a build of a name": ("not_an_image", program(NDARRAY, b"(tb")),
    "an array that is built as a dtype is": ("not_an_image", program(of_array(), STATE, b"b")),
    "a name that is built as an array is": ("not_an_image", program(of_array(made=NDARRAY))),
    "a dtype that is built as an array is": ("not_an_image", program(of_array(made=UINT8))),
    "nothing that is built as an array is": ("not_an_image", program(of_array(made=b"N"))),
    "a build of an array, once more": ("not_an_image", program(of_array(), of_array()[-1:])),
    "a subclass of arrays": (
        "not_an_image",
        program(of_array(made=called(RECONSTRUCT, named("numpy", "memmap"), b"K\0\x85", b"C\1b"))),
    ),
    "an array that was not empty": (
        "not_an_image",
        program(of_array(made=called(RECONSTRUCT, NDARRAY, b"K\4\x85", b"C\1b"))),
    ),
    "an array made of objects": (
        "not_an_image",
        program(of_array(made=called(RECONSTRUCT, NDARRAY, b"K\0\x85", b"C\1O"))),
    ),
    "an array of no arguments": ("not_an_image", program(of_array(made=called(RECONSTRUCT)))),
    "an array of int8": (
        "not_an_image",
        program(of_array(dtype=called(DTYPE, short("i1"), b"\x89", b"\x88") + STATE + b"b")),
    ),
    "an array of objects": (
        "not_an_image",
        program(of_array(dtype=called(DTYPE, short("O8"), b"\x89", b"\x88"), content=b"C\x08" + bytes(8))),
    ),
    "a dtype that is a text": ("not_an_image", program(of_array(dtype=short("u1")))),
    "a dtype of another state": (
        "not_an_image",
        program(of_array(dtype=called(DTYPE, short("u1"), b"\x89", b"\x88") + STATE.replace(b"|", b">") + b"b")),
    ),
    "a dtype of longer elements": (
        "not_an_image",
        program(
            of_array(dtype=called(DTYPE, short("u1"), b"\x89", b"\x88") + STATE.replace(b"J", b"K\x08J", 1) + b"b")
        ),
    ),
    "a dtype with fields": (
        "not_an_image",
        program(of_array(dtype=called(DTYPE, short("u1"), b"\x89", b"\x88") + STATE.replace(b"NN", b"]]", 1) + b"b")),
    ),
    "too short for its shape": ("not_an_image", program(of_array(shape=b"K\5\x85"))),
    "too long for its shape": ("not_an_image", program(of_array(shape=b"K\3\x85"))),
    "a shape of less than nothing": ("not_an_image", program(of_array(shape=b"J\xff\xff\xff\xff\x85"))),
    "a shape of nothing": ("not_an_image", program(of_array(shape=b"(t"))),
    "a shape of (1, N)": ("not_an_image", program(of_array(shape=b"K\1K\4\x86"))),
    "a shape of (2, 2)": ("not_an_image", program(of_array(shape=b"K\2K\2\x86"))),
    "a shape of (N, 1, 1)": ("not_an_image", program(of_array(shape=b"K\4K\1K\1\x87"))),
    "a shape of a truth": ("not_an_image", program(of_array(b"1", shape=b"\x88\x85"))),
    "a shape that is a number": ("not_an_image", program(of_array(shape=b"K\4"))),
    "a shape that is large": ("not_an_image", program(_laughs(60, b""), b"q\0", of_array(shape=b"h\0"), b"\x86")),
    "a version to come": ("not_an_image", program(of_array(version=b"K\2"))),
    "an order that is a number": ("not_an_image", program(of_array(order=b"K\0"))),
    "bytes that are a text": ("not_an_image", program(of_array(content=text("1234")))),
    "a buffer in an order of its own": (
        "not_an_image",
        program(called(FROMBUFFER, b"C\4abcd", UINT8, b"K\4\x85", short("K"))),
    ),
    "a buffer with its axes exchanged": (
        "not_an_image",
        program(called(FROMBUFFER, b"C\4abcd", UINT8, b"K\4\x85", short("C"), b"K\0\x85")),
    ),
    "a buffer that is an array": (
        "not_an_image",
        program(called(FROMBUFFER, of_array(), UINT8, b"K\4\x85", short("C"))),
    ),
    "another codec": (
        "not_an_image",
        program(of_array(content=called(named("_codecs", "encode"), text("1234"), text("idna")))),
    ),
    "a codec of no name": (
        "not_an_image",
        program(of_array(content=called(named("_codecs", "encode"), text("1234")))),
    ),
    "bytes that are encoded": (
        "not_an_image",
        program(of_array(content=called(named("_codecs", "encode"), b"C\4abcd", text("latin1")))),
    ),
    "a text beyond Latin-1": (
        "not_an_image",
        program(of_array(b"1", content=called(named("_codecs", "encode"), text("\u0100"), text("latin1")))),
    ),
    "half a surrogate": (
        "not_an_image",
        program(of_array(b"1", content=called(named("_codecs", "encode"), text("\ud800"), text("latin1")))),
    ),
    "a text that is no UTF-8": (
        "not_an_image",
        program(of_array(b"1", content=called(named("_codecs", "encode"), b"X\1\0\0\0\x80", text("latin1")))),
    ),
    "a text in more bytes than it needs": (
        "not_an_image",
        program(of_array(b"1", content=called(named("_codecs", "encode"), b"X\2\0\0\0\xc1\x81", text("latin1")))),
    ),
}


#: Enough for numpy and little more.
_MEMORY_BYTES: Final = 3 << 30


def _main() -> None:
    """Load those that standard input says: `RUN index path` or `EXHAUST index -`; answer the error of each, or `-`."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for line in sys.stdin:
        which, index, path = line.split()
        pickled = list(RUN.values())[int(index)](path) if which == "RUN" else list(EXHAUST.values())[int(index)]
        error = "-"
        try:
            pickle.loads(pickled)
        except Exception as raised:
            error = type(raised).__name__
        print(error, flush=True)


if __name__ == "__main__":
    _main()
