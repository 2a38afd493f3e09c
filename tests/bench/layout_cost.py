"""What the layout costs at insert: CPU microseconds per row, by view, on the embedded engine.

    python -m tests.bench.layout_cost [--rows 50000] [--per-session 2] [--inserts 8]

Batches of made events of about 500 bytes are inserted from a file into the landing table, as a
consumer's are, and the CPU of the whole process (all of the engine's threads) is measured. Each row
of the table adds one view to `events`, the last but one has them all. "merges" is what it costs
afterwards to merge everything that was inserted into one part. Each figure is the least of its
inserts: the machine's other work can only add to it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import chdb
import orjson

from schemas.layout import read
from schemas.tables import DEDUPLICATED

_EVENTS = ("events_landing", "events_landing_mv", "events")
_STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("parse only", ("events_landing",)),
    ("events", _EVENTS),
    ("events + batches", (*_EVENTS, "batches", "batches_mv")),
    ("events + sessions", (*_EVENTS, "sessions", "sessions_mv")),
    ("events + sessions_daily", (*_EVENTS, "sessions_daily", "sessions_daily_mv")),
    ("events + pages_daily", (*_EVENTS, "pages_daily", "pages_daily_mv")),
    ("all", tuple(migration.creates for migration in read())),
)
_SETTINGS = (
    "async_insert = 0, insert_deduplicate = 1, "
    "deduplicate_blocks_in_dependent_materialized_views = 1, max_insert_threads = 1, "
    "parallel_view_processing = 0, input_format_parallel_parsing = 0, "
    "max_insert_block_size = 16777216, min_insert_block_size_rows = 16777216, "
    "min_insert_block_size_bytes = 4294967296, input_format_max_block_size_bytes = 0"
)
_BROWSERS = (("desktop", "Chrome", "Windows"), ("mobile", "Safari", "iOS"))


def body(rows: int, per_session: int, seed: int) -> bytes:
    """NDJSON of `rows` events, each session with about `per_session` of them."""
    chance = random.Random(seed)
    visitors = [
        {
            "project_id": f"project-{chance.randrange(20)}",
            "session_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "country": chance.choice(("DE", "US", "FR", "GB", "NL")),
            "city": chance.choice(("Berlin", "New York", "Paris", "London")),
            "browser_version": f"{chance.randrange(100, 140)}.0",
            **dict(zip(("device", "browser", "os"), chance.choice(_BROWSERS), strict=True)),
        }
        for _ in range(max(1, rows // per_session))
    ]
    return b"".join(orjson.dumps(_event(chance, visitors, n)) + b"\n" for n in range(rows))


def _event(chance: random.Random, visitors: list[dict[str, str]], n: int) -> dict[str, object]:
    at = 1_795_380_000_000 + n // 10
    event: dict[str, object] = {
        "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        **chance.choice(visitors),
        "name": chance.choice(("screen_view", "screen_view", "page_leave", "sign_up")),
        "created_at": at,
        "received_at": at + chance.randrange(50, 3000),
        "path": f"/docs/section/page-number-{chance.randrange(400)}",
        "previous_path": f"/docs/section/page-number-{chance.randrange(400)}",
        "duration": chance.randrange(120),
    }
    if chance.random() < 0.3:
        event["referrer"] = "https://www.google.com/search?q=penstock"
        event["referrer_name"] = "Google"
        event["referrer_kind"] = "search"
        event["properties"] = {"plan": "pro", "button": "sign-up"}
        event["utm_source"] = "newsletter"
    return event


class _Engine:
    """One embedded engine; each measurement has a database of its own in it."""

    def __init__(self, folder: Path) -> None:
        self._connection = chdb.connect(str(folder))

    def run(self, sql: str) -> str:
        answer: str = self._connection.query(sql, "TSV").bytes().decode().strip()
        return answer

    def costs(
        self, database: str, parts: Iterable[str], files: list[Path], rows: int, collapse: int
    ) -> tuple[float, float]:
        """CPU microseconds per row of the cheapest insert, and of merging all of them."""
        self.run(f"CREATE DATABASE {database}")
        self.run(f"USE {database}")
        for migration in read():
            if migration.creates in parts:
                self.run(migration.statement(database))
        self.run("SYSTEM STOP MERGES")
        spent = []
        for n, file in enumerate(files):
            token = f"c:t:0:{n * rows}-{n * rows + rows}:{rows}:d:0:events"
            start = time.process_time()
            self.run(
                f"INSERT INTO events_landing FROM INFILE '{file}' SETTINGS {_SETTINGS}, "
                f"optimize_on_insert = {collapse}, insert_deduplication_token = '{token}' "
                "FORMAT JSONEachRow"
            )
            spent.append(time.process_time() - start)
        self.run("SYSTEM START MERGES")
        start = time.process_time()
        for table in DEDUPLICATED:
            if table in parts:
                self.run(f"OPTIMIZE TABLE {table} FINAL")
        merged = time.process_time() - start
        self.run(f"DROP DATABASE {database} SYNC")
        return min(spent) / rows * 1e6, merged / rows / len(files) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--per-session", type=int, default=2, help="events a session has a batch")
    parser.add_argument("--inserts", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for seed in range(given.inserts):
            files.append(Path(folder) / f"{seed}.ndjson")
            files[-1].write_bytes(body(given.rows, given.per_session, seed))
        engine = _Engine(Path(folder) / "engine")
        size = files[0].stat().st_size / given.rows
        print(f"ClickHouse {engine.run('SELECT version()')}, {given.rows} rows of {size:.0f} bytes")
        print(f"{'CPU microseconds per row':32}{'insert':>8}{'merges':>8}")
        for n, (name, parts) in enumerate(_STEPS):
            insert, merges = engine.costs(f"cost{n}", parts, files, given.rows, collapse=0)
            print(f"{name:32}{insert:8.2f}{merges:8.2f}", flush=True)
        insert, merges = engine.costs("collapse", _STEPS[-1][1], files, given.rows, collapse=1)
        print(f"{'all, optimize_on_insert = 1':32}{insert:8.2f}{merges:8.2f}")


if __name__ == "__main__":
    main()
