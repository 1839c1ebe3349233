"""Windows of frames, frames that are taken for several consumers at once, and who gets which streams."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from frames import Frame
from hub import Ended, FrameHub, Policy, Stream, Subscription
from pictures import padded
from streams import IMAGE, JPEG, SIZE, Clock, counts, make_hub, offer, open_stream, taken


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> FrameHub:
    return make_hub(clock)


def subscribe(hub: FrameHub, window: int = 3, max_frames: int = 6, **more: Any) -> Subscription:
    return hub.subscribe("plug-in", policy=Policy.QUEUE, window=window, max_frames=max_frames, **more)


def take(subscription: Subscription, count: int = 1) -> list[tuple[int, int]]:
    """Numbers and positions of the next frames."""
    items = []
    for _ in range(count):
        frame = subscription.take()
        assert isinstance(frame, Frame)
        items.append((frame.seq, subscription.position))
    return items


def take_all(subscription: Subscription) -> list[tuple[int, int]]:
    return take(subscription, subscription.waiting)


# -- windows


def test_frames_have_their_places_in_windows(hub: FrameHub) -> None:
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    subscription = subscribe(hub)
    offer(alice, 4)
    offer(bob, 1)
    assert take(subscription, 5) == [(1, 0), (1, 0), (2, 1), (3, 2), (4, 0)]
    offer(bob, 2)
    offer(alice)
    assert take(subscription, 3) == [(2, 1), (5, 1), (3, 2)]


def test_too_many_frames_cost_the_oldest_whole_window_and_never_the_one_under_way(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub)
    offer(stream, 6)
    assert take(subscription) == [(1, 0)]
    offer(stream, 2)
    assert counts(subscription) == (8, 1, 3, 4), "2 and 3 belong to the window under way, 4 to 6 have gone"
    assert stream.dropped == {"plug-in": 3}
    assert take_all(subscription) == [(2, 1), (3, 2), (7, 0), (8, 1)]
    offer(stream, 100)
    assert [position for _, position in take_all(subscription)] == [2, 0, 1, 2]


def test_a_window_of_which_nothing_was_handed_out_goes_though_it_is_the_only_one(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub)
    offer(stream, 7)
    assert take_all(subscription) == [(4, 0), (5, 1), (6, 2), (7, 0)]


def test_too_many_bytes_cost_a_whole_window_of_the_stream_with_most_of_them(hub: FrameHub) -> None:
    flood, quiet = open_stream(hub, "flood"), open_stream(hub, "quiet")
    subscription = subscribe(hub, max_frames=100, max_bytes=6 * SIZE)
    offer(quiet, 2)
    offer(flood, 5)
    assert (flood.dropped, quiet.dropped) == ({"plug-in": 3}, {})
    assert taken(subscription) == [("quiet", 1), ("flood", 4), ("quiet", 2), ("flood", 5)]


def test_without_a_whole_window_the_beginning_of_one_goes_and_the_next_frame_begins_it(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub, window=5, max_frames=10, max_bytes=3 * SIZE)
    offer(stream, 4)
    assert counts(subscription) == (4, 0, 4, 0)
    offer(stream, 2)
    assert take_all(subscription) == [(5, 0), (6, 1)]
    offer(stream, 3)
    assert take(subscription) == [(7, 2)]


def test_the_beginning_of_the_next_window_goes_before_the_rest_of_the_one_under_way(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub, window=4, max_frames=8, max_bytes=4 * SIZE)
    offer(stream, 2)
    assert take(subscription, 2) == [(1, 0), (2, 1)]
    offer(stream, 5)  # 3 and 4 end the window; 5 to 7 are too many
    assert counts(subscription) == (7, 2, 3, 2)
    offer(stream)
    assert take_all(subscription) == [(3, 2), (4, 3), (8, 0)]


def test_if_only_the_rest_of_the_window_under_way_waits_it_goes_and_a_new_one_begins(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub, window=9, max_frames=18, max_bytes=2 * SIZE)
    offer(stream)
    assert take(subscription) == [(1, 0)]
    offer(stream, 3)
    assert counts(subscription) == (4, 1, 3, 0)
    offer(stream, 2)
    assert take_all(subscription) == [(5, 0), (6, 1)]


def test_a_single_frame_of_a_window_beyond_the_bound_is_kept(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub, max_bytes=1)
    offer(stream)
    assert take_all(subscription) == [(1, 0)]


def test_windows_begin_anew_when_the_consumer_has_lost_what_it_had(hub: FrameHub) -> None:
    alice, bob = open_stream(hub), open_stream(hub, "Bob")
    subscription = subscribe(hub)
    offer(alice, 5)
    assert take(subscription) == [(1, 0)]
    offer(bob, 3)
    subscription.restart_windows()
    assert counts(subscription) == (8, 1, 2, 5), "2 and 3 of Alice have gone; Bob's window was not under way"
    assert (alice.dropped, bob.dropped) == ({"plug-in": 2}, {})
    assert take_all(subscription) == [(4, 0), (1, 0), (5, 1), (2, 1), (3, 2)]
    subscription.restart_windows()
    offer(alice)
    assert take_all(subscription) == [(6, 0)], "also where nothing of the window waits"


def test_a_subscription_without_windows_has_nothing_to_begin_anew(hub: FrameHub) -> None:
    stream = open_stream(hub)
    for policy in Policy:
        subscription = hub.subscribe("other", policy=policy)
        offer(stream)
        subscription.restart_windows()
        assert subscription.waiting == 1
        assert subscription.take() is not None
        assert subscription.position == 0


def test_a_stream_that_ends_within_a_window_hands_out_what_there_is(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub)
    offer(stream, 2)
    stream.end()
    assert taken(subscription) == [("Alice", 1), ("Alice", 2), ("Alice", "ended")]
    offer(open_stream(hub))
    assert take_all(subscription) == [(1, 0)]


def test_with_a_rate_frames_of_windows_are_so_far_apart_and_handed_out_at_once(hub: FrameHub, clock: Clock) -> None:
    stream, other = open_stream(hub), open_stream(hub, "Bob")
    subscription = subscribe(hub, rate_hz=5)
    for _ in range(31):  # a second at 30 Hz
        offer(stream)
        clock.go_on(1 / 30)
    offer(other)
    assert (subscription.published, subscription.skipped, subscription.dropped) == (7, 25, 0)
    assert taken(subscription) == [
        ("Alice", 1), ("Bob", 1), ("Alice", 7), ("Alice", 13), ("Alice", 19), ("Alice", 25), ("Alice", 31),
    ]  # fmt: skip
    assert subscription.wish_hz == 5


def test_with_a_rate_a_frame_of_a_window_may_be_a_little_early(hub: FrameHub, clock: Clock) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub, rate_hz=10)
    for pause in (0.1, 0.091, 0.098, 0.02):
        offer(stream)
        clock.go_on(pause)
    offer(stream)
    assert [seq for seq, _ in take_all(subscription)] == [1, 2, 3, 5]


@pytest.mark.parametrize("camera_hz", [5, 5.4, 6, 7.5, 10, 13, 30])
def test_with_a_rate_as_many_frames_of_windows_are_taken_whatever_the_camera_s_rate(
    hub: FrameHub, clock: Clock, camera_hz: float
) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub, rate_hz=5, max_frames=1_000)
    for _ in range(int(20 * camera_hz)):
        offer(stream)
        clock.go_on(1 / camera_hz)
    assert len(take_all(subscription)) == pytest.approx(100, abs=3)


def test_a_bound_of_less_than_two_windows_is_an_error(hub: FrameHub) -> None:
    with pytest.raises(ValueError, match="100 frames at most, expected at least two windows of 51"):
        subscribe(hub, window=51, max_frames=100)
    with pytest.raises(ValueError, match=r"windows of 5 frames and Policy.LATEST, expected Policy.QUEUE"):
        hub.subscribe("plug-in", window=5)
    assert hub.subscriptions() == []


class Machine(RuleBasedStateMachine):
    """Whatever comes, goes and is lost: no window that a consumer puts together ever has a hole, and counts add up."""

    @initialize(
        window=st.integers(1, 4),
        more_frames=st.integers(0, 5),
        max_bytes=st.sampled_from((1, 3 * SIZE, 6 * SIZE, 1 << 30)),
        rate_hz=st.sampled_from((None, None, 2.0)),
    )
    def begin(self, window: int, more_frames: int, max_bytes: int, rate_hz: float | None) -> None:
        self.clock = Clock()
        self.hub = make_hub(self.clock)
        self.window, self.max_frames, self.max_bytes, self.rate_hz = (
            window,
            2 * window + more_frames,
            max_bytes,
            rate_hz,
        )
        self.subscription = subscribe(self.hub, window, self.max_frames, max_bytes=max_bytes, rate_hz=rate_hz)
        self.latest = self.hub.subscribe("latest", "b")
        self.live: list[Stream] = []
        self.all: list[Stream] = []
        self.put: dict[Stream, list[int]] = {}
        self.wanted_at: dict[Stream, float] = {}
        self.under_way: dict[Stream, list[int]] = {}
        self.taken: dict[Stream, list[int]] = {}
        self.ended: set[Stream] = set()
        self.restarted = self.closed = False

    @rule(name=st.sampled_from(("a", "b", "c")))
    def open(self, name: str) -> None:
        stream = open_stream(self.hub, name)
        self.live.append(stream)
        self.all.append(stream)
        self.put[stream], self.under_way[stream], self.taken[stream] = [], [], []

    @precondition(lambda self: self.live)
    @rule(data=st.data(), sizes=st.lists(st.sampled_from((SIZE, 2 * SIZE)), min_size=1, max_size=5))
    def send(self, data: st.DataObject, sizes: list[int]) -> None:
        stream = data.draw(st.sampled_from(self.live))
        for size in sizes:
            published, skipped = self.subscription.published, self.subscription.skipped
            offer(stream, image=padded(JPEG, size))
            if self.closed:
                assert (self.subscription.published, self.subscription.skipped) == (published, skipped)
                continue
            early = self.rate_hz is not None and self.clock.now < self.wanted_at.get(stream, -1e9) - 0.1 / self.rate_hz
            assert (self.subscription.published - published, self.subscription.skipped - skipped) == (
                not early, early,
            )  # fmt: skip
            if not early:
                self.put[stream].append(stream.seq)
                if self.rate_hz is not None:
                    apart, due = 1 / self.rate_hz, self.wanted_at.get(stream, -1e9)
                    self.wanted_at[stream] = (due if self.clock.now - due < apart else self.clock.now) + apart

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.live))
        self.live.remove(stream)
        stream.end()

    @rule(seconds=st.sampled_from((0.1, 0.6)))
    def pass_time(self, seconds: float) -> None:
        self.clock.go_on(seconds)

    @rule(count=st.integers(1, 10))
    def take(self, count: int) -> None:
        for _ in range(count):
            item = self.subscription.take()
            if item is None:
                assert self.subscription.waiting == 0
                return
            if isinstance(item, Ended):
                self.ended.add(item.stream)
            else:
                self.got(item)

    @rule()
    def take_the_same(self) -> None:
        """The newest frame of some stream, if it is the next one here."""
        frame = self.latest.take()
        if not isinstance(frame, Frame):
            return
        waiting: Any = self.subscription
        queue = waiting._queues.get(frame.stream)
        is_next = bool(queue) and queue[0] is frame
        assert self.subscription.take_same(frame) is is_next
        if is_next:
            self.got(frame)

    def got(self, frame: Frame) -> None:
        stream: Any = frame.stream
        assert stream not in self.ended, "nothing comes after the end"
        position, under_way, put = self.subscription.position, self.under_way[stream], self.put[stream]
        assert not self.taken[stream] or frame.seq > self.taken[stream][-1]
        self.taken[stream].append(frame.seq)
        if position == 0:
            assert not under_way or self.max_bytes < 1 << 30, "a window was given up without need"
            under_way.clear()
        else:
            assert position == len(under_way), "a hole, or a window that lacks its first frames"
            assert put.index(frame.seq) == put.index(under_way[-1]) + 1, "a hole"
        if self.max_bytes == 1 << 30 and not self.restarted:
            assert position == put.index(frame.seq) % self.window, "something else than whole windows went"
        under_way.append(frame.seq)
        if len(under_way) == self.window:
            under_way.clear()

    @rule()
    def restart(self) -> None:
        self.subscription.restart_windows()
        for under_way in self.under_way.values():
            self.restarted |= bool(under_way)
            under_way.clear()

    @precondition(lambda self: len(self.all) > 6)
    @rule()
    def close(self) -> None:
        self.subscription.close()
        self.closed = True
        assert self.subscription.take() is None

    @invariant()
    def the_sum_holds(self) -> None:
        subscription = self.subscription
        assert subscription.published == sum(map(len, self.put.values()))
        assert subscription.published == subscription.taken + subscription.dropped + subscription.waiting
        assert subscription.taken == sum(map(len, self.taken.values()))
        assert subscription.dropped == sum(stream.dropped["plug-in"] for stream in self.all)

    @invariant()
    def the_bounds_hold(self) -> None:
        subscription: Any = self.subscription
        queues = subscription._queues
        assert sum(map(len, queues.values())) == subscription.waiting
        assert all(len(queue) <= self.max_frames for queue in queues.values())
        held = sum(len(frame.image) for queue in queues.values() for frame in queue)
        assert held == subscription._bytes == sum(subscription._bytes_of.values())
        assert held <= self.max_bytes or subscription.waiting == 1
        for queue in queues.values():
            assert all(a.seq < b.seq for a, b in pairwise(queue))

    def teardown(self) -> None:
        if not hasattr(self, "subscription"):
            return
        for stream in list(self.live):
            stream.end()
        while not self.closed and self.subscription.due_in() is not None:
            self.take(1)
        assert self.closed or self.ended == set(self.all), "an end was dropped"
        subscription: Any = self.subscription
        assert not any((subscription._handed, subscription._wanted_at, subscription._queues, subscription._ended))


TestWindows = Machine.TestCase
TestWindows.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# -- the same frame for several


def test_a_frame_is_taken_only_if_it_is_the_very_next_one(hub: FrameHub) -> None:
    stream, other = open_stream(hub), open_stream(hub, "Bob")
    first = hub.subscribe("first", policy=Policy.QUEUE)
    queue = hub.subscribe("queue", policy=Policy.QUEUE)
    latest = hub.subscribe("latest")
    nobody = hub.subscribe("nobody", "Carol")
    offer(other)
    offer(stream, 2)
    frames = {(frame.stream.name, frame.seq): frame for frame in iter(first.take, None) if isinstance(frame, Frame)}
    one, two = frames["Alice", 1], frames["Alice", 2]
    assert not queue.take_same(two), "it is not the next one"
    assert queue.take_same(one)
    assert not queue.take_same(one), "it has been taken"
    assert not latest.take_same(one), "a newer one has come"
    assert latest.take_same(two)
    assert not latest.take_same(two)
    assert not nobody.take_same(two)
    assert (counts(queue), counts(latest)) == ((3, 1, 0, 2), (3, 1, 1, 1))
    assert (taken(queue), taken(latest)) == ([("Bob", 1), ("Alice", 2)], [("Bob", 1)])


@pytest.mark.parametrize("policy", list(Policy))
def test_the_end_follows_a_frame_that_was_taken_so(hub: FrameHub, policy: Policy) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe("test", policy=policy)
    offer(stream)
    frame = stream.latest
    assert frame is not None
    stream.end()
    assert subscription.take_same(frame)
    assert not subscription.take_same(frame)
    assert taken(subscription) == [("Alice", "ended")]


@pytest.mark.parametrize("policy", list(Policy))
def test_a_frame_that_is_not_due_is_not_taken_so_and_one_that_was_makes_the_next_wait(
    hub: FrameHub, clock: Clock, policy: Policy
) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe("test", policy=policy, rate_hz=10)
    offer(stream)
    assert stream.latest is not None
    assert subscription.take_same(stream.latest)
    offer(stream)
    assert not subscription.take_same(stream.latest)
    assert not subscription.take_same(stream.latest, now=clock.now + 0.09)
    assert subscription.due_in() == pytest.approx(0.1)
    assert subscription.take_same(stream.latest, now=clock.now + 0.11)
    assert counts(subscription) == (2, 2, 0, 0)


def test_a_frame_of_a_window_that_is_taken_so_has_its_place(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = subscribe(hub)
    for position in (0, 1, 2, 0):
        offer(stream)
        assert stream.latest is not None
        assert subscription.take_same(stream.latest)
        assert subscription.position == position


# -- a further condition


def test_a_consumer_may_have_a_condition_which_each_stream_is_asked_once(hub: FrameHub) -> None:
    asked: list[str] = []

    def is_bobs(stream: Stream) -> bool:
        asked.append(stream.name)
        return stream.user == "Bob"

    early = open_stream(hub, "Bob")
    subscription = hub.subscribe("test", ["Alice", "Bob"], wants=is_bobs)
    for stream in (early, open_stream(hub), open_stream(hub, "Carol"), open_stream(hub, "Bob")):
        offer(stream, 3)
        stream.end()
    assert taken(subscription) == [("Bob", 3)] * 2 + [("Bob", "ended")] * 2
    assert asked == ["Bob", "Alice", "Bob"], "not of Carol, whom the names leave out"
    assert subscription.wants(early)


def test_the_same_image_may_come_again_and_is_another_frame(hub: FrameHub) -> None:
    stream = open_stream(hub)
    subscription = hub.subscribe("test")
    offer(stream)
    former = stream.latest
    offer(stream, image=IMAGE)
    assert former is not None
    assert not subscription.take_same(former)
