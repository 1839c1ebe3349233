"""What does it cost to take a frame in, beside Node, Bun, stock python-socketio, and a program that only reads?

All servers run at the same time and are measured in turns, each way to send three times; medians count. CPU is that of
all threads of a server's processes, from /proc. ImageServer runs as users run it: with accounts, its headers checked,
its frames published to the hub, once for each way of reading that it has. Ends with status 1 if a demand is not met.
"""

import argparse
import os
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from side_by_side import servers
from side_by_side.measures import (
    Cell,
    Growth,
    Idle,
    Times,
    Wrong,
    ack_times,
    cpu_us_of_frame,
    idle_connections,
    memory_in_bursts,
    verify,
    warm_up,
)
from side_by_side.plot import Bar, bar_chart
from side_by_side.servers import Kind, Running, running
from side_by_side.tables import Demand, Table, shown

from client_sim.load import LoadError, Transport

BURSTS: Final = (
    Cell("5 KB", 16, 5_000, 2_000),
    Cell("50 KB", 16, 50_000, 600),
    Cell("200 KB", 16, 200_000, 150),
    Cell("50 KB in pieces of 1,448 bytes", 16, 50_000, 200, piece_bytes=1448),
    Cell("5 KB, 200 connections", 200, 5_000, 160),
    Cell("50 KB, 200 connections", 200, 50_000, 48),
    Cell("200 KB, 200 connections", 200, 200_000, 12),
    Cell("50 KB in pieces, 200 connections", 200, 50_000, 16, piece_bytes=1448),
)
PROTOCOL_3: Final = Cell("50 KB, Engine.IO 3", 16, 50_000, 600, protocol=3)
POLLING: Final = Cell("50 KB, polling", 16, 50_000, 100, transport="polling")
REFUSED: Final = (Cell("50 KB refused", 16, 50_000, 1_000), Cell("200 KB refused", 16, 200_000, 500))
VERIFIED: Final = (
    Cell("5 KB", 16, 5_000, 100),
    Cell("50 KB", 200, 50_000, 10),
    Cell("200 KB", 16, 200_000, 30),
    Cell("50 KB in pieces", 16, 50_000, 20, piece_bytes=1448),
    Cell("50 KB, polling", 16, 50_000, 10, transport="polling"),
    Cell("50 KB, Engine.IO 3", 16, 50_000, 20, protocol=3),
    Cell("50 KB, Engine.IO 3, polling", 16, 50_000, 10, protocol=3, transport="polling"),
)
#: Stock python-socketio takes 10 to 20 ms for each 50 KB.
STOCK_FRAMES: Final = 3

#: JIT compilers have done their work by then.
WARM_UP_SEC: Final = 4.0
ACK_SEC: Final = 4.0
ACK_WARM_UP_SEC: Final = 1.0
STOCK_ACK_SEC: Final = 0.2
ACK_CLIENTS: Final = (50, 200)
IDLE_CLIENTS: Final = 5_000
#: Users of the idle connections: each one's first login costs a hash, and each further one asks the user's others.
IDLE_ACCOUNTS: Final = 250
NEW_CLIENTS: Final = 10
MEMORY_BURSTS: Final = 10
MEMORY_FRAMES: Final = 5

Shares = Mapping[str, Mapping[str, float]]
#: Of Node's cost, at most, by reader and what is sent.
NODE_SHARE: Final[Shares] = {
    "python": {"5 KB": 0.6, "50 KB": 0.75, "200 KB": 0.75, "50 KB in pieces": 0.65},
    "compiled": {"5 KB": 0.4, "50 KB": 0.4, "200 KB": 0.35, "50 KB in pieces": 0.5},
}
BUN_SHARE: Final[Shares] = {"python": {"50 KB": 0.75}, "compiled": {}}
SINK_TIMES: Final[Shares] = {"python": {}, "compiled": {"50 KB": 2.2, "200 KB": 1.8}}
STOCK_TIMES: Final = 300
PROTOCOL_3_TIMES: Final = 1.15
REFUSED_SHARE: Final = 0.6
IDLE_KB: Final = 25
NEW_CLIENT_MS: Final = 50
GROWTH_MB: Final = {"python": 150, "compiled": 60}

PARTS: Final = ("burst", "protocol3", "polling", "acks", "idle", "refused", "memory", "verify")


