"""The short way of images is the long way: for the same bytes both give the same answers, counts and frames.

Two servers, the same but for that: images of the one are known by their bytes and go to the gateway at once, those of
the other go through the decoders of all Socket.IO. Each conversation is had with both, byte for byte in the same
pieces, and compared: every frame that the server sends until the end, everything that /metrics counts, everything
published. Their clocks stand still, so that rates and "once a second" are the same whenever a byte comes.
"""

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app_process import app_process
from conversations import GOODBYE, Dialect, Forward, HangUp, Kick, Pause, Step, Way, Ways, in_pieces, tiny
from pictures import padded, picture
from raw_engineio import BINARY, CONTINUATION, PING, PONG, TEXT, client_frame
from readers import READERS

RATE_HZ, MAX_BYTES = 20, 100_000
#: What the app makes of it, for images as base64 in lines.
MAX_MESSAGE_BYTES: Final = MAX_BYTES * 7 // 5 + 64 * 1024
CI: Final = bool(os.environ.get("CI"))
PROTOCOLS = pytest.mark.parametrize("protocol", [3, 4])


@pytest.fixture(scope="module", params=READERS)
def ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    folder = tmp_path_factory.mktemp("ways")
    options: dict[str, Any] = {
        "settings": {"rate": float(RATE_HZ), "max_frame_bytes": MAX_BYTES},
        "frozen": True,
    }
    with (
        app_process(folder / "short", request.param, **options) as short,
        app_process(folder / "long", request.param, short_way=False, **options) as long,
    ):
        yield Ways(request.param, Way(short), Way(long))


# -- one conversation each, and what must come of it

#: Images that come with other messages go with them; after this they may take the short way again.
AGAIN: Final = Forward(0)

LIVES: Final = "lives"
#: The server ends the session: by a close frame with 1000, with protocol 3 without one.
ENDED: Final = "ended"
#: The client hangs up, or says that it does.
CUT, CLOSED = "cut", "closed"


class Case(NamedTuple):
    """A conversation, and what comes of it: each where it differs a pair, of protocol 3 and protocol 4.

    Attributes:
        accepted: frames that are published.
        end: how it ends; a number is the code of the server's close frame.
        short: images that take the short way, where it is open, accepted or not.
        before: what the client has done before.
    """

    say: Callable[[Dialect], list[Step]]
    accepted: int | tuple[int, int]
    end: Any = LIVES
    short: int | tuple[int, int] = 0
    before: str = "login"

    def expected(self, protocol: int) -> tuple[int, bool, int | None, int]:
        """Frames published, whether the connection lived, the close frame's code, images on the short way."""
        accepted, end, short = (
            value[protocol - 3] if isinstance(value, tuple) else value
            for value in (self.accepted, self.end, self.short)
        )
        if end == ENDED:
            code = 1000 if protocol == 4 else None
        else:
            code = {LIVES: 1000, CLOSED: 1000, CUT: None}.get(end, end)
        return accepted, end == LIVES, code, short


def fragments(opcode: int, payload: bytes, *cuts: int, between: bytes = b"") -> bytes:
    parts = [payload[a:b] for a, b in zip((0, *cuts), (*cuts, len(payload)), strict=True)]
    last = len(parts) - 1
    return between.join(
        client_frame(CONTINUATION if number else opcode, part, fin=number == last) for number, part in enumerate(parts)
    )


def text_of(c: Dialect, ack: object = "", event: str = "") -> bytes:
    """An announcement's payload."""
    return b"4" + c.announcement(ack, event).encode()


def long_form(opcode: int, payload: bytes, bits: int) -> bytes:
    """A frame whose length is written with more bytes than it needs."""
    head = struct.pack("!BBH", 0x80 | opcode, 0xFE, len(payload))
    if bits == 64:
        head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, len(payload))
    return head + bytes(4) + payload


def placeholder_case(argument: str, accepted: int, end: object = LIVES, short: int = 0, attachments: int = 1) -> Case:
    """An announcement that holds this JSON, and so many images."""
    return Case(
        lambda c: [
            c.text(f"5{attachments}-9{argument}"),
            *[c.binary(tiny(n)) for n in range(attachments)],
            AGAIN,
            c.image(),
        ],
        accepted + (end == LIVES),
        end,
        short + (end == LIVES),
    )


def event_case(event: str, accepted: int, short: int, end: object = LIVES) -> Case:
    return Case(lambda c: [c.image(ack=1, event=event), AGAIN, c.image(ack=2)], accepted, end, short)


