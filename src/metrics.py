"""What the parts have counted, for Prometheus; read when it is scraped, so counting costs the parts an integer each."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from hub import FrameHub

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Reading(NamedTuple):
    """A number that some part keeps.

    Args:
        name: ends in `_total` when it only grows.
        labels: such as {"child": "display"}; never a user's or a stream's name.
    """

    name: str
    help: str
    value: float
    labels: dict[str, str]


class Metrics:
    """Everything there is to know in numbers.

    Args:
        readings: gives the numbers of all parts beside the hub.
    """

    def __init__(self, hub: FrameHub, readings: Callable[[], Iterable[Reading]]) -> None:
        self._hub = hub
        self._readings = readings
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for reading in [*self._hub_readings(), *self._readings()]:
            family = families.get(reading.name)
            if family is None:
                kind = CounterMetricFamily if reading.name.endswith("_total") else GaugeMetricFamily
                family = families[reading.name] = kind(
                    f"imageserver_{reading.name.removesuffix('_total')}", reading.help, labels=list(reading.labels)
                )
            family.add_metric(list(reading.labels.values()), reading.value)
        return families.values()

    def _hub_readings(self) -> Iterable[Reading]:
        totals = self._hub.totals()
        yield Reading("streams", "Streams that are live.", len(self._hub.live_streams()), {})
        yield Reading("streams_opened_total", "Streams since the start.", totals.streams, {})
        yield Reading("frames_total", "Frames accepted.", totals.frames, {})
        yield Reading("frame_bytes_total", "Bytes of the frames accepted.", totals.bytes, {})
        for reason, count in sorted(totals.refused.items()):
            yield Reading("refused_frames_total", "Frames refused, by reason.", count, {"reason": reason})
        for consumer, count in sorted(totals.dropped.items()):
            yield Reading(
                "dropped_frames_total", "Frames that a consumer had no room for.", count, {"consumer": consumer}
            )