class Bench:
    """The servers, what was measured of them so far, and what is demanded."""

    def __init__(self, rounds: int, scale: float, say: Callable[[str], None]) -> None:
        self.tables: list[Table] = []
        self.demands: list[Demand] = []
        self.costs: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._rounds = rounds
        self._scale = scale
        self._say = say
        self._stack = ExitStack()
        self._running: dict[str, Running] = {}
        self._products = [servers.product(reader) for reader in servers.readers()]
        self._peers = servers.peers()
        self._warm: set[tuple[str, str]] = set()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    # -- the parts

    def burst(self) -> None:
        """CPU of a frame, as fast as the server takes them."""
        for cell in BURSTS:
            for kind in self._in_turns(self._kinds_for(cell)):
                self._measure(self._frames_for(cell, kind), kind)
            self._demand_burst(cell)
        self._table_of_costs("CPU of a frame in a burst, µs", BURSTS, [*self._products, *self._peers.values()])

    def protocol3(self) -> None:
        """What Engine.IO 3 costs more than Engine.IO 4."""
        current = BURSTS[1]
        for kind in self._in_turns([*self._products, self._peers["node"]]):
            self._measure(current._replace(name="50 KB, Engine.IO 4"), kind)
            self._measure(PROTOCOL_3, kind)
        for kind in self._products:
            ratio = self._cost(PROTOCOL_3, kind) / self._cost("50 KB, Engine.IO 4", kind)
            self.demands.append(Demand(f"{kind.name}: Engine.IO 3 of Engine.IO 4", ratio, PROTOCOL_3_TIMES))
        self._table_of_costs(
            "CPU of a frame by protocol, µs",
            [current._replace(name="50 KB, Engine.IO 4"), PROTOCOL_3],
            [*self._products, self._peers["node"]],
        )

    def polling(self) -> None:
        """CPU of a frame that comes in a POST."""
        kinds = [*self._products, self._peers["node"]]
        for kind in self._in_turns(kinds):
            self._measure(POLLING, kind)
        for kind in self._products:
            ratio = self._cost(POLLING, kind) / self._cost(POLLING, self._peers["node"])
            self.demands.append(Demand(f"{kind.name}: polling, of Node", ratio, 1.0))
        self._table_of_costs("CPU of a frame over polling, µs", [POLLING], kinds)

    def acks(self) -> None:
        """How long it takes from a frame to its ack, at 10 Hz and 50 KB."""
        kinds = [*self._products, self._peers["node"], self._peers["bun"]]
        lines = []
        for clients in ACK_CLIENTS:
            times: dict[str, list[Times]] = defaultdict(list)
            for kind in self._in_turns(kinds):
                seconds = max(ACK_SEC * self._scale, 1.0)
                one = ack_times(clients, self._server(kind), seconds, ACK_WARM_UP_SEC)
                times[kind.name].append(one)
                self._say(f"acks, {clients} clients: {kind.name} p50 {one.p50_ms:.3f} ms, p99 {one.p99_ms:.3f} ms")
            p50 = {name: median(one.p50_ms for one in rounds) for name, rounds in times.items()}
            p99 = {name: median(one.p99_ms for one in rounds) for name, rounds in times.items()}
            for kind in self._products:
                for peer in (self._peers["node"], self._peers["bun"]):
                    what = f"{kind.name}: {clients} clients, ack {{}}, of {peer.name}"
                    self.demands.append(Demand(what.format("p50"), p50[kind.name] / p50[peer.name], 1.0))
                    self.demands.append(Demand(what.format("p99"), p99[kind.name] / p99[peer.name], 1.0))
            lines.append([f"{clients} clients", *(f"{p50[kind.name]:.2f} / {p99[kind.name]:.2f}" for kind in kinds)])
        # Once and with two frames of each client, for it can't keep up; and its time is that of the queue.
        stock = ack_times(ACK_CLIENTS[0], self._server(self._peers["stock"]), STOCK_ACK_SEC)
        lines[0].append(f"{shown(stock.p50_ms)} / {shown(stock.p99_ms)}")
        for line in lines[1:]:
            line.append("")
        heads = ["10 Hz, 50 KB", *(kind.name for kind in kinds), "stock, 2 frames each"]
        self.tables.append(Table("From a frame to its ack, p50 / p99 in ms", heads, lines))

    def idle(self) -> None:
        """Memory of connections that say nothing, and a new client beside them."""
        clients = max(int(IDLE_CLIENTS * self._scale), 100)
        kinds = [*self._products, self._peers["node"], self._peers["bun"], self._peers["stock"]]
        figures: dict[str, Idle] = {}
        for kind in kinds:
            one = figures[kind.name] = idle_connections(kind, clients, NEW_CLIENTS, min(IDLE_ACCOUNTS, clients))
            self._say(f"{clients} idle connections: {kind.name} {one.kb:.1f} KB each, new client {one.new_ms:.1f} ms")
        for kind in self._products:
            one = figures[kind.name]
            self.demands.append(Demand(f"{kind.name}: an idle connection", one.kb, IDLE_KB, "KB"))
            self.demands.append(
                Demand(f"{kind.name}: a new client beside {clients:,}", one.new_ms, NEW_CLIENT_MS, "ms")
            )
        self.tables.append(
            Table(
                f"{clients:,} idle connections",
                ["", *(kind.name for kind in kinds)],
                [
                    ["KB each", *(f"{figures[kind.name].kb:.1f}" for kind in kinds)],
                    [
                        f"a new client's first ack, slowest of {NEW_CLIENTS}, ms",
                        *(f"{figures[kind.name].new_ms:.1f}" for kind in kinds),
                    ],
                ],
            )
        )

    def refused(self) -> None:
        """What a frame costs that comes too early, of what one costs that is accepted."""
        lines = []
        for kind in self._products:
            assert kind.reader is not None
            limited = servers.product(kind.reader, "--rate", "10", name=f"{kind.name}, --rate 10")
            for cell in REFUSED:
                for one in self._in_turns([kind, limited]):
                    self._measure(cell, one)
                accepted, refused = self._cost(cell, kind), self._cost(cell, limited)
                self.demands.append(Demand(f"{kind.name}: {cell.name}, of accepted", refused / accepted, REFUSED_SHARE))
                lines.append([f"{kind.name}, {cell.name}", shown(accepted), shown(refused), shown(refused / accepted)])
        self.tables.append(
            Table(
                "CPU of a frame that is refused because of its rate (no acks asked for), µs",
                ["", "accepted", "refused", "ratio"],
                lines,
            )
        )

    def memory(self) -> None:
        """Resident memory while 200 clients send 200 KB frames in bursts."""
        lines = []
        for kind in self._products:
            with running(kind) as server:
                growth: Growth = memory_in_bursts(server, 200, 200_000, MEMORY_BURSTS, MEMORY_FRAMES)
            self._say(f"memory in bursts: {kind.name} {growth.peak:.0f} MB")
            allowed = GROWTH_MB[_demanded(kind)]
            self.demands.append(Demand(f"{kind.name}: memory in bursts, beyond the start", growth.peak, allowed, "MB"))
            first, last = growth.after[0], growth.after[-1]
            lines.append([kind.name, f"{growth.peak:.0f}", f"{first:.0f}", f"{last:.0f}"])
        self.tables.append(
            Table(
                f"Memory in {MEMORY_BURSTS} bursts of {MEMORY_FRAMES} frames of 200 KB from each of 200 connections,"
                " MB beyond what it was when they had logged in",
                ["", "peak", "after the first", "after the last"],
                lines,
            )
        )

    def verify(self) -> None:
        """Every byte, on servers of their own."""
        lines = []
        verified = [servers.verified_product(reader) for reader in servers.readers()]
        for kind in [*verified, *servers.peers(verify=True).values()]:
            if kind.name != "sink":  # it has no images
                taken = verify(kind, [self._frames_for(cell, kind) for cell in VERIFIED if _takes(kind, cell)])
                self._say(f"verified: {kind.name}, {taken / 1e6:,.0f} MB")
                lines.append([kind.name, f"{taken / 1e6:,.0f}"])
        self.tables.append(Table("Bytes that were compared by CRC-32, MB", ["", "all alike"], lines))

    # --

    def _kinds_for(self, cell: Cell) -> list[Kind]:
        names = ["node", "bun", "sink"] + (["stock"] if cell.clients == 16 else [])
        return [*self._products, *(self._peers[name] for name in names)]

    def _frames_for(self, cell: Cell, kind: Kind) -> Cell:
        if kind.name == "stock":
            return cell._replace(frames=min(cell.frames, STOCK_FRAMES))
        return cell

    def _in_turns(self, kinds: Sequence[Kind]) -> Iterator[Kind]:
        """The kinds one after the other, and all of that as often as there are rounds."""
        for _ in range(self._rounds):
            yield from kinds

    def _server(self, kind: Kind, transport: Transport = "websocket") -> Running:
        """It is started when it is first needed, and compiles then what it is needed for."""
        server = self._running.get(kind.name)
        if server is None:
            server = self._running[kind.name] = self._stack.enter_context(running(kind))
        if kind.warm_up and (kind.name, transport) not in self._warm:
            self._warm.add((kind.name, transport))
            warm_up(server, WARM_UP_SEC, transport)
        return server

    def _measure(self, cell: Cell, kind: Kind) -> None:
        server = self._server(kind, cell.transport)
        scaled = cell
        if kind.name != "stock":
            scaled = cell._replace(frames=max(int(cell.frames * self._scale), 5))
        cost = cpu_us_of_frame(scaled, server)
        self.costs[cell.name, kind.name].append(cost)
        self._say(f"{cell.name}: {kind.name} {shown(cost)} µs")

    def _cost(self, cell: Cell | str, kind: Kind) -> float:
        return median(self.costs[cell if isinstance(cell, str) else cell.name, kind.name])

    def _demand_burst(self, cell: Cell) -> None:
        size = cell.name.partition(",")[0].partition(" of ")[0]
        for kind in self._products:
            reader = _demanded(kind)
            cost = self._cost(cell, kind)
            for peer, shares in (("node", NODE_SHARE), ("bun", BUN_SHARE), ("sink", SINK_TIMES)):
                allowed = shares[reader].get(size)
                if allowed is not None:
                    ratio = cost / self._cost(cell, self._peers[peer])
                    what = f"{kind.name}: {cell.name}, of {self._peers[peer].name}"
                    self.demands.append(Demand(what, ratio, allowed))
            if reader == "python" and cell.name == "50 KB":
                ratio = self._cost(cell, self._peers["stock"]) / cost
                self.demands.append(Demand(f"stock: {cell.name}, of {kind.name}", ratio, STOCK_TIMES, at_least=True))

    def _table_of_costs(self, title: str, cells: Iterable[Cell], kinds: Sequence[Kind]) -> None:
        node = self._peers["node"]

        def figure(cell: Cell, kind: Kind) -> str:
            if (cell.name, kind.name) not in self.costs:
                return ""
            cost = self._cost(cell, kind)
            ratio = f" ({cost / self._cost(cell, node):.2f})" if kind.is_product else ""
            return shown(cost) + ratio

        lines = [[cell.name, *(figure(cell, kind) for kind in kinds)] for cell in cells]
        self.tables.append(Table(f"{title} (of Node's)", ["", *(kind.name for kind in kinds)], lines))

    def plot(self) -> str:
        """The bursts of 16 connections as bars."""
        panels = []
        for cell in BURSTS:
            kinds = [kind for kind in [*self._products, *self._peers.values()] if kind.name != "stock"]
            bars = [
                Bar(
                    "only reading, in C" if kind.name == "sink" else kind.name,
                    self._cost(cell, kind),
                    shown(self._cost(cell, kind)),
                    "ours" if kind.is_product else "floor" if kind.name == "sink" else "other",
                )
                for kind in kinds
                if (cell.name, kind.name) in self.costs
            ]
            if bars and cell.clients == 16:
                panels.append((cell.name, bars))
        return bar_chart(
            "What a frame costs the server", "Microseconds of CPU, 16 connections, as fast as it takes them", panels
        )


