"""How deep a result is, and what the server takes of a worker that says anything at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phones import Phone
from pictures import picture
from plugged_in import plugin_frames
from processing import wire
from processing.runner import _value_of
from processing.wire import MAX_VALUE_DEPTH, is_too_deep
from running import running_server, until


def nested(depth: int, left: str = "[", right: str = "]") -> str:
    return left * depth + right * depth


def depth_of(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


@pytest.mark.parametrize(
    ("text", "too_deep"),
    [
        (nested(MAX_VALUE_DEPTH), False),
        (nested(MAX_VALUE_DEPTH + 1), True),
        (nested(1_000), True),
        (nested(30_000), True),
        ('{"a":' * 101 + "0" + "}" * 101, True),
        ('{"a":' * 100 + "0" + "}" * 100, False),
        ('[{"a":' * 51 + "0" + "}]" * 51, True),
        (f"[{','.join([nested(99)] * 300)}]", False),
        (f"[{','.join(['[1,2]'] * 5_000)}]", False),
        (json.dumps("[" * 1_000), False),
        (json.dumps(['"' + "[" * 1_000, "\\", '\\"' * 200 + "{" * 1_000]), False),
        (json.dumps(["]" * 1_000, json.loads(nested(100))]), True),
        ("5", False),
        ("]" * 200 + "[" * 5, False),
    ],
)
def test_lists_and_objects_count_and_brackets_in_texts_do_not(text: str, too_deep: bool) -> None:
    assert is_too_deep(text.encode()) is too_deep


@given(
    st.integers(60, 120),
    st.recursive(
        st.one_of(st.text('[]{}"\\aé', max_size=150), st.integers()),
        lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(st.text('[]{}"\\'), children)),
        max_leaves=30,
    ),
    st.booleans(),
)
def test_it_is_as_deep_as_a_walk_through_it_says(outside: int, value: Any, ascii_only: bool) -> None:
    for number in range(outside):
        value = [value] if number % 3 else {"[": value, "\\": "]" * 9}
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert is_too_deep(text) is (depth_of(value) > MAX_VALUE_DEPTH)


SLY = """
import processing.worker
from processing.wire import VALUE

processing.worker.encode = lambda result: (VALUE, result)


def sly(frame):
    return PAYLOADS[frame.seq - 1]
"""

TAKEN = {
    b'{"a": [1, 2.5e3, true]}': {"a": [1, 2500.0, True]},
    '["grün", "😀"]'.encode(): ["grün", "😀"],
    rb'"\ud83d\ude00"': "😀",
    nested(100).encode(): json.loads(nested(100)),
}
REFUSED = {
    nested(101).encode(): "more than 100 lists",
    nested(30_000).encode(): "more than 100 lists",
    b"[NaN]": "NaN is no number",
    b"[1e999]": "1e999 is beyond",
    b'[-1e999, "\xc3\xbc"]': "-1e999 is beyond",
    b'"\xff"': "not JSON",
    b'"\xed\xa0\x80"': "not JSON",
    '["a"]'.encode("utf-16"): "not JSON",
    b'\xef\xbb\xbf["a"]': "not JSON",
    b"": "not JSON",
    b"[1]]": "not JSON",
}


def test_what_a_worker_says_is_checked_like_a_strangers(tmp_path: Path) -> None:
    (tmp_path / "sly.py").write_text(f"PAYLOADS = {[*TAKEN, *REFUSED]!r}\n{SLY}")
    with (
        running_server("--process", "sly:sly", env={"PYTHONPATH": str(tmp_path)}) as server,
        Phone(server.url, transports=["websocket"]) as phone,
    ):
        phone.log_in("Alice", "")
        for number in range(1, len(TAKEN) + len(REFUSED) + 1):
            phone.send(picture())
            until(
                lambda number=number: sum(plugin_frames(server, "sly")[end] for end in ("done", "failed")) == number,
                "it is done",
            )
        assert plugin_frames(server, "sly")["failed"] == len(REFUSED)
        assert [value for value, _ in phone.named("result")] == list(TAKEN.values())
        assert phone.error_codes()[0] == "processing_failed"
        kept = server.get("/api/v1/streams/Alice/result")["sly"]
        assert (kept["seq"], kept["result"]) == (len(TAKEN), list(TAKEN.values())[-1])
        assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize("payload", REFUSED, ids=repr)
def test_why_it_is_not_taken_is_in_the_log(payload: bytes) -> None:
    value, text, failure = _value_of(wire.Report(wire.VALUE, payload=payload))
    assert (value, text) == (None, None)
    assert failure is not None
    assert REFUSED[payload] in failure


def test_what_is_said_at_the_end_has_the_number_0(tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text(
        "class Last:\n"
        "    def process(self, frame):\n        return frame.seq\n"
        "    def finish(self):\n        return 'the end'\n"
    )
    with (
        running_server("--process", "last:Last", env={"PYTHONPATH": str(tmp_path)}) as server,
        Phone(server.url, transports=["websocket"]) as phone,
    ):
        phone.log_in("Alice", "")
        phone.send(picture())
        phone.send(picture(), "onLast")
        until(lambda: phone.named("onLast"), "the last frame's result")
        phone.log_in("Bob", "")
        until(lambda: len(phone.named("onLast")) == 2, "what is said at the end of Alice's stream")
        assert phone.named("onLast") == [(2, {"seq": 2, "plugin": "Last"}), ("the end", {"seq": 0, "plugin": "Last"})]
        assert server.get("/api/v1/streams/Alice/result")["Last"]["seq"] == 0
