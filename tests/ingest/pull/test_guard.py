"""Whom the server calls for somebody else, by every spelling of an address."""

import re
import time

import pytest

from green import Overloaded, sleep, spawn
from ingest.pull import guard
from ingest.pull.gateway import place_of
from ingest.pull.guard import MAX_ADDRESSES, Forbidden, PullGuard

CAMERA = "192.168.7.20"
LAN = "192.168.7.0/24"
EVERYTHING = ("0.0.0.0/0", "::/0")

#: What the names in these tests stand for.
NAMES = {
    "localhost": ["127.0.0.1"],
    "localhost.": ["127.0.0.1"],
    "127.0.0.1.nip.io": ["127.0.0.1"],
    "camera.lan": [CAMERA],
    "Camera-2.lan.": ["192.168.7.21"],
    "both.lan": ["fd00:7::20", CAMERA],
    "half.lan": [CAMERA, "127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "many.lan": [f"192.168.7.{n}" for n in range(1, 100)],
    "nothing.lan": [],
    "odd.lan": ["2130706433"],
    "half-odd.lan": [CAMERA, "2130706433"],
}


def look_up(name: str) -> list[str]:
    try:
        return NAMES[name]
    except KeyError:
        raise OSError(-2, "Name or service not known") from None


def verdict(host: str, requester: str = CAMERA, allowed: tuple[str, ...] = ()) -> list[str] | str:
    """The addresses that may be called, or the cause why none may."""
    try:
        return PullGuard(allowed, look_up).check(host, requester)
    except Forbidden as error:
        return error.cause


@pytest.mark.parametrize(
    ("host", "requester", "addresses"),
    [
        (CAMERA, CAMERA, [CAMERA]),
        (CAMERA, f"::ffff:{CAMERA}", [CAMERA]),
        (f"::ffff:{CAMERA}", CAMERA, [CAMERA]),
        (f"::FFFF:{CAMERA}", CAMERA, [CAMERA]),
        ("camera.lan", CAMERA, [CAMERA]),
        ("fd00:7::20", "fd00:7:0:0:0:0:0:20", ["fd00:7::20"]),
        ("fd00:7:0::0020", "fd00:7::20", ["fd00:7::20"]),
        ("fe80::1%eth9", "fe80::1", ["fe80::1"]),
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1"]),
        ("127.8.8.8", "127.0.0.1", ["127.8.8.8"]),
        ("::1", "127.0.0.1", ["::1"]),
        ("localhost", "::1", ["127.0.0.1"]),
        ("169.254.7.7", "169.254.7.7", ["169.254.7.7"]),
    ],
)
def test_a_camera_is_called_back_where_it_came_from(host: str, requester: str, addresses: list[str]) -> None:
    assert verdict(host, requester) == addresses


#: Ways to write an address of this machine, of its link, or of the services that clouds give their machines.
INSIDE = [
    "127.0.0.1", "127.1.2.3", "localhost", "localhost.", "127.0.0.1.nip.io", "::1", "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::127.0.0.1", "2002:7f00:1::", "2001:0:7f00:1::", "::1%lo", "mapped.example", "half.lan",
    "0.0.0.0", "::", "::ffff:0.0.0.0",
    "169.254.169.254", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "metadata.google.internal", "fe80::1",
    "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255", "ff02::1",
    "240.0.0.1",
]  # fmt: skip
#: Others that some programs read as one, and are neither addresses nor names.
ODD = [
    "2130706433", "017700000001", "0x7f000001", "0x7F.1", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1", "127.0.0.01",
    "127.0.0.1.", "127.0.0.256", "127.0.0.1:80", "[::1]", "::1]", "127.0.0.1/8", "127.0.0.1%lo\r\nX: y", "127.0.0.1%0 ",
    " 127.0.0.1", "127.0.0.1\n", "localhost\n", "localhost\0.lan", "local host", "user@localhost", "localhost#",
    "localhost/", "http://localhost", "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "ⓛocalhost", "", ".", "..", "a..b",
    "-", "x" * 64, ".".join(["x" * 60] * 5), "1" * 100_000, "%", "%25", "::%", "0x", "a.0x7f", "a.1",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
@pytest.mark.parametrize("allowed", [(), (LAN,), EVERYTHING, ("::/0", "10.0.0.0/8")], ids=str)
def test_what_is_inside_is_not_called_for_somebody_outside(host: str, allowed: tuple[str, ...]) -> None:
    assert verdict(host, CAMERA, allowed) == "forbidden"


@pytest.mark.parametrize("host", [*INSIDE, CAMERA, "8.8.8.8", "2620:fe::fe"])
def test_nothing_is_called_for_somebody_unknown(host: str) -> None:
    assert verdict(host, "") == "forbidden"


@pytest.mark.parametrize("host", ODD, ids=lambda host: repr(host)[:30])
@pytest.mark.parametrize("requester", [CAMERA, "127.0.0.1"])
def test_what_may_be_read_in_two_ways_is_no_address(host: str, requester: str) -> None:
    assert verdict(host, requester, ("127.0.0.0/8", *EVERYTHING)) == "bad_address"


@pytest.mark.parametrize(
    ("host", "allowed", "addresses"),
    [
        ("192.168.7.99", (LAN,), ["192.168.7.99"]),
        ("::ffff:192.168.7.99", (LAN,), ["192.168.7.99"]),
        ("192.168.8.99", (LAN,), "forbidden"),
        ("192.168.8.99", ("10.0.0.0/8", "192.168.8.0/24"), ["192.168.8.99"]),
        ("8.8.8.8", EVERYTHING, ["8.8.8.8"]),
        ("2620:fe::fe", EVERYTHING, ["2620:fe::fe"]),
        ("2620:fe::fe", ("0.0.0.0/0",), "forbidden"),
        ("camera.lan", (LAN,), [CAMERA]),
        ("Camera-2.lan.", (LAN,), ["192.168.7.21"]),
        ("both.lan", (LAN,), "forbidden"),
        ("both.lan", (LAN, "fd00:7::/64"), ["fd00:7::20", CAMERA]),
        ("half.lan", (LAN,), "forbidden"),
        ("127.0.0.1", ("127.0.0.0/8",), ["127.0.0.1"]),
        ("127.0.0.1", ("127.0.0.1/32",), ["127.0.0.1"]),
        ("127.0.0.2", ("127.0.0.1/32",), "forbidden"),
        ("127.0.0.1", ("126.0.0.0/7",), "forbidden"),
        ("169.254.7.7", ("169.254.7.0/24",), ["169.254.7.7"]),
        ("fe80::1", ("fe80::/10",), ["fe80::1"]),
    ],
)
def test_networks_are_opened_by_their_name(host: str, allowed: tuple[str, ...], addresses: list[str] | str) -> None:
    assert verdict(host, "10.9.9.9", allowed) == addresses


@pytest.mark.parametrize("name", ["unknown.lan", "nothing.lan", "odd.lan", "half-odd.lan"])
def test_a_name_without_an_address_is_not_called(name: str) -> None:
    assert verdict(name, CAMERA, EVERYTHING) == "unknown_name"


def test_of_a_name_with_many_addresses_the_first_are_called() -> None:
    assert verdict("many.lan", "", (LAN,)) == NAMES["many.lan"][:MAX_ADDRESSES]


def test_a_name_that_cannot_be_looked_up_now_is_not_called() -> None:
    def busy(_name: str) -> list[str]:
        raise Overloaded("no names thread came free")

    with pytest.raises(Forbidden, match=re.escape("camera.lan has no address: no names thread came free")):
        PullGuard((LAN,), busy).check("camera.lan", CAMERA)


def test_an_address_is_not_looked_up() -> None:
    def look_up(name: str) -> list[str]:
        raise AssertionError(name)

    assert PullGuard((), look_up).check(CAMERA, CAMERA) == [CAMERA]


def test_one_name_is_looked_up_at_a_time() -> None:
    under_way, most, found = 0, 0, []

    def look_up(name: str) -> list[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        sleep(0.01)
        under_way -= 1
        if name == "unknown.lan":
            raise OSError("Name or service not known")
        return [CAMERA]

    checked = PullGuard((), look_up)

    def check(name: str) -> None:
        try:
            found.append(checked.check(name, CAMERA))
        except Forbidden as error:
            found.append(error.cause)

    for task in [spawn(check, name) for name in ("camera.lan", "unknown.lan", "camera.lan", "camera.lan")]:
        task.wait()
    assert most == 1
    assert sorted(map(str, found)) == [str([CAMERA])] * 3 + ["unknown_name"]


def test_who_waits_too_long_for_the_names_of_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOOKUP_WAIT_SEC", 0.05)

    def look_up(_name: str) -> list[str]:
        sleep(0.5)
        return [CAMERA]

    checked = PullGuard((), look_up)
    first = spawn(checked.check, "slow.lan", CAMERA)
    sleep(0)
    began = time.monotonic()
    with pytest.raises(Forbidden) as refused:
        checked.check("camera.lan", CAMERA)
    assert refused.value.cause == "busy"
    assert 0.04 < time.monotonic() - began < 0.4
    assert checked.check(CAMERA, CAMERA) == [CAMERA], "who has an address need not wait"
    first.wait()


def test_a_network_that_is_none_is_said_at_the_start() -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 network"):
        PullGuard(("camera.lan",))


def test_one_machine_is_an_ipv4_address_or_64_bits_of_an_ipv6_one() -> None:
    """Whoever has 2^64 addresses has as many places as others."""
    assert place_of("192.168.7.20") != place_of("192.168.7.21")
    assert place_of("2001:db8::1") == place_of("2001:db8::ffff:1")
    assert place_of("2001:db8::1") != place_of("2001:db8:0:1::1")
    assert place_of("::ffff:192.168.7.20") == place_of("::ffff:192.168.7.20") != place_of("::ffff:192.168.7.21")
