"""Options come from the command line, the environment and a file, and a wrong one is one clear line."""

from pathlib import Path

import pytest

from settings import OPTIONS, Settings, has_password, read_settings


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in OPTIONS:
        monkeypatch.delenv("IMAGESERVER_" + option.name.upper().replace("-", "_"), raising=False)


def test_defaults_are_those_of_the_table_and_of_the_class() -> None:
    assert read_settings([]) == Settings()
    for option in OPTIONS:
        value = getattr(Settings(), option.name.replace("-", "_"))
        assert value == (tuple(option.default) if isinstance(option.default, list) else option.default)


@pytest.mark.parametrize("flag", ["-a", "--auth", "-auth"])
def test_every_old_spelling_of_auth_works(flag: str) -> None:
    assert read_settings([flag]).auth is True


def test_the_prototypes_command_line_works() -> None:
    settings = read_settings(["-i", "10.0.0.1", "-p", "9000", "-auth", "-d"])
    assert settings[:4] == ("10.0.0.1", 9000, True, True)


def test_the_command_line_beats_the_environment_and_that_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        '[imageserver]\nport = 1\nrate = 1.0\nip = "127.0.0.1"\nmax-pixels = 99\norigins = ["https://a.example"]\n'
    )
    monkeypatch.setenv("IMAGESERVER_PORT", "2")
    monkeypatch.setenv("IMAGESERVER_RATE", "2.5")
    settings = read_settings(["--config", str(config), "-p", "3"])
    assert (settings.port, settings.rate, settings.ip, settings.max_pixels) == (3, 2.5, "127.0.0.1", 99)
    assert settings.origins == ("https://a.example",)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "70000"], "'70000' is not a port, expected 0 to 65535"),
        (["-p", "http"], "'http' is not a port"),
        (["--rate", "-1"], "-1 is less than 0"),
        (["--rate", "nan"], "nan is less than 0"),
        (["--rate", "fast"], "invalid number value: 'fast'"),
        (["--rate", "inf"], "inf is not finite"),
        (["--idle-rate", "-0.5"], "-0.5 is less than 0"),
        (["--user-rate", "Alice"], "'Alice', expected USER=HZ"),
        (["--user-rate", "=5"], "'=5', expected USER=HZ"),
        (["--user-rate", "Alice=fast"], "'Alice=fast', expected USER=HZ with a number"),
        (["--user-rate", "Alice=-1"], "-1 is less than 0"),
        (["--max-pixels", "0"], "0 is less than 1"),
        (["--record", "x"], "unrecognized arguments: --record"),
        (["--users", "postgresql://me:secret@db/users"], "belongs into the environment (IMAGESERVER_USERS"),
        (["--users=postgresql://me:secret@db/users"], "belongs into the environment (IMAGESERVER_USERS"),
        (["--users", "postgresql://db/users?user=me&password=secret"], "belongs into the environment"),
        (["--users", "postgresql://me:sec/ret@db/users"], "belongs into the environment"),
        (["--pull", "rtsp://me:secret@camera/1"], "belongs into the environment (IMAGESERVER_USERS, IMAGESERVER_PULL)"),
        (["--pull", "ftp://camera/1"], "expected a camera's address as http://HOST/PATH or rtsp://HOST/PATH"),
        (["--pull", "http:///1"], "expected a camera's address"),
        (["--pull", "http://camera:0/"], "expected a camera's address"),
        (["--pull", "http://camera:port/"], "expected a camera's address"),
        (["--pull", "http://[::1/"], "expected a camera's address"),
        (["--pull", "http://camera/1\r\nHost: x"], "expected a camera's address"),
        (["--pull-allow", "10.0.0.0/33"], "'10.0.0.0/33' is not a network"),
        (["--pull-allow", "camera"], "'camera' is not a network"),
        (["--tcp-port", "-1"], "'-1' is not a port"),
        (["--tcp-idle-sec", "0.5"], "0.5 is less than 1"),
        (["--tcp-connections", "0"], "0 is less than 1"),
    ],
)
def test_a_wrong_option_is_a_clear_line_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        read_settings(arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert says in error.splitlines()[-1]
    assert "secret" not in error


def test_users_may_have_rates_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(["--user-rate", "Alice=10", "--user-rate", "Bob Smith=0", "--idle-rate", "0"])
    assert settings.user_rate == (("Alice", 10.0), ("Bob Smith", 0.0))
    assert settings.idle_rate == 0
    config = tmp_path / "server.toml"
    config.write_text('[imageserver]\nuser-rate = ["Alice=2.5", "Bob=7"]\n')
    assert read_settings(["--config", str(config)]).user_rate == (("Alice", 2.5), ("Bob", 7.0))
    monkeypatch.setenv("IMAGESERVER_USER_RATE", "[Alice=3, Carol=4]")
    assert read_settings([]).user_rate == (("Alice", 3.0), ("Carol", 4.0))


def test_a_database_url_with_a_password_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESERVER_USERS", "postgresql://me:secret@db/users")
    assert read_settings([]).users == "postgresql://me:secret@db/users"


def test_cameras_to_pull_come_from_all_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(["--pull", "http://a/1", "--pull", "rtsp://b:554/2?x=1"]).pull == (
        "http://a/1", "rtsp://b:554/2?x=1",
    )  # fmt: skip
    monkeypatch.setenv("IMAGESERVER_PULL", "[http://me:secret@a/1, rtsp://me:secret@[2001:db8::1]/2]")
    assert read_settings([]).pull == ("http://me:secret@a/1", "rtsp://me:secret@[2001:db8::1]/2")
    monkeypatch.setenv("IMAGESERVER_PULL", "http://me:secret@a/1")
    assert read_settings([]).pull == ("http://me:secret@a/1",)
    monkeypatch.delenv("IMAGESERVER_PULL")
    config = tmp_path / "server.toml"
    config.write_text('[imageserver]\npull = ["http://me:secret@a/1", "http://b/"]\npull-allow = ["10.1.2.3/8"]\n')
    settings = read_settings(["--config", str(config)])
    assert settings.pull == ("http://me:secret@a/1", "http://b/")
    assert settings.pull_allow == ("10.0.0.0/8",)


def test_a_password_of_a_camera_whose_address_is_wrong_is_not_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESERVER_PULL", "ftp://me:secret@camera/1")
    with pytest.raises(SystemExit):
        read_settings([])
    assert "secret" not in capsys.readouterr().err


def test_an_error_shows_no_password_whatever_it_is_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[imageserver]\npulll = "http://me:secret@camera/1?pwd=secret"\n')
    with pytest.raises(SystemExit):
        read_settings(["--config", str(config)])
    said = capsys.readouterr().err
    assert "secret" not in said
    assert "--pulll=http://…@camera/1?pwd=…" in said


def test_an_unknown_key_of_the_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "server.toml"
    config.write_text("[imageserver]\nprot = 1\n")
    with pytest.raises(SystemExit):
        read_settings(["--config", str(config)])
    assert "prot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "password"),
    [
        ("users.htpasswd", False),
        ("sqlite:///users.db", False),
        ("postgresql://user@h/db", False),
        ("postgresql://user:hidden@h/db", True),
        ("postgresql://h/db?user=u&password=hidden", True),
        ("postgresql://user:hidden@h:port/db", True),
        ("://", False),
        ("http://camera/snapshot.cgi?user=me&pwd=hidden", True),
        ("http://camera/snap.jpg?usr=me&Password=hidden", True),
        ("http://camera/cgi?loginuse=me&loginpas=hidden", True),
        ("http://camera/img?user=me&pass=hidden", True),
        ("rtsp://camera/user=me_password=hidden_channel=1", True),
        ("http://camera/snapshot.cgi?resolution=640x480", False),
        ("http://me@camera/1", False),
    ],
)
def test_a_password_in_a_url_is_noticed(source: str, password: bool) -> None:
    assert has_password(source) is password
