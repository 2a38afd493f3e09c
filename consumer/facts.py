"""What a consumer tells the outside: each fact once, as a metric and, where it matters, a log line.

The core reports what happened as values; the poll loop looks around once a second for what is true
now. Both end here, so that the loop itself stays a loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from consumer.assignment import Assignment
from consumer.commands import Report
from consumer.flight import Now, Phase
from consumer.metrics import Metrics
from consumer.partition import Partition
from schemas.logs import fact

log = logging.getLogger("consumer")

_LOOK_SECONDS = 1.0
_SAID = {
    "refused": "ClickHouse refuses a batch for its content",
    "unexplained": "ClickHouse refuses a batch, and none of its lines explains it",
    "uneven": "ClickHouse read another number of rows than lines were sent",
}


class Facts:
    """The facts of one consumer. `lag` says how many records of a partition follow an offset."""

    def __init__(self, metrics: Metrics, lag: Callable[[int, int], int | None]) -> None:
        self._metrics = metrics
        self._lag = lag
        self._clickhouse_up: bool | None = None
        self._lags: dict[int, tuple[int | None, float]] = {}
        self._looked_at = 0.0

    def report(self, partition: Partition, report: Report) -> None:
        number = partition.source.partition
        batch = report.batch
        match report.what:
            case "inserted" | "replayed" if batch is not None:
                self._metrics.batches.labels(report.what).inc()
                self._metrics.insert_rows.inc(batch.rows)
                self._metrics.batch_rows.observe(batch.rows)
                if batch.oldest_append_ms:
                    age = time.time() - batch.oldest_append_ms / 1000
                    self._metrics.freshness.observe(max(0.0, age))
                level = logging.INFO if report.what == "replayed" else logging.DEBUG
                fact(
                    log, level, f"batch {report.what}", partition=number, first=batch.first,
                    end=batch.end, rows=batch.rows,
                )  # fmt: skip
            case "halted":
                fact(log, logging.ERROR, "partition stopped", partition=number, why=report.why)
            case "waiting":
                fact(
                    log, logging.WARNING, "waiting for older inserts to end",
                    partition=number, why=report.why,
                )  # fmt: skip
            case "planned again":
                self._metrics.planned_again.inc()
                fact(log, logging.WARNING, "past the deadline: planning again", partition=number)
            case "refused" | "unexplained" | "uneven" if batch is not None:
                level = logging.ERROR if report.what == "unexplained" else logging.WARNING
                fact(
                    log, level, _SAID[report.what], partition=number, first=batch.first,
                    end=batch.end, why=report.why,
                )  # fmt: skip
            case "set aside":
                self._metrics.dead_letters.labels(report.why).inc()
                fact(log, logging.WARNING, "event set aside", partition=number, reason=report.why)
            case "in doubt":
                self._metrics.doubts.inc()
                fact(log, logging.WARNING, "a batch is in doubt", partition=number, why=report.why)
            case "mending":
                fact(log, logging.WARNING, "mending", partition=number, why=report.why)
            case "mended":
                self._metrics.mends.inc()
                fact(log, logging.INFO, "mended", partition=number, what=report.why)
            case "lost":
                self._metrics.lost_ranges.inc()
                fact(log, logging.ERROR, "records are lost", partition=number, why=report.why)
            case "put off":
                fact(log, logging.WARNING, "will try again", partition=number, why=report.why)
            case what:
                fact(log, logging.DEBUG, f"insert {what}", partition=number, why=report.why)

    def heard(self, up: bool, why: str) -> None:
        """From the pool's threads: ClickHouse answered, or did not. Logged once a change."""
        self._metrics.clickhouse_up.set(up)
        if self._clickhouse_up is not up:
            self._clickhouse_up = up
            if up:
                fact(log, logging.INFO, "ClickHouse answers")
            else:
                fact(log, logging.WARNING, "ClickHouse is away: waiting", why=why)

    def read(self, events: int, size_bytes: int) -> None:
        """So much was taken from Kafka."""
        self._metrics.consumed_events.inc(events)
        self._metrics.consumed_bytes.inc(size_bytes)

    def look_around(self, now: Now, assignment: Assignment, fetched: frozenset[int]) -> None:
        """Bring the gauges up to date, once a second."""
        if now.seconds - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now.seconds
        metrics = self._metrics
        metrics.assigned_partitions.set(len(assignment))
        metrics.paused_partitions.set(len(assignment) - len(fetched))
        metrics.waiting_partitions.set(assignment.in_phase(Phase.WAITING))
        metrics.halted_partitions.set(assignment.in_phase(Phase.HALTED))
        metrics.buffered_bytes.set(assignment.buffered_bytes)
        lags: dict[int, tuple[int | None, float]] = {}
        for partition in assignment:
            number = partition.source.partition
            landed_to = partition.landed_to
            count = None if landed_to is None else self._lag(number, landed_to)
            since = partition.oldest_append_ms / 1000
            if not since and count != 0:
                # Nothing is held, so its age is unknown: at least since we first saw it behind.
                _, before = self._lags.get(number, (0, 0.0))
                since = before or time.time()
            lags[number] = (count, since)
        self._lags = lags

    def lags(self) -> dict[int, tuple[int | None, float]]:
        """By partition: records not yet inserted, and the age of the oldest in seconds."""
        now = time.time()
        return {
            number: (count, max(0.0, now - since) if since else 0.0)
            for number, (count, since) in self._lags.items()
        }
