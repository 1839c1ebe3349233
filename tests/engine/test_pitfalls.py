"""The ten pitfalls of serving Engine.IO 3 beside 4, each found with a real client, each kept from coming back.

10. socket.io-client 1.7.4 encodes the UTF-8 of its text twice when it polls. That happens in the client, and what it
    sends is not wrong in itself, so there is nothing to mend and nothing to test.
"""

import time
from pathlib import Path

from engine.server import JOIN_SEC
from raw_engineio import EngineProcess, RawWebSocket, WebSocketClosed, engine_process

PICTURE = '451-["picture",{"_placeholder":true,"num":0}]'


def test_pitfall_1_a_binary_broadcast_reaches_members_of_every_protocol_and_transport(own: EngineProcess) -> None:
    pollers = {protocol: own.poller(protocol, query) for protocol, query in ((3, ""), (4, ""))}
    base64_poller = own.poller(3, "&b64=1")
    for poller in (*pollers.values(), base64_poller):
        poller.join()
    with own.joined(3) as websocket3, own.joined(4) as websocket4, own.joined(3, "&b64=1") as base64_websocket:
        for kind in ("bytes", "bytearray"):
            websocket4.send(f'42["broadcast","{kind}"]')
            for connection, image in (
                (websocket3, b"\x04\x00\xff\x01"),
                (websocket4, b"\x00\xff\x01"),
                (base64_websocket, "b4AP8B"),
            ):
                assert connection.receive() == PICTURE
                assert connection.receive() == image
            head = ("4" + PICTURE[1:]).encode()
            assert pollers[4].get().text == f"{PICTURE}\x1ebAP8B"
            assert pollers[3].get().body == b"\x00\x04\x05\xff" + head + b"\x01\x04\xff\x04\x00\xff\x01"
            assert base64_poller.get().text == f"45:{PICTURE}6:b4AP8B"
        websocket4.send('42["echo","all well"]')
        assert websocket4.receive() == '42["echo","all well"]'
    assert own.report()["handler_errors"] == 0


def test_pitfall_2_more_than_16_packets_in_one_post_are_all_handled(server: EngineProcess) -> None:
    for protocol in (3, 4):
        poller = server.poller(protocol)
        poller.join()
        event, image = '451-["echo",{"_placeholder":true,"num":0}]', "bAP8B" if protocol == 4 else "b4AP8B"
        packets = [event, image] * 50
        body = "\x1e".join(packets) if protocol == 4 else "".join(f"{len(packet)}:{packet}" for packet in packets)
        assert poller.post(body).text == "ok"
        answers = [poller.get().body for _ in range(7)]  # 16 packets each: python-engineio's clients take no more
        assert b"".join(answers).count(b'451-["echo",{"_placeholder":true,"num":0}]') == 50


def test_pitfall_3_a_bad_post_is_answered_at_once_also_when_nobody_fetches_what_is_queued(
    server: EngineProcess,
) -> None:
    for protocol in (3, 4):
        poller = server.poller(protocol)
        poller.join()
        event = '42["echo","never fetched"]'
        poller.post(event if protocol == 4 else f"{len(event)}:{event}")
        begun = time.monotonic()
        assert poller.post("no payload").status == 400
        assert time.monotonic() - begun < 2
        assert poller.get().status == 400


def test_pitfall_4_a_protocol_3_client_gets_bytes_as_octet_stream_exactly_so(server: EngineProcess) -> None:
    """Java 1.0.0 knows no base64, compares the whole header, and dies of an answer without a Content-Type."""
    poller = server.poller(3)
    assert poller.opening.headers["content-type"] == "text/plain; charset=UTF-8"
    poller.post('42:451-["echo",{"_placeholder":true,"num":0}]6:b4AP8B')
    answer = poller.get()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.body.endswith(b"\x01\x04\xff\x04\x00\xff\x01")
    assert b"content-type" in str(poller.post("1:2").headers).encode()
    assert "content-type" in server.request("GET", "EIO=3&transport=polling&sid=unknown").headers


