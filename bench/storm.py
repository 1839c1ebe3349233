"""How soon are 500 clients back that lose the network at once? They stream with `-a`, are cut, and come back at once.

They are cut with a reset, as when the access point says goodbye, or in silence, as when a train enters a tunnel: then
the old connections seem to be alive, and are asked for a sign of life for 2 s. Ends with status 1 if the 99th
percentile, from the cut to the first frame that is accepted again, is beyond 2.5 s (median of the rounds of a kind);
if anybody was refused or did not come back, streams have other names than before, or memory or files were left behind.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / name) for name in ("tests", "src")]

from running import running_server  # noqa: E402
from security.storm_attacks import Cut, Round, make_accounts, percentile, problems_of, storming  # noqa: E402
from security.storm_clients import Plan  # noqa: E402


class Case(NamedTuple):
    """Args: what: the plan in words; cuts: how often each is played, after one of each that is not measured."""

    what: str
    plan: Plan
    cuts: dict[Cut, int]


def cases(clients: int, rounds: int) -> list[Case]:
    few = Plan(clients, accounts=max(clients // 10, 1))
    return [
        Case("10 clients an account", few, {"reset": rounds, "silence": rounds}),
        Case("the same, from 20 addresses", few._replace(addresses=20), {"reset": 3, "silence": 3}),
        Case("an account each", Plan(clients, accounts=clients), {"reset": 3, "silence": 3}),
    ]


#: How long the cameras stream between two cuts.
STREAM_SEC: Final = 2.0
_HEADS: Final = ("p50, s", "p99, s", "max, s", "server, %", "clients, %", "RSS, MB", "files", "refused")


def line(what: str, how: str, rounds: list[Round]) -> str:
    """The medians of the rounds; of the refusals, the sum."""
    figures = (
        f"{median(percentile(one.back_sec, 50) for one in rounds):.2f}",
        f"{median(percentile(one.back_sec, 99) for one in rounds):.2f}",
        f"{median(one.back_sec[-1] for one in rounds):.2f}",
        f"{100 * median(one.server_cpu for one in rounds):.0f}",
        f"{100 * median(one.clients_cpu for one in rounds):.0f}",
        f"{median(one.rss_bytes for one in rounds) / 1e6:.1f}",
        f"{median(one.files for one in rounds):.0f}",
        f"{sum(sum(one.refusals.values()) for one in rounds)}",
    )
    return f"{what:<28}{how:<16}" + "".join(
        f"{figure:>{len(head) + 3}}" for head, figure in zip(_HEADS, figures, strict=True)
    )


def play(case: Case) -> list[str]:
    """Play a case, print its lines, and return what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        source = make_accounts(Path(folder) / "users.sqlite", case.plan)
        with running_server("-a", "--users", source) as server, storming(server, case.plan) as storm:
            first = storm.play("reset", STREAM_SEC)
            print(line(case.what, "first login", [first]), flush=True)
            problems = [f"first login: {count} × {what}" for what, count in first.refusals.items()]
            # What the allocator and the list of ended streams come to in a storm is there before the measured ones.
            before = [storm.play(cut, STREAM_SEC) for cut in case.cuts][-1]
            for cut, count in case.cuts.items():
                rounds = [storm.play(cut, STREAM_SEC) for _ in range(count)]
                print(line(case.what, f"{count} × {cut}", rounds), flush=True)
                problems += [f"{cut}: {what}" for what in problems_of(rounds, case.plan, before)]
        if "Traceback" in "".join(server.log):
            problems.append("the server's log has tracebacks")
    return [f"{case.what}, {problem}" for problem in problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=4, help="of the first case; default: %(default)s")
    options = parser.parse_args()
    print(f"{'':<44}" + "".join(f"   {head}" for head in _HEADS))
    problems = [problem for case in cases(options.clients, options.rounds) for problem in play(case)]
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print("ok")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
