"""What do good cameras lose when others flood? 20 of them send at 5 Hz, beside some that send 500 frames a second.

A server with `-a` is started for each flood and --rate, and the good cameras are measured alone before. Ends
with status 1 if one of them kept less than 95 % of its frames, if they were not served alike (Jain's index below 0.99),
or if their acks came later than twice their p99 alone and 50 ms; in two of three runs where the first one says so.
"""

import argparse
import sys
from pathlib import Path
from typing import Final, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / name) for name in ("tests", "src")]

from running import running_server  # noqa: E402
from security.flood_attacks import Attack, Flooded, compare, watch  # noqa: E402
from security.flooder import Flood  # noqa: E402

WARM_UP_SEC: Final = 0.5
#: Without a login nothing is taken after 10 s, and the closing handshake is not waited for longer than 2 s.
CUT_SEC: Final = 10.0 + 2.0
ACCOUNTS: Final = (("Bob", "456"), ("user1", "pass1"), ("user2", "pass2"))


class Row(NamedTuple):
    what: str
    floods: list[Flood]
    seconds: float | None = None


def rows() -> list[Row]:
    five = [Flood(ACCOUNTS[number % len(ACCOUNTS)], acks=number % 2 == 0) for number in range(5)]
    return [
        Row("one, WebSocket", [Flood()]),
        Row("one, WebSocket, acks", [Flood(acks=True)]),
        Row("one, polling", [Flood(transport="polling")]),
        Row("one, polling, acks", [Flood(transport="polling", acks=True)]),
        Row("five, WebSocket", five),
        Row("five, polling", [flood._replace(transport="polling") for flood in five]),
        Row("one not logged in", [Flood(None)], CUT_SEC + 2),
        Row("one not logged in, polling", [Flood(None, transport="polling")], CUT_SEC + 2),
    ]


def wrong_end(flood: Flood, flooded: Flooded) -> str | None:
    if flood.account is not None and flooded.trouble is not None:
        return f"a flooder that reads was cut off: {flooded.trouble}"
    if flood.account is None and (flooded.trouble is None or flooded.seconds > CUT_SEC + 1):
        return f"a flooder without a login had {flooded.seconds:.1f} s, {CUT_SEC:g} are allowed"
    return None


def line(rate: str, row: Row, alone: Attack, attack: Attack) -> str:
    good = attack.good
    idle_cpu_sec = alone.cpu_sec / alone.seconds * attack.seconds
    refused_us = (attack.cpu_sec - idle_cpu_sec) / attack.sent * 1e6
    achieved = "+".join(f"{flood.rate_hz:.0f}" for flood in attack.floods)
    return (
        f"{rate:>7} {row.what:<27}{achieved:>20}{100 * attack.refused / attack.sent:>9.0f}{100 * good.kept:>8.1f}"
        f"{good.jain:>8.4f}{alone.good.p99_ms:>8.1f}{good.p99_ms:>8.1f}{100 * attack.cpu_sec / attack.seconds:>7.0f}"
        f"{refused_us:>9.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="of each run; default: %(default)s")
    parser.add_argument(
        "--rate", action="append", metavar="HZ", help="of the server, may be repeated; default: 60, 10 and 0"
    )
    options = parser.parse_args()
    print(
        f"{'--rate':>7} {'flooders':<27}{'frames/s achieved':>20}{'refused':>9}{'kept':>8}{'Jain':>8}{'p99':>8}"
        f"{'p99':>8}{'CPU':>7}{'CPU of':>9}\n"
        f"{'':>55}{'%':>9}{'%':>8}{'':>8}{'alone':>8}{'ms':>8}{'%':>7}{'one, µs':>9}",
        flush=True,
    )
    problems = []
    for rate in options.rate or ("60", "10", "0"):
        for row in rows():
            # A server of its own: the streams that have ended are listed for minutes, and would be measured too.
            with running_server("-a", "--rate", rate) as server:
                watch(server, WARM_UP_SEC)
                alone, attack, wrong = compare(server, row.floods, options.seconds, row.seconds or options.seconds)
                ends = map(wrong_end, row.floods, attack.floods)
                wrong += [problem for problem in ends if problem]
            print(line(rate, row, alone, attack), flush=True)
            problems += [f"--rate {rate}, {row.what}: {what}" for what in wrong]
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print("ok")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
