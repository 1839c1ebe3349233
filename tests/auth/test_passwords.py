import statistics
import time
from collections.abc import Callable

import pytest
from passlib import hash as kinds

from auth.passwords import check_password, hash_password, known_kind

#: Cheap ones where the kind lets us choose: these tests are about kinds, not about costs.
OLDER = {
    "bcrypt": kinds.bcrypt.using(rounds=4).hash("opensesame"),
    "sha512_crypt": kinds.sha512_crypt.using(rounds=1000).hash("opensesame"),
    "sha256_crypt": kinds.sha256_crypt.using(rounds=1000).hash("opensesame"),
    "apr_md5_crypt": kinds.apr_md5_crypt.hash("opensesame"),
    "md5_crypt": kinds.md5_crypt.hash("opensesame"),
    "ldap_salted_sha1": kinds.ldap_salted_sha1.hash("opensesame"),
    "ldap_sha1": kinds.ldap_sha1.hash("opensesame"),
    "des_crypt": kinds.des_crypt.hash("opensesame"),
    "argon2 of less": kinds.argon2.using(type="ID", memory_cost=1024, time_cost=1, parallelism=1).hash("opensesame"),
    # As Apache's `htpasswd -B` writes it.
    "htpasswd -B": "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
}


def test_new_hashes_are_argon2id_of_the_stated_cost() -> None:
    assert hash_password("x").startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert hash_password("x") != hash_password("x")


def test_a_new_hash_knows_its_password_and_needs_no_better_one() -> None:
    made = hash_password("opensesame")
    assert check_password("opensesame", made) == (True, None)
    assert check_password("Opensesame", made) == (False, None)


@pytest.mark.parametrize("kind", OLDER)
def test_an_older_kind_is_accepted_and_replaced(kind: str) -> None:
    password = "myPassword" if kind == "htpasswd -B" else "opensesame"
    right, better = check_password(password, OLDER[kind])
    assert right
    assert better is not None
    assert better.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert check_password(password, better) == (True, None)
    assert check_password("Wrong", OLDER[kind]) == (False, None)


@pytest.mark.parametrize("kind", OLDER)
@pytest.mark.parametrize("password", ["a\0b", "x" * 1024, "é" * 512, ""])
def test_a_password_that_a_kind_cannot_hold_is_wrong_and_no_error(kind: str, password: str) -> None:
    assert check_password(password, OLDER[kind]) == (False, None)


@pytest.mark.parametrize("broken", ["", "opensesame", "$argon2id$v=19$m=1", "$2b$12$short", "{SHA}", "x" * 255, "$6$"])
def test_a_broken_hash_or_plain_text_is_never_right(broken: str) -> None:
    assert check_password("opensesame", broken) == (False, None)
    assert check_password(broken, broken) == (False, None)


def test_plain_text_is_no_kind_of_hash() -> None:
    assert not known_kind("opensesame")
    assert known_kind(OLDER["apr_md5_crypt"])


def test_nobody_has_a_password() -> None:
    assert check_password("", None) == (False, None)
    assert check_password("opensesame", None, OLDER["bcrypt"]) == (False, None)
    assert check_password("opensesame", "broken", OLDER["bcrypt"]) == (False, None)


def median_times(*checks: Callable[[], object]) -> list[float]:
    """CPU time, not the clock, so that other programs do not count; in turns, so that a slow phase hits all."""
    times: list[list[float]] = [[] for _ in checks]
    for _ in range(11):
        for check, taken in zip(checks, times, strict=True):
            began = time.thread_time()
            check()
            taken.append(time.thread_time() - began)
    return [statistics.median(taken) for taken in times]


@pytest.mark.parametrize(
    "known",
    [
        hash_password("opensesame"),
        kinds.bcrypt.using(rounds=8).hash("opensesame"),
        kinds.sha512_crypt.using(rounds=20_000).hash("opensesame"),
        OLDER["apr_md5_crypt"],
    ],
    ids=["argon2", "bcrypt", "sha512_crypt", "apr_md5_crypt"],
)
def test_a_decoy_takes_as_long_as_a_wrong_password_whatever_its_kind_and_whosever_password_comes(known: str) -> None:
    """Who logs in with a hash of an older kind gets a better one, which takes another hash: a decoy must not."""
    wrong, *decoys = median_times(
        lambda: check_password("wrong", known),
        lambda: check_password("wrong", None, known),
        lambda: check_password("opensesame", None, known),
        lambda: check_password("wrong", "broken", known),
    )
    for decoy in decoys:
        assert decoy == pytest.approx(wrong, rel=0.2)


def test_where_there_is_nobody_a_wrong_password_takes_as_long_as_against_a_new_hash() -> None:
    made = hash_password("opensesame")
    known, nobodys = median_times(lambda: check_password("wrong", made), lambda: check_password("wrong", None))
    assert known == pytest.approx(nobodys, rel=0.2)


@pytest.mark.parametrize("password", ["a\0b", "x" * 1024])
def test_a_password_that_the_decoys_kind_cannot_hold_is_no_error(password: str) -> None:
    for decoy in (*OLDER.values(), "$2b$12$short"):
        assert check_password(password, None, decoy) == (False, None)
