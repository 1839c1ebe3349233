import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from auth import htpasswd_users
from auth.accounts import Account, NameInUse, NotSupported, UnknownUser, UsersUnavailable
from auth.htpasswd_users import HtpasswdUsers
from auth.passwords import check_password

APR = "$apr1$Tlq/2KTK$sxNyY/13n/brLF3fsf45f1"  # of pass1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users.htpasswd"
    path.write_text(f"# ours\nCarol:{APR}\n\nDave:{APR}\n")
    return path


@pytest.fixture
def users(path: Path) -> HtpasswdUsers:
    return HtpasswdUsers(str(path))


def names(users: HtpasswdUsers) -> list[str]:
    return [account.name for account in users.list()]


def test_a_file_of_apache_is_read(users: HtpasswdUsers) -> None:
    assert users.find("Carol") == Account("Carol", password_hash=APR)
    assert check_password("pass1", APR).right
    assert users.find("carol") is None
    assert names(users) == ["Carol", "Dave"]


def test_a_file_that_somebody_edits_is_read_again(users: HtpasswdUsers, path: Path) -> None:
    assert users.find("Erin") is None
    path.write_text(f"Erin:{APR}\n")
    assert names(users) == ["Erin"]


def test_an_account_is_added_changed_and_removed_and_all_else_stays(users: HtpasswdUsers, path: Path) -> None:
    users.add("Erin", "opensesame")
    users.set_password("Carol", "opensesame")
    users.remove("Dave")
    lines = path.read_text().splitlines()
    assert lines[0] == "# ours"
    assert lines[1].startswith("Carol:$argon2id$")
    assert lines[2] == ""
    assert lines[3].startswith("Erin:$argon2id$")
    assert len(lines) == 4
    carol = users.find("Carol")
    assert carol is not None
    assert carol.epoch != Account("Carol", password_hash=APR).epoch
    assert check_password("opensesame", carol.password_hash).right


def test_a_better_hash_is_only_taken_for_the_one_it_was_made_of(users: HtpasswdUsers) -> None:
    assert not users.upgrade_hash("Carol", "another", "$5$rounds=1000$x$y")
    assert not users.upgrade_hash("Nobody", APR, APR)
    assert users.upgrade_hash("Carol", APR, APR.replace("Tlq", "abc"))
    assert users.find("Carol") == Account("Carol", password_hash=APR.replace("Tlq", "abc"))


def test_names_that_are_taken_or_unknown_are_refused(users: HtpasswdUsers) -> None:
    with pytest.raises(NameInUse):
        users.add("Carol", "opensesame")
    with pytest.raises(UnknownUser):
        users.remove("Erin")
    with pytest.raises(UnknownUser):
        users.set_password("Erin", "opensesame")


def test_admins_and_viewers_are_refused_with_a_way_out(users: HtpasswdUsers, path: Path) -> None:
    for change in (
        lambda: users.add("Erin", "opensesame", admin=True),
        lambda: users.set_admin("Carol", True),
        lambda: users.allow("Carol", "Dave"),
        lambda: users.forbid("Carol", "Dave"),
    ):
        with pytest.raises(
            NotSupported, match=r"is an htpasswd file, which holds names and passwords only; .*sqlite:///FILE"
        ):
            change()
    assert users.find("Erin") is None
    assert users.viewers("Carol") == users.watchable("Carol") == frozenset()


def test_lines_that_are_no_account_are_reported_and_left_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "users.htpasswd"
    odd = f"Carol:plain text\n../x:{APR}\ntcp-1:{APR}\nDave\nErin:{APR}:extra\nErin:other\n#Frank:{APR}\n\xff\x0b\n"
    path.write_bytes(odd.encode("latin-1"))
    users = HtpasswdUsers(str(path))
    assert users.list() == [Account("Erin", password_hash=APR)]
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "ignored, its password is not hashed in a way that is accepted here",
        "ignored, this is no user's name",
        "ignored, this is no user's name",
        "ignored, its password is not hashed in a way that is accepted here",
        "ignored, this name came before, and its first line counts",
        "ignored, this is no user's name",
    ]
    assert "plain text" not in caplog.text
    users.add("Grace", "opensesame")
    assert path.read_bytes().startswith(odd.encode("latin-1"))


def test_a_file_whose_last_line_is_not_ended_is_not_glued_together(path: Path) -> None:
    path.write_text(f"Carol:{APR}")
    HtpasswdUsers(str(path)).add("Dave", "opensesame")
    assert names(HtpasswdUsers(str(path))) == ["Carol", "Dave"]


def test_a_file_from_windows_works(path: Path) -> None:
    path.write_bytes(f"Carol:{APR}\r\n".encode())
    assert HtpasswdUsers(str(path)).find("Carol") == Account("Carol", password_hash=APR)


def test_removing_a_name_removes_every_line_of_it(path: Path) -> None:
    path.write_text(f"Carol:{APR}\nCarol:{APR}\n")
    HtpasswdUsers(str(path)).remove("Carol")
    assert path.read_text() == ""


def test_a_change_keeps_the_mode_and_leaves_nothing_behind(users: HtpasswdUsers, path: Path) -> None:
    path.chmod(0o640)
    users.remove("Dave")
    assert path.stat().st_mode & 0o7777 == 0o640
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["users.htpasswd", "users.htpasswd.lock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_change_by_root_keeps_the_owner(users: HtpasswdUsers, path: Path) -> None:
    os.chown(path, 12345, 12346)
    users.remove("Dave")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_behind_a_symbolic_link_the_file_is_changed_and_the_link_stays(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    HtpasswdUsers(str(link)).remove("Dave")
    assert link.is_symlink()
    assert "Dave" not in path.read_text()


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    HtpasswdUsers(str(tmp_path / "new"), create=True).add("Carol", "opensesame")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_file_that_goes_away_is_reported_once_and_comes_back(
    users: HtpasswdUsers, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.rename(path.with_suffix(".away"))
    for _ in range(3):
        with pytest.raises(UsersUnavailable, match=r"users\.htpasswd: no such file"):
            users.find("Carol")
    path.with_suffix(".away").rename(path)
    assert users.find("Carol") is not None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_writers_in_many_threads_and_processes_lose_nothing(
    users: HtpasswdUsers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd_users, "hash_password", lambda _: APR)
    program = (
        "import sys; from auth import htpasswd_users as h; h.hash_password = lambda _: sys.argv[3];"
        "users = h.HtpasswdUsers(sys.argv[1]);"
        "[users.add(f'{sys.argv[2]}{n}', 'opensesame') for n in range(10)]"
    )
    source = Path(htpasswd_users.__file__).parent.parent
    others = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name, APR], cwd=source)
        for name in ("left", "right")
    ]
    problems: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(10):
                users.add(f"{name}{number}", "opensesame")
                assert users.find(f"{name}{number}") is not None
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("up", "down")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [other.wait(30) for other in others] == [0, 0]
    assert not problems
    assert len(users.list()) == 2 + 40


def test_a_writer_that_never_ends_is_given_up(
    users: HtpasswdUsers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd_users, "LOCK_SEC", 0.1)
    with (
        htpasswd_users._locked(path.with_name(path.name + ".lock")),
        pytest.raises(UsersUnavailable, match=r"users\.htpasswd\.lock is held by another writer"),
    ):
        users.remove("Dave")
    users.remove("Dave")
