"""The shim's metrics: one typed list, and the numbers behind it.

Every worker counts in plain cells of memory, and all cells of all workers lie in one shared map:

    worker 0: [cell 0][cell 1]...   worker 1: [cell 0][cell 1]...

A cell has one writer, so counting is an addition and needs no lock; whoever answers `/metrics` adds
the workers' cells up. That is some twenty times cheaper than a labelled counter of
prometheus_client, whose classes are used here only to write the page. A worker that is started
again goes on counting where the one before it stopped, so a counter never falls.

Label values are closed sets: every cell exists from the start, at zero, and nothing that a client
sends becomes a label.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, cast

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from schemas.event import REASONS
from schemas.version import penstock_version

ROUTES: Final = ("events", "pixel", "sdk", "other")
STATUSES: Final = (
    200, 202, 204, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 431, 500, 503,
)  # fmt: skip

ProduceReason = Literal[
    "starting",  # no metadata from Kafka yet
    "unreachable",  # no broker answers
    "topic_missing",  # the topic does not exist
    "lanes",  # LANES does not divide the topic's partitions
    "backlog",  # BACKLOG_BYTES are waiting for the consumers
    "queue_full",  # QUEUE_EVENTS are waiting for Kafka
    "timed_out",  # no acknowledgement within PRODUCE_TIMEOUT_SECONDS
    "refused",  # the broker or the client library said no
    "fatal",  # the producer had to be made anew
    "stopping",  # SIGTERM
]
PRODUCE_REASONS: Final[tuple[ProduceReason, ...]] = (
    "starting", "unreachable", "topic_missing", "lanes", "backlog", "queue_full", "timed_out",
    "refused", "fatal", "stopping",
)  # fmt: skip

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True)
class Definition:
    """One metric: its name without `penstock_`, and each combination of labels it may have."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    children: tuple[tuple[str, ...], ...] = ((),)
    buckets: tuple[float, ...] = ()

    @property
    def cells(self) -> int:
        """A histogram has a count a bucket, one for what is larger, and the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


_ROUTE_STATUS = tuple((route, str(status)) for route, status in product(ROUTES, STATUSES))
_OUTCOMES = (
    ("accepted", ""),  # acknowledged by Kafka
    ("dry_run", ""),  # valid, and not produced on purpose
    *(("rejected", reason) for reason in REASONS),  # never valid, whoever sends it again
    *(("unacknowledged", reason) for reason in PRODUCE_REASONS),  # answered `retry`
)

METRICS: Final = (
    Definition("http_requests", "counter", "requests answered", ("route", "status"), _ROUTE_STATUS),
    Definition(
        "http_request_duration_seconds",
        "histogram",
        "from a request's first byte to its answer, Kafka's acknowledgement included",
        buckets=_SECONDS,
    ),
    Definition(
        "events", "counter", "events by what came of them", ("outcome", "reason"), _OUTCOMES
    ),
    Definition(
        "produce_duration_seconds",
        "histogram",
        "from a record's hand-over to its delivery report",
        buckets=_SECONDS,
    ),
    Definition(
        "produce_errors",
        "counter",
        "records not acknowledged, and posts refused for Kafka's sake",
        ("reason",),
        tuple((reason,) for reason in PRODUCE_REASONS),
    ),
    Definition("produce_queue_events", "gauge", "events taken and not yet answered"),
    Definition(
        "pack_events",
        "histogram",
        "events in one Kafka record",
        buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    ),
    Definition("produce_backlog_bytes", "gauge", "largest uncommitted backlog of a partition"),
    Definition("producer_restarts", "counter", "producers made anew after a fatal error"),
    Definition("projects", "gauge", "projects in the keys file, a worker"),
    Definition("projects_file_errors", "counter", "keys files refused: the old one stays"),
    Definition("worker_state", "gauge", "not for dashboards: readiness of a worker"),
)

CELLS: Final = sum(m.cells * len(m.children) for m in METRICS)
_CELL_BYTES: Final = 8


def _starts() -> dict[tuple[str, ...], int]:
    starts, at = {}, 0
    for metric in METRICS:
        for child in metric.children:
            starts[(metric.name, *child)] = at
            at += metric.cells
    return starts


START: Final = _starts()
_BY_NAME: Final = {metric.name: metric for metric in METRICS}


Cells = MutableSequence[float]


class Histogram:
    """Counts observations into the cells of one histogram."""

    __slots__ = ("_buckets", "_cells", "_start", "_sum")

    def __init__(self, cells: Cells, start: int, buckets: tuple[float, ...]) -> None:
        self._cells = cells
        self._start = start
        self._buckets = buckets
        self._sum = start + len(buckets) + 1

    def observe(self, value: float) -> None:
        self._cells[self._start + bisect_left(self._buckets, value)] += 1.0
        self._cells[self._sum] += value


class Board:
    """The cells of all workers; `worker` is the part that this process writes."""

    def __init__(self, workers: int = 1, worker: int = 0, fileno: int = -1) -> None:
        self._map = mmap.mmap(fileno, workers * CELLS * _CELL_BYTES)
        everything = memoryview(self._map).cast("d")
        self._parts = [
            cast("Cells", everything[i * CELLS : (i + 1) * CELLS]) for i in range(workers)
        ]
        self.cells = self._parts[worker]

    @staticmethod
    def bytes_for(workers: int) -> int:
        return workers * CELLS * _CELL_BYTES

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        self.cells[START[(name, *labels)]] += by

    def put(self, name: str, value: float, worker: int | None = None) -> None:
        cells = self.cells if worker is None else self._parts[worker]
        cells[START[(name,)]] = value

    def histogram(self, name: str) -> Histogram:
        return Histogram(self.cells, START[(name,)], _BY_NAME[name].buckets)

    def each(self, name: str) -> list[float]:
        """One gauge's value in every worker."""
        return [part[START[(name,)]] for part in self._parts]

    def total(self, name: str, *labels: str) -> float:
        return self._sum(START[(name, *labels)])

    def _sum(self, cell: int) -> float:
        return sum(part[cell] for part in self._parts)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        registry.register(_Page(self))
        return generate_latest(registry)

    def families(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("penstock_build_info", "what runs here", labels=["version"])
        info.add_metric([penstock_version()], 1)
        yield info
        for metric in METRICS:
            name = "penstock_" + metric.name
            family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
            if metric.kind == "histogram":
                family = HistogramMetricFamily(name, metric.meaning, labels=metric.labels)
                for child in metric.children:
                    buckets, total = self._buckets(metric, child)
                    family.add_metric(child, buckets, total)
            else:
                made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = made(name, metric.meaning, labels=metric.labels)
                for child in metric.children:
                    family.add_metric(child, self.total(metric.name, *child))
            yield family

    def _buckets(
        self, metric: Definition, child: Sequence[str]
    ) -> tuple[list[tuple[str, float]], float]:
        start, so_far = START[(metric.name, *child)], 0.0
        rows: list[tuple[str, float]] = []
        for step, bound in enumerate((*metric.buckets, float("inf"))):
            so_far += self._sum(start + step)
            rows.append(("+Inf" if bound == float("inf") else str(float(bound)), so_far))
        return rows, self._sum(start + len(metric.buckets) + 1)


class _Page:
    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        return self._board.families()
