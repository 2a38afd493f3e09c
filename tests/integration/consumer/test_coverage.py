"""A long coverage is folded by the server, and means the same to the plan."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from clickhouse_connect.driver.client import Client

from consumer import coverage
from consumer.clickhouse import ClickHouseTable
from consumer.config import consumer_settings
from consumer.ledger import ROWS_VERSION, Source
from consumer.recovery import Commit, Coverage, Covered, Mend, judge, plan
from consumer.runner import clock
from schemas.settings import load
from tests.fixtures.clickhouse import ClickHouse

CASES = 60
HIGH = 1000
WAYS = ((1, 63), (2, 63), (5, 63), (5, 1))  # how many stretches, of how many ClickHouse partitions
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


def connected(server: ClickHouse) -> Client:
    values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": server.url})
    return ClickHouseTable(consumer_settings(values), clock).client()


def read(client: Client, source: Source, low: int, foldable_from: int) -> tuple[Covered, ...]:
    return coverage.covered(
        client, source, low, whole=True, clock_ahead_ms=0, foldable_from=foldable_from
    )


def write(client: Client, cases: list[list[Covered]], twice: float, rng: random.Random) -> None:
    """Each case as a Kafka partition. `twice`: of the lines, as a view may write one again."""
    for (view,) in client.query(  # they would write a ledger of their own
        "SELECT name FROM system.tables WHERE database = currentDatabase() "
        "AND engine = 'MaterializedView'"
    ).result_rows:
        client.command(f"DROP VIEW {view} SYNC")
    lines, rows = [], []
    for case, batches in enumerate(cases):
        for b in batches:
            where = ("t", case, b.first, b.end, b.epoch)
            for month in sorted(b.listed):
                lines.append((*where, "events", month, 10, b.expected_rows, b.version))
            rows += [(*where, f"{month[:4]}-{month[4:]}-02 00:00:00") for month in b.stamped]
    client.insert(
        "batches",
        lines + rng.sample(lines, int(len(lines) * twice)),
        ["topic_id", "partition", "first", "end", "epoch", "topic", "clickhouse_partition", "rows",
         "expected_rows", "rows_version"],
    )  # fmt: skip
    stamps = ", ".join(f"{row}" for row in rows)
    client.command(
        "INSERT INTO events (_topic_id, _partition, _first, _end, _epoch, created_at, id) "
        "SELECT t.1, t.2, t.3, t.4, t.5, toDateTime64(t.6, 3, 'UTC'), generateUUIDv4() "
        f"FROM (SELECT arrayJoin([{stamps}]) AS t)"
    )


@pytest.mark.clickhouse
def test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of(
    clickhouse_with_schema: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connected(clickhouse_with_schema)
    rng = random.Random(19)
    write(client, [made(rng) for _ in range(CASES)], 0.05, rng)

    plain = nothing = 0
    folded = dict.fromkeys(WAYS, 0)
    for case in range(CASES):
        source = Source("cluster", "events", "t", case)
        low = rng.choice((0, 0, 4))
        one_by_one = read(client, source, low, 10**9)
        wanted = mended(one_by_one, low)
        plain += len(one_by_one)
        nothing += wanted is None
        for way in WAYS:
            for name, value in zip(("_STRETCHES", "_BITS"), way, strict=True):
                monkeypatch.setattr(coverage, name, value)
            together = read(client, source, low, 0)
            assert mended(together, low) == wanted, (case, low, way, one_by_one)
            folded[way] += len(together)
    assert max(folded.values()) < 0.85 * plain, "hardly anything was folded"
    assert len(set(folded.values())) > 1, "no stretch was folded for itself"
    assert nothing < CASES / 4


@pytest.mark.clickhouse
def test_a_stretch_that_another_reaches_into_is_not_folded(
    clickhouse_with_schema: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a batch that reaches over the next three stretches, and overlaps within its own or not."""
    client = connected(clickhouse_with_schema)
    months = [frozenset([_MONTHS[at % 2]]) for at in range(20)]
    small = [
        Covered(at, at + 1, 0, month, month, 0, 10, 10, ROWS_VERSION, 1000)
        for at, month in enumerate(months)
    ]
    over_its_own = replace(small[4], end=12, epoch=1)
    cases = [[*small, over_its_own], [*small[:5], replace(small[5], end=12), *small[6:]]]
    write(client, cases, 0, random.Random(1))
    monkeypatch.setattr(coverage, "_STRETCHES", 10)
    for case in range(len(cases)):
        source = Source("cluster", "events", "t", case)
        found = read(client, source, 0, 0)
        assert mended(found, 0) == mended(read(client, source, 0, 10**9), 0)
        assert [(c.first, c.end) for c in found if c.end <= 4 or c.first >= 12] == [
            (at, at + 2) for at in (0, 2, 12, 14, 16, 18)
        ]


@pytest.mark.clickhouse
def test_a_short_coverage_keeps_each_batch(clickhouse_with_schema: ClickHouse) -> None:
    client = connected(clickhouse_with_schema)
    client.command(
        "INSERT INTO batches (topic_id, partition, first, end, expected_rows, rows, "
        "clickhouse_partition) SELECT 't', 0, number, number + 1, 1, 1, '202601' FROM numbers(5)"
    )
    source = Source("cluster", "events", "t", 0)
    for least, wanted in ((6, 5), (5, 5)):
        assert len(read(client, source, 0, least)) == wanted, (
            "none of them has a stamp, so none may be folded"
        )
