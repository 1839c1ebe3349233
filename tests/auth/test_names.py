import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auth.names import valid_password, valid_username

ALLOWED = "ABCXYZabcxyz0123456789._@- "


@pytest.mark.parametrize(
    "name",
    ["a", "7", "Alice", "user1", "a b", "a.b_c@d-e", "x" * 64, "tcp-a", "TCP-1", "tcp-1a", "atcp-1", "pull1", "a  b"],
)  # fmt: skip
def test_these_are_usernames(name: str) -> None:
    assert valid_username(name)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "-", ".", "x" * 65, " a", "a ", "a\n", "\na", "-i", "a-", "_a", "a.", "a\tb", "a\0", "a/b", "../x",
        "a\\b", ";id", "a;id", "<img onerror=x>", "a~2", "tcp-1", "tcp-007", "pull-12", "é", "Ａ", "٣", "a\u200bb",
        "\ud800", None, 7, b"Alice", ["Alice"], {"name": "Alice"}, True,
    ],
)  # fmt: skip
def test_these_are_not(name: object) -> None:
    assert not valid_username(name)


@given(st.text(alphabet=ALLOWED, max_size=70))
@example("tcp-1 ")
def test_names_of_allowed_characters_are_valid_as_the_contract_says(name: str) -> None:
    fits = 1 <= len(name) <= 64 and name[0].isalnum() and name[-1].isalnum()
    assert valid_username(name) == (fits and not re.match(r"^(tcp|pull)-\d+$", name))


OTHER = st.characters().filter(lambda character: not re.fullmatch(r"[A-Za-z0-9._@ -]", character))


@given(st.text(alphabet=ALLOWED, min_size=1, max_size=20), OTHER, st.integers(0, 20))
def test_any_other_character_anywhere_spoils_a_name(name: str, other: str, at: int) -> None:
    assert not valid_username(name[:at] + other + name[at:])


@given(st.one_of(st.none(), st.integers(), st.binary(), st.lists(st.text()), st.dictionaries(st.text(), st.text())))
def test_what_is_no_string_is_neither_name_nor_password(value: object) -> None:
    assert not valid_username(value)
    assert not valid_password(value)


@pytest.mark.parametrize(
    ("password", "valid"),
    [
        ("", True), ("x" * 1024, True), ("x" * 1025, False), ("é" * 512, True), ("é" * 513, False), ("\ud800", False),
        ("a\0b", True),
    ],
)  # fmt: skip
def test_a_password_is_a_string_of_at_most_1024_bytes(password: str, valid: bool) -> None:
    assert valid_password(password) is valid


@given(st.text(max_size=1100))
def test_a_password_is_as_long_as_its_utf8(password: str) -> None:
    assert valid_password(password) == (len(password.encode()) <= 1024)
