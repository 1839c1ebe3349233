"""Whose cameras are those that cannot log in: the file of --tcp-users."""

import subprocess
import sys
from pathlib import Path

import pytest

from ingest.camera_users import CameraUsers, CameraUsersError
from running import SRC

EXAMPLE = """
# the first line that fits holds
192.168.7.20     Alice
cam:7            Bob Smith   # wherever it is
192.168.7.0/24   Carol
2001:db8::/32    Dora
"""


def users(tmp_path: Path, text: str) -> CameraUsers:
    file = tmp_path / "cameras"
    file.write_text(text)
    return CameraUsers.read(str(file))


@pytest.mark.parametrize(
    ("address", "camera", "user"),
    [
        ("192.168.7.20", None, "Alice"),
        ("192.168.7.20", 7, "Alice"),
        ("192.168.7.21", 7, "Bob Smith"),
        ("10.0.0.1", 7, "Bob Smith"),
        ("192.168.7.21", 6, "Carol"),
        ("192.168.7.21", None, "Carol"),
        ("192.168.8.1", None, None),
        ("::ffff:192.168.7.20", None, "Alice"),
        ("2001:db8::5", 0, "Dora"),
        ("2001:db8::5%eth0", 0, "Dora"),
        ("2001:db9::5", 0, None),
        ("", 7, "Bob Smith"),
        ("camera.example", None, None),
    ],
)
def test_the_first_line_that_fits_names_the_user(
    tmp_path: Path, address: str, camera: int | None, user: str | None
) -> None:
    assert users(tmp_path, EXAMPLE).user_of(address, camera) == user


def test_without_a_file_no_camera_has_a_user() -> None:
    assert CameraUsers().user_of("127.0.0.1", 1) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("192.168.7.300 Alice", "expected an address, a network or cam:NUMBER"),
        ("192.168.7.1/24 Alice", "has host bits set"),
        ("camera.example Alice", "expected an address, a network or cam:NUMBER"),
        ("cam:256 Alice", "'cam:256', expected cam:0 to cam:255"),
        ("cam:-1 Alice", "'cam:-1', expected cam:0 to cam:255"),
        ("cam:² Alice", "expected cam:0 to cam:255"),
        ("cam: Alice", "'cam:', expected cam:0 to cam:255"),
        ("192.168.7.20", "'' is no name that a user may have"),
        ("192.168.7.20 ../x", "'../x' is no name that a user may have"),
        ("192.168.7.20 tcp-1", "'tcp-1' is no name that a user may have"),
        ("192.168.7.20 Alice, Bob", "'Alice, Bob' is no name that a user may have"),
    ],
)
def test_a_wrong_line_is_named_with_what_was_expected(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(CameraUsersError) as error:
        users(tmp_path, f"10.0.0.1 Alice\n{line}\n")
    assert f"line 2 of {tmp_path}" in str(error.value)
    assert says in str(error.value)


def test_a_file_that_cannot_be_read_ends_the_start_with_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"10.0.0.1 Andr\xe9\n")
    for name, says in (("missing", "No such file or directory"), ("latin1", "it is no UTF-8")):
        path = str(tmp_path / name)
        run = subprocess.run(
            [sys.executable, "ImageServer.py", "-i", "127.0.0.1", "-p", "0", "--tcp-users", path],
            cwd=SRC, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert run.returncode == 2
        assert run.stderr.splitlines()[-1] == (f"ImageServer.py: the users of cameras in {path} cannot be read: {says}")
        assert "Traceback" not in run.stderr
