"""Who gives way when unfinished messages take more memory than they may together."""

from engine.unfinished import Unfinished


class Holder:
    def __init__(self) -> None:
        self.gave_way = False

    def give_way(self) -> None:
        self.gave_way = True


def test_what_is_held_is_summed_up_and_given_back() -> None:
    unfinished = Unfinished(1000)
    one, other = Holder(), Holder()
    unfinished.hold(one, 300)
    unfinished.hold(other, 500)
    unfinished.hold(one, 400)
    assert unfinished.bytes == 900
    unfinished.hold(one, 0)
    unfinished.hold(one, 0)
    assert unfinished.bytes == 500
    unfinished.hold(Holder(), 0)
    assert unfinished.bytes == 500
    assert not one.gave_way
    assert not other.gave_way


def test_who_holds_little_for_long_gives_way_before_who_holds_more_for_a_moment() -> None:
    now = 0.0
    unfinished = Unfinished(1000, lambda: now)
    lasting, camera = [Holder() for _ in range(8)], Holder()
    for holder in lasting:
        unfinished.hold(holder, 100)
    now = 20.0
    unfinished.hold(camera, 100)
    now = 20.5
    unfinished.hold(camera, 250)
    assert [holder.gave_way for holder in (*lasting, camera)] == [True] + [False] * 8
    assert unfinished.bytes == 950


def test_who_holds_most_gives_way_where_all_came_at_once() -> None:
    unfinished = Unfinished(1000, lambda: 0.0)
    small, largest, last = Holder(), Holder(), Holder()
    unfinished.hold(small, 200)
    unfinished.hold(largest, 600)
    unfinished.hold(last, 300)
    assert [holder.gave_way for holder in (small, largest, last)] == [False, True, False]
    assert unfinished.bytes == 500
    unfinished.hold(last, 900)
    assert [holder.gave_way for holder in (small, last)] == [False, True]
    assert unfinished.bytes == 200
    assert unfinished.given_way == 2


def test_as_many_give_way_as_need_to() -> None:
    unfinished = Unfinished(1000)
    holders = [Holder() for _ in range(10)]
    for holder in holders:
        unfinished.hold(holder, 100)
    new = Holder()
    unfinished.hold(new, 99)
    assert sum(holder.gave_way for holder in holders) == 1
    assert unfinished.bytes == 999


def test_holding_on_after_giving_way_counts_again() -> None:
    """Whoever was told may still write down what it has, until it has ended."""
    unfinished = Unfinished(1000)
    one = Holder()
    unfinished.hold(one, 1001)
    assert one.gave_way
    assert unfinished.bytes == 0
    unfinished.hold(one, 0)
    assert unfinished.bytes == 0


def test_a_crowd_of_one_place_gives_way_before_one_that_holds_more_than_each_of_it() -> None:
    now = 0.0
    unfinished = Unfinished(1000, lambda: now)
    crowd, camera, nobody = [Holder() for _ in range(14)], Holder(), Holder()
    for holder in crowd:
        unfinished.hold(holder, 50, "192.0.2.7")
    unfinished.hold(nobody, 50)
    now = 5.0
    unfinished.hold(camera, 150, "192.0.2.8")
    now = 6.0
    unfinished.hold(camera, 280, "192.0.2.8")
    assert [holder.gave_way for holder in (*crowd, nobody, camera)] == [True] + [False] * 15
    unfinished.hold(camera, 500, "192.0.2.8")
    assert camera.gave_way, "now it holds more than all of them"
    assert sum(holder.gave_way for holder in crowd) == 1


def test_a_place_is_forgotten_with_what_came_from_there() -> None:
    unfinished = Unfinished(100)
    holder = Holder()
    unfinished.hold(holder, 50, "192.0.2.7")
    unfinished.hold(holder, 0)
    assert not unfinished._places
