"""Counting and adding up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sim.figures import Figures, Latencies, Summary


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=200), st.sampled_from([50, 99]))
def test_a_percentile_is_within_two_percent_of_the_sorted_list(seconds, percent):
    latencies = Latencies()
    for sec in seconds:
        latencies.record(sec)
    exact = sorted(seconds)[max(0, -(-len(seconds) * percent // 100) - 1)]
    assert latencies.percentile_ms(percent) == pytest.approx(exact * 1000, rel=0.02, abs=0.001)


def test_there_is_no_percentile_of_nothing():
    assert Latencies().percentile_ms(50) is None


def test_an_ack_that_took_no_time_at_all_is_counted():
    latencies = Latencies()
    latencies.record(0.0)
    assert latencies.percentile_ms(50) == pytest.approx(0.001)


def test_cameras_add_up_and_keep_their_own_counts():
    one, other = Figures(frames=3, image_bytes=300, logins=1, connections=1), Figures(frames=4, connections=2, logins=1)
    one.refused["rate"] += 2
    other.refused["rate"] += 1
    one.results["motion"] += 3
    other.results.update({"motion": 2, "codes": 1})
    one.wanted_hz, other.wanted_hz = 30.0, 5.0
    one.latencies.record(0.010)
    other.latencies.record(0.010)
    summary = Summary.of([one, other], streaming=2, duration_sec=2.0)
    assert (summary.clients, summary.total.frames, summary.total.image_bytes) == (2, 7, 300)
    assert summary.total.refused == {"rate": 3}
    assert summary.frames_per_sec == 3.5
    assert summary.total.latencies.percentile_ms(99) == pytest.approx(10, rel=0.02)
    assert one.refused == {"rate": 2}
    assert summary.total.results == {"motion": 5, "codes": 1}
    assert one.results == {"motion": 3}
    assert summary.wanted_hz == (5.0, 30.0)
    assert json.loads(json.dumps(summary.as_json()))["wanted_hz"] == [5, 30]
    assert summary.as_json()["results"] == {"motion": 5, "codes": 1}


@pytest.mark.parametrize(
    ("streaming", "refused", "errors", "well"),
    [
        (1, {}, {}, True),
        (0, {}, {}, False),
        (1, {"rate": 1}, {}, False),
        (1, {}, {"too_many_guesses": 1}, False),
    ],
)
def test_all_is_well_only_if_everybody_streams_and_nothing_was_refused(streaming, refused, errors, well):
    figures = Figures()
    figures.refused.update(refused)
    figures.errors.update(errors)
    assert Summary.of([figures], streaming, 1.0).well is well


def test_the_line_names_every_cause():
    figures = Figures(frames=20)
    figures.refused["rate"] += 2
    figures.errors["rate"] += 1
    figures.latencies.record(0.002)
    line = Summary.of([figures], 1, 10.0).line()
    assert line == ("1 of 1 streaming, 2.0 frames/s, acks p50 2.0 ms p99 2.0 ms, refused: rate 2, errors: rate 1")
    figures.wanted_hz = 5.0
    figures.results.update({"motion": 7, "codes": 2})
    line = Summary.of([figures, Figures()], 2, 10.0).line()
    assert line == (
        "2 of 2 streaming, 2.0 frames/s, 5 Hz wanted, acks p50 2.0 ms p99 2.0 ms, refused: rate 2, "
        "results: motion 7 codes 2, errors: rate 1"
    )
    assert "5 to 30 Hz wanted" in Summary.of([figures, Figures(wanted_hz=30.0)], 2, 10.0).line()
    assert Summary.of([Figures()], 0, 0.0).as_json()["wanted_hz"] is None
    assert "no acks yet, refused: none" in Summary.of([Figures()], 0, 0.0).line()


def test_without_acks_frames_are_said_to_be_sent():
    figures = Figures(acknowledged=False, frames=20, registrations=2)
    figures.errors["closed_by_server"] += 1
    summary = Summary.of([figures, Figures(acknowledged=False, registrations=1)], 1, 10.0)
    assert summary.line() == ("1 of 2 streaming, 2.0 frames/s sent, registrations: 3, errors: closed_by_server 1")
    assert (summary.as_json()["acknowledged"], summary.as_json()["registrations"]) == (False, 3)
