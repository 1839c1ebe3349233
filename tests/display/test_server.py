"""The real server with `-d`: phones log in, and their pictures stand on the screen."""

import os
import signal
import subprocess
import sys

from phones import Phone
from pictures import picture
from running import SRC, running_server, until
from screens import Screen
from security.processes import children_of


def test_each_user_s_pictures_appear_in_a_window_until_the_user_goes(screen: Screen) -> None:
    with running_server("-d", env=screen.env) as server:
        phones = {name: Phone(server.url) for name in ("Alice", "Bob", "user1")}
        for name, phone in phones.items():
            phone.log_in(name)
            phone.send(picture(width=320, height=240))
        windows = screen.until_steady("Alice", "Bob", "user1")
        assert all(window.picture[2:] == (320, 240) for window in windows.values())
        until(lambda: screen.inside(windows["Bob"]).std() > 20, "a picture is seen")
        phones["Bob"].client.disconnect()
        screen.until_titles("Alice", "user1")
        assert server.stop() == 0
        assert "Traceback" not in "".join(server.log)
    screen.until_titles()


def test_phones_are_served_while_the_display_is_stopped_and_it_ends_with_the_server(screen: Screen) -> None:
    with running_server("-d", env=screen.env) as server:
        phone = Phone(server.url)
        phone.log_in("Alice")
        phone.send(picture())
        screen.until_titles("Alice")
        (child,) = children_of(server.process.pid)
        os.kill(child, signal.SIGSTOP)
        assert all(phone.send(picture())["accepted"] for _ in range(20))
        assert server.stop() == 0
        assert children_of(server.process.pid) == []
    screen.until_titles()


def test_without_a_screen_it_says_so_with_status_2_and_does_not_listen() -> None:
    run = subprocess.run(
        [sys.executable, "ImageServer.py", "-d", "-i", "127.0.0.1", "-p", "0"],
        cwd=SRC,
        env={**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.splitlines()[-1] == "ImageServer.py: no screen for windows: DISPLAY is not set"
    assert "Traceback" not in run.stderr
