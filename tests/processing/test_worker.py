"""A real worker process: what it gives plug-ins, what it makes of their results, and what of those that misbehave."""

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictures import picture
from processing import wire
from processing.folders import OWN as SRC
from processing.watchdog import TOO_LARGE, TOO_LATE

#: A JPEG with a good header whose pixels no decoder finds.
UNDECODABLE = picture(".png")[:60] + bytes(200) + picture(".png")[-12:]


# What a plug-in is given.


def test_a_function_is_called_with_each_frame_and_what_is_known_of_it(start_worker) -> None:
    worker = start_worker(
        """
        import hashlib

        def look(frame):
            digest = hashlib.sha256(frame.image).hexdigest()
            late = 4 < frame.age_sec < 60
            return [frame.user, frame.stream, frame.seq, frame.received_at, frame.width, frame.height, digest, late]
        """,
        "look",
    )
    at = time.time() - 5
    told = worker.ask(3, received_at=at)
    assert (told.plugin, told.kind, told.stream, told.seq) == ("look", "value", 7, 3)
    assert told.value == ["user 7", "stream 7", 3, at, 64, 48, hashlib.sha256(picture()).hexdigest(), True]
    assert worker.ask(4, picture(seed=2)).value[2:4] != [3, at]


def test_pixels_are_decoded_once_for_all_plug_ins_and_none_can_spoil_them(start_worker) -> None:
    worker = start_worker(
        """
        seen = []

        def first(frame):
            seen[:] = [frame.pixels, frame.reduced(4)]
            try:
                frame.pixels[0, 0] = 0
            except ValueError as error:
                return str(error)

        def second(frame):
            same = [frame.pixels is seen[0], frame.reduced(4) is seen[1]]
            pixels = frame.pixels
            return same + [pixels.shape, str(pixels.dtype), pixels.flags.writeable, pixels.sum()]
        """,
        "first",
        "second",
    )
    worker.send()
    first, second = worker.told(2)
    assert first.value == "assignment destination is read-only"
    decoded = cv2.imdecode(np.frombuffer(picture(), np.uint8), cv2.IMREAD_COLOR)
    assert second.value == [True, True, [48, 64, 3], "uint8", False, decoded.sum()]


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("pixels", ["frame.pixels", "frame.reduced(2)"])
def test_pixels_cannot_be_made_writeable_nor_can_what_they_are_a_view_of(
    start_worker, pixels: str, extension: str
) -> None:
    worker = start_worker(
        f"""
        import numpy as np

        def spoil(frame):
            said = []
            for array in ({pixels}, {pixels}.view(), {pixels}.base):
                try:
                    array.setflags(write=True)
                    array[:] = 0
                except (ValueError, AttributeError) as error:
                    said.append(type(error).__name__)
            return said

        def look(frame):
            return [{pixels}.any(), {pixels}.copy().flags.writeable]
        """,
        "spoil",
        "look",
    )
    worker.send(image=picture(extension))
    spoilt, look = worker.told(2)
    assert (len(spoilt.value), look.value) == (3, [True, True])


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp"])
def test_a_reduced_picture_has_its_share_of_the_size_whatever_the_format(start_worker, extension: str) -> None:
    worker = start_worker(
        """
        def sizes(frame):
            means = [abs(frame.reduced(n).mean() - frame.pixels.mean()) < 5 for n in (2, 4, 8)]
            return [frame.reduced(n).shape for n in (2, 4, 8)] + [frame.reduced(8).flags.writeable] + means
        """,
        "sizes",
    )
    shapes = [[49, 65, 3], [25, 33, 3], [13, 17, 3]]
    assert worker.ask(image=picture(extension, 129, 97)).value == [*shapes, False, True, True, True]


def test_a_reduction_that_there_is_not_is_refused(start_worker) -> None:
    worker = start_worker("def look(frame):\n    frame.reduced(3)", "look")
    assert worker.ask().value == "ValueError: reduced(3), expected 2, 4 or 8"


def test_a_class_has_an_instance_for_each_stream_which_has_the_last_word_and_goes(start_worker) -> None:
    worker = start_worker(
        """
        class Count:
            made = 0

            def __init__(self):
                Count.made += 1
                self.frames = 0

            def process(self, frame):
                self.frames += 1
                return [Count.made, self.frames]

            def finish(self):
                return {"frames": self.frames}
        """,
        "Count",
    )
    asked = [(7, 1), (7, 2), (8, 1), (7, 3), (8, 2)]
    answers = [worker.ask(seq, stream=stream).value for stream, seq in asked]
    assert answers == [[1, 1], [1, 2], [2, 1], [2, 3], [2, 2]]
    worker.end(7)
    (told,) = worker.told()
    assert (told.kind, told.stream, told.seq, told.value) == ("value", 7, 0, {"frames": 3})
    assert worker.ask(6, stream=7).value == [3, 1]


