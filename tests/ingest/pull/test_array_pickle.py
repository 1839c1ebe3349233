"""The bytes of a numpy array come out of its pickle, and nothing else comes out of any pickle.

That tests/pickles.py holds what is really dangerous is shown with `pickle.loads`, in processes of their own.
"""

import io
import json
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pickles
from frames import InvalidFrame
from ingest.pull import array_pickle
from ingest.pull.array_pickle import MAX_OPCODES, OVERHEAD_BYTES, SHOWN_LETTERS, read_array
from pickles import (
    EXHAUST,
    NUMPY_1,
    NUMPY_1_BYTES,
    PROTOCOLS,
    RUN,
    WRONG,
    arrays,
    by_python,
    of_numpy_1,
    program,
    text,
)  # fmt: skip

SRC = Path(__file__).resolve().parents[3] / "src"
TESTS = Path(__file__).resolve().parents[2]

#: Each byte there is, in lengths that numpy and pickle write differently: of one byte, two and four.
DATA: Final = {
    length: bytes(range(256)) * (length // 256) + bytes(range(length % 256)) for length in (1, 200, 700, 70_000)
}


def assert_is_a_line(message: str) -> None:
    assert len(message) < 300
    assert message.isprintable()


def refusal_of(pickled: bytes) -> str:
    with pytest.raises(InvalidFrame) as refused:
        read_array(pickled)
    assert refused.value.code in ("not_an_image", "truncated")
    assert_is_a_line(str(refused.value))
    return refused.value.code


# What cameras send


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("length", DATA)
@pytest.mark.parametrize("kind", arrays(b"\0"))
def test_an_array_s_bytes_come_out_of_its_pickle(kind: str, length: int, protocol: int) -> None:
    array = arrays(DATA[length])[kind]
    for pickled in (pickle.dumps(array, protocol), by_python(array, protocol)):
        for written in (pickled, of_numpy_1(pickled), pickletools.optimize(pickled)):
            assert read_array(written) == DATA[length]
        assert len(pickled) <= 2 * length + OVERHEAD_BYTES


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_1_and_2_are_told_apart_by_their_names_only(protocol: int) -> None:
    for shape in ((len(NUMPY_1_BYTES),), (len(NUMPY_1_BYTES), 1)):
        written_now = pickle.dumps(np.frombuffer(bytearray(NUMPY_1_BYTES), np.uint8).reshape(shape), protocol)
        assert of_numpy_1(written_now) == NUMPY_1[protocol, shape]
        assert written_now != NUMPY_1[protocol, shape]


@pytest.mark.parametrize(("protocol", "shape"), NUMPY_1)
def test_an_array_of_numpy_1_is_read(protocol: int, shape: tuple[int, ...]) -> None:
    assert read_array(NUMPY_1[protocol, shape]) == NUMPY_1_BYTES


def test_the_bounds_leave_room_for_whatever_numpy_writes() -> None:
    opcodes, names = [], []
    for protocol in PROTOCOLS:
        for array in arrays(DATA[70_000]).values():
            for pickled in (pickle.dumps(array, protocol), by_python(array, protocol)):
                found = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
                opcodes.append(len(found))
                names += [argument.replace(" ", "\n") for name, argument in found if name == "GLOBAL"]
    assert max(opcodes) * 3 <= MAX_OPCODES
    assert max(map(len, names)) <= SHOWN_LETTERS


def test_what_is_read_is_the_pickle_s_own_bytes_and_not_shared() -> None:
    pickled = pickle.dumps(arrays(DATA[200])["of shape (N,)"], 5)
    assert type(read_array(pickled)) is bytes


# What others send


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


def _loaded(lines: list[str], within_sec: float) -> list[str]:
    """What `pickle.loads` has to say to them, in a process of its own."""
    run = subprocess.run(
        [sys.executable, str(TESTS / "pickles.py")],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=within_sec,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_corpus_runs_what_it_wants_where_pickle_loads_it(canaries: Path) -> None:
    paths = [canaries / f"loaded-{index}" for index in range(len(RUN))]
    _loaded([f"RUN {index} {path}" for index, path in enumerate(paths)], within_sec=60)
    harmless = [name for name, path in zip(RUN, paths, strict=True) if not path.exists()]
    assert not harmless, "these prove nothing"


@pytest.mark.parametrize("name", EXHAUST)
def test_the_corpus_takes_what_it_wants_where_pickle_loads_it(name: str) -> None:
    line = f"EXHAUST {list(EXHAUST).index(name)} -"
    if name.startswith("time"):
        with pytest.raises(subprocess.TimeoutExpired):
            _loaded([line], within_sec=1)
    else:
        assert _loaded([line], within_sec=60) == ["MemoryError"]


@pytest.mark.parametrize("name", RUN)
def test_a_pickle_that_wants_to_run_something_is_refused(name: str, canaries: Path) -> None:
    path = canaries / f"read-{list(RUN).index(name)}"
    assert refusal_of(RUN[name](str(path))) == "not_an_image"
    assert not path.exists()


@pytest.mark.parametrize("name", EXHAUST)
def test_a_pickle_that_would_exhaust_the_machine_is_refused_at_no_cost(name: str) -> None:
    assert_costs_little(EXHAUST[name])


def test_bytes_that_are_made_of_one_text_again_and_again_are_bounded() -> None:
    long = text("A" * 1_000_000)
    again = b"c_codecs\nencode\nq\x00" + long + text("latin1") + b"\x86q\x01" + b"h\0h\1R" * 80
    pickled = program(again)
    tracemalloc.start()
    try:
        assert refusal_of(pickled) == "not_an_image"
        assert tracemalloc.get_traced_memory()[1] < 4 * len(pickled)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", WRONG)
def test_what_numpy_does_not_write_is_refused(name: str) -> None:
    code, pickled = WRONG[name]
    assert refusal_of(pickled) == code
    assert_costs_little(pickled)


def assert_costs_little(pickled: bytes) -> None:
    """A hundredth of a second of CPU, and no more memory than it came in."""
    costs = []
    for _ in range(3):
        start = time.process_time()
        refusal_of(pickled)
        costs.append(time.process_time() - start)
    assert min(costs) < 0.01
    tracemalloc.start()
    try:
        refusal_of(pickled)
        assert tracemalloc.get_traced_memory()[1] < len(pickled) + 100_000
    finally:
        tracemalloc.stop()


def test_nothing_is_imported_opened_or_run_whatever_the_pickle_says(tmp_path: Path) -> None:
    # Python tells its auditors of each import, file, process, compiled text and name that a pickle looks up.
    everything = [
        *(make(str(tmp_path / "canary")) for make in RUN.values()),
        *EXHAUST.values(),
        *(pickled for _, pickled in WRONG.values()),
        *(pickle.dumps(array, protocol) for array in arrays(DATA[700]).values() for protocol in PROTOCOLS),
    ]
    heap = tmp_path / "pickles"
    heap.write_bytes(b"".join(struct.pack("<I", len(pickled)) + pickled for pickled in everything))
    code = f"""
import json, struct, sys
from pathlib import Path
from frames import InvalidFrame
from ingest.pull.array_pickle import read_array
heap, at, events, read = Path({str(heap)!r}).read_bytes(), 0, [], 0
modules = set(sys.modules)
watching = False
sys.addaudithook(lambda event, arguments: events.append(event) if watching else None)
while at < len(heap):
    (length,) = struct.unpack_from("<I", heap, at)
    pickled = heap[at + 4 : at + 4 + length]
    at += 4 + length
    watching = True
    try:
        read_array(pickled)
        read += 1
    except InvalidFrame:
        pass
    watching = False
loaded = [name for name in ("numpy", "pickle", "os.path") if name in sys.modules and name not in modules]
print(json.dumps([read, sorted(set(events)), loaded, "numpy" in modules]))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=SRC, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [len(arrays(b"\0")) * len(PROTOCOLS), [], [], False]
    assert not (tmp_path / "canary").exists()


def test_the_source_has_no_unpickler_in_it() -> None:
    source = Path(array_pickle.__file__).read_text()
    for word in ("import pickle", "import numpy", "getattr", "__import__", "importlib", "eval(", "exec("):
        assert word not in source


def test_a_name_is_told_and_what_it_is_told_with_is_bounded() -> None:
    with pytest.raises(InvalidFrame, match=r"it names 'os\.system', which is in no array"):
        read_array(RUN["REDUCE"]("nowhere"))
    long = program(pickles.text("a\n\x1b" * 100_000), pickles.text("b" * 100_000), b"\x93", protocol=4)
    with pytest.raises(InvalidFrame) as refused:
        read_array(long)
    assert_is_a_line(str(refused.value))


def test_a_large_image_costs_little_more_than_copying_it() -> None:
    # 8 MiB are the largest image by default; as Latin-1 text they are 12 MiB.
    image = bytes(range(256)) * (8 << 12)
    for protocol in PROTOCOLS:
        pickled = pickle.dumps(np.frombuffer(image, np.uint8), protocol)
        costs = []
        for _ in range(3):
            start = time.process_time()
            assert read_array(pickled) == image
            costs.append(time.process_time() - start)
        assert min(costs) < (0.2 if protocol == 2 else 0.02)


# Whatever comes


#: What `pickle.loads` finds under the names of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:numpy.core")


class Allowing(pickle.Unpickler):
    """What makes of a pickle whatever Python and numpy make of it, as long as it names nothing but what arrays need."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in array_pickle._NAMES
        return super().find_class(module, name)


def assert_read_as_python_does_or_not_at_all(pickled: bytes) -> None:
    try:
        data = read_array(pickled)
    except InvalidFrame:
        refusal_of(pickled)
        return
    array = Allowing(io.BytesIO(pickled)).load()
    assert type(array) is np.ndarray
    assert array.dtype == np.uint8
    assert array.shape in ((len(data),), (len(data), 1))
    assert array.tobytes() == data


GOOD: Final = [
    written
    for protocol in PROTOCOLS
    for array in arrays(DATA[200]).values()
    for pickled in (pickle.dumps(array, protocol),)
    for written in (pickled, of_numpy_1(pickled), pickletools.optimize(pickled))
]

many = settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@many
@given(st.sampled_from(GOOD), st.data())
def test_a_damaged_pickle_is_read_as_python_reads_it_or_refused(pickled: bytes, data: st.DataObject) -> None:
    damaged = bytearray(pickled)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        match data.draw(st.integers(0, 4)):
            case 0:
                damaged[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case 1:
                del damaged[at : at + data.draw(st.integers(1, 40))]
            case 2:
                damaged[at:at] = data.draw(st.binary(max_size=8))
            case 3:
                other = data.draw(st.sampled_from(GOOD))
                start = data.draw(st.integers(0, len(other) - 1))
                damaged[at:at] = other[start : start + data.draw(st.integers(1, 60))]
            case 4:
                damaged[at:at] = damaged[data.draw(st.integers(0, at)) : at]
    assert_read_as_python_does_or_not_at_all(bytes(damaged))


#: What programs may be made of: each opcode that is known, and larger parts, so that they get somewhere.
PARTS: Final = [
    *(b"(", b"t", b"\x85", b"\x86", b"\x87", b"N", b"\x88", b"\x89", b"R", b"b", b"\x93", b"\x94", b"0", b"2"),
    *(b"q\0", b"q\1", b"h\0", b"h\1", b"K\0", b"K\1", b"K\4", b"M\4\0", b"J\4\0\0\0", b"J\xff\xff\xff\xff"),
    *(b"C\4abcd", b"C\1b", b"B\4\0\0\0abcd", b"\x96\4\0\0\0\0\0\0\0abcd", b"\x95" + bytes(8), b"C\0"),
    *map(pickles.short, ("u1", "|", "C", "F", "K", "latin1", "abcd", "numpy", "dtype", "ndarray", "b", "")),
    *map(pickles.text, ("abcd", "\xff\0\x80z", "\u0100bcd", "latin1")),
    pickles.RECONSTRUCT,
    pickles.FROMBUFFER,
    pickles.NDARRAY,
    pickles.DTYPE,
    pickles.UINT8,
    pickles.STATE,
    pickles.named("_codecs", "encode"),
    pickles.called(pickles.RECONSTRUCT, pickles.NDARRAY, b"K\0\x85", b"C\1b"),
    pickles.called(pickles.DTYPE, pickles.short("u1"), b"\x89", b"\x88"),
    pickles.of_array(),
    b"K\1K\4\x85",
    b"K\4K\1\x86",
]


@many
@given(st.lists(st.sampled_from(PARTS), max_size=14), st.sampled_from(PROTOCOLS), st.booleans())
@example([pickles.of_array()], 2, True)
@example([pickles.called(pickles.FROMBUFFER, b"C\4abcd", pickles.UINT8, b"K\4\x85", pickles.short("F"))], 4, True)
def test_a_program_is_read_as_python_reads_it_or_refused(parts: list[bytes], protocol: int, ends: bool) -> None:
    pickled = program(*parts, protocol=protocol)
    assert_read_as_python_does_or_not_at_all(pickled if ends else pickled[:-1])


@many
@given(st.binary(max_size=300), st.sampled_from((b"", *(bytes((0x80, protocol)) for protocol in PROTOCOLS))))
def test_noise_is_refused(noise: bytes, start: bytes) -> None:
    refusal_of(start + noise)