def _takes(kind: Kind, cell: Cell) -> bool:
    """Whether a server speaks what the cell needs."""
    return cell.protocol == 4 or kind.is_product or kind.name == "Node"


def _demanded(kind: Kind) -> str:
    """By which demands a server is judged; one that has no choice of readers by those of Python's."""
    return kind.reader or "python"


def machine() -> str:
    """What it was measured on, in a line."""
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory_gb:.0f} GB, {platform.machine()}, Linux {platform.release().split('-')[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown; default: %(default)s")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="so many times the frames, times and connections; default: %(default)s"
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as docs/benchmarks.md has them")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the bursts as SVG")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    if options.plot and options.parts and "burst" not in options.parts:
        parser.error("--plot draws the part burst, which is not among those that are wanted")
    if servers.missing_peers():
        parser.error("the others are not installed: run scripts/bench-peers, or make bench")
    # Servers get the limit of this process, and some do not raise it by themselves.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)

    found = servers.readers()
    say(f"readers: {', '.join(reader or 'the only one' for reader in found)}")
    if found == ["python"]:
        say("the compiled reader was not built here: it is not measured, and nothing is demanded of it")
    problem = None
    with Bench(options.rounds, options.scale, say) as bench:
        for part in options.parts or PARTS:
            try:
                getattr(bench, part)()
            except (Wrong, LoadError) as error:
                problem = f"{part}: {error}"
                break
    if bench.demands:
        heads = ("demanded", "measured", "allowed", "")
        bench.tables.append(Table("Demands", heads, [demand.cells() for demand in bench.demands]))
    print(f"{machine()}; {', '.join(f'{name} {version}' for name, version in servers.versions().items())}\n")
    for table in bench.tables:
        print(table.as_markdown() if options.markdown else table.as_text(), end="\n\n")
    if options.plot and problem is None:
        options.plot.write_text(bench.plot())
    if problem is not None:
        print(f"FAILED: {problem}")
        return 1
    missed = [demand for demand in bench.demands if not demand.met]
    print(
        f"{len(bench.demands) - len(missed)} of {len(bench.demands)} demands are met, {time.monotonic() - began:.0f} s"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