def test_the_end_of_a_stream_is_answered_by_plug_ins_that_had_a_frame_of_it_and_no_others(start_worker) -> None:
    worker = start_worker(
        """
        def function(frame):
            return 1

        class Lasting:
            def process(self, frame):
                return 2

            def finish(self):
                return 3
        """,
        "function",
        "Lasting",
    )
    worker.end(6)
    worker.send(plugins=[0])
    worker.end(7)
    assert [told[:4] for told in worker.told(2)] == [("function", "value", 7, 1), ("function", "nothing", 7, 0)]
    worker.send(2, plugins=[1])
    worker.end(7, plugins=[0])
    worker.end(7, plugins=[1])
    assert [(told.seq, told.value) for told in worker.told(2)] == [(2, 2), (0, 3)]


WINDOW = """
class Window:
    window = 3

    def process(self, frames):
        return [frame.seq for frame in frames] + [len(set(frame.image for frame in frames))]

    def finish(self):
        return "over"
"""


def test_a_window_is_given_whole_in_order_and_with_new_frames_each_time(start_worker) -> None:
    worker = start_worker(WINDOW, "Window")
    answers = [worker.ask(seq, picture(seed=seq), (seq - 1) % 3) for seq in range(1, 8)]
    assert [answer.kind for answer in answers] == [
        "nothing",
        "nothing",
        "value",
        "nothing",
        "nothing",
        "value",
        "nothing",
    ]
    assert [answer.seq for answer in answers] == list(range(1, 8))
    assert [answers[2].value, answers[5].value] == [[1, 2, 3, 3], [4, 5, 6, 3]]
    worker.end()
    assert worker.told()[0].value == "over"


def test_windows_of_several_streams_are_not_mixed(start_worker) -> None:
    worker = start_worker(WINDOW, "Window")
    for position in range(3):
        for stream in (1, 2):
            worker.send(10 * stream + position, picture(seed=10 * stream + position), position, stream=stream)
    assert [told.value for told in worker.told(6)[4:]] == [[10, 11, 12, 3], [20, 21, 22, 3]]


def test_a_window_that_begins_anew_throws_away_what_there_was_and_one_with_a_hole_is_not_filled(start_worker) -> None:
    worker = start_worker(WINDOW, "Window")
    for seq, position in ((1, 0), (2, 1), (3, 0), (5, 2), (6, 1), (7, 2)):
        told = worker.ask(seq, position=position)
    assert told.value == [3, 6, 7, 1]
    assert worker.ask(8, position=2).kind == "nothing"


def test_a_function_may_have_a_window_and_one_of_a_single_frame_is_a_list_too(start_worker) -> None:
    worker = start_worker(
        """
        def two(frames):
            return [frame.seq for frame in frames]

        def one(frames):
            return [frame.seq for frame in frames]

        two.window = 2
        one.window = 1
        """,
        "two",
        "one",
    )
    worker.send(1, position=0, plugins=[0])
    worker.send(2, position=1, plugins=[0])
    worker.send(2, position=0, plugins=[1])
    assert [(told.plugin, told.value) for told in worker.told(3)] == [("two", None), ("two", [1, 2]), ("one", [2])]


def test_frames_of_a_window_are_decoded_once_and_their_pixels_are_bounded(start_worker) -> None:
    worker = start_worker(
        """
        import processing.frame
        processing.frame.KEPT_PIXELS_BYTES = 3 * 64 * 48 * 3
        pixels = {}

        def eager(frame):
            pixels[frame.seq] = frame.pixels

        def window(frames):
            return [frame.pixels is pixels[frame.seq] for frame in frames]

        window.window = 5
        """,
        "eager",
        "window",
    )
    for position in range(5):
        worker.send(position + 1, picture(seed=position), position)
    # The fifth is not kept: its window is full.
    assert worker.told(10)[-1].value == [False, True, True, True, True]


# What a plug-in may return.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("{'text': 'grün', 'n': [1, 2.5, True, None]}", {"text": "grün", "n": [1, 2.5, True, None]}),
        ("0", 0),
        ("''", ""),
        ("[]", []),
        ("(np.int64(3), np.float32(0.5), np.bool_(True))", [3, 0.5, True]),
        ("{'box': np.array([[1, 2], [3, 4]])}", {"box": [[1, 2], [3, 4]]}),
        ("np.array([1.5, 2.5])", [1.5, 2.5]),
        ("np.arange(3, dtype=np.uint8)", [0, 1, 2]),
        ("'x' * 65534", "x" * 65534),
        ("json.loads('[' * 100 + ']' * 100)", json.loads("[" * 100 + "]" * 100)),
        ("'[' * 101", "[" * 101),
        ("[[]] * 5000", [[]] * 5000),
    ],
)
def test_a_result_may_be_any_json_data_with_numpy_numbers_in_it(start_worker, expression: str, value: object) -> None:
    worker = start_worker(f"import json\nimport numpy as np\n\ndef say(frame):\n    return {expression}", "say")
    told = worker.ask()
    assert (told.kind, told.value) == ("value", value)


