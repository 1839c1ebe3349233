"""The examples in docs/plugins.md are complete, and do what is said of them."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictures import picture
from processing import contract, encoding, wire

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/plugins.md").read_text()
#: `file.py`: some words, then its code.
EXAMPLES = dict(re.findall(r"^`(\w+\.py)`:.*?```python\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE))


def grey(level: int) -> bytes:
    """A JPEG of one level."""
    return bytes(cv2.imencode(".jpg", np.full((240, 320, 3), level, np.uint8))[1])


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    assert set(EXAMPLES) == {"brightness.py", "counter.py", "signs.py"}
    for name, code in EXAMPLES.items():
        (tmp_path / name).write_text(code)
    return tmp_path


def test_the_function_says_how_bright_pictures_are(start_worker, examples: Path) -> None:
    worker = start_worker("", "brightness:brightness")
    assert worker.plugins == [{"name": "brightness", "rate_hz": 5.0, "window": 0, "deadline_sec": 5.0}]
    assert [worker.ask(image=grey(level)).value for level in (0, 51, 255)] == [
        {"brightness": share} for share in (0.0, 0.2, 1.0)
    ]


def test_the_class_draws_on_pictures_that_changed_and_counts_them(start_worker, examples: Path) -> None:
    worker = start_worker("", "counter:Changes")
    answers = [worker.ask(seq, grey(level)) for seq, level in enumerate((100, 100, 200, 200, 100), 1)]
    assert [answer.kind for answer in answers] == ["nothing", "nothing", "picture", "nothing", "picture"]
    drawn = cv2.imdecode(np.frombuffer(answers[2].value, np.uint8), cv2.IMREAD_COLOR)
    blue, _, red = drawn[1, 160].astype(int)
    assert red > blue + 100
    assert abs(drawn[120, 160].astype(int) - 200).max() < 5
    worker.end()
    assert worker.told()[0].value == {"changes": 2}


def test_the_window_finds_a_word_in_each_25_frames(start_worker, examples: Path) -> None:
    worker = start_worker("", "signs:Signs")
    assert worker.plugins == [{"name": "signs", "rate_hz": 12.5, "window": 25, "deadline_sec": 2.0}]
    for seq in range(1, 61):
        worker.send(seq, picture(seed=seq), (seq - 1) % 25)
    words = [told.value for told in worker.told(60) if told.kind == "value"]
    assert [word["frames"] for word in words] == [[1, 25], [26, 50]]
    assert all(word["word"] in ("hello", "thanks", "please") and 1 / 3 <= word["probability"] <= 1 for word in words)
    worker.end()
    assert worker.told()[0].value == {"sentence": [word["word"] for word in words]}


def test_the_numbers_in_the_document_are_those_of_the_code() -> None:
    assert f"| `deadline` | {contract.DEADLINE_SEC:g} |" in DOCUMENT
    assert f"At most {wire.MAX_VALUE_BYTES >> 10} KiB" in DOCUMENT
    assert f"at most {wire.MAX_VALUE_DEPTH} lists or dicts in one another" in DOCUMENT
    assert {f"image/{kind}" for kind in ("jpeg", "png", "webp")} == encoding.PICTURES


@pytest.mark.parametrize("name", ["motion:Motion", "codes:Codes", "quality:Quality"])
def test_the_included_plug_ins_are_in_the_document_and_run_in_a_worker(start_worker, name: str) -> None:
    spec = f"processing.{name}"
    assert f"| `{spec}`, named `{name.split(':')[0]}` |" in DOCUMENT
    worker = start_worker("", spec)
    assert worker.plugins[0]["name"] == name.split(":")[0]
    rate = re.search(rf"`{spec}`.*At (\d+) Hz \|", DOCUMENT)
    assert worker.plugins[0]["rate_hz"] == (float(rate[1]) if rate else None)
    for seq in range(1, 4):
        assert worker.ask(seq, picture(width=320, height=240)).kind in ("nothing", "value")
    worker.end()
    assert worker.told()[0].kind == "nothing"
    assert worker.log == ""
