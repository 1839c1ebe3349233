"""What the server has to say to who sends frames: results, what failed, and the rate that it wants."""

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from app_process import AppProcess, app_process
from client_sim.connection import Ack, Event
from client_sim.protocol3 import Protocol3
from phones import Phone
from pictures import picture
from rate import LOWER_AFTER_SEC, NO_LIMIT_HZ, TOLD_EVERY_SEC
from running import running_server, until

IDLE_HZ = 4.0
TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    options = {"settings": {"rate": 50.0, "idle_rate": IDLE_HZ}}
    with app_process(tmp_path_factory.mktemp("back") / "log", "python", **options) as process:
        yield process


@pytest.fixture
def quiet(server: AppProcess) -> AppProcess:
    """With no streams, and nobody who wishes for frames."""
    server.ask("wish?hz=0")
    server.until_nothing_is_left()
    return server


def phone_at(server: AppProcess, transports: list[str] | None = None) -> Phone:
    return Phone(f"http://127.0.0.1:{server.port}", transports)


def say(server: AppProcess, what: str, **arguments: Any) -> None:
    server.ask(f"{what}?{urlencode(arguments)}")


# -- results


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
@pytest.mark.parametrize("event", [None, "onFaces"])
def test_a_result_goes_to_the_sender_of_the_frame_alone_under_the_event_that_it_gave(
    quiet: AppProcess, transports: list[str] | None, event: str | None
) -> None:
    with phone_at(quiet, transports) as phone, phone_at(quiet) as tablet, phone_at(quiet) as other:
        for one, name in ((phone, "Alice"), (tablet, "Alice"), (other, "Bob")):
            one.log_in(name, "")
            one.send(picture(), *([event] if event else []))
        phone.send(picture(), *([event] if event else []))
        values: list[Any] = [{"faces": [[1, 2, 30, 40]]}, [1, 2.5], "nobody", "grün 😀 \u2028", 5, True, None]
        for value in values:
            say(quiet, "result", stream="Alice", value=json.dumps(value))
        image = picture(".png", 8, 8)
        say(quiet, "result", stream="Alice", picture=image.hex(), plugin="boxes")
        name = event or "result"
        until(lambda: len(phone.named(name)) == len(values) + 1, "all results")
        expected = [(value, {"seq": 2, "plugin": "test"}) for value in values]
        assert phone.named(name) == [*expected, (image, {"seq": 2, "plugin": "boxes"})]
        for one in (tablet, other):
            one.send(picture())
            assert one.named(name) == []


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_client_of_the_old_protocol_gets_results_and_rates_too(quiet: AppProcess, transport: Any) -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = Protocol3(f"http://127.0.0.1:{quiet.port}", transport, inbox.put)

    def next_message() -> Any:
        return inbox.get(timeout=10)

    try:
        client.emit("authenticate", "Alice", "", "in")
        assert (next_message(), next_message()) == (Event("in", (True,)), Event("setRate", (IDLE_HZ,)))
        client.emit("receiveImage", picture(), ack=True)
        assert next_message() == Ack(({"accepted": True, "seq": 1, "rate": IDLE_HZ},))
        say(quiet, "result", stream="Alice", value='{"moved": true}')
        assert next_message() == Event("result", ({"moved": True}, {"seq": 1, "plugin": "test"}))
        image = picture(width=8, height=8)
        say(quiet, "result", stream="Alice", picture=image.hex())
        assert next_message() == Event("result", (image, {"seq": 1, "plugin": "test"}))
        say(quiet, "wish", hz=20)
        assert next_message() == Event("setRate", (20.0,))
    finally:
        client.close()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_result_goes_to_the_client_as_the_text_that_was_checked(quiet: AppProcess, transport: str) -> None:
    """What is in it is not looked at again: of 4,000 boxes that took the loop 10 ms."""
    with phone_at(quiet, [transport]) as phone:
        phone.log_in("Alice", "")
        phone.send(picture())
        text = '{"checked": [' + "[" * 99 + "]" * 99 + ", 1.50]}"
        say(quiet, "result", stream="Alice", value='"the value, which is not looked at"', text=text, plugin='a "name"')
        until(lambda: phone.named("result"), "the result")
        assert phone.named("result") == [(json.loads(text), {"seq": 1, "plugin": 'a "name"'})]


def test_results_of_the_former_stream_come_after_a_login_as_somebody_else(quiet: AppProcess) -> None:
    with phone_at(quiet) as phone:
        phone.log_in("Alice", "")
        phone.send(picture())
        phone.log_in("Bob", "")
        say(quiet, "result", stream="Alice", value='"the end"')
        until(lambda: phone.named("result"), "the result")
        assert phone.named("result") == [("the end", {"seq": 0, "plugin": "test"})]


def test_a_result_for_a_client_that_has_gone_is_sent_to_nobody(quiet: AppProcess) -> None:
    with phone_at(quiet) as phone:
        phone.log_in("Alice", "")
    quiet.until_nothing_is_left()
    with phone_at(quiet) as phone:
        phone.log_in("Bob", "")
        say(quiet, "result", stream="Alice", value="1")
        say(quiet, "complain", stream="Alice", message="it broke")
        phone.send(picture())
        assert not phone.named("result")
        assert not phone.named("serverError")


def test_the_user_is_told_that_a_plug_in_failed_once_a_second(quiet: AppProcess) -> None:
    with phone_at(quiet) as phone:
        phone.log_in("Alice", "")
        for number in range(5):
            say(quiet, "complain", stream="Alice", message=f"motion failed at frame {number}")
        until(lambda: phone.named("serverError"), "the error")
        phone.send(picture())
        assert phone.named("serverError") == [("processing_failed", "motion failed at frame 0")]


