"""The figures that the page shows, collected at most once a second.

Every source may be away: ClickHouse, the consumer, the status file. What it had to say is then
missing and its trouble is named; the others' figures stay. Nothing raises.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from deploy.local.metrics_page import read
from deploy.local.page import queries

_KEEP_SECONDS = 0.9
_QUERY_SECONDS = 5
_SECOND_LOOK_SECONDS = 0.3
_CHART_SECONDS = 60

Row = dict[str, Any]


class Unanswered(Exception):
    """A source that did not answer, or refused."""


@dataclass(frozen=True)
class ClickHouse:
    """A database by its URL, asked over HTTP for rows as objects."""

    url: str

    def ask(self, query: str, parameters: Mapping[str, str] | None = None) -> list[Row]:
        parts = urlsplit(self.url)
        settings = {
            "database": parts.path.strip("/") or "default",
            "default_format": "JSON",
            "output_format_json_quote_64bit_integers": "0",
            "date_time_output_format": "iso",
            "max_execution_time": str(_QUERY_SECONDS),
            **{f"param_{name}": value for name, value in (parameters or {}).items()},
        }
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/?{urlencode(settings)}"
        request = urllib.request.Request(address, data=query.encode())  # noqa: S310
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_header(
                "Authorization", "Basic " + base64.b64encode(login.encode()).decode()
            )
        try:
            with urllib.request.urlopen(request, timeout=_QUERY_SECONDS + 1) as reply:  # noqa: S310
                rows: list[Row] = json.load(reply)["data"]
                return rows
        except urllib.error.HTTPError as refusal:
            with refusal:
                said = refusal.read(500).decode("utf-8", "replace").strip()
            raise Unanswered(
                f"ClickHouse refused: {said.splitlines()[0] if said else '?'}"
            ) from None
        except (OSError, ValueError, KeyError) as error:
            raise Unanswered(f"ClickHouse does not answer: {error}") from None


def chart(rows: list[Row]) -> list[int]:
    """Events a second, oldest first; the second that has only begun is left out."""
    by_age = {int(row["ago"]): int(row["events"]) for row in rows}
    return [by_age.get(ago, 0) for ago in range(_CHART_SECONDS, 0, -1)]


_FAULTS = (
    ("gaps", "{count} gaps between its batches, {missing_offsets} offsets in all"),
    ("overlaps", "{count} batches overlap an earlier one"),
    ("doubles", "{count} parts of batches landed more than once"),
    ("short_batches", "{count} batches have fewer rows than expected"),
    ("long_batches", "{count} batches have more rows than expected"),
    ("unknown_batches", "of {count} batches nobody knows how many rows to expect"),
)


def verdict(rows: list[Row]) -> Row:
    """Whether the batches tile the log, and each way in which they do not: of `ledger_verdict`."""
    faults = []
    for row in rows:
        named = [text.format(count=row[name], **row) for name, text in _FAULTS if int(row[name])]
        if row["verdict"] != "ok":
            faults.append(f"partition {row['partition']}: {'; '.join(named) or row['verdict']}")
    return {
        "ok": not faults,
        "faults": faults,
        "batches": sum(int(row["batches"]) for row in rows),
        "rows": sum(int(row["rows"]) for row in rows),
    }


class Figures:
    """`document()` gives the newest figures; concurrent callers share one collection."""

    def __init__(self, clickhouse: ClickHouse, consumer: str, status: Path) -> None:
        self._clickhouse = clickhouse
        self._metrics = f"{consumer}/metrics"
        self._status = status
        self._lock = threading.Lock()
        self._at = 0.0
        self._document = b"{}"

    def document(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._at > _KEEP_SECONDS:
                self._document = json.dumps(self._collect()).encode()
                self._at = time.monotonic()
            return self._document

    def _collect(self) -> Row:
        troubles: list[str] = []

        def attempt(source: Callable[[], Any]) -> Any:
            try:
                return source()
            except Unanswered as trouble:
                if str(trouble) not in troubles:
                    troubles.append(str(trouble))
                return None

        ask, asked_for = self._clickhouse.ask, queries.parameters(datetime.now(UTC))
        return {
            "at": int(time.time() * 1000),
            "chart": attempt(lambda: chart(ask(queries.RATE))),
            "totals": attempt(lambda: ask(queries.TOTALS)[0]),
            "freshness": attempt(lambda: ask(queries.FRESHNESS)[0]),
            "sessions": attempt(lambda: ask(queries.SESSIONS, asked_for[queries.SESSIONS])),
            "pages": attempt(lambda: ask(queries.PAGES, asked_for[queries.PAGES])),
            "ledger": attempt(self._ledger),
            "lag": attempt(self._lag),
            "stack": attempt(self._stack),
            "troubles": troubles,
        }

    def _ledger(self) -> Row:
        """A batch over two months lands in two steps: what looks wrong is looked at again."""
        found = verdict(self._clickhouse.ask(queries.LEDGER))
        if found["ok"]:
            return found
        time.sleep(_SECOND_LOOK_SECONDS)
        return verdict(self._clickhouse.ask(queries.LEDGER))

    def _lag(self) -> list[Row]:
        try:
            samples = read(self._metrics)
        except (OSError, ValueError):
            raise Unanswered("the consumer does not answer") from None
        return [
            {"partition": sample.labels["partition"], "events": sample.value}
            for sample in samples
            if sample.name == "penstock_lag_events" and "partition" in sample.labels
        ]

    def _stack(self) -> Row:
        try:
            status: Row = json.loads(self._status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise Unanswered("`make run` says nothing about its parts") from None
        return status
