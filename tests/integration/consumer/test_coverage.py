"""A long coverage is folded by the server, and means the same to the plan."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from consumer.clickhouse import ClickHouseTable
from consumer.config import consumer_settings
from consumer.coverage import covered
from consumer.ledger import ROWS_VERSION, Source
from consumer.recovery import Commit, Coverage, Covered, Mend, judge, plan
from consumer.runner import clock
from schemas.settings import load
from tests.fixtures.clickhouse import ClickHouse

CASES = 60
HIGH = 1000
_MONTHS = ("202601", "202602")


def made(rng: random.Random) -> list[Covered]:
    """Batches as crashes, resets and other rules leave them: whole or in part, with gaps, some
    over one another; most follow one another and need nothing."""
    found: dict[tuple[int, int, int], Covered] = {}
    at = 0
    for _ in range(rng.randrange(1, 16)):
        at = max(0, at + rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 3, -2, -5)))
        end = at + rng.randrange(1, 6)
        listed = frozenset(rng.sample(_MONTHS, rng.choice((0, 1, 1, 1, 1, 1, 1, 2))))
        missing = rng.random() < 0.08
        stamped = frozenset(_MONTHS[: rng.randrange(2)]) if missing or not listed else listed
        rows = 10 * len(listed)
        short = 10 if rng.random() < 0.05 else 0
        version = ROWS_VERSION + rng.choice((*[0] * 20, -1, 1))
        batch = Covered(
            at, end, rng.choice((0, 0, 0, 1)), stamped, listed, 0, rows, rows + short, version, 1000
        )
        if listed or stamped:
            found[batch.first, batch.end, batch.epoch] = batch
        at = end
    return list(found.values())


def mended(batches: tuple[Covered, ...], low: int) -> Mend | None:
    """What an owner does who finds a commit that is not ours; None: nothing is covered."""
    coverage = Coverage(batches, 10**6, 10_000, None, 0, restart_keeps_log=True)
    commit = Commit(None, None, low, HIGH)
    found = plan(judge(commit, "t"), commit, coverage, 10**9, waited=True)
    return replace(found, why="") if isinstance(found, Mend) else None


@pytest.mark.clickhouse
def test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of(
    clickhouse_with_schema: ClickHouse,
) -> None:
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url})
    client = ClickHouseTable(consumer_settings(values), clock).client()
    for (view,) in client.query(  # they would write a ledger of their own
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        "AND engine = 'MaterializedView'"
    ).result_rows:
        client.command(f"DROP VIEW {view} SYNC")
    rng = random.Random(19)
    cases = [made(rng) for _ in range(CASES)]
    lines, rows = [], []
    for case, batches in enumerate(cases):
        for b in batches:
            where = ("t", case, b.first, b.end, b.epoch)
            for month in sorted(b.listed):
                lines.append((*where, "events", month, 10, b.expected_rows, b.version))
            rows += [(*where, f"{month[:4]}-{month[4:]}-02 00:00:00") for month in b.stamped]
    client.insert(
        "batches",
        lines,
        ["topic_id", "partition", "first", "end", "epoch", "topic", "clickhouse_partition", "rows",
         "expected_rows", "rows_version"],
    )  # fmt: skip
    stamps = ", ".join(f"{row}" for row in rows)
    client.command(
        "INSERT INTO events (_topic_id, _partition, _first, _end, _epoch, created_at, id) "
        "SELECT t.1, t.2, t.3, t.4, t.5, toDateTime64(t.6, 3, 'UTC'), generateUUIDv4() "
        f"FROM (SELECT arrayJoin([{stamps}]) AS t)"
    )

    folded = plain = nothing = 0
    for case in range(CASES):
        source = Source("cluster", "events", "t", case)
        low = rng.choice((0, 0, 4))
        one_by_one, together = (
            covered(client, source, low, whole=True, clock_ahead_ms=0, foldable_from=least)
            for least in (10**9, 0)
        )
        assert mended(together, low) == mended(one_by_one, low), (case, low, one_by_one)
        plain += len(one_by_one)
        folded += len(together)
        nothing += mended(one_by_one, low) is None
    assert folded < 0.8 * plain, "hardly anything was folded"
    assert nothing < CASES / 4


@pytest.mark.clickhouse
def test_a_short_coverage_keeps_each_batch(clickhouse_with_schema: ClickHouse) -> None:
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url})
    client = ClickHouseTable(consumer_settings(values), clock).client()
    client.command(
        "INSERT INTO batches (topic_id, partition, first, end, expected_rows, rows, "
        "clickhouse_partition) SELECT 't', 0, number, number + 1, 1, 1, '202601' FROM numbers(5)"
    )
    source = Source("cluster", "events", "t", 0)
    for least, wanted in ((6, 5), (5, 5)):
        found = covered(client, source, 0, whole=True, clock_ahead_ms=0, foldable_from=least)
        assert len(found) == wanted, "none of them has a stamp, so none may be folded"
