"""What a result is as text, what waits for a consumer of results, and what goes when there is too much."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import FrameHub, ResultSubscription
from streams import Clock, counts, make_hub, make_result, open_stream


@pytest.fixture
def hub() -> FrameHub:
    return make_hub(Clock())


def taken(subscription: ResultSubscription) -> list[int]:
    return [result.seq for result in iter(subscription.take, None)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"faces": [[1, 2.5]], "new": True}, '{"faces":[[1,2.5]],"new":true}'),
        (None, "null"),
        ("", '""'),
        ("grün 😀", '"gr\\u00fcn \\ud83d\\ude00"'),
    ],
)
def test_a_result_is_made_text_once_and_its_size_is_that_of_the_text(hub: FrameHub, value: Any, text: str) -> None:
    result = make_result(open_stream(hub), value)
    assert (result.text, result.size) == (text, len(text))
    assert result.text is result.text
    given = replace(result, text="[1, 2]")
    assert (given.text, given.size) == ("[1, 2]", 6), "what it has is not made anew"


def test_a_picture_has_no_text(hub: FrameHub) -> None:
    result = make_result(open_stream(hub), b"picture")
    assert (result.text, result.size) == (None, 7)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"picture": b"123"}, object()])
def test_what_is_neither_json_nor_a_picture_is_no_result(hub: FrameHub, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        make_result(open_stream(hub), value)


def test_subscribing_to_results_is_by_name_also_before_there_is_such_a_stream(hub: FrameHub) -> None:
    everybody, one, some = (
        hub.subscribe_results("test", names) for names in ("*", "Bob", ("Bob", "Carol"))
    )  # fmt: skip
    for seq, name in enumerate(("Alice", "Bob", "Carol"), 1):
        stream = open_stream(hub, name)
        stream.answer(make_result(stream, seq=seq))
    assert (taken(everybody), taken(one), taken(some)) == ([1, 2, 3], [2], [2, 3])
    assert hub.result_subscriptions() == [everybody, one, some]


def test_too_many_results_cost_the_oldest_and_they_are_counted(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe_results("page", max_results=3)
    for seq in range(1, 6):
        stream.answer(make_result(stream, seq=seq))
    assert counts(subscription) == (5, 0, 2, 3)
    assert taken(subscription) == [3, 4, 5]
    assert counts(subscription) == (5, 3, 2, 0)


def test_too_many_bytes_cost_the_oldest_and_a_single_one_is_kept(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe_results("page", max_bytes=100)
    for seq, value in enumerate((bytes(40), {"text": "x" * 20}, bytes(40)), 1):
        stream.answer(make_result(stream, value, seq=seq))
    assert taken(subscription) == [2, 3], "40 + 31 + 40 are too many"
    for seq in (4, 5):
        stream.answer(make_result(stream, bytes(1000), seq=seq))
    assert taken(subscription) == [5]


def test_who_waits_for_results_is_woken_once(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe_results("page", max_results=2)
    rings: list[int] = []
    subscription.ready = lambda: rings.append(subscription.waiting)
    for _ in range(5):
        stream.answer(make_result(stream))
    assert rings == [1]
    taken(subscription)
    stream.answer(make_result(stream))
    assert rings == [1, 1]


def test_a_closed_subscription_gets_no_more_results(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe_results("page")
    stream.answer(make_result(stream))
    subscription.close()
    subscription.close()
    stream.answer(make_result(stream))
    assert counts(subscription) == (1, 0, 1, 0)
    assert subscription.take() is None
    assert hub.result_subscriptions() == []


@given(
    st.integers(1, 4),
    st.sampled_from((1, 50, 120, 10_000)),
    st.lists(st.one_of(st.integers(0, 60), st.none()), max_size=60),
)
def test_the_counts_add_up_and_the_bounds_hold(max_results: int, max_bytes: int, steps: list[int | None]) -> None:
    hub = make_hub(Clock())
    stream = open_stream(hub)
    subscription = hub.subscribe_results("page", "*", max_results, max_bytes)
    got: list[int] = []
    for seq, size in enumerate(steps, 1):
        if size is None:
            result = subscription.take()
            got += [result.seq] if result is not None else []
        else:
            stream.answer(make_result(stream, bytes(size), seq=seq))
        assert subscription.published == subscription.taken + subscription.dropped + subscription.waiting
        held = [len(result.value) for result, _ in subscription._waiting]
        assert len(held) <= max_results
        assert sum(held) == subscription._bytes
        assert sum(held) <= max_bytes or len(held) == 1
    got += taken(subscription)
    assert got == sorted(got)
    sent = [seq for seq, size in enumerate(steps, 1) if size is not None]
    assert got[-1:] == sent[-1:], "the newest is never dropped"
