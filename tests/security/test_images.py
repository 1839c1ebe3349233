"""Images that were made to do harm, from outside: refused by their header, and where one passes for whole, its window
shows its own pixels or nothing."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
from PIL import Image, ImageGrab

import peers
from child_server import server_with_child
from children import WIPE_MEMORY
from frames import InvalidFrame, Limits, check_image
from pictures import padded, picture
from probe import probing
from running import RunningServer, running_server, until
from screens import Screen, x_server
from security.images import (
    AMBIGUOUS,
    BOMBS,
    EOI,
    animated_without_its_first_picture,
    cut_and_closed,
    encoded,
    good_images,
    jpeg,
)
from security.outside import Client, watching
from security.processes import children_of

TESTS: Final = Path(__file__).resolve().parent.parent
LIMITS: Final = Limits()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """With a good camera beside everything that happens in this module."""
    with running_server("-a", "--rate", "0") as running, probing(running.port, rate_hz=20) as probe:
        yield running
        figures = probe.stop()
        figures.check()
        assert figures.ack_ms[-1] < 500, figures.summary()
        libraries = {line.split()[-1] for line in Path(f"/proc/{running.process.pid}/maps").read_text().splitlines()}
        decoders = [
            name for name in libraries if any(word in name for word in ("cv2", "opencv", "jpeg", "png", "webp"))
        ]
        assert not decoders, "the server never decodes, so it holds nothing that could"
        assert running.stop() == 0


def reason(client: Client, image: bytes) -> Any:
    """Why an image was refused, None if it was taken."""
    client.asked += 1
    head = f"43{client.asked}["
    client.say(f'451-{client.asked}["receiveImage",{{"_placeholder":true,"num":0}}]', image)
    packet = client.until(lambda packet: isinstance(packet, str) and packet.startswith(head))
    return json.loads(str(packet)[len(head) - 1 :])[0].get("reason")


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_declares_a_huge_image_is_refused_and_nothing_is_allocated(
    server: RunningServer, name: str
) -> None:
    with Client(server.port, 4, "websocket") as client:
        client.log_in()
        reason(client, picture())
        with watching(server, causes=0) as watched:
            assert {reason(client, BOMBS[name]) for _ in range(20)} == {"too_many_pixels"}
            assert watched.peak_growth_mb < 2, "nothing of the size that is declared"


def test_the_bombs_are_bombs_a_decoder_would_take_their_size(server: RunningServer) -> None:
    for name in ("a JPEG of 631 bytes", "a PNG", "a lossy WebP", "a BMP"):
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(io.BytesIO(BOMBS[name])) as opened:
            assert opened.width * opened.height > 5 * LIMITS.max_pixels, name
    assert len(BOMBS["a JPEG of 631 bytes"]) == 631


def test_the_windows_decoder_has_the_limit_too_and_memory_that_is_wiped(screen: Screen) -> None:
    code = (
        "import sys, cv2, numpy as np\n"
        "picture = None\n"
        "try: picture = cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), cv2.IMREAD_COLOR)\n"
        "except cv2.error: pass\n"
        "print(None if picture is None else picture.shape)"
    )
    for pixels, expected in ((64 * 48, "(48, 64, 3)"), (64 * 48 - 1, "None")):
        with running_server("-d", "--max-pixels", str(pixels), env=screen.env) as server:
            (child,) = until(lambda server=server: children_of(server.process.pid), "the windows' process")
            environ = Path(f"/proc/{child}/environ").read_bytes().decode()
        assert WIPE_MEMORY in environ.replace("\0", ":"), "glibc cuts it up where it lies"
        limit = environ.partition("\0OPENCV_IO_MAX_IMAGE_PIXELS=")[2].partition("\0")[0]
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": limit},
            input=picture(),
            capture_output=True,
            check=True,
        )
        assert run.stdout.decode().strip() == expected


def lengths(size: int) -> list[int]:
    """Where a file is cut: everywhere near its ends, and at 40 places between."""
    return sorted({*range(min(size, 40)), *range(40, size, max(size // 40, 1)), *range(max(size - 20, 0), size)})


def test_an_image_that_is_cut_anywhere_is_refused_for_that(server: RunningServer) -> None:
    with Client(server.port, 4, "websocket") as client, watching(server):
        client.log_in()
        for name, image in good_images().items():
            assert reason(client, image) is None, name
            for length in lengths(len(image)):
                refused = reason(client, image[:length])
                assert refused == "truncated" or (refused == "not_an_image" and length < 12), f"{name} of {length}"


BEHIND: Final = {
    "zeros": bytes(60_000),
    "a line end": b"\r\n",
    "another image": picture(seed=2),
    "a maker's note": b"Exif\0\0" + b"note" * 1_000,
    "a page": b"<script>alert(1)</script>",
}


def test_bytes_behind_an_image_belong_to_it_up_to_64_kib(server: RunningServer) -> None:
    """No decoder reads them, and cameras send them; only an image whose end is marked says how many are too many."""
    with Client(server.port, 4, "websocket") as client:
        client.log_in()
        for name, behind in BEHIND.items():
            for kind, image in good_images().items():
                assert reason(client, image + behind) is None, f"{kind} and {name}"
                if kind != "animated PNG":
                    assert_same_picture(image, image + behind)
        for kind, image in good_images().items():
            marked = "JPEG" in kind or "PNG" in kind
            assert reason(client, image + bytes(70_000)) == ("truncated" if marked else None), kind


def assert_same_picture(one: bytes, other: bytes) -> None:
    first, second = (cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in (one, other))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_file_that_may_be_read_in_two_ways_is_refused_or_decodes_to_the_size_that_was_read(name: str) -> None:
    image = AMBIGUOUS[name]
    try:
        info = check_image(image, LIMITS)
    except InvalidFrame:
        return
    picture = None
    try:
        picture = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pass
    if picture is not None:
        assert picture.shape[1::-1] == info[1:]
    try:
        with Image.open(io.BytesIO(image)) as opened:
            assert opened.size == info[1:]
            opened.load()
            assert opened.size == info[1:]
    except (OSError, SyntaxError, ValueError):
        pass


# Of two users' images, the pixels are never mixed.


def test_a_bad_image_shows_its_own_pixels_or_none_whatever_was_decoded_before_it() -> None:
    """Hundreds of cut and damaged images of every kind, each decoded alone and after images of one colour: it comes out
    the same, so nothing of the others is in it."""
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("decode_after.py")), "30" if os.environ.get("CI") else "5"],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}", "GLIBC_TUNABLES": WIPE_MEMORY},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout)
    assert found["shown"] == []
    assert found["passed"] > 120, "the header check takes them"
    assert found["decoded"] > 150, "and so does the decoder, or this would tell nothing"


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    peers.need("opencv", "xvfb", "xdotool", "x11-utils")
    with x_server() as screen:
        yield screen


def seen_of(screen: Screen, title: str) -> Any:
    """What a window shows: uint8 array of shape (height, width, 3), RGB."""
    x, y, width, height = screen.windows()[title].picture
    return np.asarray(ImageGrab.grab((x, y, x + width, y + height), xdisplay=screen.env["DISPLAY"]))


def pixels_of(seen: Any, colour: tuple[int, int, int]) -> int:
    return int((seen == colour).all(axis=2).sum())


#: Alike in all channels, so that another layout of the same memory shows it too.
THEIRS: Final = (77, 77, 77)
MINE: Final = (200, 60, 60)


def test_no_window_ever_shows_a_pixel_of_another_users_image(screen: Screen) -> None:
    theirs = encoded("PNG", colour=THEIRS)
    mine = encoded("PNG", colour=MINE)
    half = cut_and_closed(encoded("JPEG", size_wh=(320, 240)), 0.5)
    hostile = {
        "an animation without its first picture": animated_without_its_first_picture(),
        "half an animation": cut_and_closed(good_images()["animated PNG"], 0.07),
        "half a JPEG": half,
        "half a PNG": cut_and_closed(encoded("PNG"), 0.5),
        "half a WebP": cut_and_closed(encoded("WEBP", lossless=True), 0.5),
        "half a BMP": cut_and_closed(encoded("BMP"), 0.5),
        "a JPEG of nothing": jpeg(320, 240),
    }
    for image in hostile.values():
        check_image(image, LIMITS)
    with server_with_child("display", env=screen.env, plain=True) as server:
        for name in ("Alice", "Bob", "user1"):
            server.open(name, theirs, 30)
        server.open("Mallory", mine, 10)
        screen.until_titles("Alice", "Bob", "Mallory", "user1")
        until(lambda: pixels_of(seen_of(screen, "Alice"), THEIRS) > 70_000, "Alice's picture is shown")
        until(lambda: pixels_of(seen_of(screen, "Mallory"), MINE) > 70_000, "Mallory's picture is shown")
        for name, image in hostile.items():
            server.open("Mallory", image, 15)
            for _ in range(2):
                sent = server.seen["sent"] + 12
                server.until(lambda seen, sent=sent: seen["sent"] >= sent, "frames go on")
                seen = seen_of(screen, "Mallory")
                assert pixels_of(seen, THEIRS) < 50, f"{name}: {pixels_of(seen, THEIRS)} pixels of the others"
            assert pixels_of(seen_of(screen, "Alice"), THEIRS) > 70_000
        assert server.log == []
        server.stop()
        assert server.process.wait(5) == 0


def test_an_image_that_cannot_be_decoded_does_not_leave_the_last_one_standing(screen: Screen) -> None:
    with server_with_child("display", env=screen.env, plain=True) as server:
        server.open("Mallory", encoded("PNG", colour=MINE), 10)
        screen.until_titles("Mallory")
        until(lambda: pixels_of(seen_of(screen, "Mallory"), MINE) > 70_000, "the picture is shown")
        server.open("Mallory", cut_and_closed(encoded("PNG"), 0.5), 10)
        until(lambda: pixels_of(seen_of(screen, "Mallory"), MINE) == 0, "its place is taken by a word")
        server.stop()
        assert server.process.wait(5) == 0


def test_the_end_of_a_jpeg_that_was_pasted_half_way_is_grey_and_nobody_elses() -> None:
    whole = encoded("JPEG")
    picture = cv2.imdecode(np.frombuffer(cut_and_closed(whole, 0.5), np.uint8), cv2.IMREAD_COLOR)
    good = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(picture[:90], good[:90]), "its own part"
    assert len(np.unique(picture[180:].reshape(-1, 3), axis=0)) == 1, "and one colour"


def test_a_full_sized_frame_of_comments_costs_no_more_than_any_other(server: RunningServer) -> None:
    with Client(server.port, 4, "websocket") as client, watching(server) as watched:
        client.log_in()
        empty = b"\xff\xfe\0\2" * (2 << 20)
        for image, expected in (
            (b"\xff\xd8" + empty, "not_an_image"),
            (b"\xff\xd8" + b"\xff" * ((8 << 20) - 2), "truncated"),
            (padded(jpeg(64, 48), 8 << 20) + EOI, None),
        ):
            began = time.monotonic()
            refused = reason(client, image[: 8 << 20])
            took = time.monotonic() - began
            assert refused == expected
            assert took < 0.5
        assert watched.peak_growth_mb < 40
