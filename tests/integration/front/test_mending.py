"""A front that is killed at each rename of an insert, started again, and sent the same token.

A part is renamed into place after the deduplication log names it. `strace` kills the front as it
enters its n-th rename, for every n an insert has: one for each table and ClickHouse partition.
Whatever had landed by then, the replay must leave each table with exactly its rows; and without
mending some of these kills must leave a wrong count, or this test shows nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError

from deploy.local.child import Child
from deploy.local.waiting import answers, free_port, wait_until
from tests.fixtures.children import Children

pytestmark = [pytest.mark.clickhouse, pytest.mark.slow]

MOST_RENAMES = 20  # an insert that was not killed at a rename this late has no more of them
ROWS = [(n, "2026-10-31" if n % 2 else "2026-11-01") for n in range(10)]
SETTINGS = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "max_insert_threads": "1",
    "parallel_view_processing": "0",
    "input_format_parallel_parsing": "0",
    "insert_deduplication_token": "c:t:0:0-10:10:abc:0:events",
}
# Each table's rows and sum after one whole batch.
WHOLE = {"events": (10, 45), "by_day": (10, 45), "by_month": (10, 45)}
WINDOW = "SETTINGS non_replicated_deduplication_window = 100"
STATEMENTS = [
    "CREATE TABLE landing (n UInt64, day Date) ENGINE = Null",
    "CREATE TABLE events (n UInt64, day Date) ENGINE = MergeTree"
    f" PARTITION BY toYYYYMM(day) ORDER BY n {WINDOW}",
    "CREATE TABLE by_day (day Date, n UInt64, c UInt64) ENGINE = SummingMergeTree"
    f" PARTITION BY toYYYYMM(day) ORDER BY day {WINDOW}",
    "CREATE TABLE by_month (month UInt32, n UInt64, c UInt64) ENGINE = SummingMergeTree"
    f" PARTITION BY month ORDER BY month {WINDOW}",
    "CREATE MATERIALIZED VIEW landing_mv TO events AS SELECT n, day FROM landing",
    "CREATE MATERIALIZED VIEW by_day_mv TO by_day AS"
    " SELECT day, sum(n) AS n, count() AS c FROM events GROUP BY day",
    "CREATE MATERIALIZED VIEW by_month_mv TO by_month AS"
    " SELECT toYYYYMM(day) AS month, sum(n) AS n, sum(c) AS c FROM by_day GROUP BY month",
]


def strace_or_skip() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed, so the front cannot be killed at a given rename")
    probe = subprocess.run(
        [found, "-e", "inject=rename:signal=KILL:when=1", "true"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.decode()[-200:].strip()}")
    return found


class Trial:
    """One data folder, and a front over it that is started and killed."""

    def __init__(self, folder: Path, start: Children, mending: bool) -> None:
        self.port = free_port()
        options: Sequence[str] = () if mending else ("--no-mending",)
        command = [sys.executable, "-m", "deploy.local.front", "--data", str(folder)]
        self.front: Child = start(
            "front",
            [*command, "--port", str(self.port), *options],
            until=self._answers,
            seconds=60,
        )

    def _answers(self) -> bool:
        return answers(f"http://127.0.0.1:{self.port}/ping")

    def client(self) -> Client:
        return clickhouse_connect.get_client(
            dsn=f"http://127.0.0.1:{self.port}/penstock", autogenerate_session_id=False
        )

    def restart(self) -> None:
        self.front.start()
        wait_until(self._answers, 60, "the front is up again")

    def insert(self) -> bool:
        """Send the batch; False when the connection broke."""
        body = b"".join(json.dumps({"n": n, "day": day}).encode() + b"\n" for n, day in ROWS)
        client = self.client()
        try:
            client.raw_insert("landing", None, body, settings=SETTINGS, fmt="JSONEachRow")
        except OperationalError:
            return False
        finally:
            client.close()
        return True

    def counts(self) -> dict[str, tuple[int, int]]:
        client = self.client()
        try:
            return {
                table: tuple(client.query(f"SELECT {count}, sum(n) FROM {table}").result_rows[0])
                for table, count in (
                    ("events", "count()"),
                    ("by_day", "sum(c)"),
                    ("by_month", "sum(c)"),
                )
            }
        finally:
            client.close()


def attach(strace: str, pid: int, nth: int, log: Path) -> subprocess.Popen[bytes]:
    """Let `strace` kill the process as one of its threads enters its `nth` rename."""
    calls = "rename,renameat,renameat2"
    tracer = subprocess.Popen(
        [
            *(strace, "-f", "-p", str(pid), "-o", str(log)),
            *("-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={nth}"),
        ],
        stderr=subprocess.PIPE,
    )
    status = Path(f"/proc/{pid}/task")

    def traced() -> bool:
        if tracer.poll() is not None:
            raise RuntimeError("strace ended")
        lines = [(task / "status").read_text() for task in status.iterdir()]
        return all(f"TracerPid:\t{tracer.pid}" in text for text in lines)

    wait_until(traced, 30, "every thread of the front is traced")
    return tracer


def killed_at(
    folder: Path, start: Children, strace: str, nth: int, mending: bool
) -> dict[str, tuple[int, int]] | None:
    """Counts after the kill at rename `nth`, the restart and the replay; None: no such rename."""
    trial = Trial(folder, start, mending)
    client = trial.client()
    for statement in STATEMENTS:
        client.command(statement)
    client.close()
    tracer = attach(strace, trial.front.pid, nth, folder / "strace.log")
    try:
        if trial.insert():
            return None
        trial.front.wait(30)
    finally:
        if tracer.poll() is None:
            tracer.terminate()
        tracer.communicate(timeout=30)
    trial.restart()
    assert trial.insert(), "the front died again, at no rename of ours"
    counts = trial.counts()
    trial.front.stop()
    return counts


def all_points(folder: Path, start: Children, mending: bool) -> list[dict[str, tuple[int, int]]]:
    strace = strace_or_skip()
    points: list[dict[str, tuple[int, int]]] = []
    for nth in range(1, MOST_RENAMES):
        counts = killed_at(folder / str(nth), start, strace, nth, mending)
        if counts is None:
            return points
        points.append(counts)
    raise AssertionError(f"an insert with {MOST_RENAMES} renames?")


def test_every_kill_at_a_rename_is_mended(tmp_path: Path, start: Children) -> None:
    points = all_points(tmp_path, start, mending=True)
    print(f"killed at {len(points)} renames")
    assert len(points) >= 6, "three tables with two partitions each have six renames"
    assert points == [WHOLE] * len(points)


def test_without_mending_a_kill_at_a_rename_loses_rows(tmp_path: Path, start: Children) -> None:
    points = all_points(tmp_path, start, mending=False)
    wrong = [counts for counts in points if counts != WHOLE]
    print(f"killed at {len(points)} renames, {len(wrong)} wrong: {wrong}")
    assert wrong, "the engine keeps log and part together by itself: mending is not needed"
