"""What a camera counts, and what the cameras of a run add up to."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


class Latencies:
    """Times from a frame to its ack, in buckets 2 % wide, so that a day of them takes no more room than a minute."""

    _WIDTH = 1.02
    _SMALLEST_SEC = 1e-6

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def record(self, sec: float) -> None:
        self._buckets[round(math.log(max(sec, self._SMALLEST_SEC), self._WIDTH))] += 1

    def add(self, other: "Latencies") -> None:
        self._buckets.update(other._buckets.copy())

    def percentile_ms(self, percent: float) -> float | None:
        """The time within which so many of the acks came; None before the first."""
        rank = self._buckets.total() * percent / 100
        for bucket, count in sorted(self._buckets.items()):
            rank -= count
            if rank <= 0:
                return round(self._WIDTH**bucket * 1000, 3)
        return None


@dataclass
class Figures:
    """One camera's counts; written by one thread at a time.

    Args:
        acknowledged: whether this camera hears what becomes of its frames. Those over TCP and the pulled ones don't.
        frames: accepted by the server, as its acks say; sent, where there are none.
        refused: frames that the server would not have, by its reason.
        errors: `serverError` events by code, and what else went wrong, such as why a camera gave up.
        unanswered: frames whose ack was still missing when their connection was lost.
        results: what plug-ins had to say of its frames, by plug-in.
        registrations: how often the server has said that it will pull this camera.
        wanted_hz: the rate that the server wants at the moment; None when it has named none.
    """

    acknowledged: bool = True
    frames: int = 0
    image_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    logins: int = 0
    registrations: int = 0
    connections: int = 0
    transports: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    results: Counter[str] = field(default_factory=Counter)
    wanted_hz: float | None = None


@dataclass
class Summary:
    """All cameras of a run together.

    Args:
        streaming: cameras that are logged in and sending.
        duration_sec: how long the run has lasted.
        wanted_hz: the least and the most that the server wants of a camera; None when it has named no rate.
    """

    clients: int
    streaming: int
    duration_sec: float
    total: Figures
    wanted_hz: tuple[float, float] | None

    @classmethod
    def of(cls, figures: Iterable[Figures], streaming: int, duration_sec: float) -> "Summary":
        total, clients = Figures(), 0
        wanted: list[float] = []
        # The counters are copied first, which no camera's thread can come in between.
        for one in figures:
            clients += 1
            total.acknowledged &= one.acknowledged
            total.frames += one.frames
            total.image_bytes += one.image_bytes
            total.unanswered += one.unanswered
            total.logins += one.logins
            total.registrations += one.registrations
            total.connections += one.connections
            total.refused.update(one.refused.copy())
            total.errors.update(one.errors.copy())
            total.transports.update(one.transports.copy())
            total.results.update(one.results.copy())
            total.latencies.add(one.latencies)
            if (wanted_hz := one.wanted_hz) is not None:
                wanted.append(wanted_hz)
        return cls(clients, streaming, duration_sec, total, (min(wanted), max(wanted)) if wanted else None)

    @property
    def well(self) -> bool:
        """Every camera streamed to the end, and nothing was refused."""
        return self.streaming == self.clients and not self.total.refused and not self.total.errors

    @property
    def frames_per_sec(self) -> float:
        return self.total.frames / self.duration_sec if self.duration_sec else 0.0

    def as_json(self) -> dict[str, object]:
        total = self.total
        return {
            "well": self.well,
            "clients": self.clients,
            "streaming": self.streaming,
            "duration_sec": round(self.duration_sec, 3),
            "acknowledged": total.acknowledged,
            "frames": total.frames,
            "bytes": total.image_bytes,
            "frames_per_sec": round(self.frames_per_sec, 3),
            "ack_p50_ms": total.latencies.percentile_ms(50),
            "ack_p99_ms": total.latencies.percentile_ms(99),
            "refused": dict(total.refused),
            "errors": dict(total.errors),
            "unanswered": total.unanswered,
            "logins": total.logins,
            "registrations": total.registrations,
            "connections": total.connections,
            "transports": dict(total.transports),
            "results": dict(total.results),
            "wanted_hz": None if self.wanted_hz is None else list(self.wanted_hz),
        }

    def line(self) -> str:
        """The same for people, in one line."""
        total = self.total
        rate = f"{self.frames_per_sec:.1f} frames/s"
        parts = [f"{self.streaming} of {self.clients} streaming", rate if total.acknowledged else f"{rate} sent"]
        if self.wanted_hz is not None:
            least, most = self.wanted_hz
            parts.append(f"{least:g} Hz wanted" if least == most else f"{least:g} to {most:g} Hz wanted")
        if total.registrations:
            parts.append(f"registrations: {total.registrations}")
        if total.acknowledged:
            median, slowest = total.latencies.percentile_ms(50), total.latencies.percentile_ms(99)
            some = median is not None and slowest is not None
            parts.append(f"acks p50 {median:.1f} ms p99 {slowest:.1f} ms" if some else "no acks yet")
            parts.append(f"refused: {_by_cause(total.refused)}")
        if total.results:
            parts.append(f"results: {_by_cause(total.results)}")
        if total.errors:
            parts.append(f"errors: {_by_cause(total.errors)}")
        return ", ".join(parts)


def _by_cause(counts: Counter[str]) -> str:
    return " ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"
