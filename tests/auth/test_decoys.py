from collections import Counter
from pathlib import Path

import pytest

from auth import decoys as module
from auth.accounts import Account
from auth.decoys import Decoys
from auth.sql_users import SqlUsers
from auth.users import Users, open_users

#: Hashes of two kinds; nobody computes them here.
BCRYPT = "$2b$12$" + "." * 21 + "e" + "x" * 31
ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$vHeu9X6vdW4tJaS01novZQ$4ukwmwxQK7HWLVjFUwp6FTAd2J7I9Y7fTsm9Qnv2Bq0"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def store(hashes: dict[str, str]) -> SqlUsers:
    users = SqlUsers("sqlite://")
    users.insert(Account(name, password_hash=password_hash) for name, password_hash in hashes.items())
    return users


def test_decoys_are_of_the_kinds_of_the_accounts_in_the_same_shares() -> None:
    """Names in a row, the first of one kind: a draw by the alphabet would give nearly everybody the same."""
    users = store({f"camera{n:03}": BCRYPT if n < 100 else ARGON2 for n in range(400)})
    decoys = Decoys(users, Clock())
    drawn = Counter(decoys.hash_for(f"nobody {n}") for n in range(4000))
    # Of the ring 1/4 ± 3.3 · sqrt(3/16 / 3200), and the names drawn add 3.3 · sqrt(3/16 / 4000).
    assert drawn[BCRYPT] / 4000 == pytest.approx(0.25, abs=0.05)
    assert drawn[BCRYPT] + drawn[ARGON2] == 4000


def test_a_name_keeps_its_decoy_while_other_accounts_come_and_go() -> None:
    users = store({f"camera{n}": f"{ARGON2[:-3]}{n:03}" for n in range(300)})
    clock = Clock()
    decoys = Decoys(users, clock)
    before = [decoys.hash_for(f"nobody {n}") for n in range(300)]
    users.insert([Account(f"another{n}", password_hash=BCRYPT) for n in range(3)])
    users.remove("camera7")
    clock.now += module.FRESH_SEC
    after = [decoys.hash_for(f"nobody {n}") for n in range(300)]
    assert after != before
    assert sum(a == b for a, b in zip(after, before, strict=True)) > 270


def test_nobody_can_tell_whose_hash_a_name_gets() -> None:
    users = store({f"camera{n}": f"{ARGON2[:-3]}{n:03}" for n in range(100)})
    one, other = Decoys(users, Clock()), Decoys(users, Clock())
    names = [f"nobody {n}" for n in range(20)]
    assert [one.hash_for(name) for name in names] != [other.hash_for(name) for name in names]


def test_the_accounts_are_read_once_a_minute_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(self: SqlUsers, at_most: int | None = None) -> object:
        reads.append(at_most)
        return whole(self, at_most)

    whole = SqlUsers.list
    monkeypatch.setattr(SqlUsers, "list", counted)
    clock = Clock()
    decoys = Decoys(store({"Alice": ARGON2}), clock)
    for _ in range(1000):
        decoys.hash_for("nobody")
        clock.now += module.FRESH_SEC / 1000
    assert reads == [module.SAMPLE]
    decoys.hash_for("nobody")
    assert reads == [module.SAMPLE] * 2


def test_without_accounts_there_is_no_decoy() -> None:
    assert Decoys(SqlUsers("sqlite://"), Clock()).hash_for("nobody") is None


def test_what_is_no_hash_is_no_decoy() -> None:
    assert Decoys(store({"Alice": "opensesame", "Bob": ARGON2}), Clock()).hash_for("nobody") == ARGON2


@pytest.mark.parametrize("kind", ["sql", "htpasswd"])
def test_a_store_gives_the_first_of_its_accounts(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "users.htpasswd"
    path.write_text("".join(f"camera{n}:{ARGON2}\n" for n in (3, 1, 2)))
    users: Users = store({f"camera{n}": ARGON2 for n in (3, 1, 2)}) if kind == "sql" else open_users(str(path))
    assert [account.name for account in users.list(2)] == ["camera1", "camera2"]
    assert len(users.list(7)) == len(users.list()) == 3
