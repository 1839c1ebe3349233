"""Pictures, whatever they are made from."""

import threading
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from peers import need
from running import until

need("opencv")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from client_sim.sources import SourceError, Synthetic, fit, open_sources, stamp, take_image  # noqa: E402

SIZE_WH = (320, 240)


def decoded(image):
    picture = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


@pytest.mark.parametrize("size_wh", [(160, 120), (1280, 960), (120, 160), (16, 16), (1, 1)])
def test_a_synthetic_image_has_the_size_asked_for(size_wh):
    image = take_image(Synthetic("user1", size_wh), "user1", quality=80)
    assert decoded(image).shape == (size_wh[1], size_wh[0], 3)


def test_a_synthetic_picture_moves(monkeypatch):
    source = Synthetic("user1", SIZE_WH)
    monkeypatch.setattr("client_sim.sources.time.time", lambda: 12.0)
    first = source.picture()
    monkeypatch.setattr("client_sim.sources.time.time", lambda: 12.25)
    assert (first != source.picture()).any()


def test_users_have_skies_of_different_colours():
    corners = [Synthetic(name, SIZE_WH).picture()[200, 5].astype(int) for name in ("user1", "user2", "Alice")]
    assert min(np.abs(corners[a] - corners[b]).sum() for a, b in ((0, 1), (0, 2), (1, 2))) > 80


def test_name_and_time_are_written_at_the_foot_and_nowhere_else():
    grey = np.full((240, 320, 3), 200, np.uint8)
    stamped = grey.copy()
    stamp(stamped, "user1", datetime(2026, 1, 2, 3, 4, 5, 678_000))
    other_time = grey.copy()
    stamp(other_time, "user1", datetime(2026, 1, 2, 3, 4, 5, 679_000))
    assert (stamped[:180] == grey[:180]).all()
    changed_rows = np.nonzero((stamped != other_time).any(axis=(1, 2)))[0]
    assert changed_rows.size
    assert changed_rows.min() > 208, "the name above the clock stays as it is"


def test_a_name_of_full_length_stays_inside_the_picture():
    picture = np.full((240, 320, 3), 200, np.uint8)
    stamp(picture, "m" * 64, datetime(2026, 1, 2))
    assert (picture[190:, :4] == 50).all()
    assert (picture[190:, -4:] == 50).all()


def test_another_shape_is_fitted_in_whole_with_black_borders():
    fitted = fit(np.full((100, 100, 3), 255, np.uint8), SIZE_WH)
    assert fitted.shape == (240, 320, 3)
    assert (fitted[:, 40:280] == 255).all()
    assert not fitted[:, :40].any()


def test_a_folder_gives_its_images_in_order_again_and_again(tmp_path):
    for number, name in enumerate(("a.png", "b.bmp", "c.jpg")):
        cv2.imwrite(str(tmp_path / name), np.full((240, 320, 3), 80 * number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_sources(str(tmp_path), ["user1", "user1 #2"], SIZE_WH) as (first, second):
        shades = [int(first.picture()[0, 0, 0]) for _ in range(5)]
        assert shades == [0, 80, 160, 0, 80]
        assert int(second.picture()[0, 0, 0]) == 0, "each client goes through the folder by itself"


def test_writing_on_a_picture_of_a_folder_does_not_stain_the_next_round(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((240, 320, 3), 90, np.uint8))
    with open_sources(str(tmp_path), ["user1"], SIZE_WH) as (source,):
        take_image(source, "user1", quality=80)
        assert (source.picture() == 90).all()


@pytest.fixture
def video_file(tmp_path):
    path = tmp_path / "grey.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (160, 120))
    for shade in (0, 60, 120, 180):
        writer.write(np.full((120, 160, 3), shade, np.uint8))
    writer.release()
    return path


def test_a_video_plays_over_and_over_for_all_clients(video_file):
    with open_sources(str(video_file), ["user1", "user2"], SIZE_WH) as (first, second):
        assert first is second
        seen = []

        def played_twice():
            shade = round(int(first.picture()[120, 160, 0]) / 60)
            if not seen or seen[-1] != shade:
                seen.append(shade)
            return seen.count(0) >= 2 and seen.count(3) >= 2

        until(played_twice, "it has begun again")
        assert first.picture().shape == (240, 320, 3)


def test_a_video_comes_from_an_address_too(video_file):
    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=video_file.parent)) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{files.server_port}/{video_file.name}"
        with open_sources(url, ["user1"], SIZE_WH) as (source,):
            assert source.picture().shape == (240, 320, 3)
        files.shutdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "can't open"), (b"not a video", "can't open"), ({}, "no images in")],
    ids=["missing", "unreadable", "empty folder"],
)
def test_what_gives_no_pictures_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "source"
    if content == {}:
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=message), open_sources(str(path), ["user1"], SIZE_WH):
        pytest.fail("it was opened")


def test_an_unreadable_image_of_a_folder_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with open_sources(str(tmp_path), ["user1"], SIZE_WH) as (source,), pytest.raises(SourceError, match=r"broken\.jpg"):
        source.picture()