# -- the wanted rate


def test_the_wanted_rate_is_told_after_the_login_in_acks_and_when_it_changes(quiet: AppProcess) -> None:
    with phone_at(quiet) as phone:
        phone.log_in("Alice", "")
        assert phone.send(picture())["rate"] == IDLE_HZ
        say(quiet, "wish", hz=20)
        assert phone.send(picture())["rate"] == 20
        until(lambda: len(phone.named("setRate")) == 2, "it is told")
        say(quiet, "wish", hz="null")
        assert phone.send(picture())["rate"] == 50, "the set rate"
        until(lambda: len(phone.named("setRate")) == 3, "the last is told")
        began = time.monotonic()
        say(quiet, "wish", hz=0)
        assert phone.send(picture())["rate"] == 50, "less is wanted for a moment only, perhaps"
        until(lambda: len(phone.named("setRate")) == 4, "it is told to send less", LOWER_AFTER_SEC + 3)
        assert time.monotonic() - began >= LOWER_AFTER_SEC - 0.1
        assert phone.named("setRate") == [(IDLE_HZ,), (20.0,), (50.0,), (IDLE_HZ,)]
        assert phone.send(picture())["rate"] == IDLE_HZ


def test_what_changes_right_after_the_login_is_told_a_second_later(quiet: AppProcess) -> None:
    with phone_at(quiet, ["websocket"]) as phone:
        phone.log_in("Alice", "")
        until(lambda: phone.named("setRate"), "the first is told")
        began = time.monotonic()
        for hz in (10, 30, 20):
            say(quiet, "wish", hz=hz)
        assert phone.send(picture())["rate"] == 30
        assert phone.named("setRate") == [(IDLE_HZ,)]
        until(lambda: len(phone.named("setRate")) == 2, "the newest is told")
        assert time.monotonic() - began >= TOLD_EVERY_SEC - 0.1
        assert phone.named("setRate") == [(IDLE_HZ,), (30.0,)]


def test_logging_in_again_and_again_is_told_nothing_that_the_client_knows(quiet: AppProcess) -> None:
    with phone_at(quiet, ["websocket"]) as phone:
        for name in ("Alice", "Alice", "Bob", "Alice"):
            phone.log_in(name, "")
        phone.send(picture())
        assert phone.named("setRate") == [(IDLE_HZ,)]
        say(quiet, "wish", hz=20)
        until(lambda: len(phone.named("setRate")) == 2, "what is new is told")
        assert phone.named("setRate") == [(IDLE_HZ,), (20.0,)]


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
def test_the_wanted_rate_is_told_after_a_login_in_connect_too(quiet: AppProcess, transports: list[str] | None) -> None:
    auth = {"username": "Alice", "password": ""}
    with Phone(f"http://127.0.0.1:{quiet.port}", transports, auth) as phone:
        until(lambda: phone.named("setRate"), "it is told")
        assert phone.log_in("Alice", "") is True
        assert phone.send(picture())["rate"] == IDLE_HZ
        assert phone.named("setRate") == [(IDLE_HZ,)]


def test_a_client_that_does_not_obey_the_wanted_rate_is_served_as_well(quiet: AppProcess) -> None:
    with phone_at(quiet) as phone:
        phone.log_in("Alice", "")
        acks = [phone.send(picture()) for _ in range(30)]
        assert all(ack["accepted"] for ack in acks)
        assert {ack["rate"] for ack in acks} == {IDLE_HZ}


def test_without_a_limit_acks_name_no_rate_once_every_frame_is_wanted(tmp_path: Path) -> None:
    options = {"settings": {"rate": 0.0, "idle_rate": IDLE_HZ}}
    with app_process(tmp_path / "log", "python", **options) as server, phone_at(server) as phone:
        say(server, "wish", hz=0)
        phone.log_in("Alice", "")
        assert phone.send(picture())["rate"] == IDLE_HZ
        say(server, "wish", hz="null")
        assert "rate" not in phone.send(picture())
        until(lambda: len(phone.named("setRate")) == 2, "it is told")
        assert phone.named("setRate") == [(IDLE_HZ,), (NO_LIMIT_HZ,)]
        for auth in (None, {"username": "Bob", "password": ""}):
            with Phone(f"http://127.0.0.1:{server.port}", auth=auth) as other:
                other.log_in("Bob", "")
                assert "rate" not in other.send(picture())
                assert other.named("setRate") == [], "whom nothing limits is told nothing at the login"


def test_a_user_may_have_a_limit_of_their_own_which_all_their_streams_keep(tmp_path: Path) -> None:
    with (
        running_server("--rate", "30", "--user-rate", "Alice=2", "--user-rate", "Bob=0", "--idle-rate", "50") as server,
        Phone(server.url) as first,
        Phone(server.url) as second,
        Phone(server.url) as bob,
        Phone(server.url) as carol,
    ):
        for phone, name, wanted in ((first, "Alice", 2), (second, "Alice", 2), (bob, "Bob", 50), (carol, "Carol", 30)):
            phone.log_in(name, "")
            acks = [phone.send(picture()) for _ in range(6)]
            assert [ack["rate"] for ack in acks] == [wanted] * 6
            refused = [ack.get("reason") for ack in acks if not ack["accepted"]]
            assert set(refused) == ({"rate"} if name == "Alice" else set())
            assert len(refused) >= 3 or name != "Alice"
        assert list(server.streams()) == ["Alice", "Alice~2", "Bob", "Carol"]
