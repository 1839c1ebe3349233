"""Addresses of cameras, as operators write them and as cameras announce them."""

import pytest

from ingest.pull.camera_url import CameraUrl

READ = {
    "http://cam/": ("http", "cam", 80, "/", None),
    "http://cam": ("http", "cam", 80, "/", None),
    "HTTP://Cam.Example.:8080/a/b.jpg?w=1&h=2#x": ("http", "cam.example.", 8080, "/a/b.jpg?w=1&h=2", None),
    "https://192.168.7.20/": ("https", "192.168.7.20", 443, "/", None),
    "rtsp://cam/h264": ("rtsp", "cam", 554, "/h264", None),
    "rtsps://cam/h264": ("rtsps", "cam", 322, "/h264", None),
    "http://[2001:db8::1]:81/x": ("http", "2001:db8::1", 81, "/x", None),
    "http://[fe80::1%eth0]/x": ("http", "fe80::1%eth0", 80, "/x", None),
    "http://user:pass%3Aw%40rd@cam/": ("http", "cam", 80, "/", ("user", "pass:w@rd")),
    "http://user@cam/": ("http", "cam", 80, "/", ("user", "")),
    "http://:pass@cam/": ("http", "cam", 80, "/", ("", "pass")),
    "http://cam?snap": ("http", "cam", 80, "/?snap", None),
    'http://cam/%41ä"<>': ("http", "cam", 80, "/%41%C3%A4%22%3C%3E", None),
    "http://kamera-ä.example/": ("http", "xn--kamera--cxa.example", 80, "/", None),
}


@pytest.mark.parametrize("text", READ)
def test_an_address_is_read(text: str) -> None:
    assert tuple(CameraUrl.parse(text)) == READ[text]


@pytest.mark.parametrize(
    "text",
    [
        "", "cam", "cam:80", "ftp://cam/", "file:///etc/passwd", "http:///x", "http://:80/", "http://cam:0/", "http://cam:x/",
        "http://cam:65536/", "http://cam\r\nX: y/", "http://cam/a b", "http://cam/\n", "http://[::1/", "http://[::g]/",
        "http://ca m/", "http://-cam/", "http://cam_$/", "http://" + "x" * 300 + "/", "http://a%0d%0ab/", "http://[]/",
        "http://user:secret@/", "http://user:secret@cam:x/", "http://user:secret@ca\x7fm/", "http://" + "ä" * 70 + "/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="a camera's") as raised:
        CameraUrl.parse(text)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_nothing_secret_of_an_address_is_shown() -> None:
    url = CameraUrl.parse("http://admin:s3cret@cam:8080/snap.jpg?user=admin&pwd=s3cret")
    assert url.shown == "http://cam:8080/snap.jpg"
    for text in (repr(url), str(url), f"{url}", f"{[url]}"):
        assert "s3cret" not in text
        assert "admin" not in text


def test_an_announced_camera_has_its_picture_at_video() -> None:
    assert CameraUrl.registered("192.168.7.20", 5000) == ("http", "192.168.7.20", 5000, "/video", None)
    assert CameraUrl.registered("[2001:db8::1]", 5000).host == "2001:db8::1"


@pytest.mark.parametrize(
    ("host", "port"),
    [("cam", 0), ("cam", 65536), ("", 80), ("a/b", 80), ("a@b", 80), ("a\r\nb", 80), ("a b", 80), ("::1%\r\n", 80)],
)
def test_what_cannot_be_announced_is_refused(host: str, port: int) -> None:
    with pytest.raises(ValueError, match="a camera's"):
        CameraUrl.registered(host, port)


@pytest.mark.parametrize(
    ("text", "host_and_port"),
    [
        ("http://cam:80/", "cam"),
        ("https://cam:80/", "cam:80"),
        ("http://[2001:db8::1]:81/", "[2001:db8::1]:81"),
        ("http://[fe80::1%eth0]/", "[fe80::1]"),
    ],
)
def test_the_host_is_named_as_in_a_host_header(text: str, host_and_port: str) -> None:
    assert CameraUrl.parse(text).host_and_port == host_and_port
