"""Reads the bytes of a numpy uint8 array out of its pickle, without numpy, and without `pickle.loads`, which would run
whatever its sender names.

A pickle is a program for a machine with a stack and a memo (Python's `pickletools`). Here is a machine that knows the
opcodes of which numpy's pickles of such arrays are made, and five names, which stand for themselves: nothing is
imported, and nothing is called. Protocols 2 to 4, and 5 of an array that is not contiguous, say

    _reconstruct(ndarray, (0,), b"b")   BUILD   (1, shape, dtype, is_fortran, bytes)

where protocol 2 has `_codecs.encode(text, "latin1")` for bytes. Protocol 5 says

    _frombuffer(bytes, dtype, shape, "C" or "F")

and dtype is in all of them

    dtype("u1", False, True)   BUILD   (3, "|", None, None, None, -1, -1, 0)

Rule 1. What is not known is refused; of what is known, what numpy does not write.
Rule 2. What is taken is what `pickle.loads` would make of it.
Rule 3. No pickle costs more than its length: a bounded number of opcodes, each of which takes what stands in it. What
        they built is compared with what is expected, and never walked through, hashed or printed: a tuple that holds
        another one twice, which holds another one twice, is large.
"""

import enum
from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Final

from frames import InvalidFrame

#: What numpy writes beside the array's bytes: 350 at most, the frames of protocol 4 with it.
OVERHEAD_BYTES: Final = 4_096
#: An array takes 45 to 75 opcodes, a few more where Python's own pickler cut it into frames.
MAX_OPCODES: Final = 256
#: So much of a name that is refused is told: the longest one that is known has 22 letters.
SHOWN_LETTERS: Final = 64


class _Named(enum.Enum):
    """What a pickle may name, and what is made of these before the array is there."""

    RECONSTRUCT = enum.auto()
    FROMBUFFER = enum.auto()
    ENCODE = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()

    EMPTY_ARRAY = enum.auto()
    UINT8 = enum.auto()


#: Where numpy 1 and numpy 2 have them.
_NAMES: Final = {
    ("numpy.core.multiarray", "_reconstruct"): _Named.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Named.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _Named.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Named.FROMBUFFER,
    ("_codecs", "encode"): _Named.ENCODE,
    ("numpy", "ndarray"): _Named.NDARRAY,
    ("numpy", "dtype"): _Named.DTYPE,
}

_UINT8_STATE: Final = (3, "|", None, None, None, -1, -1, 0)


