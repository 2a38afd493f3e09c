"""The consumer's metrics: one typed list. The comment of each is its documentation.

Label values are closed sets, all present from the start at zero; partitions are the one open label,
and they are those the topic has. Nothing that a client sends becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas.record import REASONS
from schemas.version import penstock_version

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FRESHNESS_SECONDS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 900, 3600)
_ROWS = (1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000)

INSERT_ERRORS = ("unsent", "failed", "refused", "restarted")
COMMIT_ERRORS = ("try again", "fenced", "lost")
BATCHES = ("inserted", "replayed")
REBALANCES = ("assigned", "revoked", "lost", "rejoined")


class Metrics:
    """The numbers of one consumer, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, label: str = "", values: Iterable[str] = ()) -> Counter:
            made = Counter(
                f"penstock_{name}", text, [label] if label else [], registry=self.registry
            )
            for value in values:
                made.labels(value)
            return made

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"penstock_{name}", text, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"penstock_{name}", text, buckets=buckets, registry=self.registry)

        self.consumed_events = counter("consumed_events", "events read from Kafka, replays too")
        self.consumed_bytes = counter("consumed_bytes", "their bytes")
        self.insert_rows = counter("insert_rows", "events in inserts that were acknowledged")
        self.insert_duration = histogram(
            "insert_duration_seconds", "from an insert's send to its answer", _SECONDS
        )
        self.insert_errors = counter(
            "insert_errors", "inserts not acknowledged", "reason", INSERT_ERRORS
        )
        self.batch_rows = histogram("batch_rows", "events in a batch that landed", _ROWS)
        self.batches = counter("batches", "batches that landed", "outcome", BATCHES)
        self.freshness = histogram(
            "freshness_seconds",
            "from the append of a batch's oldest record to the insert's acknowledgement",
            _FRESHNESS_SECONDS,
        )
        self.rebalances = counter("rebalances", "changes of the assignment", "kind", REBALANCES)
        self.dead_letters = counter("dead_letters", "events set aside", "reason", REASONS)
        self.doubts = counter("doubts", "batches that their token could not settle")
        self.mends = counter("mends", "ranges of offsets that were mended after a doubt")
        self.sums_in_doubt = counter(
            "sums_in_doubt", "mends that left sums as they were, right or wrong: the log names them"
        )
        self.lost_ranges = counter("lost_ranges", "ranges that left the log before they were read")
        self.commit_duration = histogram(
            "commit_duration_seconds", "from a commit's send to its answer", _SECONDS
        )
        self.commit_errors = counter(
            "commit_errors", "commits not applied", "reason", COMMIT_ERRORS
        )
        self.planned_again = counter("planned_again", "batches past their deadline")
        self.assigned_partitions = gauge("assigned_partitions", "partitions owned now")
        self.paused_partitions = gauge("paused_partitions", "of them, not fetched now")
        self.waiting_partitions = gauge("waiting_partitions", "waiting for older inserts to end")
        self.halted_partitions = gauge("halted_partitions", "stopped until a person looks")
        self.buffered_bytes = gauge("buffered_bytes", "event bytes held, not yet inserted")
        self.clickhouse_up = gauge("clickhouse_up", "1 if its last answer was one, 0 if not")
        build = Gauge("penstock_build_info", "1", ["version"], registry=self.registry)
        build.labels(penstock_version()).set(1)

    def add_live(
        self,
        poll_loop_age_seconds: Callable[[], float],
        lags: Callable[[], dict[int, tuple[int | None, float]]],
    ) -> None:
        """Numbers that are looked up when they are asked for."""
        gauge = Gauge(
            "penstock_poll_loop_age_seconds",
            "since the poll loop last came round",
            registry=self.registry,
        )
        gauge.set_function(poll_loop_age_seconds)
        self.registry.register(_Lags(lags))

    def page(self) -> bytes:
        return generate_latest(self.registry)


class _Lags(Collector):
    """Lag by partition, in events (offsets not yet inserted) and in seconds (of the oldest one)."""

    def __init__(self, lags: Callable[[], dict[int, tuple[int | None, float]]]) -> None:
        self._lags = lags

    def collect(self) -> Iterable[Metric]:
        events = GaugeMetricFamily(
            "penstock_lag_events", "records not yet inserted", labels=["partition"]
        )
        seconds = GaugeMetricFamily(
            "penstock_lag_seconds", "age of the oldest of them", labels=["partition"]
        )
        for partition, (count, age) in sorted(self._lags().items()):
            if count is not None:
                events.add_metric([str(partition)], count)
            seconds.add_metric([str(partition)], age)
        return [events, seconds]