PING_FRAME = client_frame(PING, b"there?")
PONG_FRAME = client_frame(PONG, b"")
EVENT = '"receiveImage"'
HOLDER = '{"_placeholder":true,"num":0}'

CASES: dict[str, Case] = {
    "one image": Case(lambda c: [c.image()], 1, short=1),
    "five at once": Case(lambda c: [c.image(ack=n) for n in range(5)], 5, short=5),
    # acks
    **{
        f"the ack {ack!r}": Case(lambda c, ack=ack: [c.image(ack=ack), c.image(b"none", ack)], 1, short=short)
        for ack, short in (
            ("", 2),
            ("0", 2),
            ("7", 2),
            ("41", 2),
            ("007", 0),
            ("00", 0),
            ("9" * 15, 2),
            ("9" * 16, 0),
            ("9" * 90, 0),
        )
    },
    **{
        f"the ack {ack!r}": Case(lambda c, ack=ack: [c.image(), c.image(ack=ack), c.image()], 1, ENDED, short=1)
        for ack in ("x", "1x", "-1", "+1", "1.5", " 1", "\u0661", "1" * 101)
    },
    "a space behind the ack": Case(lambda c: [c.image(ack="7 "), AGAIN, c.image()], 2, short=1),
    # the announcement's JSON
    "the keys the other way round": placeholder_case(f'[{EVENT},{{"num":0,"_placeholder":true}}]', 1, short=1),
    **{
        f"spaces {number} in the JSON": placeholder_case(json_text, 1)
        for number, json_text in enumerate(
            (
                f"[{EVENT}, {HOLDER}]",
                f"[ {EVENT},{HOLDER}]",
                f"[{EVENT},{HOLDER} ]",
                f"[{EVENT} ,{HOLDER}]",
                f'[{EVENT},{{"_placeholder": true,"num":0}}]',
                f'[{EVENT},{{"_placeholder":true,"num":0 }}]',
                f"[{EVENT},{HOLDER}]\n",
                f"\t[{EVENT},{HOLDER}]",
            )
        )
    },
    "num 1 of one": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":1}}]', 0, ENDED),
    "num -1": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":-1}}]', 0, ENDED),
    "num as text": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":"0"}}]', 0, ENDED),
    "num as a fraction": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":0.0}}]', 0, ENDED),
    "no num": placeholder_case(f'[{EVENT},{{"_placeholder":true}}]', 0, ENDED),
    "a num of two digits": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":00}}]', 0, ENDED),
    "a placeholder that is false": placeholder_case(f'[{EVENT},{{"_placeholder":false,"num":0}}]', 0),
    "a placeholder that is 1": placeholder_case(f'[{EVENT},{{"_placeholder":1,"num":0}}]', 0),
    "a placeholder with more": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":0,"x":1}}]', 1),
    "a placeholder twice": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":0,"num":0}}]', 1),
    "a placeholder in a list": placeholder_case(f"[{EVENT},[{HOLDER}]]", 0),
    "no argument": placeholder_case(f"[{EVENT}]", 0),
    "null": placeholder_case(f"[{EVENT},null]", 0),
    "no JSON": placeholder_case(f"[{EVENT},{HOLDER}", 0, ENDED),
    "more than JSON": placeholder_case(f"[{EVENT},{HOLDER}]]", 0, ENDED),
    "a comma too many": placeholder_case(f"[{EVENT},{HOLDER},]", 0, ENDED),
    "the event escaped": placeholder_case(f'["receive\\u0049mage",{HOLDER}]', 1),
    "another event": placeholder_case(f'["receiveimage",{HOLDER}]', 0),
    "an event of the protocol": placeholder_case(f'["disconnect",{HOLDER}]', 0),
    "an event that is longer": placeholder_case(f'["receiveImages",{HOLDER}]', 0),
    "a second image in the arguments": placeholder_case(f"[{EVENT},{HOLDER},{HOLDER}]", 0),
    "the result event first": placeholder_case(f'[{EVENT},"mine",{HOLDER}]', 0),
    # attachments
    "two attachments": placeholder_case(f"[{EVENT},{HOLDER}]", 1, attachments=2),
    "ten attachments": placeholder_case(f"[{EVENT},{HOLDER}]", 1, attachments=10),
    "eleven attachments": placeholder_case(f"[{EVENT},{HOLDER}]", 0, ENDED, attachments=11),
    "the second of two": placeholder_case(f'[{EVENT},{{"_placeholder":true,"num":1}}]', 1, attachments=2),
    "no attachment": Case(lambda c: [c.text(f"50-[{EVENT},{HOLDER}]"), c.binary(tiny())], 0, ENDED),
    "attachments written as 01": Case(lambda c: [c.text(f"501-3[{EVENT},{HOLDER}]"), c.binary(tiny())], 1),
    "an event that announces none": Case(lambda c: [c.text(f"2[{EVENT},{HOLDER}]"), AGAIN, c.image()], 1, short=1),
    "an ack's packet with an image": Case(
        lambda c: [c.text(f"61-7[{HOLDER}]"), c.binary(tiny()), AGAIN, c.image()], 1, short=1
    ),
    # namespaces
    "the namespace / by name": Case(
        lambda c: [c.text(f"51-/,7[{EVENT},{HOLDER}]"), c.binary(tiny()), AGAIN, c.image()], 2, short=1
    ),
    "a namespace that was not joined": Case(
        lambda c: [c.text(f"51-/cam,7[{EVENT},{HOLDER}]"), c.binary(tiny()), c.image()], 0, ENDED
    ),
    # result events
    "a result event": event_case('"mine"', 2, 2),
    "a result event of 64 letters": event_case('"' + "x" * 64 + '"', 2, 2),
    "a result event of 10 letters and signs": event_case('"a_b-c.d:/e"', 2, 2),
    "a result event of 65 letters": event_case('"' + "x" * 65 + '"', 1, 1),
    "an empty result event": event_case('""', 1, 1),
    "a result event with a space": event_case('"my result"', 1, 2),
    "a result event with a bracket": event_case('"]"', 1, 2),
    "a result event with quotes": event_case('"a\\"b"', 1, 1),
    "a result event with a backslash": event_case('"a\\\\b"', 1, 1),
    "a result event that is escaped": event_case('"\\u006dine"', 2, 1),
    "a result event with a slash that is escaped": event_case('"a\\/b"', 2, 1),
    "a result event in Greek": event_case('"\u03bc"', 1, 1),
    "a result event with NUL": event_case('"a\0b"', 0, 0, ENDED),
    "a result event with DEL": event_case('"a\x7fb"', 1, 1),
    "a result event that is a number": event_case("7", 1, 1),
    "a result event that is null": event_case("null", 2, 1),
    "a result event that is a list": event_case("[]", 1, 1),
    "two result events": event_case('"one","two"', 1, 1),
    **{
        f"the reserved result event {name}": event_case(f'"{name}"', 1, 2)
        for name in ("disconnect", "connect", "receiveImage", "serverError", "__proto__", "ping")
    },
    # images
    "no bytes": Case(lambda c: [c.image(b"", 1), c.image()], 1, short=2),
    "no image": Case(lambda c: [c.image(b"GIF89a, or so it says", 1), c.image(os.urandom(2_000), 2)], 0, short=2),
    "half a picture": Case(lambda c: [c.image(picture()[:-500], 1), c.image(picture(), 2)], 1, short=2),
    "one byte": Case(lambda c: [c.image(b"\xff", 1), c.image(b"\xff\xd8", 2)], 0, short=2),
    "pictures of four kinds": Case(
        lambda c: [c.image(picture(kind), 1) for kind in (".jpg", ".png", ".webp", ".bmp")], 4, short=4
    ),
    "an image of the largest size": Case(lambda c: [c.image(padded(picture(), MAX_BYTES), 1)], 1, short=1),
    "an image one byte larger": Case(lambda c: [c.image(padded(picture(), MAX_BYTES + 1), 1), c.image()], 1, short=2),
    "a message of the largest size": Case(
        lambda c: [c.image(bytes(MAX_MESSAGE_BYTES - (c.protocol == 3)), 1), c.image()], 1, short=2
    ),
    "a message one byte larger": Case(
        lambda c: [c.image(), c.image(bytes(MAX_MESSAGE_BYTES + 1 - (c.protocol == 3)), 1), c.image()], 1, 1009, short=1
    ),
    "a message of 2 to the 63 bytes": Case(
        lambda c: [c.image(), c.announce(1), struct.pack("!BBQ", 0x82, 0xFF, 1 << 63) + bytes(9)], 1, 1009, short=1
    ),
    "many images that are refused": Case(
        lambda c: [*[c.image(bytes(MAX_BYTES + 1), n) for n in range(9)], c.image(ack=10)], 1, short=10
    ),
    # lengths
    **{
        f"{what} whose length has {bits} bits": Case(say, 3, short=short)
        for bits in (16, 64)
        for what, short, say in (
            (
                "an image",
                3,
                lambda c, bits=bits: [c.image(), c.announce(3), long_form(BINARY, c.message(tiny()), bits), c.image()],
            ),
            (
                "an announcement",
                2,
                lambda c, bits=bits: [
                    c.image(),
                    long_form(TEXT, text_of(c, 3), bits),
                    c.binary(tiny()),
                    AGAIN,
                    c.image(),
                ],
            ),
        )
    },
    **{
        f"an image of {size} bytes": Case(lambda c, size=size: [c.image(tiny(size - 19), 1), c.image()], 2, short=2)
        for size in (20, 124, 125, 126, 127, 1_000, 65_534, 65_535, 65_536, 65_537)
    },
    "a mask of zeros": Case(lambda c: [c.announce(1), c.binary(tiny(), mask=bytes(4))], 1, short=1),
    # what comes between
    "pings everywhere": Case(
        lambda c: [PING_FRAME, c.announce(1), PING_FRAME, c.binary(tiny()), PING_FRAME], 1, short=1
    ),
    "pongs everywhere": Case(
        lambda c: [PONG_FRAME, c.announce(1), PONG_FRAME, c.binary(tiny()), PONG_FRAME], 1, short=1
    ),
    "an Engine.IO ping or pong in between": Case(
        lambda c: [c.image(), client_frame(TEXT, b"3" if c.protocol == 4 else b"2"), AGAIN, c.image(ack=1)], 2, short=2
    ),
    "an Engine.IO ping or pong between announcement and image": Case(
        lambda c: [
            c.announce(1),
            client_frame(TEXT, b"3" if c.protocol == 4 else b"2"),
            c.binary(tiny()),
            AGAIN,
            c.image(),
        ],
        2,
        short=1,
    ),
    "a NOOP between announcement and image": Case(
        lambda c: [c.announce(1), client_frame(TEXT, b"6"), c.binary(tiny())], 1
    ),
    "an event between announcement and image": Case(
        lambda c: [c.announce(1), c.text('2["hello"]'), c.binary(tiny())], 0, ENDED
    ),
    "another announcement before the image": Case(lambda c: [c.announce(1), c.image(ack=2)], 0, ENDED),
    "an image without an announcement": Case(lambda c: [c.image(), c.binary(tiny()), c.image()], 1, ENDED, short=1),
    "two images for one announcement": Case(lambda c: [c.image(), c.binary(tiny()), c.image()], 1, ENDED, short=1),
    "an announcement at the end": Case(lambda c: [c.image(), c.announce(1)], 1, short=1),
    "an announcement at the end of all": Case(lambda c: [c.image(), c.announce(1), HangUp()], 1, CUT, short=1),
    "half an announcement at the end of all": Case(lambda c: [c.image(), c.announce(1)[:9], HangUp()], 1, CUT, short=1),
    "half an image at the end of all": Case(lambda c: [c.image(), c.image(ack=1)[:-5], HangUp()], 1, CUT, short=1),
    "half an image that is refused at the end of all": Case(
        lambda c: [c.image(), c.image(bytes(MAX_BYTES + 1), 1)[:-5], HangUp()], 1, CUT, short=1
    ),
    "an unknown event": Case(lambda c: [c.image(), c.text('27["hello",1]'), AGAIN, c.image(ack=1)], 2, short=2),
    "an empty event": Case(lambda c: [c.image(), c.text("2[]"), c.image(ack=1)], 1, ENDED, short=1),
    "text that is not UTF-8": Case(lambda c: [c.image(), client_frame(TEXT, b"42\xff"), c.image()], 1, 1007, short=1),
    "an announcement that is not UTF-8": Case(
        lambda c: [c.image(), client_frame(TEXT, text_of(c, 1, '"x"').replace(b"x", b"\xff")), c.binary(tiny())],
        1,
        1007,
        short=1,
    ),
    # fragments
    "an announcement in fragments": Case(
        lambda c: [c.image(), fragments(TEXT, text_of(c, 1), 1, 20), c.binary(tiny()), AGAIN, c.image(ack=2)],
        3,
        short=2,
    ),
    "an image in fragments": Case(
        lambda c: [c.image(), c.announce(1), fragments(BINARY, c.message(tiny()), 1, 9, 9), AGAIN, c.image(ack=2)],
        3,
        short=2,
    ),
    "an image in two fragments, the last one empty": Case(
        lambda c: [c.announce(1), fragments(BINARY, c.message(tiny()), len(c.message(tiny()))), AGAIN, c.image(ack=2)],
        2,
        short=1,
    ),
    "pings between the fragments of both": Case(
        lambda c: [
            fragments(TEXT, text_of(c, 1), 1, 20, between=PING_FRAME),
            PING_FRAME,
            fragments(BINARY, c.message(tiny()), 1, 9, between=PONG_FRAME + PING_FRAME),
            AGAIN,
            c.image(ack=2),
        ],
        2,
        short=1,
    ),
    "an image within a fragmented text": Case(
        lambda c: [client_frame(TEXT, b"42[", fin=False), c.image(), client_frame(CONTINUATION, b"1]")], 0, 1002
    ),
    "an image in fragments larger than a message": Case(
        lambda c: [c.announce(1), fragments(BINARY, c.message(bytes(MAX_MESSAGE_BYTES + 9)), 100_000)], 0, 1009
    ),
    "an image in fragments that is refused": Case(
        lambda c: [c.announce(1), fragments(BINARY, c.message(bytes(MAX_BYTES + 1)), 100), AGAIN, c.image(ack=2)],
        1,
        short=1,
    ),
    # what breaks WebSocket
    **{
        f"after an image, {what}": Case(lambda c, bad=bad: [c.image(), bad, c.image()], 1, 1002, short=1)
        for what, bad in {
            "reserved bit 1": client_frame(TEXT, b"42[]", rsv=4),
            "reserved bit 2": client_frame(BINARY, b"", rsv=2),
            "reserved bit 3": client_frame(PING, b"", rsv=1),
            "no mask": client_frame(BINARY, b"x", mask=None),
            "opcode 3": client_frame(3, b"x"),
            "opcode 11": client_frame(11, b""),
            "a continuation": client_frame(CONTINUATION, b"x"),
            "half a ping": client_frame(PING, b"x", fin=False),
        }.items()
    },
    **{
        f"after an announcement, {what}": Case(
            lambda c, head=head: [c.image(), c.announce(1), head + c.binary(tiny())[1:], c.image()], 1, 1002, short=1
        )
        for what, head in {"reserved bit 1": b"\xc2", "reserved bit 3": b"\x92", "opcode 3": b"\x83"}.items()
    },
    "an announcement with a reserved bit": Case(
        lambda c: [c.image(), b"\xc1" + c.announce(1)[1:], c.binary(tiny())], 1, 1002, short=1
    ),
    "an announcement without a mask": Case(
        lambda c: [c.image(), client_frame(TEXT, text_of(c, 1), mask=None), c.binary(tiny())], 1, 1002, short=1
    ),
    "an image without a mask": Case(
        lambda c: [c.image(), c.announce(1), client_frame(BINARY, c.message(tiny()), mask=None)], 1, 1002, short=1
    ),
    # Engine.IO's byte before binary messages, with protocol 3
    **{
        f"an image that begins with {first!r}": Case(
            lambda c, first=first: [
                c.image(),
                c.announce(1),
                client_frame(BINARY, first + tiny() if c.protocol == 3 else tiny()),
            ],
            (1, 2),
            (ENDED, LIVES),
            short=(1, 2),
        )
        for first in (b"", b"\3", b"\5", b"4", b"\0")
    },
    "an empty binary message": Case(
        lambda c: [c.image(), c.announce(1), client_frame(BINARY)], 1, (ENDED, LIVES), short=(1, 2)
    ),
    # too fast
    "faster than the rate": Case(lambda c: [c.image(ack=n) for n in range(RATE_HZ + 5)], RATE_HZ, short=RATE_HZ + 5),
    "faster than the rate, for two seconds": Case(
        lambda c: [*[c.image(ack=n) for n in range(RATE_HZ + 5)], Forward(1), *[c.image() for n in range(RATE_HZ + 5)]],
        2 * RATE_HZ,
        short=2 * (RATE_HZ + 5),
    ),
    "faster than the rate, a token at a time": Case(
        lambda c: [*[c.image() for _ in range(RATE_HZ + 3)], *[Forward(0.0625), c.image(ack=1), c.image(ack=2)] * 3],
        RATE_HZ + 3,
        short=RATE_HZ + 9,
    ),
    "large ones faster than the rate": Case(
        lambda c: [c.image(padded(picture(), 50_000), n) for n in range(RATE_HZ + 5)], RATE_HZ, short=RATE_HZ + 5
    ),
    "other reasons take tokens or not": Case(
        lambda c: [
            *[c.image(bytes(MAX_BYTES + 1), n) for n in range(5)],
            *[c.image(b"x", n) for n in range(5)],
            *[c.image(event='"ping"') for _ in range(5)],
            *[c.image(ack=n) for n in range(RATE_HZ)],
        ],
        RATE_HZ - 10,
        short=RATE_HZ + 15,
    ),
    # logging in and leaving
    "before a login": Case(
        lambda c: [c.image(ack=1), c.image(event='"ping"'), c.image(b"")], 0, short=(3, 0), before="join"
    ),
    "a login with images behind it": Case(
        lambda c: [c.image(ack=1), c.login, c.image(ack=2), c.image(ack=3)], 2, short=(1, 0), before="join"
    ),
    "a login that is half there when the message before it is handled": Case(
        lambda c: [
            c.text('2["hello"]') + c.login[:20],
            Pause(),
            c.login[20:] + c.image(ack=1) + c.image(ack=2) + c.image(b"x", 3),
        ],
        2,
        before="join",
    ),
    "an announcement that is half there when the message before it is handled": Case(
        lambda c: [
            c.text('2["hello"]') + c.announce(1)[:20],
            Pause(),
            c.announce(1)[20:] + c.binary(tiny()) + c.image(ack=2),
            AGAIN,
            c.image(ack=3),
        ],
        3,
        short=1,
    ),
    "half a ping when the message before it is handled": Case(
        lambda c: [c.text('2["hello"]') + PING_FRAME[:-3], Pause(), PING_FRAME[-3:] + c.image(ack=2)], 1
    ),
    "joining, a login and images at once": Case(
        lambda c: [*c.joined, c.login, c.image(ack=2), c.image(ack=3)], 2, before="nothing"
    ),
    "images before joining": Case(
        lambda c: [c.image(ack=2), c.image(ack=3)], 0, (LIVES, ENDED), short=(2, 0), before="nothing"
    ),
    "the same login again": Case(lambda c: [c.image(ack=1), c.login, c.image(ack=2)], 2, short=1),
    "another login": Case(
        lambda c: [c.image(ack=1), c.text(f'2["authenticate","other {c.user}","x","in"]'), c.image(ack=2)], 2, short=1
    ),
    "a login that is refused": Case(
        lambda c: [c.image(ack=1), c.text('2["authenticate","../x","x","in"]'), c.image(ack=2)], 2, short=1
    ),
    "a login between announcement and image": Case(
        lambda c: [c.announce(1), c.login, c.binary(tiny())], 0, ENDED, before="join"
    ),
    "leaving": Case(lambda c: [c.image(ack=1), c.text("1"), c.image(ack=2)], 1, ENDED, short=1),
    "leaving and joining": Case(
        lambda c: [c.image(ack=1), c.text("1"), c.text("0"), c.image(ack=2), c.login, c.image(ack=3)], 2, short=1
    ),
    "leaving between announcement and image": Case(lambda c: [c.announce(1), c.text("1"), c.binary(tiny())], 0, ENDED),
    "an Engine.IO close": Case(lambda c: [c.image(ack=1), client_frame(TEXT, b"1"), c.image(ack=2)], 1, ENDED, short=1),
    "a close frame": Case(lambda c: [c.image(ack=1), GOODBYE, c.image(ack=2)], 1, CLOSED, short=1),
    "a close frame between announcement and image": Case(
        lambda c: [c.announce(1), GOODBYE, c.binary(tiny())], 0, CLOSED
    ),
    "the server's kick, and nothing more": Case(lambda c: [c.image(ack=1), Kick(), Pause()], 1, short=1),
    "the server's kick, and images after it": Case(
        lambda c: [c.image(ack=1), Kick(), c.image(ack=2), c.image(ack=3), Pause()], 1, ENDED, short=1
    ),
    "the server's kick between announcement and image": Case(
        lambda c: [c.image(ack=1), c.announce(2), Kick(), c.binary(tiny()), Pause()], 1, ENDED, short=(1, 1)
    ),
    "the server's kick in the middle of an image": Case(
        lambda c: [
            c.image(ack=1),
            AGAIN,
            c.announce(2) + c.binary(tiny())[:10],
            Kick(whole=False),
            c.binary(tiny())[10:],
            Pause(),
        ],
        1,
        ENDED,
        short=1,
    ),
}


