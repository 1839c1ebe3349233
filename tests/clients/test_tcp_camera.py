"""A camera that knows the protocol over plain TCP and nothing of the server, against the whole server: what it sends is
what arrives."""

import gzip
import json
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import pytest

from app_process import AppProcess, app_process
from clients.tcp_camera import play
from running import until

CAMERA: Final = Path(__file__).resolve().parent / "tcp_camera.py"
LAYOUTS: Final = ("!BI", "<BI", "=BI", "BI")
MAX_BYTES: Final = 1_000_000

T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    settings = {"tcp_port": 0, "rate": 0.0, "max_frame_bytes": MAX_BYTES}
    with app_process(tmp_path_factory.mktemp("tcp") / "log", "python", settings=settings) as process:
        yield process


class Seen(NamedTuple):
    """What has come of some connections.

    Args:
        frames: `[stream, seq, bytes, digest, …]` each.
        ends: how the connections ended, by cause.
    """

    frames: list[list[Any]]
    ends: Counter[str]


def seen_of(server: AppProcess, send: Callable[[int], T], connections: int = 1) -> tuple[T, Seen]:
    """What has been sent to the port, and what was seen of it when so many connections have ended."""
    server.until_nothing_is_left()
    before = ends_in(server.ask("account"))
    sent = send(server.ask("tcp"))
    seen = Seen([], Counter())

    def ended() -> bool:
        account = server.ask("account")
        seen.frames.extend(account["published"])
        seen.ends.clear()
        seen.ends.update(ends_in(account) - before)
        return seen.ends.total() >= connections

    until(ended, "the connections' ends")
    return sent, seen


def ends_in(account: dict[str, Any]) -> Counter[str]:
    start = "imageserver_tcp_connections_ended_total"
    counts = {name.split()[1]: int(value) for name, value in account["counts"].items() if name.startswith(start)}
    return Counter(counts)


def played(server: AppProcess, **options: Any) -> tuple[list[dict[str, Any]], Seen]:
    """What one camera has sent, and what was seen of it."""
    return seen_of(server, lambda port: play("127.0.0.1", port, options))


def assert_arrived(sent: list[dict[str, Any]], published: list[list[Any]], user: str = "tcp-1") -> None:
    """Each image came as it was sent, numbered within its camera; the first camera has its user's name alone."""
    first = sent[0]["camera"]
    seqs: dict[int, int] = {}
    expected = []
    for image in sent:
        camera = image["camera"]
        seqs[camera] = seqs.get(camera, 0) + 1
        name = user if camera == first else f"{user}~cam{camera}"
        expected.append([name, seqs[camera], image["bytes"], image["sha256"]])
    assert [frame[:4] for frame in published] == expected
    assert {frame[5][0] for frame in published} == {"image/bmp"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_level_and_camera_arrives_as_it_was_sent(server: AppProcess, layout: str) -> None:
    options = {"layout": layout, "cameras": [7, 0, 255, 1], "levels": list(range(10)), "images": 40}
    sent, seen = played(server, **options)
    assert len(sent) == 40
    assert_arrived(sent, seen.frames)


def test_the_program_does_all_that_by_itself(server: AppProcess) -> None:
    def send(port: int) -> list[dict[str, Any]]:
        command = [sys.executable, CAMERA, "127.0.0.1", str(port), '{"images": 3}']
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return [json.loads(line) for line in run.stdout.splitlines()]

    sent, seen = seen_of(server, send)
    assert len(sent) == 3
    assert_arrived(sent, seen.frames)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", [{"at_once": 40}, {"pieces": 3}, {"pieces": 1_449}], ids=str)
def test_it_is_the_same_however_the_bytes_are_cut(server: AppProcess, layout: str, how: dict[str, int]) -> None:
    sent, seen = played(server, layout=layout, cameras=[3, 4], images=20, size_wh=[24, 18], **how)
    assert len(sent) == 20
    assert_arrived(sent, seen.frames)


def of_a_length_that_reads_both_ways() -> list[int]:
    """Width and height of an image that level 0 makes into bytes whose number can be read in either byte order."""
    for width in range(256, 400, 4):
        for height in range(200, 400):
            size = len(gzip.compress(bytes(54 + 3 * width * height), 0))
            if size < MAX_BYTES and 18 < int.from_bytes(size.to_bytes(4, "little"), "big") < MAX_BYTES:
                return [width, height]
    raise AssertionError("there is none")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_size_that_can_be_read_in_both_byte_orders_is_read_in_the_right_one(server: AppProcess, layout: str) -> None:
    size_wh = of_a_length_that_reads_both_ways()
    sent, seen = played(server, layout=layout, images=3, levels=[0], size_wh=size_wh)
    assert len(seen.frames) == 3
    assert seen.frames[0][5] == ["image/bmp", *size_wh]
    assert_arrived(sent, seen.frames)


def test_grey_images_with_a_palette_are_bmp_files_too(server: AppProcess) -> None:
    sent, seen = played(server, grey=True)
    assert_arrived(sent, seen.frames)


def test_several_at_once_are_users_of_their_own(server: AppProcess) -> None:
    together = threading.Barrier(len(LAYOUTS))

    def send(port: int) -> list[list[dict[str, Any]]]:
        def one(layout: str) -> list[dict[str, Any]]:
            together.wait()
            return play("127.0.0.1", port, {"layout": layout, "cameras": [1, 2], "images": 100})

        with ThreadPoolExecutor(len(LAYOUTS)) as threads:
            return list(threads.map(one, LAYOUTS))

    sent, seen = seen_of(server, send, len(LAYOUTS))
    assert len(seen.frames) == len(LAYOUTS) * 100
    users = {name.partition("~")[0] for name, *_ in seen.frames}
    assert users == {f"tcp-{number + 1}" for number in range(len(LAYOUTS))}
    for user in users:  # they show the same
        assert_arrived(sent[0], [frame for frame in seen.frames if frame[0].partition("~")[0] == user], user)


@pytest.mark.parametrize("cut", [1, 4, 5, 9, 1_000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_end_within_a_message_costs_that_message_only(server: AppProcess, layout: str, cut: int) -> None:
    sent, seen = played(server, layout=layout, images=2, cut=cut)
    assert_arrived(sent, seen.frames)
    assert seen.ends == {"truncated": 1}


def test_an_end_between_two_messages_is_a_goodbye(server: AppProcess) -> None:
    sent, seen = played(server, images=2)
    assert_arrived(sent, seen.frames)
    assert seen.ends == {"goodbye": 1}


def test_the_client_is_written_from_the_protocol_alone() -> None:
    imported = [line.split()[1] for line in CAMERA.read_text().splitlines() if line.startswith(("import", "from"))]
    ours = {path.stem for path in (CAMERA.parents[2] / "src").iterdir()}
    assert imported
    assert not {name.partition(".")[0] for name in imported} & ours
    assert struct.calcsize("BI") == 8
