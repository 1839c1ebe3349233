"""What goes into `Authorization`: the RFCs' own examples, and what another client would send."""

import base64
import re
import urllib.parse
import urllib.request

import pytest

from ingest.pull.digest import Basic, Digest, login_for, read_challenges

# RFC 7616, section 3.9.1.
MUFASA = {
    "user": "Mufasa",
    "password": "Circle of Life",
    "realm": "http-auth@example.org",
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
}


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616_is_answered_as_it_says(algorithm: str, response: str) -> None:
    assert Digest(**MUFASA, algorithm=algorithm).authorization("/dir/index.html") == (
        'Digest username="Mufasa", realm="http-auth@example.org", '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", '
        f'response="{response}", qop=auth, nc=00000001, '
        f'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", algorithm={algorithm}, '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )


def test_the_example_of_rfc_2617_is_answered_as_it_says_and_without_qop_as_before() -> None:
    fixed = {
        "user": "Mufasa", "password": "Circle Of Life", "realm": "testrealm@host.com",
        "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093", "cnonce": "0a4f113b",
    }  # fmt: skip
    assert 'response="6629fae49393a05397450978507c4ef1"' in Digest(**fixed).authorization("/dir/index.html")
    plain = Digest(**fixed, qop="").authorization("/dir/index.html")
    assert 'response="670fd8c2df070c60b045671b8b24ff02"' in plain
    assert "nc=" not in plain
    assert "qop" not in plain


def test_each_request_counts_and_has_a_response_of_its_own() -> None:
    login = Digest(**MUFASA)
    values = [login.authorization("/a") for _ in range(3)]
    assert [re.findall(r"nc=(\w+)", value) for value in values] == [["00000001"], ["00000002"], ["00000003"]]
    assert len({re.findall(r' response="(\w+)"', value)[0] for value in values}) == 3


@pytest.mark.parametrize("qop", [', qop="auth"', ', qop="auth,auth-int"', ""])
def test_pythons_own_client_sends_the_same(qop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    challenge = f'Digest realm="cam \\"1\\"", nonce="abc=="{qop}, algorithm=MD5, opaque="o"'
    login = login_for(challenge, "admin", "pass:word")
    assert isinstance(login, Digest)
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, "http://cam/", "admin", "pass:word")
    theirs = urllib.request.HTTPDigestAuthHandler(passwords)
    monkeypatch.setattr(theirs, "get_cnonce", lambda nonce: login._cnonce)
    parameters = read_challenges(challenge)[0].parameters | {"qop": "auth" if qop else None}
    parameters["qop"] = "auth" if qop else None
    expected = theirs.get_authorization(urllib.request.Request("http://cam/pic.jpg?a=b"), parameters)
    assert expected is not None
    ours = login.authorization("/pic.jpg?a=b").removeprefix("Digest ")

    def response(text: str) -> str:
        return re.findall(r'\bresponse="(\w+)"', text)[0]

    assert response(ours) == response(expected)


DIGEST = 'Digest realm="r", nonce="n", qop="auth"'

# What a camera asks for, and how the answer to it begins; None if there is none.
ASKED = {
    "basic": ("Basic", "Basic"),
    "basic in small letters": ('basic realm="cam, Digest"', "Basic"),
    "digest": (DIGEST, "Digest"),
    "digest before basic": (f'Basic realm="x", {DIGEST}', "Digest"),
    "basic after digest": (f'{DIGEST}, Basic realm="x"', "Digest"),
    "SHA-256 before MD5": (f"{DIGEST}, algorithm=MD5, {DIGEST}, algorithm=SHA-256", "SHA-256"),
    "an unknown digest, and a known one": (
        f"{DIGEST}, algorithm=SHA-512-256, {DIGEST}, algorithm=md5",
        "algorithm=md5",
    ),
    "an unknown digest, and basic": (f'{DIGEST}, algorithm=SHA-512-256, Basic realm="x"', "Basic"),
    "sessions": (f'{DIGEST}, algorithm="MD5-sess"', "algorithm=MD5-sess"),
    "the body as well": ('Digest realm="r", nonce="n", qop="auth-int"', None),
    "no nonce": ('Digest realm="r", qop="auth"', None),
    "another scheme": ("Negotiate, Bearer realm=x", None),
    "nothing": ("", None),
    "rubbish": ('=,"=;Digest', None),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_best_way_that_a_camera_offers_is_taken(name: str) -> None:
    header, expected = ASKED[name]
    login = login_for(header, "u", "p")
    if expected is None:
        assert login is None
    else:
        assert login is not None
        assert expected in login.authorization("/")


def test_a_challenge_is_read_with_its_quotes_and_spaces() -> None:
    header = 'Digest  realm = "a \\"b\\", c=d" ,nonce=abc,NONCE="second",qop="auth"'
    assert read_challenges(header) == [("digest", {"realm": 'a "b", c=d', "nonce": "abc", "qop": "auth"})]


def test_names_and_passwords_of_all_letters_are_sent() -> None:
    value = Basic("Zoë", "pass:wörd").authorization("/")
    assert base64.b64decode(value.removeprefix("Basic ")).decode() == "Zoë:pass:wörd"
    value = Digest('a"b\\', "", 'r"', "n").authorization("/")
    assert 'username="a\\"b\\\\", realm="r\\""' in value


def test_a_long_challenge_costs_no_more_than_its_bytes() -> None:
    for header in ('Digest realm="' + "\\" * 16_000, 'a="' * 5_000, "a " * 8_000, "Digest " + "=" * 16_000):
        login_for(header, "u", "p")