def some_pieces(sent: bytes) -> Iterator[bytes]:
    """Bytes one by one, or more where there are many."""
    return in_pieces(max(1, len(sent) // 500))(sent)


def one_by_one(say: Callable[[Dialect], list[Step]]) -> Callable[[Dialect], list[Step]]:
    """Each step is received, and what can be of it handled, before the next one is sent."""
    return lambda c: [step for one in say(c) for step in (one, Pause())]


@PROTOCOLS
@pytest.mark.parametrize("name", CASES)
def test_what_comes_at_once_is_answered_alike(ways: Ways, protocol: int, name: str) -> None:
    case = CASES[name]
    outcome = ways.compare(protocol, case.say, before=case.before)
    assert (len(outcome.published), outcome.lived, outcome.end, ways.short.short) == case.expected(protocol)


#: Where time is short, each case is cut for one of the protocols.
CUT_CASES: Final = [
    (protocol, name) for number, name in enumerate(CASES) for protocol in (3, 4) if CI or (number + protocol) % 2
]


@pytest.mark.parametrize(("protocol", "name"), CUT_CASES)
@pytest.mark.parametrize("how", ["in pieces", "one by one"] if CI else ["in pieces"])
def test_what_comes_in_pieces_is_answered_as_if_it_came_at_once(ways: Ways, protocol: int, name: str, how: str) -> None:
    case = CASES[name]
    if how == "in pieces":
        outcome = ways.compare(protocol, case.say, some_pieces, before=case.before)
    else:
        outcome = ways.compare(protocol, one_by_one(case.say), before=case.before)
    assert (len(outcome.published), outcome.lived, outcome.end) == case.expected(protocol)[:3]


@PROTOCOLS
@pytest.mark.parametrize("at_once", [True, False] if CI else [True])
def test_what_comes_in_posts_is_answered_alike(ways: Ways, protocol: int, at_once: bool) -> None:
    """As far as it consists of whole messages; in one POST, or each in its own."""
    if ways.reader != READERS[0]:
        return  # of WebSockets
    played = took_short_way = 0
    for name, case in CASES.items():
        try:
            ways.compare_polling(protocol, case.say, at_once, case.before)
        except ValueError:
            continue
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        played += 1
        took_short_way += bool(ways.short.short)
    assert played > 100
    assert took_short_way > (50 if at_once else -1)


@PROTOCOLS
@pytest.mark.parametrize("length", ["7 bits", "16 bits", "64 bits", "refused"])
def test_an_image_may_be_split_anywhere(ways: Ways, protocol: int, length: str) -> None:
    """In its header, its mask, its payload, its announcement: the first part is received before the second is sent."""
    image = {"7 bits": tiny(), "16 bits": tiny(5_000), "64 bits": tiny(70_000), "refused": bytes(MAX_BYTES + 1)}[length]

    def say(c: Dialect) -> list[Step]:
        announcement, binary = c.announce(7, '"mine"'), c.binary(image)
        sent = announcement + binary
        # A large image is received in its own way from where it is half there.
        ends = [len(sent) - 2_100, len(sent) - 2_000, len(sent) - 1] if len(sent) > 5_000 else []
        splits = range(1, min(len(sent), len(announcement) + 60))
        return [
            step
            for at in [*splits, *ends]
            for step in (c.image(), sent[:at], Pause(), sent[at:] + c.image(), Forward(1))
        ]

    outcome = ways.compare(protocol, say)
    assert outcome.lived
    images = 3 * len(outcome.acks)
    assert images > 3 * 60
    assert len(outcome.published) == (images if length != "refused" else images * 2 // 3)
    assert ways.short.short == images


@PROTOCOLS
def test_an_image_may_come_byte_by_byte(ways: Ways, protocol: int) -> None:
    def say(c: Dialect) -> list[Step]:
        sent = c.image(tiny(), 7, '"mine"') + PING_FRAME + c.image(b"x", 8)
        return [step for at in range(len(sent)) for step in (sent[at : at + 1], Pause())]

    outcome = ways.compare(protocol, say)
    assert (len(outcome.acks), len(outcome.published), ways.short.short) == (2, 1, 2)


def test_what_was_refused_is_said_once_a_second_and_answered_each_time(ways: Ways) -> None:
    def say(c: Dialect) -> list[Step]:
        too_fast: list[Step] = [c.image(ack=n) for n in range(RATE_HZ + 3)]
        return [*too_fast, Forward(0.9), c.image(b"x"), *too_fast, Forward(0.1), *too_fast]

    outcome = ways.compare(4, say)
    assert outcome.errors == ["rate", "not_an_image", "rate"]
    assert len(outcome.acks) == 3 * (RATE_HZ + 3)
    assert outcome.counts["imageserver_refused_frames_total rate"] == len(outcome.acks) - len(outcome.published)


# -- any conversations

#: What clients say, good and bad; each a whole frame, or several.
PHRASES: dict[str, Callable[[Dialect], bytes]] = {
    **{
        f"an image, {ack} {event} {name}": lambda c, image=image, ack=ack, event=event: c.image(image, ack, event)
        for ack, event in (("", ""), (0, '"mine"'), (7, ""), (8, '"ping"'), ("007", ""), (9, '"\u03bc"'))
        for name, image in (
            ("good", tiny()),
            ("large", padded(picture(), MAX_BYTES)),
            ("too large", bytes(MAX_BYTES + 1)),
            ("empty", b""),
            ("cut", picture()[:-9]),
        )
    },
    "spaces": lambda c: c.text(f"51-1[{EVENT}, {HOLDER}]") + c.binary(tiny()),
    "two attachments": lambda c: (
        c.text(f'52-2[{EVENT},{{"_placeholder":true,"num":1}}]') + c.binary(b"") + c.binary(tiny())
    ),
    "another event": lambda c: c.text(f'51-2["hello",{HOLDER}]') + c.binary(tiny()),
    "fragments": lambda c: (
        fragments(TEXT, text_of(c, 3), 9, between=PING_FRAME) + fragments(BINARY, c.message(tiny()), 9, 9)
    ),
    "an image in fragments": lambda c: c.announce(4) + PONG_FRAME + fragments(BINARY, c.message(tiny()), 2),
    "a ping in between": lambda c: c.announce(5) + PING_FRAME + c.binary(tiny()),
    "a ping": lambda c: PING_FRAME,
    "a pong": lambda c: PONG_FRAME,
    "an Engine.IO ping": lambda c: client_frame(TEXT, b"3" if c.protocol == 4 else b"2"),
    "a text": lambda c: c.text('27["hello",1]'),
    "no image": lambda c: c.text('28["receiveImage",1]'),
    "a login": lambda c: c.login,
    "another login": lambda c: c.text(f'2["authenticate","other-{c.user}","x","in"]'),
    "leaving and joining": lambda c: c.text("1") + c.text("0"),
}
LAST_WORDS: dict[str, Callable[[Dialect], bytes]] = {
    "nothing": lambda c: b"",
    "an announcement": lambda c: c.announce(),
    "an image alone": lambda c: c.binary(tiny()),
    "an announcement and a text": lambda c: c.announce() + c.text('2["hello"]'),
    "a close": lambda c: GOODBYE,
    "leaving": lambda c: c.text("1"),
    "a bad frame": lambda c: client_frame(BINARY, b"x", rsv=4),
    "a bad announcement": lambda c: c.text(f"51-1[{EVENT},{HOLDER}"),
    "a message that is too large": lambda c: c.image(bytes(MAX_MESSAGE_BYTES + 1)),
}

MANY = settings(max_examples=400 if CI else 60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
pieces = st.lists(st.sampled_from((1, 2, 3, 5, 7, 20, 40, 60, 70, 100, 500, 3_000, 70_000)), min_size=1, max_size=30)


def cut_as(sizes: list[int]) -> Callable[[bytes], Iterator[bytes]]:
    """Pieces of these sizes in turn; where they are small, as many as may be and then the rest at once."""

    def cut(sent: bytes) -> Iterator[bytes]:
        at = 0
        for number in range(200):
            size = sizes[number % len(sizes)]
            yield sent[at : at + size]
            at += size
            if at >= len(sent):
                return
        yield sent[at:]

    return cut


@MANY
@given(
    protocol=st.sampled_from((3, 4)),
    phrases=st.lists(
        st.sampled_from(sorted(PHRASES)) | st.sampled_from((Pause(), Forward(0), Forward(1))), max_size=12
    ),
    last=st.sampled_from(sorted(LAST_WORDS)),
    sizes=pieces,
)
def test_any_conversation_goes_alike(
    ways: Ways, protocol: int, phrases: list[str | Pause | Forward], last: str, sizes: list[int]
) -> None:
    def say(c: Dialect) -> list[Step]:
        return [PHRASES[one](c) if isinstance(one, str) else one for one in phrases] + [LAST_WORDS[last](c), c.image()]

    ways.compare(protocol, say, cut_as(sizes))


small = sorted(name for name in PHRASES if "large" not in name and "login" not in name)


@MANY
@given(
    protocol=st.sampled_from((3, 4)),
    phrases=st.lists(st.sampled_from(small), min_size=1, max_size=4),
    faults=st.lists(
        st.tuples(st.sampled_from(("change", "insert", "remove")), st.integers(0, 1_000), st.integers(0, 255)),
        max_size=3,
    ),
    sizes=pieces,
)
def test_any_damaged_conversation_goes_alike(
    ways: Ways, protocol: int, phrases: list[str], faults: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    def say(c: Dialect) -> list[Step]:
        sent = bytearray(b"".join(PHRASES[one](c) for one in phrases))
        for how, at, byte in faults:
            at %= len(sent)
            sent[at : at + (how != "insert")] = b"" if how == "remove" else bytes((byte,))
        return [bytes(sent), HangUp()]

    ways.compare(protocol, say, cut_as(sizes))