def test_pitfall_5_a_close_that_the_server_starts_is_the_end_of_the_socket_for_protocol_3(
    server: EngineProcess,
) -> None:
    """Java 1.0.0 never completes the handshake that a close frame starts."""
    with server.joined(3) as connection:
        begun = time.monotonic()
        connection.send('42["drop"]')
        assert connection.receive() == WebSocketClosed(None)
        assert time.monotonic() - begun < 1.5


def test_pitfall_6_what_the_connect_handler_emits_follows_the_connect(server: EngineProcess) -> None:
    """Java takes the name of an event that comes before it for an argument."""
    opening = server.poller(3, "&behave=welcome").opening.text
    assert opening.endswith('2:4013:42["welcome"]')
    poller = server.poller(4, "&behave=welcome")
    poller.post("40")
    joined, welcome = poller.get().text.split("\x1e")
    assert joined.startswith('40{"sid":')
    assert welcome == '42["welcome"]'
    for protocol in (3, 4):
        with server.joined(protocol, "&behave=welcome") as connection:
            assert connection.receive() == '42["welcome"]'


def test_pitfall_7_a_client_that_shall_come_back_is_not_told_to_disconnect(server: EngineProcess) -> None:
    """`41` means: stay away. `drop` ends the Engine.IO session instead."""
    for protocol in (3, 4):
        with server.joined(protocol) as connection:
            connection.send('42["drop"]')
            assert isinstance(connection.receive(), WebSocketClosed)
        with server.joined(protocol) as connection:
            connection.send('42["leave"]')
            assert connection.receive() == "41"
        poller = server.poller(protocol)
        poller.join()
        poller.post('42["drop"]' if protocol == 4 else '10:42["drop"]')
        assert poller.get().status == 400


def test_pitfall_8_the_limit_of_a_message_is_the_one_that_was_set(tmp_path: Path) -> None:
    with engine_process(tmp_path / "log", max_http_buffer_size=3_000_000) as server:
        with server.joined() as connection:
            assert server.poller(4).handshake["maxPayload"] == 3_000_000
            connection.send('451-["echo",{"_placeholder":true,"num":0}]')
            connection.send(bytes(2_900_000))
            connection.receive()
            assert connection.receive() == bytes(2_900_000)
        with server.joined() as connection:
            connection.send(bytes(3_000_001))
            assert connection.receive() == WebSocketClosed(1009)
        poller = server.poller(4)
        poller.join()
        assert poller.post('451-["echo",{"_placeholder":true,"num":0}]\x1eb' + "AAAA" * 700_000).status == 200
        assert poller.post("b" + "AAAA" * 750_000).status == 400


def test_pitfall_9_a_client_that_joins_nothing_is_closed(tmp_path: Path) -> None:
    assert JOIN_SEC == 10
    with engine_process(tmp_path / "log", join_sec=0.5) as server:
        _play_pitfall_9(server)


def _play_pitfall_9(server: EngineProcess) -> None:
    begun = time.monotonic()
    websocket = server.websocket(4)
    poller, refused_poller = server.poller(4), server.poller(3, "&behave=refuse")
    left = server.joined(4)
    left.send("41")
    refused = RawWebSocket(server.port, "/socket.io/?EIO=3&transport=websocket&behave=refuse")
    refused.receive()
    assert refused.receive() == '44{"code":42}'
    stays = server.joined(4)
    for connection in (websocket, left, refused):
        assert isinstance(connection.receive(), WebSocketClosed)
    assert time.monotonic() - begun > 0.5
    assert poller.get().status == 400
    assert refused_poller.get().status == 400
    stays.send('42["echo","still here"]')
    assert stays.receive() == '42["echo","still here"]'
    for connection in (websocket, left, refused, stays):
        connection.close()
    server.until_all_gone()
