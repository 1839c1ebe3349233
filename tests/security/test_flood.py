"""A camera that sends at 100 times its rate costs itself, not the others; bench/flood.py has more, and figures."""

from running import running_server
from security.flood_attacks import compare
from security.flooder import Flood

#: Each at 500 frames a second (polling: one POST after the other), all at once.
FLOODS = (
    Flood(("Bob", "456")),
    Flood(("Bob", "456"), acks=True),
    Flood(("user1", "pass1"), transport="polling"),
    Flood(None, transport="polling"),
)
LOGIN_SEC = 10.0


def test_good_cameras_keep_their_rate_and_their_acks_beside_those_that_send_too_fast() -> None:
    with running_server("-a", "--rate", "10") as server:
        _alone, attack, problems = compare(server, FLOODS, 1.5, LOGIN_SEC + 0.7)
        assert problems == []
        streams = server.streams(server.token("Bob", "456"))
        assert "Traceback" not in "".join(server.log)
    for flood, flooded in zip(FLOODS, attack.floods, strict=True):
        if flood.account is None:
            assert flooded.trouble is not None, "it is cut"
            assert flooded.seconds < LOGIN_SEC + 0.5
        else:
            assert flooded.trouble is None, "it is not cut, for it may be a camera that was configured badly"
        least_hz = 450 if flood.transport == "websocket" else 100
        assert flooded.rate_hz > least_hz, f"{flood} was no flood: {flooded}"
    # Of each flooder that is logged in a second's worth at once and 10 a second are taken.
    assert 0 < attack.taken <= 3 * 10 * (attack.flooded_sec + 1)
    assert not streams, "nobody is left"


def test_without_a_limit_good_cameras_keep_their_rate_too() -> None:
    with running_server("-a", "--rate", "0") as server:
        _alone, attack, problems = compare(server, FLOODS[:2], 1.5, 3)
        assert problems == []
    assert attack.refused == 0
    assert attack.taken >= 0.95 * attack.sent
