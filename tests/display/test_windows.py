"""The display's child process on a real screen: what a person sees, and may do with the mouse."""

import itertools
import os
import signal

import cv2
import numpy as np
import pytest

from child_server import ServerWithChild, is_alive, server_with_child
from pictures import padded, picture
from running import until
from screens import Screen, Shown

GREEN, RED = (60, 160, 60), (60, 60, 200)


def plain_picture(colour: tuple[int, int, int], width: int = 320, height: int = 240) -> bytes:
    return bytes(cv2.imencode(".png", np.full((height, width, 3), colour, np.uint8))[1])


def assert_none_covers_another(windows: dict[str, Shown]) -> None:
    for (one, first), (other, second) in itertools.combinations(windows.items(), 2):
        assert not first.frame.overlaps(second.frame), f"{one} and {other} overlap: {first} {second}"


def colour_of(screen: Screen, window: Shown) -> tuple[int, int, int]:
    """The colour in the middle of a window."""
    inside = screen.inside(window)
    blue, green, red = inside[inside.shape[0] // 2, inside.shape[1] // 2]
    return int(blue), int(green), int(red)


def until_colour(screen: Screen, window: Shown, colour: tuple[int, int, int]) -> None:
    until(lambda: colour_of(screen, window) == colour, f"a window shows {colour}")


def assert_ends_well(server: ServerWithChild) -> None:
    server.stop()
    assert server.process.wait(5) == 0
    server.assert_nothing_was_miscounted()


def test_every_stream_has_a_window_of_its_name_that_covers_no_other(desktop: Screen) -> None:
    shapes = {"Alice": (640, 480), "Bob": (320, 240), "user1": (480, 640), "user2": (160, 120), "Alice~2": (1280, 960)}
    with server_with_child("display", env=desktop.env, plain=False) as server:
        for name, (width, height) in shapes.items():
            server.open(name, plain_picture(GREEN, width, height), 10)
        windows = desktop.until_steady(*shapes)
        assert_none_covers_another(windows)
        for name, (width, height) in shapes.items():
            until_colour(desktop, windows[name], GREEN)
            shown = windows[name].picture
            assert shown.width / shown.height == pytest.approx(width / height, rel=0.02)
        assert_ends_well(server)
    desktop.until_titles()


def test_the_newest_frame_is_shown_and_the_corner_is_readable_unless_plain(screen: Screen) -> None:
    for plain in (False, True):
        for colour in ((250, 250, 250), (5, 5, 5)):
            with server_with_child("display", env=screen.env, plain=plain) as server:
                server.open("Alice", plain_picture(RED), 10)
                window = screen.until_steady("Alice")["Alice"]
                server.open("Alice", plain_picture(colour), 10)
                until_colour(screen, window, colour)
                corner = screen.inside(window)[:24, :110]
                contrast = int(corner.max()) - int(corner.min())
                assert contrast == 0 if plain else contrast > 150
                assert_ends_well(server)


def test_the_age_of_a_stream_that_stands_still_goes_on(screen: Screen) -> None:
    with server_with_child("display", env=screen.env, plain=False) as server:
        server.open("Alice", plain_picture(GREEN), 10)
        window = screen.until_steady("Alice")["Alice"]
        until_colour(screen, window, GREEN)
        server.open("Alice", plain_picture(GREEN), 0)
        seen = set()

        def has_changed() -> bool:
            seen.add(screen.inside(window)[:24].tobytes())
            return len(seen) > 4

        until(has_changed, "the corner goes on")
        assert_ends_well(server)


def test_the_end_of_a_stream_closes_its_window_and_no_other(screen: Screen) -> None:
    with server_with_child("display", env=screen.env, plain=False) as server:
        for name in ("Alice", "Bob", "user1"):
            server.open(name, plain_picture(GREEN), 10)
        screen.until_titles("Alice", "Bob", "user1")
        server.end("Bob")
        windows = screen.until_steady("Alice", "user1")
        assert_none_covers_another(windows)
        server.open("Alice", plain_picture(RED), 10)
        until_colour(screen, windows["Alice"], RED)
        server.open("Bob", plain_picture(RED), 10)
        windows = screen.until_steady("Alice", "Bob", "user1")
        until_colour(screen, windows["Bob"], RED)
        assert_ends_well(server)


def test_a_window_closed_by_hand_stays_closed_until_the_next_login(desktop: Screen) -> None:
    with server_with_child("display", env=desktop.env, plain=False) as server:
        server.open("Alice", plain_picture(GREEN), 10)
        server.open("Bob", plain_picture(GREEN), 10)
        windows = desktop.until_steady("Alice", "Bob")
        desktop.close_by_hand(windows["Alice"])
        desktop.until_titles("Bob")
        sent = server.seen["sent"]
        server.until(lambda seen: seen["sent"] > sent + 20, "frames of both go on")
        assert set(desktop.windows()) == {"Bob"}

        os.kill(server.seen["pid"], signal.SIGKILL)
        desktop.until_titles()
        desktop.until_titles("Bob")
        sent = server.seen["sent"]
        server.until(lambda seen: seen["sent"] > sent + 20, "frames of both go on")
        assert set(desktop.windows()) == {"Bob"}

        server.end("Alice")
        server.open("Alice", plain_picture(RED), 10)
        windows = desktop.until_steady("Alice", "Bob")
        until_colour(desktop, windows["Alice"], RED)
        assert_ends_well(server)


def test_closing_the_last_window_by_hand_harms_neither_the_display_nor_the_next_stream(desktop: Screen) -> None:
    with server_with_child("display", env=desktop.env, plain=False) as server:
        server.open("Alice", plain_picture(GREEN), 10)
        desktop.close_by_hand(desktop.until_steady("Alice")["Alice"])
        desktop.until_titles()
        pid = server.seen["pid"]
        server.open("Bob", plain_picture(RED), 10)
        window = desktop.until_steady("Bob")["Bob"]
        until_colour(desktop, window, RED)
        server.end("Bob")
        desktop.until_titles()
        server.open("user1", plain_picture(RED), 10)
        desktop.until_titles("user1")
        assert server.seen["pid"] == pid
        assert server.log == []
        assert_ends_well(server)


def test_a_window_moved_by_hand_stays_where_it_was_put(desktop: Screen) -> None:
    with server_with_child("display", env=desktop.env, plain=False) as server:
        server.open("Alice", plain_picture(GREEN), 10)
        window = desktop.until_steady("Alice")["Alice"]
        sent = server.seen["sent"]
        server.until(lambda seen: seen["sent"] > sent + 15, "the window has settled")
        desktop.move_by_hand(window, 900, 500)
        moved = desktop.until_steady("Alice")["Alice"]
        assert moved.frame != window.frame
        server.until(lambda seen: seen["sent"] > sent + 25, "the child has seen it")
        server.open("Bob", plain_picture(GREEN), 10)
        assert desktop.until_steady("Alice", "Bob")["Alice"] == moved
        assert_ends_well(server)


def test_a_phone_that_is_turned_gets_a_window_of_its_new_shape(screen: Screen) -> None:
    with server_with_child("display", env=screen.env, plain=False) as server:
        server.open("Alice", plain_picture(GREEN, 640, 480), 10)
        screen.until(lambda windows: "Alice" in windows and windows["Alice"].picture[2:] == (640, 480), "it lies")
        server.open("Alice", plain_picture(RED, 480, 640), 10)
        screen.until(lambda windows: "Alice" in windows and windows["Alice"].picture[2:] == (480, 640), "it stands")
        assert_ends_well(server)


def test_pictures_that_do_not_decode_are_said_to_be_so_and_harm_nobody(screen: Screen) -> None:
    damaged = bytearray(picture(width=320, height=240))
    table = damaged.index(b"\xff\xc4") + 5  # of Huffman codes, so many of each length: more than there can be
    damaged[table : table + 16] = b"\x55" * 16
    with server_with_child("display", env=screen.env, plain=True) as server:
        server.open("Alice", bytes(damaged), 10)
        server.open("Bob", plain_picture(GREEN), 10)
        windows = screen.until_steady("Alice", "Bob")
        until_colour(screen, windows["Bob"], GREEN)
        pid = server.seen["pid"]
        inside = screen.inside(windows["Alice"])
        assert (inside[5, 5] == (32, 32, 32)).all()
        assert inside.max() > 200, "there is something written"
        server.open("Alice", plain_picture(RED), 10)
        until_colour(screen, windows["Alice"], RED)
        assert server.seen["pid"] == pid
        assert server.log == [], "the decoder's complaints would fill the log"
        assert_ends_well(server)


def test_a_display_that_dies_comes_back_with_its_windows(screen: Screen) -> None:
    with server_with_child("display", env=screen.env, plain=False) as server:
        server.open("Alice", plain_picture(GREEN), 10)
        server.open("Bob", plain_picture(GREEN), 10)
        screen.until_titles("Alice", "Bob")
        pid = server.seen["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), "it has gone")
        server.until(lambda seen: seen["restarts"] == 1 and seen["state"] == "running", "another one runs")
        windows = screen.until_steady("Alice", "Bob")
        until_colour(screen, windows["Alice"], GREEN)
        assert_ends_well(server)


def test_sixteen_streams_at_ten_hertz_are_all_shown(screen: Screen) -> None:
    noise = np.random.default_rng(1).normal(0, 10, (480, 640, 3))
    waves = np.add.outer(np.sin(np.arange(480) / 40), np.cos(np.arange(640) / 50))[:, :, None] * 50 + 128
    frame = padded(bytes(cv2.imencode(".jpg", (waves + noise).clip(0, 255).astype(np.uint8))[1]), 200_000)
    names = [f"user{number}" for number in range(16)]
    with server_with_child("display", env=screen.env, plain=False) as server:
        for name in names:
            server.open(name, frame, 10)
        assert_none_covers_another(screen.until_steady(*names))
        start = server.seen
        end = server.until(lambda seen: seen["published"] > start["published"] + 480, "three seconds have passed")
        dropped = end["dropped"] - start["dropped"]
        assert dropped < 0.05 * (end["published"] - start["published"]), f"{dropped} frames were not shown"
        assert server.worst_lag_ms < 250
        assert_ends_well(server)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"DISPLAY": "", "WAYLAND_DISPLAY": ""}, "no screen for windows: DISPLAY is not set\n"),
        (
            {"DISPLAY": "", "WAYLAND_DISPLAY": "wayland-0"},
            "no screen for windows: they need X11, and DISPLAY is not set (Xwayland sets it)\n",
        ),
        (
            {"DISPLAY": ":4321", "WAYLAND_DISPLAY": ""},
            "no screen for windows: the X server at DISPLAY=:4321 can't be opened\n",
        ),
    ],
)
def test_without_a_screen_it_does_not_start_and_says_why_in_one_line(env: dict[str, str], said: str) -> None:
    with server_with_child("display", env=env, plain=False) as server:
        assert server.process.wait(10) == 2
        until(lambda: server.log, "it says why")
        assert server.log == [said]