def test_a_plug_in_with_nothing_to_say_says_none(start_worker) -> None:
    worker = start_worker("def say(frame):\n    pass", "say")
    assert worker.ask()[1:5] == ("nothing", 7, 1, None)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
def test_a_result_may_be_an_encoded_picture(start_worker, extension: str, kind: str) -> None:
    worker = start_worker(f"def say(frame):\n    return {kind}(frame.image)", "say")
    told = worker.ask(image=picture(extension))
    assert (told.kind, told.value) == ("picture", picture(extension))


@pytest.mark.parametrize("expression", ["frame.pixels", "frame.pixels[:, :, 1]", "frame.pixels[::2, ::-1]"])
def test_a_result_may_be_an_array_of_pixels_which_becomes_a_jpeg(start_worker, expression: str) -> None:
    worker = start_worker(f"def say(frame):\n    return {expression}", "say")
    told = worker.ask()
    assert told.kind == "picture"
    assert told.value.startswith(b"\xff\xd8")
    frame = type("Frame", (), {"pixels": cv2.imdecode(np.frombuffer(picture(), np.uint8), cv2.IMREAD_COLOR)})
    shown = cv2.imdecode(np.frombuffer(told.value, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = eval(expression, {"frame": frame})
    assert shown.shape == expected.shape
    assert abs(float(shown.mean()) - float(expected.mean())) < 3


@pytest.mark.parametrize(
    ("expression", "failure"),
    [
        ("float('nan')", "the result is no JSON: Out of range float values are not JSON compliant"),
        ("[np.float32('inf')]", "the result is no JSON: Out of range float values are not JSON compliant"),
        ("{'found': {1, 2}}", "the result is no JSON: it holds set '{1, 2}'"),
        ("{'image': b'123'}", "the result is no JSON: it holds bytes \"b'123'\""),
        ("{(1, 2): 3}", "the result is no JSON: keys must be str, int, float, bool or None, not tuple"),
        ("object", "the result is no JSON: it holds type \"<class 'object'>\""),
        ("'\\ud800'", "the result is no JSON: 'utf-8' codec can't encode character '\\ud800' in position 1"),
        ("loop", "the result is no JSON: Circular reference detected"),
        ("deep", "the result has more than 100 lists or objects in one another"),
        ("lists_in(101)", "the result has more than 100 lists or objects in one another"),
        ("{'found': lists_in(100)}", "the result has more than 100 lists or objects in one another"),
        ("'x' * 65535", "the result is 65537 bytes of JSON, at most 65536 are sent"),
        ("b'no picture'", "the result's bytes are no picture: the first bytes are '6e 6f 20"),
        ("b''", "the result's bytes are no picture: the first bytes are ''"),
        ("cv2.imencode('.bmp', frame.pixels)[1].tobytes()", "the result is image/bmp, expected JPEG, PNG or WebP"),
        ("np.zeros((0, 5, 3), np.uint8)", "the result is a picture of shape (0, 5, 3), which JPEG does not hold"),
        ("noise", "the result is a picture of "),
        (
            "frame.image + bytes(1 << 20)",
            f"the result is a picture of {len(picture()) + (1 << 20)} bytes, at most {wire.MAX_PICTURE_BYTES} are sent",
        ),
    ],
)
def test_what_nobody_can_be_sent_fails_with_its_reason(start_worker, expression: str, failure: str) -> None:
    worker = start_worker(
        f"""
        import cv2
        import numpy as np
        noise = np.random.default_rng(1).integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
        loop = []
        loop.append(loop)
        deep = []
        for _ in range(100_000):
            deep = [deep]

        def lists_in(depth):
            return [lists_in(depth - 1)] if depth > 1 else []

        def say(frame):
            return {expression}
        """,
        "say",
    )
    told = worker.ask()
    assert told.kind == "failed"
    assert told.value.startswith(failure)
    assert worker.log == "", "a result is no accident that a traceback explains"


# What a plug-in may say of itself.


def test_plug_ins_describe_themselves_in_the_order_of_the_command_line(start_worker) -> None:
    worker = start_worker(
        """
        def plain(frame): ...

        def windowed(frames): ...

        windowed.window, windowed.rate, windowed.deadline, windowed.name = 25, 12.5, 0.5, "Signs-2.0_b"

        class Stateful:
            rate = 5
            def process(self, frame): ...
        """,
        "windowed",
        "Stateful",
        "plain",
    )
    assert [list(plugin.values()) for plugin in worker.plugins] == [
        ["Signs-2.0_b", 12.5, 25, 0.5],
        ["Stateful", 5.0, 0, 5.0],
        ["plain", None, 0, 5.0],
    ]
    assert list(worker.plugins[0]) == list(wire.Description._fields)


def test_each_setup_is_called_once_and_before_the_worker_is_ready(start_worker) -> None:
    worker = start_worker(
        """
        calls = []

        def setup():
            calls.append("module")

        class Model:
            @classmethod
            def setup(cls):
                calls.append(cls.__name__)

            def process(self, frame):
                return calls

        class Other(Model):
            name = "other"

        class Renamed(Model):
            name = "renamed"

            @staticmethod
            def setup():
                calls.append("static")

        def one(frame): ...

        def two(frame): ...
        """,
        "one",
        "Model",
        "two",
        "Other",
        "Renamed",
    )
    worker.send(plugins=[1])
    worker.send(stream=8, plugins=[1])
    assert [told.value for told in worker.told(2)] == [["module", "Model", "Other", "static"]] * 2


@pytest.mark.parametrize(
    ("spec", "failure"),
    [
        ("plug.look", "'plug.look' is no plug-in, expected MODULE:NAME"),
        ("plug:", "'plug:' is no plug-in, expected MODULE:NAME"),
        (":look", "':look' is no plug-in, expected MODULE:NAME"),
        ("nowhere:look", "nowhere:look: there is no module nowhere in the working directory, PYTHONPATH or what is"),
        ("nowhere.at.all:look", "nowhere.at.all:look: there is no module nowhere in the working directory"),
        ("plug.part:look", "plug.part:look: there is no module plug.part in the working directory"),
        ("plug:nobody", "plug:nobody: the module plug ({folder}/plug.py) has no nobody"),
        ("plug:number", "plug:number: it is an int, expected a function or a class"),
        ("plug:no_frame", "plug:no_frame: it cannot be called with a frame: too many positional arguments"),
        ("plug:slow", "plug:slow: it is a coroutine function, expected one that returns its result"),
        ("plug:Idle", "plug:Idle: the class has no method process"),
        (
            "plug:Eager",
            "plug:Eager: it cannot be called with nothing, once for each stream: missing a required argument",
        ),
        ("plug:Short", "plug:Short: its process cannot be called with a list of frames: too many positional arguments"),
        ("plug:Greedy", "plug:Greedy: its finish cannot be called with nothing: missing a required argument: 'frame'"),
        ("plug:Bound", "plug:Bound: its setup cannot be called with nothing (it should be a classmethod): missing a"),
        (
            "plug:Broken",
            "plug:Broken: its setup failed: FileNotFoundError: [Errno 2] No such file or directory: 'model",
        ),
        ("plug:Leaver", "plug:Leaver: its setup failed: SystemExit: 0"),
        ("raises:look", "raises:look: cannot be imported: KeyError: 'HOME OF MODELS' ({folder}/raises.py, line 2)"),
        ("wrong:look", "wrong:look: cannot be imported: SyntaxError: expected ':' (wrong.py, line 1)"),
        (
            "needs:look",
            "needs:look: cannot be imported: ModuleNotFoundError: No module named 'torch2' ({folder}/needs.py,",
        ),
        ("leaves:look", "leaves:look: cannot be imported: SystemExit: 5 ({folder}/leaves.py, line 2)"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded_is_refused_in_one_line(
    start_worker, tmp_path: Path, spec: str, failure: str
) -> None:
    (tmp_path / "raises.py").write_text("import os\nos.environ['HOME OF MODELS']")
    (tmp_path / "wrong.py").write_text("def look(frame) return 1")
    (tmp_path / "needs.py").write_text("import torch2")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(5)")
    worker = start_worker(
        """
        import sys

        number = 5

        def no_frame(): ...

        async def slow(frame): ...

        class Idle: ...

        class Eager:
            def __init__(self, model): ...
            def process(self, frame): ...

        class Short:
            window = 2
            def process(self): ...

        class Greedy:
            def process(self, frame): ...
            def finish(self, frame): ...

        class Bound:
            def setup(self): ...
            def process(self, frame): ...

        class Broken:
            def process(self, frame): ...

            @classmethod
            def setup(cls):
                open("model.onnx")

        class Leaver:
            def process(self, frame): ...

            @classmethod
            def setup(cls):
                sys.exit(0)
        """,
        spec,
    )
    assert worker.failure is not None
    assert worker.failure.startswith(failure.format(folder=tmp_path))
    assert "\n" not in worker.failure
    assert worker.status() == 2


@pytest.mark.parametrize(
    ("attribute", "failure"),
    [
        ("window = 0", "its window is 0, expected a number of frames from 1 to 65535"),
        ("window = 65536", "its window is 65536, expected"),
        ("window = 2.5", "its window is 2.5, expected"),
        ("window = True", "its window is True, expected"),
        ("rate = 0", "its rate is 0, expected a number of Hz above 0"),
        ("rate = -1", "its rate is -1, expected"),
        ("rate = float('nan')", "its rate is nan, expected"),
        ("rate = float('inf')", "its rate is inf, expected"),
        ("rate = '5'", "its rate is '5', expected"),
        ("deadline = 0", "its deadline is 0, expected seconds above 0 and up to 3600"),
        ("deadline = None", "its deadline is None, expected"),
        ("deadline = 3601", "its deadline is 3601, expected"),
        ("name = ''", "its name is '', expected 1 to 64 letters, digits, _, . or -"),
        ("name = 5", "its name is 5, expected"),
        ("name = 'a b'", "its name is 'a b', expected"),
        ("name = 'x' * 65", f"its name is '{'x' * 65}', expected"),
        ("process = 5", "the class has no method process"),
        ("finish = 5", "its finish is an int, expected a method"),
        ("setup = 5", "its setup is an int, expected a function"),
    ],
)
def test_an_attribute_that_makes_no_sense_is_refused(start_worker, attribute: str, failure: str) -> None:
    worker = start_worker(f"class Look:\n    def process(self, frame): ...\n    {attribute}", "Look")
    assert worker.failure.startswith(f"plug:Look: {failure}")
    assert worker.status() == 2


def test_two_plug_ins_of_one_name_are_refused(start_worker, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def look(frame): ...")
    worker = start_worker("def look(frame): ...", "look", "other:look")
    assert worker.failure == "plug:look and other:look are both named look: give one of them another `name`"


# Where plug-ins come from.


def test_plug_ins_may_be_named_as_the_servers_own_modules_and_import_each_other(start_worker, tmp_path: Path) -> None:
    (tmp_path / "hub.py").write_text("from app import colour\n\ndef look(frame):\n    return [colour, __file__]")
    (tmp_path / "app.py").write_text("colour = 'red'")
    worker = start_worker("", "hub:look")
    assert worker.ask().value == ["red", str(tmp_path / "hub.py")]


def test_the_working_directory_comes_before_the_python_path_and_that_before_what_is_installed(
    start_worker, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    for folder, names in ((tmp_path, ["one"]), (more, ["one", "two", "yaml", "pytest"])):
        for name in names:
            (folder / f"{name}.py").write_text("def look(frame):\n    return __file__\n\nlook.name = __name__")
    worker = start_worker("", "one:look", "two:look", "pytest:look", env={"PYTHONPATH": str(more)})
    worker.send()
    files = [told.value for told in worker.told(3)]
    assert files == [str(tmp_path / "one.py"), str(more / "two.py"), str(more / "pytest.py")]


def test_the_servers_folder_is_not_on_the_path(start_worker) -> None:
    worker = start_worker("import settings", "look")
    assert worker.failure.startswith("plug:look: cannot be imported: ModuleNotFoundError: No module named 'settings'")


@pytest.mark.parametrize("where", ["working directory", "PYTHONPATH"])
@pytest.mark.parametrize("file", ["ring.py", "frames.py", "processing/__init__.py", "processing/look.py"])
def test_a_users_module_of_a_reserved_name_is_refused(start_worker, tmp_path: Path, file: str, where: str) -> None:
    folder = tmp_path / "more" if where == "PYTHONPATH" else tmp_path
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("")
    worker = start_worker("def look(frame): ...", "look", env={"PYTHONPATH": str(tmp_path / "more")})
    name = file.split("/")[0].removesuffix(".py")
    assert worker.failure == f"{folder} holds a module {name}, a name that the server needs for itself"
    assert worker.status() == 2


def test_a_folder_of_pictures_may_have_a_reserved_name(start_worker, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.jpg").write_bytes(picture())
    assert start_worker("def look(frame):\n    return 1", "look").ask().value == 1


def test_plug_ins_are_found_in_the_servers_own_folder_too_when_that_is_the_working_directory(
    start_worker, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("def look(frame):\n    return __file__")
    worker = start_worker("", "app:look", "stopping:Stopping", cwd=SRC, env={"PYTHONPATH": str(tmp_path)})
    assert worker.failure.startswith("stopping:Stopping: the module stopping (")


# What becomes of plug-ins that misbehave.


def test_a_plug_in_that_raises_costs_itself_a_frame_and_others_nothing(start_worker) -> None:
    worker = start_worker(
        """
        def bad(frame):
            raise KeyError("no such thing\\nin two lines")

        def leaver(frame):
            raise SystemExit(3)

        def good(frame):
            return frame.seq

        class NeverMade:
            def __init__(self):
                1 / 0
            def process(self, frame): ...
        """,
        "bad",
        "leaver",
        "NeverMade",
        "good",
    )
    for seq in (1, 2):
        worker.send(seq)
        bad, leaver, never_made, good = worker.told(4)
        assert (bad.kind, bad.value) == ("failed", "KeyError: 'no such thing\\nin two lines'")
        assert (leaver.kind, leaver.value) == ("failed", "SystemExit: 3")
        assert (never_made.kind, never_made.value) == ("failed", "ZeroDivisionError: division by zero")
        assert (good.kind, good.value) == ("value", seq)


def test_a_traceback_shows_the_plug_ins_own_lines_and_comes_once_a_second(start_worker) -> None:
    worker = start_worker(
        """
        def bad(frame):
            found = look_closer(frame)

        def look_closer(frame):
            raise ValueError("first line\\nsecond line" + "x" * 1000)
        """,
        "bad",
    )
    for seq in range(1, 51):
        told = worker.ask(seq)
    assert told.value == "ValueError: first line"
    assert 1 <= worker.log.count("Traceback (most recent call last)") <= 2
    assert worker.log.startswith("processing: bad, frame 1 of stream 7:\n")
    assert "in look_closer" in worker.log
    assert "worker.py" not in worker.log


@pytest.mark.parametrize(
    "close",
    [
        "os.close(2)",
        "sys.stderr.close()",
        "sys.stderr = None",
        "sys.stderr.buffer.close()",
        "os.close(2); sys.stderr.close()",
    ],
)
def test_a_plug_in_that_closes_standard_error_costs_itself_a_frame_and_the_others_nothing(
    start_worker, close: str
) -> None:
    worker = start_worker(
        f"""
        import os, sys

        def bad(frame):
            if frame.seq == 1:
                {close}
            raise ValueError("no")

        def good(frame):
            return frame.pixels.shape
        """,
        "bad",
        "good",
    )
    for seq in (1, 2):
        worker.send(seq)
        bad, good = worker.told(2)
        assert (bad.kind, bad.value) == ("failed", "ValueError: no")
        assert (good.kind, good.value) == ("value", [48, 64, 3])
    assert worker.log.startswith("processing: bad, frame 1 of stream 7:\nTraceback")
    assert "in bad" in worker.log


def test_what_others_print_is_in_the_log_after_a_plug_in_has_closed_standard_error(start_worker) -> None:
    worker = start_worker(
        """
        import os, sys

        def bad(frame):
            os.close(2)
            sys.stderr.close()
            sys.stdout.close()

        def good(frame):
            frame.pixels
            print("printed")
            os.write(2, b"written\\n")
        """,
        "bad",
        "good",
    )
    worker.send()
    assert [told.kind for told in worker.told(2)] == ["nothing", "nothing"]
    assert worker.log == "printed\nwritten\n"


def test_where_a_plug_in_sends_standard_error_it_stays_when_something_was_decoded(start_worker, tmp_path: Path) -> None:
    worker = start_worker(
        """
        import os

        def look(frame):
            os.dup2(os.open("mine", os.O_CREAT | os.O_WRONLY), 2)
            frame.pixels
            os.write(2, b"written")
        """,
        "look",
    )
    assert worker.ask().kind == "nothing"
    assert (tmp_path / "mine").read_text() == "written"


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("__str__ = lambda self: sys.exit(3)", "Odd"),
        ("__str__ = lambda self: 1 / 0", "Odd"),
        ("__str__ = lambda self: Text('x')", "Odd"),
        ("__cause__ = property(lambda self: sys.exit(3))", "Odd: why"),
        ("__class__ = property(lambda self: sys.exit(3))", "Odd: why"),
        ("__traceback__ = property(lambda self: sys.exit(3))", "Odd: why"),
    ],
)
@pytest.mark.parametrize("base", ["Exception", "BaseException", "Undecodable"])
def test_an_exception_that_cannot_be_reported_is_a_failure_like_others(
    start_worker, base: str, definition: str, said: str
) -> None:
    worker = start_worker(
        f"""
        import sys
        from processing.frame import Undecodable

        class Text(str):
            def strip(self): sys.exit(3)
            def __getitem__(self, key): sys.exit(3)

        class Odd({base}):
            {definition}

        def bad(frame):
            raise Odd("why")

        def good(frame):
            return frame.seq
        """,
        "bad",
        "good",
    )
    for seq in (1, 2):
        worker.send(seq)
        bad, good = worker.told(2)
        assert (bad.kind, good.value) == ("failed", seq)
        assert bad.value == said


def test_an_exception_whose_text_never_comes_is_noticed_at_the_deadline(start_worker) -> None:
    worker = start_worker(
        """
        class Odd(Exception):
            def __str__(self):
                while True: pass

        def bad(frame):
            raise Odd

        bad.deadline = 0.5
        """,
        "bad",
    )
    worker.send()
    assert worker.status() == TOO_LATE
    assert "in __str__" in worker.log


@pytest.mark.parametrize("close", ["sys.stderr.close()", "sys.stderr.buffer.close()", "os.close(2)"])
@pytest.mark.parametrize("when", ["import", "setup"])
def test_a_plug_in_that_closes_standard_error_and_cannot_be_used_is_refused_in_one_line(
    start_worker, when: str, close: str
) -> None:
    source = f"import os, sys\ndef fail():\n    {close}\n    1 / 0\ndef look(frame): ...\n"
    worker = start_worker(source + ("fail()" if when == "import" else "setup = fail"), "look")
    what = "cannot be imported" if when == "import" else "its setup failed"
    assert worker.failure.startswith(f"plug:look: {what}: ZeroDivisionError: division by zero")
    assert worker.status() == 2
    assert "in fail" in worker.log


def test_a_failure_is_told_in_so_many_words_at_most(start_worker) -> None:
    worker = start_worker("def bad(frame):\n    raise ValueError('x' * 5000)", "bad")
    assert worker.ask().value == "ValueError: " + "x" * 288


def test_a_finish_that_raises_is_a_failure_of_no_frame(start_worker) -> None:
    worker = start_worker(
        """
        class Bad:
            def process(self, frame): ...
            def finish(self):
                raise EOFError
        """,
        "Bad",
    )
    worker.send()
    worker.end()
    assert [told[1:5] for told in worker.told(2)] == [("nothing", 7, 1, None), ("failed", 7, 0, "EOFError")]
    assert worker.ask(2).kind == "nothing"


def test_an_image_that_does_not_decode_fails_without_a_word_in_the_log(start_worker) -> None:
    worker = start_worker(
        """
        def look(frame):
            return frame.pixels.shape

        def look_small(frame):
            return frame.reduced(8).shape
        """,
        "look",
        "look_small",
    )
    worker.send(1, UNDECODABLE)
    worker.send(2)
    *failed, good, _ = worker.told(4)
    for told in failed:
        assert (told.kind, told.value) == (
            "failed",
            f"the image of 64 x 48 pixels, {len(UNDECODABLE)} bytes, does not decode",
        )
    assert good.value == [48, 64, 3]
    assert worker.log == ""


def test_what_a_damaged_jpeg_makes_libjpeg_say_is_not_in_the_log_and_what_a_plug_in_prints_is(start_worker) -> None:
    worker = start_worker(
        """
        import os
        import sys

        def look(frame):
            print("printed")
            frame.pixels
            print("said", file=sys.stderr)
            os.write(2, b"written\\n")
        """,
        "look",
    )
    damaged = picture(width=640, height=480)
    assert worker.ask(image=damaged[: len(damaged) // 2] + damaged[-2:]).kind == "nothing"
    assert worker.log == "printed\nsaid\nwritten\n"


@pytest.mark.parametrize("hang", ["while True: pass", "time.sleep(60)", "lock.acquire()"])
@pytest.mark.parametrize("when", ["process", "finish", "__init__"])
def test_a_plug_in_that_hangs_ends_the_worker_at_its_deadline_which_names_it(
    start_worker, hang: str, when: str
) -> None:
    worker = start_worker(
        f"""
        import threading
        import time
        lock = threading.Lock()
        lock.acquire()

        def hang():
            {hang}

        class Slow:
            deadline = 0.6

            def __init__(self):
                if {when!r} == "__init__": hang()

            def process(self, frame):
                if {when!r} == "process": hang()

            def finish(self):
                if {when!r} == "finish": hang()
        """,
        "Slow",
    )
    worker.send()
    worker.end()
    began = time.monotonic()
    assert worker.status() == TOO_LATE
    assert 0.5 < time.monotonic() - began < 3
    what = "the end of stream 7" if when == "finish" else "frame 1 of stream 7"
    assert worker.log.startswith(f"processing: Slow, {what}, took more than its 0.6 s: this worker ends\n")
    assert "in hang" in worker.log


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that is full, and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("hang", ["time.sleep(60)", "print('a word')", "os.write(2, b'a word')"])
def test_a_worker_whose_log_nobody_reads_ends_at_a_deadline_all_the_same(
    start_worker, full_pipe: int, hang: str
) -> None:
    worker = start_worker(
        f"import os, time\n\ndef slow(frame):\n    {hang}\n\nslow.deadline = 0.5", "slow", stderr=full_pipe
    )
    worker.send()
    began = time.monotonic()
    assert worker.status() == TOO_LATE
    assert time.monotonic() - began < 3
    assert os.get_blocking(full_pipe), "others share it"


def test_a_worker_whose_log_nobody_reads_reports_failures_all_the_same(start_worker, full_pipe: int) -> None:
    worker = start_worker("def bad(frame):\n    raise ValueError('no')", "bad", stderr=full_pipe)
    assert [worker.ask(seq).value for seq in (1, 2, 3)] == ["ValueError: no"] * 3


def test_a_plug_in_may_be_slow_again_and_again_within_its_deadline(start_worker) -> None:
    worker = start_worker("import time\n\ndef slow(frame):\n    time.sleep(0.4)\n\nslow.deadline = 0.8", "slow")
    for seq in range(1, 5):
        told = worker.ask(seq)
        assert told.kind == "nothing"
        assert 0.39 < told.seconds < 0.8


def test_a_plug_in_that_leaks_ends_the_worker_before_the_machine_is_full(start_worker) -> None:
    worker = start_worker(
        """
        kept = []

        def leak(frame):
            kept.append(b"x" * (20 << 20))
        """,
        "leak",
        memory_bytes=300 << 20,
    )
    for seq in range(1, 100):  # each for 30 MiB
        if worker.process.poll() is None:
            with contextlib.suppress(EOFError):
                worker.ask(seq)
            time.sleep(0.02)
    assert worker.status() == TOO_LARGE
    assert " MiB of memory are taken, at most 300 MiB may be" in worker.log


def test_a_leak_in_setup_is_none_before_the_limit_is_reached(start_worker) -> None:
    worker = start_worker("model = b'x' * (50 << 20)\n\ndef look(frame):\n    return 1", "look", memory_bytes=1 << 30)
    time.sleep(0.6)
    assert worker.ask().value == 1


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("os._exit(9)", 9, ""),
        ("ctypes.string_at(0)", -signal.SIGSEGV, "Segmentation fault"),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_a_plug_in_that_ends_its_process_was_seen_to_begin(start_worker, end: str, status: int, said: str) -> None:
    worker = start_worker(f"import ctypes, os\n\ndef good(frame): ...\n\ndef bad(frame):\n    {end}", "good", "bad")
    worker.send()
    assert worker.told()[0].plugin == "good"
    assert worker.status() == status
    with pytest.raises(EOFError):
        worker.told()
    assert worker.begun == [("good", 7, 1), ("bad", 7, 1)]
    assert said in worker.log
    assert not said or "in bad" in worker.log


# The ring.


def test_a_lone_plug_in_needs_no_word_that_it_begins(start_worker) -> None:
    worker = start_worker("def look(frame): ...", "look")
    worker.ask()
    assert worker.begun == []


def test_a_slot_comes_back_when_all_plug_ins_are_done_with_its_frame(start_worker, tmp_path: Path) -> None:
    worker = start_worker(
        """
        import os, time

        def quick(frame): ...

        def slow(frame):
            while not os.path.exists(f"go {frame.seq}"):
                time.sleep(0.01)
        """,
        "quick",
        "slow",
    )
    worker.send(1)
    worker.send(2)
    worker.told(1)
    assert worker.ring.returned == 0
    (tmp_path / "go 1").touch()
    worker.told(2)
    assert worker.ring.returned == 1
    (tmp_path / "go 2").touch()
    worker.told(1)
    worker.until(lambda: worker.ring.returned == 2, "the second slot is back")


def test_a_frame_that_a_plug_in_keeps_does_not_change_when_its_slot_is_written_again(start_worker) -> None:
    worker = start_worker(
        """
        import hashlib
        kept = []

        def keep(frame):
            kept.append(frame)
            return [hashlib.sha256(frame.image).hexdigest() for frame in kept]
        """,
        "keep",
        slots=1,
    )
    pictures = [picture(seed=seed) for seed in range(5)]
    for seq, image in enumerate(pictures, 1):
        told = worker.ask(seq, image)
    assert told.value == [hashlib.sha256(image).hexdigest() for image in pictures]


def test_the_worker_ends_when_the_server_closes_its_end_and_finishes_nothing(start_worker) -> None:
    worker = start_worker(
        """
        class Count:
            def process(self, frame): ...
            def finish(self):
                print("finished")
        """,
        "Count",
    )
    worker.ask()
    assert worker.stop() == 0
    assert worker.log == ""


def test_ctrl_c_is_for_the_server_to_hear(start_worker) -> None:
    worker = start_worker("def look(frame):\n    return 1", "look")
    worker.process.send_signal(signal.SIGINT)
    assert worker.ask().value == 1


def test_what_is_received_goes_before_what_is_found_in_it(start_worker) -> None:
    worker = start_worker("import os, cv2\n\ndef look(frame):\n    return [os.nice(0), cv2.getNumThreads()]", "look")
    assert worker.ask().value == [os.nice(0) + 10, 1]
