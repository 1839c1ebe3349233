"""A storm: hundreds of cameras lose the network at the same moment, and come back at once, with `-a`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, NamedTuple

from auth.accounts import Account
from auth.passwords import hash_password
from auth.sql_users import SqlUsers
from running import RunningServer
from security.processes import cpu_sec, open_files, rss_bytes
from security.storm_clients import ROUND_SEC, Plan

HERE: Final = Path(__file__).resolve().parent
#: From the cut to the first frame that is accepted again, of 99 in 100 cameras.
BACK_SEC: Final = 2.5
#: What may be open, or kept, after a storm and was not before it: files that libraries open when they need them first;
#: and what an allocator does not give back at once.
SPARE_FILES: Final = 4
SPARE_BYTES: Final = 10_000_000

#: How a connection is lost: a reset tells the server so, silence leaves it with what seems to be alive.
Cut = Literal["reset", "silence"]


class Round(NamedTuple):
    """A cut and what followed.

    Args:
        back_sec: from the cut to the first frame accepted, of each camera that came back, sorted.
        refusals: connections and frames that were refused or broken off, by what was said.
        server_cpu, clients_cpu: the share of a core that each needed, until all were back.
        names: of the streams that are live.
        rss_bytes, files: the server's, when the cameras have streamed again for a while.
        kept: the share of the frames that were acknowledged in time, while they streamed.
    """

    back_sec: list[float]
    refusals: dict[str, int]
    server_cpu: float
    clients_cpu: float
    names: frozenset[str]
    rss_bytes: int
    files: int
    kept: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def problems_of(rounds: Sequence[Round], plan: Plan, before: Round) -> list[str]:
    """What was wrong about rounds of the same kind, compared with one before them: names, what is left behind, and the
    time, where the median of the rounds decides: a round may fall into a moment of other work on the machine."""
    problems = [f"{count} × {what}" for one in rounds for what, count in one.refusals.items()]
    if missing := sum(plan.cameras - len(one.back_sec) for one in rounds):
        return [*problems, f"{missing} did not come back within {ROUND_SEC:g} s"]
    p99_sec = median(percentile(one.back_sec, 99) for one in rounds)
    if p99_sec > BACK_SEC:
        problems.append(f"they were back after {p99_sec:.2f} s (p99), {BACK_SEC:g} s are allowed")
    for one in rounds:
        if one.names != before.names:
            problems.append(f"streams have other names: {sorted(one.names ^ before.names)[:10]}")
    files, kept_bytes = (median(counts) for counts in zip(*((one.files, one.rss_bytes) for one in rounds), strict=True))
    if files > before.files + SPARE_FILES:
        problems.append(f"{files:.0f} files are open, before there were {before.files}")
    if kept_bytes > before.rss_bytes + SPARE_BYTES:
        problems.append(f"it holds {kept_bytes / 1e6:.1f} MB, before it held {before.rss_bytes / 1e6:.1f}")
    return problems


def make_accounts(path: Path, plan: Plan) -> str:
    """Write the plan's accounts and an admin into a database; returns what `--users` is given.

    All have one hash (argon2id), as salts cost nothing to check: the server hashes for each account all the same.
    """
    source = f"sqlite:///{path}"
    users = SqlUsers(source)
    one = hash_password(plan.password)
    users.insert([Account(f"user{number}", password_hash=one) for number in range(plan.accounts)])
    users.insert([Account("admin", admin=True, password_hash=one)])
    users.close()
    return source


class Storm:
    """The cameras, in a process of their own."""

    def __init__(self, server: RunningServer, plan: Plan, process: "subprocess.Popen[str]") -> None:
        self._server = server
        self._plan = plan
        self._process = process
        self._token = server.token("admin", plan.password)  # who sees all streams

    def play(self, cut: Cut, stream_sec: float) -> Round:
        """Cut all connections, the first time none; wait until all cameras are back, and let them stream."""
        pid = self._server.process.pid
        used = cpu_sec(pid)
        came = self._ask("cut", cut)
        used = cpu_sec(pid) - used
        streamed = self._ask("stream", stream_sec)
        return Round(
            came["times"],
            {**came["refusals"], **streamed["refusals"]},
            used / came["seconds"],
            came["cpu"],
            frozenset(self._server.streams(self._token)),
            rss_bytes(pid),
            open_files(pid),
            1 - streamed["missed"] / max(streamed["sent"] + streamed["missed"], 1),
        )

    def _ask(self, *command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def storming(server: RunningServer, plan: Plan) -> Iterator[Storm]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "storm_clients.py"), str(server.port), json.dumps(plan._asdict())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    try:
        yield Storm(server, plan, process)
    finally:
        process.kill()
        process.communicate()
