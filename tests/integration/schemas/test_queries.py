"""The named queries on made data, against the answers computed in Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from schemas.queries import load
from tests.fixtures.clickhouse import ClickHouse
from tests.integration.schemas import made
from tests.integration.schemas.landing import insert, token

DAY = 86_400_000
FIRST = made.milliseconds(made.START)


def _ask(client: Client, name: str, **parameters: Any) -> list[Any]:
    result = client.query(load(name), parameters=parameters)
    return [
        tuple(v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for v in row)
        for row in result.result_rows
    ]


def _text(at: int) -> str:
    return made.moment(at).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _land(
    client: Client, events: Sequence[made.Event], *, seed: int, first: int = 0, replays: float = 0
) -> int:
    """Batches of uneven size, each under its token, some of them again later; the next offset."""
    chance = random.Random(seed)
    landed: list[tuple[Sequence[made.Event], str]] = []
    at = 0
    while at < len(events):
        batch = events[at : at + chance.randrange(1, 400)]
        landed.append((batch, token(first + at, first + at + len(batch), len(batch))))
        insert(client, *landed[-1])
        at += len(batch)
        if chance.random() < replays:
            insert(client, *chance.choice(landed))
    return first + at


def _sessions_agree(client: Client, events: Sequence[made.Event]) -> None:
    windows = [
        (FIRST - DAY, FIRST + (made.DAYS + 2) * DAY),
        (FIRST, FIRST + DAY),
        (FIRST + 3 * DAY, FIRST + 4 * DAY),  # the last day of October
        (FIRST + 4 * DAY - 1, FIRST + 4 * DAY),  # its last millisecond
        (FIRST + 4 * DAY, FIRST + 4 * DAY + DAY // 2),
    ]
    for first, end in windows:
        for project in made.PROJECTS:
            truth = made.session_list(events, project, first, end)
            answer = _ask(
                client,
                "session_list",
                project_id=project,
                start=_text(first),
                end=_text(end),
                limit=10_000,
            )
            assert answer == truth
    assert len(made.session_list(events, "demo", *windows[0])) > 100
    assert len(made.session_list(events, "demo", *windows[3])) > 0


def _days_agree(client: Client, events: Sequence[made.Event]) -> None:
    windows = [
        (date(2026, 10, 27), date(2026, 11, 6)),
        (date(2026, 10, 31), date(2026, 11, 1)),
        (date(2026, 10, 30), date(2026, 11, 2)),
    ]
    for first, end in windows:
        for project in made.PROJECTS:
            given = {"project_id": project, "start": first, "end": end}
            assert _ask(client, "dashboard", **given) == made.dashboard(events, project, first, end)
            assert _ask(client, "pages", **given, limit=1000) == made.pages(
                events, project, first, end
            )


def test_every_query_is_exact_through_late_events_and_replays(
    clickhouse_with_schema: ClickHouse,
) -> None:
    client = clickhouse_with_schema.client()
    events = made.make(sessions=500, seed=11)
    _land(client, events, seed=1, replays=0.3)
    _sessions_agree(client, events)
    _days_agree(client, events)
    assert client.query("SELECT count() FROM events").result_rows[0][0] == len(events)
    for table in ("events", "sessions", "sessions_daily", "pages_daily", "batches"):
        client.command(f"OPTIMIZE TABLE {table} FINAL")
    _sessions_agree(client, events)
    _days_agree(client, events)
    for minutes in (1, 5, 300):
        now = made.milliseconds(datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=2))
        answer = _ask(client, "live", project_id="demo", now=_text(now), minutes=minutes)
        assert answer == [made.live(events, "demo", now, minutes)]


def test_sessions_and_final_are_exact_when_clients_send_again(
    clickhouse_with_schema: ClickHouse,
) -> None:
    client = clickhouse_with_schema.client()
    events = made.make(sessions=300, seed=12)
    again = made.resent(events, share=0.01, seed=2)
    assert again
    mixed = [*events, *again]
    random.Random(3).shuffle(mixed)
    _land(client, mixed, seed=4, replays=0.1)
    _sessions_agree(client, events)
    final = "SELECT toString(id), toUnixTimestamp64Milli(received_at), country FROM events FINAL"
    rows = {row[0]: tuple(row[1:]) for row in client.query(final).result_rows}
    assert rows == {e["id"]: (e["received_at"], e.get("country", "")) for e in events}
    assert client.query("SELECT count() FROM events FINAL").result_rows[0][0] == len(events)
    client.command("OPTIMIZE TABLE sessions FINAL")
    _sessions_agree(client, events)


# --- the ledger's verdict ------------------------------------------------------------------------

Part = tuple[int, int, int, int, str, int]  # first, end, expected rows, epoch, partition, rows


@pytest.mark.parametrize(
    ("parts", "verdict", "counts"),
    [
        ([], None, ()),
        ([(5, 9, 4, 0, "202610", 4)], "ok", (0, 0, 0, 0, 0, 0)),
        (
            [(0, 4, 4, 0, "202610", 1), (0, 4, 4, 0, "202611", 3), (4, 9, 5, 0, "202611", 5)],
            "ok",
            (0, 0, 0, 0, 0, 0),
        ),
        # fewer rows than offsets is right: offsets are also markers and empty records
        ([(0, 40, 7, 0, "202610", 7), (40, 41, 1, 0, "202610", 1)], "ok", (0, 0, 0, 0, 0, 0)),
        ([(0, 4, 4, 0, "202610", 4), (6, 9, 3, 0, "202610", 3)], "gap", (1, 2, 0, 0, 0, 0)),
        (
            [(0, 9, 9, 0, "202610", 9), (2, 4, 2, 0, "202610", 2), (12, 13, 1, 0, "202610", 1)],
            "gap, overlap",
            (1, 3, 1, 0, 0, 0),
        ),
        ([(0, 4, 4, 0, "202610", 4), (3, 9, 6, 0, "202610", 6)], "overlap", (0, 0, 1, 0, 0, 0)),
        ([(0, 4, 4, 0, "202610", 4), (0, 4, 4, 0, "202610", 4)], "double", (0, 0, 0, 1, 0, 0)),
        ([(0, 4, 4, 0, "202610", 4), (0, 4, 4, 1, "202610", 4)], "double", (0, 0, 0, 1, 0, 0)),
        ([(0, 4, 4, 0, "202610", 3)], "short", (0, 0, 0, 0, 1, 0)),
        ([(0, 4, 4, 0, "202610", 3), (0, 4, 4, 0, "202611", 2)], "long", (0, 0, 0, 0, 0, 1)),
        # the ledger's rows were lost, and written again from those of `events`
        ([(0, 4, 0, 0, "202610", 3)], "unknown", (0, 0, 0, 0, 0, 0, 1)),
        ([(0, 4, 2, 0, "202610", 2), (0, 4, 0, 1, "202611", 2)], "unknown", (0,) * 6 + (1,)),
        ([(0, 4, 0, 0, "202610", 3), (0, 4, 1, 1, "202611", 1)], "ok", (0,) * 7),
        ([(0, 4, 0, 0, "202610", 3), (0, 4, 4, 0, "202611", 1)], "ok", (0,) * 7),
    ],
)
def test_the_ledgers_verdict(
    clickhouse_with_schema: ClickHouse,
    parts: Sequence[Part],
    verdict: str | None,
    counts: tuple[int, ...],
) -> None:
    client = clickhouse_with_schema.client()
    columns = ["first", "end", "expected_rows", "epoch", "clickhouse_partition", "rows"]
    # another partition of the topic, which is as it should be
    client.insert(
        "batches",
        [("id", "events", 7, *part) for part in parts] + [("id", "events", 8, 0, 2, 2, 0, "1", 2)],
        column_names=["topic_id", "topic", "partition", *columns],
    )
    *found, healthy = client.query(load("ledger_verdict")).named_results()
    assert (healthy["partition"], healthy["verdict"]) == (8, "ok")
    if verdict is None:
        assert found == []
        return
    ((row),) = found
    assert row["verdict"] == verdict
    assert counts == tuple(
        row[name]
        for name in (
            "gaps",
            "missing_offsets",
            "overlaps",
            "doubles",
            "short_batches",
            "long_batches",
            "unknown_batches",
        )[: len(counts)]
    )
    assert (row["first"], row["end"]) == (min(p[0] for p in parts), max(p[1] for p in parts))


def test_the_ledger_of_landed_batches_tiles_the_log(clickhouse_with_schema: ClickHouse) -> None:
    client = clickhouse_with_schema.client()
    events = made.make(sessions=60, seed=13)
    end = _land(client, events, seed=5, first=1000, replays=0.5)
    (row,) = client.query(load("ledger_verdict")).named_results()
    assert (row["topic_id"], row["topic"], row["partition"]) == ("topic-id", "events", 0)
    assert (row["first"], row["end"], row["rows"]) == (1000, end, len(events))
    assert row["verdict"] == "ok"
