"""What streams take and subscriptions keep, drop, count and hand out, in which order, and what comes back."""

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from frames import Frame
from hub import (
    CAPS_MAX,
    ENDED_LISTED_MAX,
    ENDED_WAITING_MAX,
    KEPT_RESULT_BYTES,
    Ended,
    FrameHub,
    Policy,
    Refusal,
    Stream,
    Subscription,
)
from pictures import padded, picture
from rate import LOWER_AFTER_SEC, NO_LIMIT_HZ
from streams import (
    IDLE_HZ,
    IMAGE,
    JPEG,
    SIZE,
    Clock,
    Recorder,
    counts,
    make_hub,
    make_result,
    offer,
    open_stream,
    taken,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> FrameHub:
    return make_hub(clock)


class Bell:
    """Counts how often a subscription was ready, and that it was right each time."""

    def __init__(self, subscription: Subscription) -> None:
        self.rings = 0
        self._subscription = subscription
        subscription.ready = self._ring

    def _ring(self) -> None:
        self.rings += 1
        assert self._subscription.due_in() is not None


BOTH = pytest.mark.parametrize("policy", list(Policy))

# -- what is offered


def test_frames_are_numbered_from_one_and_keep_what_they_came_with(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe("test", policy=Policy.QUEUE)
    assert stream.offer(IMAGE, "onResult") is None
    assert stream.offer(IMAGE) is None
    first, second = subscription.take(), subscription.take()
    assert isinstance(first, Frame)
    assert isinstance(second, Frame)
    assert (first.seq, second.seq) == (1, 2)
    assert first.image is IMAGE
    assert first.reply_to == "onResult"
    assert first.stream is stream
    assert (first.info.width, first.info.height, first.info.media_type) == (8, 8, "image/jpeg")
    assert stream.latest is second
    assert (stream.frames, stream.bytes) == (2, 2 * SIZE)


@BOTH
def test_a_consumer_that_takes_nothing_any_more_does_not_keep_everybody_who_ever_came(
    hub: FrameHub, policy: Policy
) -> None:
    subscription = hub.subscribe("gone", policy=policy)
    for number in range(ENDED_WAITING_MAX + 5):
        stream = open_stream(hub, f"camera{number}")
        offer(stream)
        stream.end()
    assert counts(subscription) == (ENDED_WAITING_MAX + 5, 0, 5, ENDED_WAITING_MAX)
    assert taken(subscription)[0][0] == "camera5", "the oldest went"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"hello", "not_an_image"),
        (b"", "not_an_image"),
        (IMAGE[: SIZE // 2], "truncated"),
        (padded(JPEG, 5001), "too_many_bytes"),
        (picture(".bmp", 40, 40), "too_many_pixels"),
    ],
    ids=["no image", "nothing", "half of one", "too long", "too large"],
)
def test_a_refused_frame_is_numbered_and_counted_and_reaches_nobody(hub: FrameHub, image: bytes, code: str) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe("test")
    refusal = stream.offer(image)
    assert refusal is not None
    assert refusal.code == code
    assert subscription.take() is None
    assert (stream.seq, stream.frames, stream.refused) == (1, 0, {code: 1})
    offer(stream)
    assert taken(subscription) == [("Alice", 2)]


def test_more_than_the_rate_is_refused_before_anything_is_looked_at(hub: FrameHub, clock: Clock) -> None:
    stream = open_stream(hub, rate_hz=5)
    offer(stream, 5)
    assert stream.offer(b"never looked at") == Refusal("rate", "more than 5 frames a second")
    clock.now += 0.2
    offer(stream)
    assert stream.refused == {"rate": 1}
    assert (stream.seq, stream.frames) == (7, 6)
    assert stream.limit_hz == 5


def test_an_ended_stream_takes_nothing(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe("test")
    offer(stream)
    stream.end()
    stream.end()
    refusal = stream.offer(IMAGE)
    assert refusal is not None
    assert refusal.code == "not_logged_in"
    assert taken(subscription) == [("Alice", 1), ("Alice", "ended")]
    assert (stream.live, stream.latest, stream.rate_hz) == (False, None, 0.0)


def test_numbers_go_on_where_the_connection_left_off(hub: FrameHub) -> None:
    stream = open_stream(hub, seq=41)
    offer(stream)
    assert stream.seq == 42


def test_orders_go_to_the_sender_while_the_stream_lives(hub: FrameHub) -> None:
    sender = Recorder()
    stream = open_stream(hub, sender=sender)
    stream.disconnect("told to")
    stream.end()
    stream.disconnect("again")
    assert sender.closed == ["told to"]


# -- what comes back


def test_a_result_goes_to_the_sender_and_to_who_subscribed_and_the_last_one_is_kept(hub: FrameHub) -> None:
    sender, other = Recorder(), Recorder()
    stream, bob = open_stream(hub, sender=sender), open_stream(hub, "Bob", sender=other)
    everything, of_bob = hub.subscribe_results("log"), hub.subscribe_results("page", "Bob")
    results = [make_result(stream, {"faces": number}, seq=number) for number in (1, 2)]
    for result in [*results, movement := make_result(stream, {"moved": 1}, "motion")]:
        stream.answer(result)
    assert sender.results == [*results, movement]
    assert other.results == []
    assert stream.results == {"faces": results[1], "motion": movement}
    assert [everything.take() for _ in range(4)] == [*results, movement, None]
    assert of_bob.take() is None
    assert bob.results == {}


def test_a_result_holds_no_frame(hub: FrameHub) -> None:
    """What was found in a frame must not keep the frame in memory."""
    stream = open_stream(hub)
    offer(stream)
    stream.answer(make_result(stream))
    image = stream.latest
    stream.end()
    gc.collect()
    assert image is not None
    assert [type(holder) for holder in gc.get_referrers(image) if not isinstance(holder, FrameType)] == []


def test_a_result_comes_to_its_sender_after_the_streams_end_as_long_as_that_is_there(hub: FrameHub) -> None:
    """A connection that has logged in as somebody else gets what plug-ins had yet to say."""
    sender = Recorder()
    stream = open_stream(hub, sender=sender)
    subscription = hub.subscribe_results("log")
    stream.end()
    result = make_result(stream)
    stream.answer(result)
    stream.complain("processing_failed", "it broke")
    assert sender.results == [result]
    assert sender.errors == [("processing_failed", "it broke")]
    gone = weakref.ref(sender)
    del sender
    assert gone() is None, "an ended stream does not keep its connection"
    stream.answer(result)
    stream.complain("processing_failed", "it broke again")
    assert counts(subscription) == (2, 0, 0, 2)


def test_a_stream_keeps_its_sender_while_it_lives(hub: FrameHub) -> None:
    sender = Recorder()
    stream = open_stream(hub, sender=sender)
    there = weakref.ref(sender)
    del sender
    stream.complain("processing_failed", "it broke")
    kept = there()
    assert kept is not None
    assert kept.errors == [("processing_failed", "it broke")]


def test_an_ended_stream_keeps_small_results_only(hub: FrameHub) -> None:
    stream = open_stream(hub)
    small, large = "x" * (KEPT_RESULT_BYTES - 2), bytes(KEPT_RESULT_BYTES + 1)  # 2 quotes
    stream.answer(make_result(stream, small, "small"))
    stream.answer(make_result(stream, large, "large"))
    stream.answer(make_result(stream, small + "x", "larger"))
    assert stream.results.keys() == {"small", "large", "larger"}
    stream.end()
    assert stream.results.keys() == {"small"}
    stream.answer(make_result(stream, large, "late and large"))
    stream.answer(make_result(stream, "the end", "finish", seq=0))
    assert stream.results.keys() == {"small", "finish"}


# -- how many frames are wanted


def test_nobody_wishes_for_frames_and_the_idle_rate_is_wanted(hub: FrameHub) -> None:
    assert open_stream(hub, rate_hz=60).wanted_hz == IDLE_HZ
    assert open_stream(hub, rate_hz=2).wanted_hz == 2, "no more than the limit"
    hub.subscribe("thumbnails", wish_hz=0)
    assert open_stream(hub, rate_hz=60).wanted_hz == IDLE_HZ, "it has no wish"


@pytest.mark.parametrize("limit_hz", [0, 60])
def test_a_consumer_without_a_rate_wishes_for_all_frames(hub: FrameHub, limit_hz: float) -> None:
    hub.subscribe("recorder")
    hub.subscribe("display", rate_hz=30)
    assert open_stream(hub, rate_hz=limit_hz).wanted_hz == (limit_hz or None)


def test_the_largest_wish_rules_of_those_who_get_the_stream(hub: FrameHub) -> None:
    stream = open_stream(hub, rate_hz=60)
    hub.subscribe("slow", rate_hz=10)
    assert stream.wanted_hz == 10
    hub.subscribe("modest", rate_hz=50, wish_hz=20)
    assert stream.wanted_hz == 20
    hub.subscribe("of somebody else", "Bob", rate_hz=40)
    hub.subscribe("not of this one", wants=lambda stream: False)
    assert stream.wanted_hz == 20
    hub.subscribe("eager", rate_hz=1, wish_hz=None)
    assert stream.wanted_hz == 60


def test_a_wish_that_rises_counts_at_once_and_one_that_falls_after_a_while(hub: FrameHub, clock: Clock) -> None:
    sender = Recorder()
    stream = open_stream(hub, rate_hz=60, sender=sender)
    other = open_stream(hub, "Bob", rate_hz=60)
    subscription = hub.subscribe("plug-in", "Alice", rate_hz=30)
    assert (stream.wanted_hz, other.wanted_hz) == (30, IDLE_HZ)
    subscription.wish(12)
    assert subscription.wish_hz == 12
    clock.go_on(LOWER_AFTER_SEC - 0.1)
    assert stream.wanted_hz == 30
    clock.go_on(0.2)
    assert stream.wanted_hz == 12
    subscription.wish(None)
    assert stream.wanted_hz == 60
    subscription.close()
    clock.go_on(LOWER_AFTER_SEC + 0.1)
    assert stream.wanted_hz == IDLE_HZ
    clock.go_on(2)
    assert sender.rates == [30, 12, 60, IDLE_HZ]
    assert other.wanted_hz == IDLE_HZ


def test_a_cap_is_never_exceeded_nor_enforced_and_outlives_the_connection(hub: FrameHub, clock: Clock) -> None:
    sender = Recorder()
    stream = open_stream(hub, rate_hz=60, sender=sender)
    hub.subscribe("recorder")
    stream.cap(2)
    assert stream.wanted_hz == 2
    offer(stream, 30)
    clock.go_on(2)
    assert sender.rates == [60, 2], "at the change by the subscription, and by the cap"
    stream.end()
    again = open_stream(hub, rate_hz=60)
    assert again.wanted_hz == 2
    assert open_stream(hub, "Bob", rate_hz=60).wanted_hz == 60
    again.cap(None)
    assert again.wanted_hz == 60
    assert open_stream(hub, rate_hz=60).wanted_hz == 60


def test_a_stream_that_has_ended_can_be_capped_for_the_time_when_it_comes_back(hub: FrameHub, clock: Clock) -> None:
    sender = Recorder()
    stream = open_stream(hub, rate_hz=60, sender=sender)
    stream.end()
    stream.cap(1)
    clock.go_on(10)
    assert (stream.wanted_hz, sender.rates) == (1, [])
    assert open_stream(hub, rate_hz=60).wanted_hz == 1


def test_a_bounded_number_of_caps_is_remembered(hub: FrameHub) -> None:
    for number in range(CAPS_MAX + 1):
        stream = open_stream(hub, f"camera{number}", rate_hz=60)
        stream.cap(1)
        stream.end()
    assert open_stream(hub, "camera0").wanted_hz == IDLE_HZ
    assert open_stream(hub, "camera1").wanted_hz == 1


def test_going_to_no_limit_is_told_as_a_number(hub: FrameHub, clock: Clock) -> None:
    sender = Recorder()
    stream = open_stream(hub, sender=sender)
    hub.subscribe("recorder")
    assert stream.wanted_hz is None
    assert sender.rates == [NO_LIMIT_HZ]


def test_a_stream_that_ends_leaves_no_timer_behind(hub: FrameHub, clock: Clock) -> None:
    sender = Recorder()
    stream = open_stream(hub, rate_hz=60, sender=sender)
    subscription = hub.subscribe("plug-in", rate_hz=10)
    subscription.wish(20)
    subscription.wish(7)
    assert clock.calls == 2, "one to tell of the 20, one to lower it to 7"
    stream.end()
    assert clock.calls == 0
    subscription.wish(50)
    subscription.close()
    assert (clock.calls, sender.rates) == (0, [10])


# -- policies and bounds


def test_latest_keeps_the_newest_frame_of_each_stream_and_counts_the_rest(hub: FrameHub) -> None:
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    subscription = hub.subscribe("wall")
    offer(alice, 3)
    offer(bob, 2)
    assert counts(subscription) == (5, 0, 3, 2)
    assert taken(subscription) == [("Alice", 3), ("Bob", 2)]
    assert counts(subscription) == (5, 2, 3, 0)
    assert (alice.dropped, bob.dropped) == ({"wall": 2}, {"wall": 1})


def test_a_newer_frame_takes_the_turn_of_the_one_that_it_replaces(hub: FrameHub) -> None:
    """A fast camera does not move itself to the end of the queue, nor past it."""
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    subscription = hub.subscribe("wall")
    offer(alice)
    offer(bob)
    offer(alice)
    assert taken(subscription) == [("Alice", 2), ("Bob", 1)]


def test_queue_keeps_all_frames_in_order_up_to_its_bound_and_drops_the_oldest(hub: FrameHub) -> None:
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    subscription = hub.subscribe("recorder", policy=Policy.QUEUE, max_frames=3)
    offer(alice, 5)
    offer(bob, 2)
    assert counts(subscription) == (7, 0, 2, 5)
    assert taken(subscription) == [("Alice", 3), ("Bob", 1), ("Alice", 4), ("Bob", 2), ("Alice", 5)]
    assert (alice.dropped, bob.dropped) == ({"recorder": 2}, {})


def test_queue_holds_no_more_bytes_than_its_bound_and_who_holds_most_of_them_pays(hub: FrameHub) -> None:
    flood, quiet = open_stream(hub, "flood"), open_stream(hub, "quiet")
    subscription = hub.subscribe("recorder", policy=Policy.QUEUE, max_bytes=4 * SIZE)
    offer(quiet)
    offer(flood, 10)
    assert taken(subscription) == [("quiet", 1), ("flood", 8), ("flood", 9), ("flood", 10)]
    assert (flood.dropped, quiet.dropped) == ({"recorder": 7}, {})


def test_a_single_frame_beyond_the_bound_is_kept_until_it_is_taken(hub: FrameHub) -> None:
    alice = open_stream(hub)
    subscription = hub.subscribe("recorder", policy=Policy.QUEUE, max_bytes=SIZE // 2)
    offer(alice, 2)
    assert taken(subscription) == [("Alice", 2)]
    assert counts(subscription) == (2, 1, 1, 0)


def test_a_closed_subscription_lets_go_of_everything_and_gets_nothing_more(hub: FrameHub) -> None:
    for policy in Policy:
        stream = open_stream(hub)
        subscription = hub.subscribe("plug-in", policy=policy)
        offer(stream, 3)
        subscription.close()
        subscription.close()
        offer(stream)
        stream.end()
        assert counts(subscription) == (3, 0, 3, 0)
        assert stream.dropped == {"plug-in": 3}
        assert subscription.take() is None
        assert subscription.due_in() is None
        assert hub.subscriptions() == []


# -- names


def test_subscribing_is_by_name_also_before_there_is_such_a_stream(hub: FrameHub) -> None:
    everybody = hub.subscribe("all", policy=Policy.QUEUE)
    one = hub.subscribe("one", "Bob", Policy.QUEUE)
    some = hub.subscribe("some", ["Bob", "Carol"], Policy.QUEUE)
    for name in ("Alice", "Bob", "Carol"):
        offer(open_stream(hub, name))
    assert taken(everybody) == [("Alice", 1), ("Bob", 1), ("Carol", 1)]
    assert taken(one) == [("Bob", 1)]
    assert taken(some) == [("Bob", 1), ("Carol", 1)]


def test_a_later_subscription_gets_what_comes_later(hub: FrameHub) -> None:
    stream = open_stream(hub)
    offer(stream)
    subscription = hub.subscribe("late", "Alice", Policy.QUEUE)
    offer(stream)
    stream.end()
    assert taken(subscription) == [("Alice", 2), ("Alice", "ended")]


def test_a_stream_that_comes_back_under_its_name_is_another_stream(hub: FrameHub) -> None:
    subscription = hub.subscribe("test", "Alice", Policy.QUEUE)
    first = open_stream(hub)
    offer(first)
    first.end()
    second = open_stream(hub)
    offer(second)
    assert second.id > first.id
    assert taken(subscription) == [("Alice", 1), ("Alice", 1), ("Alice", "ended")]


# -- the end


@BOTH
def test_an_end_follows_the_last_frame_and_is_not_dropped(hub: FrameHub, policy: Policy) -> None:
    subscription = hub.subscribe("test", policy=policy, max_frames=1, max_bytes=1)
    streams = [open_stream(hub, str(number)) for number in range(5)]
    for stream in streams:
        offer(stream, 3)
        stream.end()
    items = taken(subscription)
    assert [name for name, what in items if what == "ended"] == ["0", "1", "2", "3", "4"]
    for stream in streams:
        assert [what for name, what in items if name == stream.name][-1] == "ended"
    assert subscription.published == subscription.taken + subscription.dropped == 15


@BOTH
def test_the_end_of_a_stream_that_never_sent_comes_too(hub: FrameHub, policy: Policy) -> None:
    subscription = hub.subscribe("test", policy=policy)
    bell = Bell(subscription)
    open_stream(hub).end()
    assert bell.rings == 1
    assert subscription.due_in() == 0.0
    assert taken(subscription) == [("Alice", "ended")]
    assert counts(subscription) == (0, 0, 0, 0)


# -- how often


@BOTH
def test_with_a_rate_a_streams_frames_are_handed_out_no_more_often(hub: FrameHub, clock: Clock, policy: Policy) -> None:
    subscription = hub.subscribe("display", policy=policy, rate_hz=10)
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    offer(alice)
    assert subscription.due_in() == 0.0
    assert taken(subscription) == [("Alice", 1)]
    offer(alice)
    offer(bob)
    assert taken(subscription) == [("Bob", 1)], "each stream has its own rate"
    assert subscription.due_in() == pytest.approx(0.1)
    clock.now += 0.06
    assert subscription.due_in() == pytest.approx(0.04)
    assert subscription.take() is None
    clock.now += 0.05
    assert subscription.due_in() == 0.0
    assert taken(subscription) == [("Alice", 2)]
    assert subscription.due_in() is None


def test_the_time_may_be_given(hub: FrameHub, clock: Clock) -> None:
    subscription = hub.subscribe("display", rate_hz=2)
    stream = open_stream(hub)
    offer(stream)
    assert taken(subscription, now=200.0) == [("Alice", 1)]
    offer(stream)
    assert subscription.due_in(now=200.2) == pytest.approx(0.3)
    assert taken(subscription, now=200.4) == []
    assert taken(subscription, now=200.5) == [("Alice", 2)]


@BOTH
def test_an_end_does_not_wait_for_its_turn_of_the_rate(hub: FrameHub, policy: Policy) -> None:
    subscription = hub.subscribe("display", policy=policy, rate_hz=1)
    stream = open_stream(hub)
    offer(stream)
    taken(subscription)
    stream.end()
    assert subscription.due_in() == 0.0
    assert taken(subscription) == [("Alice", "ended")]


@BOTH
def test_an_end_behind_a_frame_that_is_not_due_waits_for_the_frame(hub: FrameHub, clock: Clock, policy: Policy) -> None:
    subscription = hub.subscribe("display", policy=policy, rate_hz=1)
    stream = open_stream(hub)
    offer(stream)
    taken(subscription)
    offer(stream)
    stream.end()
    assert taken(subscription) == []
    clock.now += 1
    assert taken(subscription) == [("Alice", 2), ("Alice", "ended")]


# -- being woken


@BOTH
def test_ready_is_called_once_when_there_is_something_again(hub: FrameHub, policy: Policy) -> None:
    subscription = hub.subscribe("test", policy=policy)
    bell = Bell(subscription)
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    assert bell.rings == 0
    offer(alice, 3)
    offer(bob, 3)
    assert bell.rings == 1
    subscription.take()
    offer(alice)
    assert bell.rings == 1, "there was something all the time"
    taken(subscription)
    offer(bob)
    alice.end()
    assert bell.rings == 2
    taken(subscription)
    bob.end()
    assert bell.rings == 3


def test_ready_may_take_at_once(hub: FrameHub) -> None:
    for policy in Policy:
        subscription = hub.subscribe("test", policy=policy)
        items: list[object] = []
        subscription.ready = lambda subscription=subscription, items=items: items.append(subscription.take())
        stream = open_stream(hub)
        offer(stream, 3)
        assert [frame.seq for frame in items if isinstance(frame, Frame)] == [1, 2, 3]
        assert counts(subscription) == (3, 3, 0, 0)
        subscription.close()


# -- what is listed


def test_ended_streams_stay_listed_for_a_while_and_counted_for_ever(
    hub: FrameHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("hub.time.time", lambda: now)
    hub.subscribe("wall")
    gone, alive = open_stream(hub, "gone"), open_stream(hub, "alive")
    offer(gone, 3)
    gone.offer(b"junk")
    gone.end()
    offer(alive)
    before = hub.totals()
    assert before == (2, 4, 4 * SIZE, {"not_an_image": 1}, {"wall": 2})
    now += 599
    assert [stream.name for stream in hub.listed_streams()] == ["gone", "alive"]
    now += 2
    assert [stream.name for stream in hub.listed_streams()] == ["alive"]
    assert hub.live_streams() == [alive]
    assert hub.totals() == before


def test_so_many_ended_streams_are_listed_and_no_more(hub: FrameHub) -> None:
    for _ in range(ENDED_LISTED_MAX + 50):
        stream = open_stream(hub)
        offer(stream)
        stream.end()
    assert len(hub.listed_streams()) == ENDED_LISTED_MAX
    assert hub.totals().frames == ENDED_LISTED_MAX + 50


# -- everything at once


class Machine(RuleBasedStateMachine):
    """Streams come, send and go, consumers take or sleep; each thing is checked against what was offered."""

    @initialize(
        policy=st.sampled_from(list(Policy)),
        max_frames=st.integers(1, 4),
        max_bytes=st.sampled_from((1, 2 * SIZE, 5 * SIZE, 1 << 30)),
        rate_hz=st.sampled_from((None, 2.0)),
        names=st.sampled_from(("*", ("a", "b"))),
    )
    def begin(
        self, policy: Policy, max_frames: int, max_bytes: int, rate_hz: float | None, names: str | tuple[str, ...]
    ) -> None:
        self.clock = Clock()
        self.hub = make_hub(self.clock)
        self.policy, self.max_frames, self.max_bytes, self.rate_hz, self.names = (
            policy, max_frames, max_bytes, rate_hz, names,
        )  # fmt: skip
        self.subscription = self.hub.subscribe(
            "test", names, policy, max_frames=max_frames, max_bytes=max_bytes, rate_hz=rate_hz
        )
        self.subscription.ready = self.ring
        self.rings = 0
        self.live: list[Stream] = []
        self.all: list[Stream] = []
        self.offered: dict[Stream, int] = {}
        self.got: dict[Stream, list[int | str]] = {}
        self.got_at: dict[Stream, float] = {}
        self.closed = False

    def ring(self) -> None:
        self.rings += 1

    def wants(self, stream: Stream) -> bool:
        return not self.closed and (self.names == "*" or stream.name in self.names)

    def expect_ring(self, action: Callable[[], object], wanted: bool) -> None:
        """The bell rings if there was nothing and is something now; with a rate also if something is due sooner."""
        before, rings = self.subscription.due_in(), self.rings
        action()
        after = self.subscription.due_in()
        if self.subscription.rate_hz is None:
            assert self.rings - rings == (before is None and after is not None)
        elif after is not None and (before is None or after < before):
            assert self.rings > rings
        assert not (wanted and after is None)

    @rule(name=st.sampled_from(("a", "b", "c")))
    def open(self, name: str) -> None:
        stream = open_stream(self.hub, name)
        self.live.append(stream)
        self.all.append(stream)
        self.offered[stream] = 0
        self.got[stream] = []

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=st.sampled_from((SIZE, 2 * SIZE, 3 * SIZE)))
    def send(self, data: st.DataObject, size: int) -> None:
        stream = data.draw(st.sampled_from(self.live))
        self.expect_ring(lambda: offer(stream, image=padded(JPEG, size)), self.wants(stream))
        self.offered[stream] += self.wants(stream)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.live))
        self.live.remove(stream)
        self.expect_ring(stream.end, self.wants(stream))

    @rule(seconds=st.sampled_from((0.1, 0.5, 2.0)))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        due_in = self.subscription.due_in()
        item = self.subscription.take()
        assert (item is not None) == (due_in == 0.0)
        if item is None:
            return
        stream = item.stream
        assert isinstance(stream, Stream)
        assert "ended" not in self.got[stream], "nothing comes after the end"
        if isinstance(item, Ended):
            self.got[stream].append("ended")
            return
        if self.rate_hz and stream in self.got_at:
            assert self.clock.now - self.got_at[stream] >= 1 / self.rate_hz - 1e-9
        self.got[stream].append(item.seq)
        self.got_at[stream] = self.clock.now

    @rule()
    def take_all(self) -> None:
        for _ in range(1000):
            before = self.subscription.taken, sum("ended" in got for got in self.got.values())
            self.take()
            if before == (self.subscription.taken, sum("ended" in got for got in self.got.values())):
                break

    @precondition(lambda self: len(self.all) > 6)
    @rule()
    def close(self) -> None:
        self.subscription.close()
        self.closed = True
        assert self.subscription.due_in() is None
        assert self.subscription.waiting == 0

    @invariant()
    def the_sum_holds(self) -> None:
        subscription = self.subscription
        assert subscription.published == sum(self.offered.values())
        assert subscription.published == subscription.taken + subscription.dropped + subscription.waiting
        assert subscription.taken == sum(isinstance(what, int) for got in self.got.values() for what in got)
        assert subscription.dropped == sum(stream.dropped["test"] for stream in self.all)

    @invariant()
    def the_bounds_hold(self) -> None:
        subscription: Any = self.subscription
        if self.policy is Policy.LATEST:
            assert subscription.waiting <= len(self.all)
            return
        queues = subscription._queues.values()
        assert all(len(queue) <= self.max_frames for queue in queues)
        held = sum(len(frame.image) for queue in queues for frame in queue)
        assert held == subscription._bytes
        assert held <= self.max_bytes or subscription.waiting == 1

    @invariant()
    def the_order_holds(self) -> None:
        for got in self.got.values():
            numbers = [what for what in got if isinstance(what, int)]
            assert all(a < b for a, b in pairwise(numbers))

    def teardown(self) -> None:
        if not hasattr(self, "subscription") or self.closed:
            return
        self.clock.now += 1000
        for stream in list(self.live):
            stream.end()
        for _ in range(1000):
            self.clock.now += 1000
            if self.subscription.due_in() is None:
                break
            self.take()
        for stream in self.all:
            if self.wants(stream):
                assert self.got[stream][-1:] == ["ended"], "an end was dropped"
        subscription: Any = self.subscription
        assert not subscription._due, "the times of ended streams are forgotten"


TestEverythingAtOnce = Machine.TestCase
TestEverythingAtOnce.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_names_of_streams_do_not_cost_a_subscription_that_does_not_want_them(hub: FrameHub) -> None:
    subscription = hub.subscribe("one", "Bob")
    stream = open_stream(hub)
    offer(stream, 3)
    stream.end()
    assert counts(subscription) == (0, 0, 0, 0)
    assert subscription.take() is None
