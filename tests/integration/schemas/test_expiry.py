"""Sums of days whose events may have expired: kept as they are, and told where they may be wrong.

The events lie between October 28 and November 4. The TTL that is set here is over until the noon
of November 2, and takes no row yet: what is kept can still be compared with the truth.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from clickhouse_connect.driver.client import Client

from schemas import by_hand
from schemas.__main__ import main
from schemas.apply import apply
from schemas.expiry import deleting, expiry, month_is_over, parsed
from schemas.hold import Database
from schemas.rebuild import Refused, rebuild
from schemas.rebuilds import counted_after, cut_off
from schemas.restore import Span, restore
from schemas.tables import REBUILDABLE, SESSIONS, SUMMED
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.tables import against_truth
from tests.fixtures.truth import Truth
from tests.integration.schemas import made
from tests.integration.schemas.landing import insert, token
from tests.integration.schemas.test_rebuild import (
    MONTHS,
    SECONDS,
    Batch,
    Inserting,
    batches,
    endless,
    land,
    left_behind,
    one,
    shuffled,
)

OCTOBER, NOVEMBER = MONTHS
OVER = datetime(2026, 11, 2, 12, tzinfo=UTC)
KEPT = ("2026-11-01", "2026-11-02")


@pytest.fixture
def client(clickhouse: ClickHouse) -> Client:
    client = clickhouse.client()
    apply(client, clickhouse.database)
    client.command("SYSTEM STOP TTL MERGES events")
    return client


def over_since(at: datetime) -> str:
    return f"INTERVAL {int(time.time() - at.timestamp())} SECOND"


def set_ttl(client: Client, rule: str = "") -> None:
    rule = rule or f"toDateTime(created_at) + {over_since(OVER)}"
    client.command(
        f"ALTER TABLE events MODIFY TTL {rule}", settings={"materialize_ttl_after_modify": 0}
    )


def server(client: Client) -> Database:
    return Database(client, client.database or "")


def on_days(sent: list[Batch], days: range) -> list[Batch]:
    """The events of these days of November, each batch under its token."""
    return [
        ([e for e in events if made.moment(e["created_at"]).day in days], name)
        for events, name in sent
    ]


def sums_against(client: Client, events: Sequence[made.Event]) -> list[str]:
    return [each for each in against_truth(client, Truth(events)) if each.startswith(SUMMED)]


# --- which days ----------------------------------------------------------------------------------


def test_no_ttl_takes_nothing(client: Client) -> None:
    assert expiry(server(client), NOVEMBER, 0).days == ()


@pytest.mark.parametrize(
    "rule",
    [
        "toDateTime(created_at) + {interval}",
        "toDateTime(created_at) + {interval} DELETE WHERE session_id IN ('a, b', '(')",
        "toDateTime(created_at) + INTERVAL 50 YEAR WHERE city = 'x', "
        "toDateTime(created_at) + {interval}",
    ],
)
def test_days_that_a_time_takes(client: Client, rule: str) -> None:
    set_ttl(client, rule.format(interval=over_since(OVER)))
    found = expiry(server(client), NOVEMBER, 0)
    assert (found.days, month_is_over(found, NOVEMBER)) == (KEPT, False)
    assert month_is_over(expiry(server(client), OCTOBER, 0), OCTOBER)
    soon = expiry(server(client), NOVEMBER, 13 * 3600)
    assert soon.days == (*KEPT, "2026-11-03"), "within 13 hours more"


def test_a_rule_that_asks_for_more_than_the_time_may_take_any_day(client: Client) -> None:
    set_ttl(client, "toDateTime(received_at) + INTERVAL 50 YEAR")
    found = expiry(server(client), NOVEMBER, 0)
    assert len(found.days) == 30
    assert month_is_over(found, NOVEMBER)


def test_what_only_recompresses_deletes_nothing(client: Client) -> None:
    set_ttl(client, "toDateTime(created_at) + INTERVAL 1 DAY RECOMPRESS CODEC(ZSTD(9))")
    assert deleting(server(client)) == []
    assert expiry(server(client), NOVEMBER, 0).days == ()


class Written(Database):
    """A server with volumes, which there are none of here: how it writes the rules."""

    def ask(self, query: str, **parameters: object) -> list[list[str]]:
        return [[
            "MergeTree ORDER BY id TTL a + toIntervalDay(1) TO VOLUME IF EXISTS 'cold', "
            "a + toIntervalDay(2) TO DISK 's', a + toIntervalDay(3) WHERE b = ' TO \\'s\\', ' "
            "SETTINGS index_granularity = 8192"
        ]]  # fmt: skip


def test_what_only_moves_deletes_nothing(client: Client) -> None:
    assert [parsed(rule) for rule in deleting(Written(client, ""))] == [
        ("a + toIntervalDay(3)", "b = ' TO \\'s\\', '")
    ]


# --- a rebuild of the other days -----------------------------------------------------------------


def test_the_other_days_are_counted_and_these_kept(client: Client) -> None:
    events = shuffled(60, 31)
    land(client, *batches(events))
    set_ttl(client)
    database = client.database or ""
    client.command("INSERT INTO sessions_daily SELECT * FROM sessions_daily "
                   "WHERE date > '2026-11-02'")  # fmt: skip
    client.command("ALTER TABLE pages_daily DELETE WHERE date > '2026-11-02'",
                   settings={"mutations_sync": 2})  # fmt: skip
    assert sums_against(client, events) != []
    # as if their rows had gone: nobody could count them again
    client.command("ALTER TABLE events DELETE WHERE toDate(created_at) = '2026-11-01'",
                   settings={"mutations_sync": 2})  # fmt: skip
    with pytest.raises(Refused, match=r"may have expired .*--whole-days"):
        rebuild(client, database, NOVEMBER, seconds=SECONDS)
    done = rebuild(client, database, NOVEMBER, seconds=SECONDS, whole_days=True)
    assert (done.kept, done.holds) == (KEPT, 1)
    assert sums_against(client, events) == []
    assert left_behind(client) == []
    over = rebuild(client, database, OCTOBER, seconds=SECONDS, whole_days=True)
    assert (over.holds, len(over.kept)) == (0, 31)
    with pytest.raises(Refused, match="may have expired"):
        rebuild(client, database, NOVEMBER, [SESSIONS], seconds=SECONDS, whole_days=True)
    assert rebuild(client, database, NOVEMBER, seconds=SECONDS, expired=True).kept == ()
    assert one(client, "SELECT sum(events) FROM sessions_daily WHERE date = '2026-11-01'") == 0


def test_beside_inserts_into_days_of_both_kinds(clickhouse: ClickHouse, client: Client) -> None:
    events = shuffled(60, 32)
    land(client, *batches(events))
    set_ttl(client)
    inserting = Inserting(clickhouse.client(), endless(3, 33))
    inserting.start()
    for _ in range(4):
        done = rebuild(client, client.database or "", NOVEMBER, seconds=SECONDS, whole_days=True)
        assert done.kept == KEPT
    inserting.stop()
    assert inserting.batches > 5
    assert against_truth(client, Truth([*events, *inserting.landed])) == []


def test_what_was_kept_is_not_proven(client: Client) -> None:
    land(client, *batches(shuffled(20, 34)))
    set_ttl(client)
    database = client.database or ""
    since = server(client).now_ms()
    rebuild(client, database, NOVEMBER, seconds=SECONDS, whole_days=True)
    assert counted_after(client, database, MONTHS, SUMMED, since) == frozenset()
    recorded = "SELECT groupUniqArrayArray(tables) FROM rebuilds FINAL"
    assert not set(one(client, recorded)) & set(SUMMED), "the audit must not take it for a cause"


def test_what_was_kept_may_have_been_left_wrong_before(client: Client) -> None:
    land(client, *batches(shuffled(20, 39)))
    set_ttl(client)
    database = client.database or ""
    assert cut_off(client, database, 0) == {}
    client.command("INSERT INTO rebuilds SELECT 'cut', '202611', ['pages_daily'], "
                   "now64(3) - 200, now64(3) - 100, toDateTime64(0, 3)")  # fmt: skip
    rebuild(client, database, NOVEMBER, seconds=SECONDS, whole_days=True)
    assert cut_off(client, database, 0) == {NOVEMBER: ("pages_daily",)}
    nobody = Span("topic-id", 7, 0, 1)
    done = restore(client, database, nobody, [NOVEMBER], seconds=SECONDS)
    assert [each.partition for each in done.doubts] == [NOVEMBER]
    rebuild(client, database, NOVEMBER, seconds=SECONDS, expired=True)
    assert cut_off(client, database, 0) == {}


def test_days_that_another_rebuild_may_have_made_right_are_read_again(client: Client) -> None:
    events = shuffled(20, 40)
    land(client, *batches(events))
    set_ttl(client)
    at_work = (
        "INSERT INTO rebuilds SELECT 'other', '202611', ['sessions_daily'], now64(3), "
        "now64(3) + 1, toDateTime64(0, 3)"
    )
    said: list[str] = []

    def progress(line: str) -> None:
        if "events counted" in line and not said:
            client.command(at_work)
        said.append(line)

    done = rebuild(
        client, client.database or "", NOVEMBER,
        seconds=SECONDS, whole_days=True, progress=progress,
    )  # fmt: skip
    assert done.holds > 1
    assert any("another rebuild may have made" in line for line in said)
    assert against_truth(client, Truth(events)) == []
    assert left_behind(client) == []


# --- a restore -----------------------------------------------------------------------------------


def test_a_restore_comes_to_an_end_and_tells_what_it_left(client: Client) -> None:
    sent = batches(shuffled(60, 35), size=60)
    late = on_days(sent[1:], range(3, 28))
    land(client, sent[0], *late)
    events = [*sent[0][0], *[event for batch, _ in late for event in batch]]
    set_ttl(client)
    database = client.database or ""
    for table in SUMMED:
        client.command(f"ALTER TABLE {table} DELETE WHERE date = '2026-11-03'",
                       settings={"mutations_sync": 2})  # fmt: skip
    done = restore(client, database, Span("topic-id", 0, 0, 60), MONTHS, seconds=SECONDS)
    assert [each.partition for each in done.rebuilt] == [NOVEMBER]
    assert [each.partition for each in done.doubts] == list(MONTHS)
    assert all("may have expired" in each.why and "--expired" in each.mend for each in done.doubts)
    assert against_truth(client, Truth(events)) == []

    # none of the other batches has a row in the days that are kept
    behind = Span("topic-id", 0, 60)
    assert restore(client, database, behind, [NOVEMBER], seconds=SECONDS).doubts == ()
    done = restore(client, database, behind, [NOVEMBER], seconds=SECONDS, counted={NOVEMBER})
    assert (done.rebuilt, done.doubts) == ((), ())


def test_rows_that_have_gone_are_doubted_too(client: Client) -> None:
    sent = batches(shuffled(60, 36), size=60)
    land(client, *sent)
    set_ttl(client)
    client.command("ALTER TABLE events DELETE WHERE toDate(created_at) <= '2026-11-02'",
                   settings={"mutations_sync": 2})  # fmt: skip
    span = Span("topic-id", 0, 0, 60)
    done = restore(client, client.database or "", span, [NOVEMBER], seconds=SECONDS)
    assert [each.partition for each in done.doubts] == [NOVEMBER]


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [False, True])
def test_what_a_person_can_run_instead(
    clickhouse: ClickHouse, client: Client, capsys: pytest.CaptureFixture[str], ttl: bool
) -> None:
    events = shuffled(60, 37)
    copy = next(dict(e) for e in events if made.moment(e["created_at"]).day == 4)
    land(client, *batches(events))
    insert(client, [copy], token(9_000, 9_001, 1))
    if ttl:
        set_ttl(client)
    days = " WHERE date > '2026-11-03'" if ttl else ""  # within a day that is kept too
    for table in SUMMED:
        client.command(f"INSERT INTO {table} SELECT * FROM {table}{days}")
    environ = {"PENSTOCK_CLICKHOUSE_URL": clickhouse.url}
    assert main(["rebuild", "--partition", NOVEMBER, "--by-hand"], environ) == 0
    told = capsys.readouterr().out
    assert told.startswith("-- With every consumer stopped")
    given = by_hand.statements(client, client.database or "", NOVEMBER)
    assert told.endswith("".join(f"{each};\n" for each in given))
    assert one(client, "SELECT count() FROM rebuilds") == 0, "nothing was changed"
    for statement in given:
        client.command(statement)
    october = [e for e in events if made.moment(e["created_at"]).month == 10]
    sums = "SELECT sum(events) FROM sessions_daily WHERE toYYYYMM(date) = 202611"
    assert one(client, sums) == len(events) - len(october)
    land(client, *batches(events))  # every token is still taken
    assert one(client, sums) == len(events) - len(october)


def test_by_hand_of_all_that_can_be_rebuilt(client: Client) -> None:
    given = by_hand.statements(client, client.database or "", NOVEMBER, REBUILDABLE)
    assert len(given) == 2 * len(REBUILDABLE)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_says_which_days_it_kept(
    clickhouse: ClickHouse, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    land(client, *batches(shuffled(20, 38)))
    set_ttl(client)
    environ = {"PENSTOCK_CLICKHOUSE_URL": clickhouse.url}
    assert main(["rebuild", "--partition", NOVEMBER], environ) == 1
    assert "--whole-days leaves the sums of such days as they are" in capsys.readouterr().err
    assert main(["rebuild", "--partition", NOVEMBER, "--whole-days"], environ) == 0
    assert "the sums of 2 days, 2026-11-01 to 2026-11-02, are kept" in capsys.readouterr().out
    assert main(["rebuild", "--partition", OCTOBER, "--whole-days"], environ) == 1
    assert "nothing was rebuilt: the sums of 31 days" in capsys.readouterr().err
