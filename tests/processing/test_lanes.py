"""What a plug-in wishes for, by what it does."""

import pytest

from hub import FrameHub
from processing.lanes import Lane
from processing.wire import Description
from streams import open_stream

LOOK_SEC = 2.0
IDLE_HZ = 5.0


class Plugin:
    """A lane of a plug-in, and streams that send to it; it is looked at every two seconds."""

    def __init__(self, rate_hz: float | None = None, streams: int = 1) -> None:
        self.hub = FrameHub()
        self.streams = [open_stream(self.hub, f"camera{number}") for number in range(streams)]
        self.lane = Lane(Description("plug-in", rate_hz, 0, 5.0), self.hub.subscribe("plug-in", rate_hz=None))
        self.lane.subscription.wish(rate_hz)
        self._now = self.lane._looked_at

    def look(self, came_hz: float, done_hz: float) -> float | None:
        """So many frames of each stream come for two seconds, so many are done; returns what it wishes for then."""
        count = len(self.streams)
        self.lane.subscription.published += round(came_hz * LOOK_SEC * count)
        self.lane.done += round(done_hz * LOOK_SEC * count)
        self._now += LOOK_SEC
        self.lane.adjust_wish(self._now, count, IDLE_HZ)
        return self.lane.subscription.wish_hz


def test_who_keeps_up_wishes_for_all_there_is() -> None:
    plugin = Plugin()
    assert [plugin.look(30, 30), plugin.look(30, 28), plugin.look(10, 10)] == [None, None, None]


def test_who_does_not_wishes_for_a_little_more_than_it_does_from_the_second_look_on() -> None:
    plugin = Plugin(streams=20)
    assert plugin.look(30, 10) is None, "one slow moment is none"
    assert plugin.look(30, 10) == pytest.approx(12)
    assert plugin.look(12, 10) == pytest.approx(12), "and stays there"


def test_after_a_call_of_some_seconds_it_is_soon_asked_for_all_again() -> None:
    """And in between for no less than when nobody looks."""
    plugin = Plugin()
    wishes = [plugin.look(20, done) for done in (20, 0, 0, 8, 20, 20)]
    assert wishes == [None, None, None, IDLE_HZ, pytest.approx(1.5 * IDLE_HZ), pytest.approx(2.25 * IDLE_HZ)]


def test_it_never_wishes_for_less_than_is_asked_for_when_nobody_looks_or_than_it_wants_at_all() -> None:
    slow, seldom = Plugin(), Plugin(rate_hz=2)
    for _ in range(5):
        slow.look(30, 0.5)
        seldom.look(30, 0.5)
    assert slow.lane.subscription.wish_hz == IDLE_HZ
    assert seldom.lane.subscription.wish_hz == 2


def test_who_keeps_up_again_wishes_for_more_until_all() -> None:
    plugin = Plugin()
    for _ in range(2):
        plugin.look(60, 20)
    wishes = [plugin.look(24, 24) for _ in range(8)]
    assert wishes[:3] == [pytest.approx(36), pytest.approx(54), pytest.approx(81)]
    assert wishes[-1] is None


def test_where_there_are_no_streams_the_next_one_is_asked_for_all() -> None:
    plugin = Plugin()
    for _ in range(2):
        plugin.look(60, 20)
    assert plugin.lane.subscription.wish_hz == pytest.approx(24)
    plugin.streams.clear()
    assert plugin.look(0, 0) is None


def test_what_a_plugin_does_not_want_is_not_what_it_is_late_with() -> None:
    plugin = Plugin(rate_hz=5)
    assert [plugin.look(30, 5) for _ in range(4)] == [5, 5, 5, 5]