class _Array:
    """The array, as it is at the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data


_MARK: Final = object()

_PROTOCOLS: Final = range(2, 6)
_U1: Final = Struct("<B")
_U2: Final = Struct("<H")
_U4: Final = Struct("<I")
_U8: Final = Struct("<Q")
_I4: Final = Struct("<i")

#: Text of these is Latin-1, in as many bytes as it has letters: no sender makes four bytes of memory out of one.
_LATIN_1: Final = bytes(range(0xC4))


def read_array(pickled: bytes) -> bytes:
    """The bytes of a pickled uint8 array of shape (N,) or (N, 1).

    Raises:
        InvalidFrame: it is something else (`not_an_image`), or ends too early (`truncated`).
    """
    return _Machine(pickled).run()


class _Machine:
    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._at = 0
        self._frame_ends_at = 0
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._encoded_bytes = 0

    def run(self) -> bytes:
        try:
            return self._run()
        except (IndexError, StructError):  # of reading beyond the end
            raise _cut_off(self._pickled) from None

    def _run(self) -> bytes:
        pickled = self._pickled
        if pickled[0] != 0x80 or pickled[1] not in _PROTOCOLS:
            raise _wrong(f"it begins with {pickled[:2].hex(' ')}, expected protocol 2 to 5")
        self._at = 2
        for _ in range(MAX_OPCODES):
            start = self._at
            opcode = pickled[start]
            self._at += 1
            if opcode == _STOP:
                return self._result()
            step = _STEPS.get(opcode)
            if step is None:
                raise _wrong(f"opcode {opcode:02x} at byte {start} is in no array")
            step(self)
            if start < self._frame_ends_at < self._at:
                raise _wrong(f"its frame ends at byte {self._frame_ends_at}, within an opcode")
        raise _wrong(f"it goes on after {MAX_OPCODES} opcodes")

    def _result(self) -> bytes:
        if self._at != len(self._pickled):
            raise _wrong(f"{len(self._pickled) - self._at} bytes came behind its end")
        array = self._pop()
        if self._stack or not isinstance(array, _Array):
            raise _wrong("it ends with something else than one array of bytes")
        return array.data

    # Reading

    def _number(self, layout: Struct) -> int:
        (number,) = layout.unpack_from(self._pickled, self._at)
        self._at += layout.size
        assert isinstance(number, int)
        return number

    def _taken(self, length: int) -> bytes:
        if length > len(self._pickled) - self._at:
            raise _cut_off(self._pickled)
        taken = self._pickled[self._at : self._at + length]
        self._at += length
        return taken

    def _line(self) -> str:
        end = self._pickled.find(b"\n", self._at)
        if end < 0:
            raise _cut_off(self._pickled)
        line = self._pickled[self._at : end]
        self._at = end + 1
        return _text(line)

    # The opcodes

    def frame(self) -> None:
        """So many bytes may be read ahead. They are all here, but where frames are wrong, it depends on who reads what
        comes out."""
        if self._at <= self._frame_ends_at:
            raise _wrong(f"a frame begins at byte {self._at - 1}, within another one")
        length = self._number(_U8)
        if length > len(self._pickled) - self._at:
            raise _cut_off(self._pickled)
        self._frame_ends_at = self._at + length

    def constant(self, value: object) -> None:
        self._stack.append(value)

    def integer(self, layout: Struct) -> None:
        self._stack.append(self._number(layout))

    def text(self, layout: Struct) -> None:
        self._stack.append(_text(self._taken(self._number(layout))))

    def data(self, layout: Struct) -> None:
        self._stack.append(self._taken(self._number(layout)))

    def tuple_of(self, length: int) -> None:
        items = [self._pop() for _ in range(length)]
        self._stack.append(tuple(reversed(items)))

    def tuple_from_mark(self) -> None:
        if _MARK not in self._stack:
            raise _wrong("it has no mark where it goes back to one")
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        self._stack.append(tuple(reversed(items)))

    def named(self) -> None:
        module = self._line()
        self._stack.append(_name(module, self._line()))

    def named_on_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise _wrong("a name in it is no text")
        self._stack.append(_name(module, name))

    def put(self) -> None:
        self._memo[self._number(_U1)] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self) -> None:
        number = self._number(_U1)
        if number not in self._memo:
            raise _wrong(f"it has nothing under {number} in its memo")
        self._stack.append(self._memo[number])

    def reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        made = _called(called, arguments)
        if isinstance(made, bytes):
            # Each of these is a copy, and the same text can be had from the memo again and again.
            self._encoded_bytes += len(made)
            if self._encoded_bytes > len(self._pickled):
                raise _wrong("it makes more bytes than it has")
        self._stack.append(made)

    def build(self) -> None:
        state, built = self._pop(), self._pop()
        self._stack.append(_built(built, state))

    # The stack. A mark is no value.

    def _top(self) -> object:
        if not self._stack or self._stack[-1] is _MARK:
            raise _wrong("it takes more from its stack than there is")
        return self._stack[-1]

    def _pop(self) -> object:
        self._top()
        return self._stack.pop()


_STOP: Final = ord(".")

_STEPS: Final[dict[int, Callable[[_Machine], None]]] = {
    0x95: _Machine.frame,
    ord("("): lambda machine: machine.constant(_MARK),
    ord("N"): lambda machine: machine.constant(None),
    0x88: lambda machine: machine.constant(True),
    0x89: lambda machine: machine.constant(False),
    ord("K"): lambda machine: machine.integer(_U1),
    ord("M"): lambda machine: machine.integer(_U2),
    ord("J"): lambda machine: machine.integer(_I4),
    ord("X"): lambda machine: machine.text(_U4),
    0x8C: lambda machine: machine.text(_U1),
    ord("C"): lambda machine: machine.data(_U1),
    ord("B"): lambda machine: machine.data(_U4),
    0x96: lambda machine: machine.data(_U8),
    0x85: lambda machine: machine.tuple_of(1),
    0x86: lambda machine: machine.tuple_of(2),
    0x87: lambda machine: machine.tuple_of(3),
    ord("t"): _Machine.tuple_from_mark,
    ord("c"): _Machine.named,
    0x93: _Machine.named_on_stack,
    ord("q"): _Machine.put,
    0x94: _Machine.memoize,
    ord("h"): _Machine.get,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
}


def _name(module: str, name: str) -> _Named:
    named = _NAMES.get((module, name))
    if named is None:
        whole = f"{module[:SHOWN_LETTERS]}.{name[:SHOWN_LETTERS]}"
        raise _wrong(f"it names {whole!r}, which is in no array")
    return named


def _called(called: object, arguments: object) -> object:
    if isinstance(arguments, tuple):
        if called is _Named.RECONSTRUCT and arguments == (_Named.NDARRAY, (0,), b"b"):
            return _Named.EMPTY_ARRAY
        if called is _Named.DTYPE and arguments == ("u1", False, True):
            return _Named.UINT8
        if called is _Named.ENCODE and len(arguments) == 2 and arguments[1] == "latin1":
            (text, _) = arguments
            if isinstance(text, str):
                return text.encode("latin-1")
        if called is _Named.FROMBUFFER and len(arguments) == 4:
            data, dtype, shape, order = arguments
            if order in ("C", "F"):
                return _array(data, dtype, shape)
    raise _wrong("it calls what it may name in a way that numpy does not")


def _built(built: object, state: object) -> object:
    if built is _Named.UINT8 and state == _UINT8_STATE:
        return built
    if built is _Named.EMPTY_ARRAY and isinstance(state, tuple) and len(state) == 5:
        version, shape, dtype, is_fortran, data = state
        if version == 1 and isinstance(is_fortran, bool):
            return _array(data, dtype, shape)
    raise _wrong("it is a pickle of something else than a uint8 array")


def _array(data: object, dtype: object, shape: object) -> _Array:
    if dtype is not _Named.UINT8 or not isinstance(data, bytes) or not isinstance(shape, tuple):
        raise _wrong("it is an array of something else than bytes")
    # In either order of its rows and columns such an array has the same bytes.
    if shape not in ((len(data),), (len(data), 1)) or any(isinstance(side, bool) for side in shape):
        raise _wrong(f"its {len(data)} bytes have another shape than ({len(data)},) or ({len(data)}, 1)")
    return _Array(data)


def _text(data: bytes) -> str:
    if data.translate(None, _LATIN_1):
        raise _wrong("a text in it has letters beyond Latin-1")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong("a text in it is no UTF-8") from None


def _wrong(message: str) -> InvalidFrame:
    return InvalidFrame("not_an_image", f"no pickle of an array: {message}")


def _cut_off(pickled: bytes) -> InvalidFrame:
    return InvalidFrame("truncated", f"the pickle ends after {len(pickled)} bytes, expected more")
