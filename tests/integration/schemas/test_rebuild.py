"""A month of the views made again from `events`: exact, whatever lands, dies or goes meanwhile.

The truth is computed in plain Python from what was inserted (tests/fixtures/truth.py).
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from deploy.local.waiting import wait_until
from schemas import hold
from schemas.__main__ import main
from schemas.apply import apply
from schemas.check import differences
from schemas.connection import SchemaError
from schemas.hold import Database
from schemas.rebuild import Rebuilt, rebuild
from schemas.rebuilds import cut_off, rebuilt_since
from schemas.recount import drop_leftovers
from schemas.restore import Span, forget, remove, restore
from schemas.tables import HOLD, REBUILDABLE, SUMMED
from tests.fixtures.children import ROOT, environment
from tests.fixtures.clickhouse import ClickHouse, OwnClickHouse
from tests.fixtures.tables import against_truth
from tests.fixtures.truth import Truth
from tests.integration.front.test_mending import attach, strace_or_skip
from tests.integration.schemas import made
from tests.integration.schemas.landing import insert, token

MONTHS = ("202610", "202611")  # those of made.START and of the days after it
REFUSED = 469
SECONDS = 60.0
_BETWEEN_SECONDS = 0.05  # batches beside a rebuild: some in each of its steps, and time for both
Batch = tuple[list[made.Event], str]


def batches(
    events: Sequence[made.Event], size: int = 150, first: int = 0, partition: int = 0
) -> list[Batch]:
    """In the order of arrival, so that nearly each holds events of both months."""
    return [
        (part, token(first + at, first + at + len(part), len(part), partition=partition))
        for at in range(0, len(events), size)
        for part in [list(events[at : at + size])]
    ]


def shuffled(sessions: int, seed: int) -> list[made.Event]:
    events = made.make(sessions, seed)
    random.Random(seed).shuffle(events)
    return events


def is_held(error: DatabaseError) -> bool:
    """How a consumer knows a hold."""
    return error.code == REFUSED and HOLD in str(error)


def land(client: Client, *many: Batch) -> int:
    """Insert the batches; one that is held is sent again. How often that was so."""
    held = 0
    for events, deduplication_token in many:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                insert(client, events, deduplication_token)
                break
            except DatabaseError as error:
                if not is_held(error) or time.monotonic() > deadline:
                    raise
                held += 1
                time.sleep(0.01)
    return held


def once(events: Sequence[made.Event]) -> Truth:
    """The truth with each event counted once in the sums too, as a rebuild counts them."""
    return Truth(Truth(events).once.values())


def rebuild_all(client: Client, tables: Sequence[str] = SUMMED, **more: Any) -> list[Rebuilt]:
    return [
        rebuild(client, client.database or "", month, tables, seconds=SECONDS, **more)
        for month in MONTHS
    ]


def one(client: Client, sql: str) -> Any:
    return client.query(sql).result_rows[0][0]


def left_behind(client: Client) -> list[str]:
    """Scratch tables, and constraints on `events`."""
    tables = [row[0] for row in client.query("SHOW TABLES LIKE 'rebuild\\_%'").result_rows]
    statement = one(
        client,
        "SELECT create_table_query FROM system.tables "
        "WHERE database = currentDatabase() AND name = 'events'",
    )
    return [*tables, *[word for word in statement.split() if word.startswith(HOLD)]]


class Inserting(threading.Thread):
    """Lands batch after batch until it is stopped or has no more; errors are the test's."""

    def __init__(self, client: Client, source: Iterator[Batch]) -> None:
        super().__init__()
        self._client, self._source = client, source
        self._stopped = threading.Event()
        self.landed: list[made.Event] = []
        self.batches = 0
        self.held = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for batch in self._source:
                if self._stopped.is_set():
                    return
                self.held += land(self._client, batch)
                self.landed += batch[0]
                self.batches += 1
                self._stopped.wait(_BETWEEN_SECONDS)
        except Exception as error:  # shown where it is joined
            self.error = error

    def stop(self) -> None:
        self._stopped.set()
        self.join(SECONDS)
        if self.error is not None:
            raise self.error


def endless(partition: int, seed: int) -> Iterator[Batch]:
    """New batches over both months for as long as they are asked for."""
    first = 0
    for number in itertools.count():
        events = shuffled(40, seed * 100_000 + number)
        yield from batches(events, 200, first, partition)
        first += len(events)


@pytest.fixture
def client(clickhouse: ClickHouse) -> Client:
    """A client of a database with the layout."""
    client = clickhouse.client()
    apply(client, clickhouse.database)
    return client


# --- what it makes of the views ------------------------------------------------------------------


def test_views_that_are_short_or_doubled_are_made_whole(client: Client) -> None:
    events = shuffled(60, 1)
    land(client, *batches(events))
    assert against_truth(client, Truth(events)) == []
    client.command("ALTER TABLE sessions_daily DROP PARTITION 202610")
    client.command("INSERT INTO sessions_daily SELECT * FROM sessions_daily")
    client.command("INSERT INTO pages_daily SELECT * FROM pages_daily WHERE rand() % 3 = 0")
    client.command("ALTER TABLE sessions DROP PARTITION 202611")
    assert against_truth(client, Truth(events)) != []
    done = rebuild_all(client, REBUILDABLE)
    assert [each.tables for each in done] == [REBUILDABLE, REBUILDABLE]
    assert sum(each.rows for each in done) == len(events)
    assert against_truth(client, Truth(events)) == []
    assert left_behind(client) == []


def test_other_months_and_other_tables_stay_as_they_are(client: Client) -> None:
    land(client, *batches(shuffled(50, 2)))
    client.command("INSERT INTO sessions_daily SELECT * FROM sessions_daily")
    client.command("INSERT INTO pages_daily SELECT * FROM pages_daily")
    sums = (
        "SELECT sum(events) FROM sessions_daily WHERE toYYYYMM(date) = 202610",
        "SELECT sum(views) FROM pages_daily WHERE toYYYYMM(date) = 202611",
        "SELECT sum(events) FROM sessions_daily WHERE toYYYYMM(date) = 202611",
    )
    before = [one(client, sql) for sql in sums]
    rebuild(client, client.database or "", "202611", ["sessions_daily"], seconds=SECONDS)
    assert [one(client, sql) for sql in sums] == [before[0], before[1], before[2] // 2]


def test_an_event_that_a_client_sent_again_is_counted_once(client: Client) -> None:
    events = shuffled(50, 3)
    copies = made.resent(events, 0.3, 3)
    land(client, *batches([*events, *copies]))
    assert against_truth(client, Truth([*events, *copies])) == []
    rebuild_all(client)
    assert against_truth(client, once(events)) == []


def test_rows_without_a_stamp_are_counted_too(client: Client) -> None:
    events = shuffled(40, 4)
    insert(client, events)
    client.command("TRUNCATE TABLE pages_daily")
    rebuild_all(client, progress=_at("events counted", lambda: insert(client, shuffled(40, 5))))
    assert against_truth(client, once([*events, *shuffled(40, 5)])) == []


def test_a_month_whose_events_are_gone_is_empty_afterwards(client: Client) -> None:
    events = shuffled(50, 6)
    sent = batches(events)
    land(client, *sent)
    client.command("ALTER TABLE events DELETE WHERE toYYYYMM(created_at) = 202610", None, None,
                   {"mutations_sync": 2})  # fmt: skip
    rebuild_all(client, REBUILDABLE)
    stay = [event for event in events if event["created_at"] >= made.milliseconds(
        datetime(2026, 11, 1, tzinfo=UTC))]  # fmt: skip
    assert against_truth(client, Truth(stay)) == []
    nothing = rebuild(client, client.database or "", "201801", seconds=SECONDS)
    assert (nothing.rows, nothing.holds) == (0, 0)


# --- beside inserts ------------------------------------------------------------------------------


def _at(words: str, act: Callable[[], object]) -> Callable[[str], None]:
    """A progress that does something the first time that it hears of `words`."""
    heard: list[str] = []

    def progress(line: str) -> None:
        if words in line and not heard:
            heard.append(line)
            act()

    return progress


@pytest.mark.parametrize("merged", [False, True])
def test_what_lands_while_it_counts_is_counted_once(client: Client, merged: bool) -> None:
    """New events, and copies received later and *earlier* than what was counted: the latter take
    the place of the counted rows, which after a merge are not there any more."""
    events, more = shuffled(80, 7), shuffled(80, 8)
    november = made.milliseconds(datetime(2026, 11, 1, tzinfo=UTC))
    copies = made.resent([each for each in events if each["created_at"] < november], 0.5, 7)
    for number, copy in enumerate(copies):
        if number % 2:
            copy["received_at"] -= 2 * 86_400_000
    land(client, *batches(events))

    def act() -> None:
        land(client, *batches([*more, *copies], first=10_000))
        if merged:
            client.command("OPTIMIZE TABLE events FINAL")

    rebuild(
        client, client.database or "", "202610", REBUILDABLE,
        seconds=SECONDS, progress=_at("events counted", act),
    )  # fmt: skip
    assert against_truth(client, once([*events, *more, *copies])) == []


@pytest.mark.slow
def test_beside_inserts_all_the_time(clickhouse: ClickHouse, client: Client) -> None:
    """No last rebuild here: what the rebuilds, and the inserts after them, left has to be exact."""
    inserting = Inserting(clickhouse.client(), endless(0, 1))
    before = shuffled(30, 9)
    land(client, *batches(before, partition=1))
    inserting.start()
    for number in range(3):
        rebuild_all(client, REBUILDABLE if number == 1 else SUMMED)
        if number == 1:
            client.command("OPTIMIZE TABLE events FINAL")
    inserting.stop()
    print(f"6 rebuilds beside {inserting.batches} batches, held {inserting.held} times")
    assert inserting.batches > 8
    assert against_truth(client, Truth([*before, *inserting.landed])) == []
    assert left_behind(client) == []


def test_two_at_once(clickhouse: ClickHouse, client: Client) -> None:
    inserting = Inserting(clickhouse.client(), endless(0, 5))
    inserting.start()
    clients = [client, clickhouse.client()]
    errors: list[Exception] = []

    def run(client: Client) -> None:
        try:
            rebuild_all(client)
        except (ClickHouseError, SchemaError) as error:
            errors.append(error)

    rebuilders = [threading.Thread(target=run, args=(client,)) for client in clients]
    for rebuilder in rebuilders:
        rebuilder.start()
    for rebuilder in rebuilders:
        rebuilder.join(SECONDS)
    inserting.stop()
    assert errors == []
    assert against_truth(clients[0], Truth(inserting.landed)) == []
    assert left_behind(clients[0]) == []


def test_an_insert_that_runs_is_waited_for(clickhouse: ClickHouse, client: Client) -> None:
    """Its rows are in `events` already, and counted there; its views' part comes much later. Put
    in place before that, the rebuilt sums would have these rows twice."""
    other = clickhouse.client()
    events = shuffled(20, 10)
    land(client, *batches(events))
    for slow_view in ("a_slow_mv", "a_slower_mv", "a_slowest_mv"):
        # Views of a table are served in the order of their names. None may sleep for more than
        # three seconds, and a busy machine may take that long to look.
        client.command(
            f"CREATE MATERIALIZED VIEW {slow_view} (asleep UInt8) ENGINE = Null AS "
            "SELECT sleepEachRow(3) AS asleep FROM events WHERE name = 'slow'"
        )
    slow = {**events[0], "id": "0b0e1a3e-0000-4000-8000-000000000001", "name": "slow"}
    insert_slow = threading.Thread(target=lambda: insert(other, [slow], token(900, 901, 1)))
    counted = "SELECT sum(events) FROM sessions_daily"
    before: list[int] = []

    def begin() -> None:
        insert_slow.start()
        landed = "SELECT count() FROM events WHERE name = 'slow'"
        wait_until(lambda: one(client, landed) == 1, 10, "its rows are in the table", 0.01)
        before.append(one(client, counted))

    month = "202610" if slow["created_at"] < 1_793_491_200_000 else "202611"
    rebuild(
        client, client.database or "", month, seconds=SECONDS,
        progress=_at("events counted", begin),
    )  # fmt: skip
    insert_slow.join(30)
    assert before == [len(events)], "its views had not heard of it then"
    assert against_truth(client, Truth([*events, slow])) == []


def test_an_insert_that_does_not_end_is_let_go_on(clickhouse: ClickHouse, client: Client) -> None:
    """The holds end in time, nothing is replaced, and the command says which insert it was."""
    other = clickhouse.client()
    land(client, *batches(shuffled(20, 11)))
    doubled = "INSERT INTO sessions_daily SELECT * FROM sessions_daily"
    client.command(doubled)
    events = one(client, "SELECT sum(events) FROM sessions_daily")

    def never_ends() -> None:
        with contextlib.suppress(ClickHouseError):  # it is killed
            other.command(
                "INSERT INTO events_landing (id, project_id, session_id, name, created_at) "
                "SELECT generateUUIDv4(), 'p', 's', toString(sleepEachRow(1)), 1793491199000 "
                "FROM numbers(60) SETTINGS max_block_size = 1"
            )

    insert_slow = threading.Thread(target=never_ends)
    insert_slow.start()
    wait_until(
        lambda: one(client, "SELECT count() FROM system.processes WHERE query LIKE "
                    "'%sleepEachRow(1)%' AND query_kind = 'Insert'") > 0,
        10, "the insert runs", 0.01,
    )  # fmt: skip
    with pytest.raises(SchemaError, match=r"an insert did not end \(INSERT INTO events_landing"):
        rebuild(
            client, client.database or "", "202610",
            seconds=SECONDS, hold_seconds=0.2, sleep=lambda seconds: time.sleep(seconds / 100),
        )  # fmt: skip
    assert one(client, "SELECT sum(events) FROM sessions_daily") == events
    assert left_behind(client) == []
    client.command("KILL QUERY WHERE query LIKE '%sleepEachRow(1)%' AND query_kind = 'Insert'")
    insert_slow.join(30)
    assert not insert_slow.is_alive()


# --- the hold ------------------------------------------------------------------------------------


def test_a_held_insert_is_refused_by_name_and_goes_in_afterwards(client: Client) -> None:
    server = Database(client, client.database or "")
    events = shuffled(20, 12)
    [batch] = batches(events, 10_000)
    until_ms = server.now_ms() + 60_000
    hold.place(server, name := hold.name("abc", until_ms), until_ms)
    by_hand = "INSERT INTO events (id, session_id) VALUES (generateUUIDv4(), 's')"
    for attempt in (lambda: insert(client, *batch), lambda: insert(client, events),
                    lambda: client.command(by_hand)):  # fmt: skip
        with pytest.raises(DatabaseError) as refused:
            attempt()
        assert is_held(refused.value)
        assert name in str(refused.value)
    assert differences(client) == []  # a hold is no difference from the layout
    assert against_truth(client, Truth([])) == []
    assert one(client, "SELECT count() FROM batches") == 0
    hold.release(server, name)
    assert land(client, batch) == 0
    assert against_truth(client, Truth(events)) == []


def test_a_hold_ends_by_itself_and_the_next_rebuild_drops_it(client: Client) -> None:
    server = Database(client, client.database or "")
    until_ms = server.now_ms() + 1_000
    hold.place(server, hold.name("abc", until_ms), until_ms)
    [batch] = batches(shuffled(20, 13), 10_000)
    assert land(client, batch) > 0
    assert server.now_ms() >= until_ms
    assert left_behind(client) != []
    rebuild_all(client)
    assert left_behind(client) == []
    assert against_truth(client, Truth(batch[0])) == []


def test_a_rebuild_leaves_the_hold_of_another(client: Client) -> None:
    server = Database(client, client.database or "")
    land(client, *batches(shuffled(20, 14)))
    until_ms = server.now_ms() + 60_000
    hold.place(server, name := hold.name("abc", until_ms), until_ms)
    rebuild_all(client)
    assert left_behind(client) == [name]


def test_a_replacement_sent_after_its_hold_changes_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild is suspended after its last look at the clock until its hold is over and other
    inserts have landed; then its statement goes out."""
    events, later = shuffled(20, 15), shuffled(20, 16)
    land(client, *batches(events))
    really_do = Database.do
    suspended: list[str] = []

    def do(self: Database, statement: str, **settings: object) -> None:
        if "REPLACE PARTITION" in statement and not suspended:
            suspended.append(statement)
            land(client, *batches(later, first=10_000))  # held, until the hold is over
        really_do(self, statement, **settings)

    monkeypatch.setattr(Database, "do", do)
    said: list[str] = []
    done = rebuild(
        client, client.database or "", "202610",
        seconds=SECONDS, hold_seconds=3, progress=said.append,
    )  # fmt: skip
    assert suspended
    assert done.holds == 2
    assert any("tried again" in line for line in said)
    assert against_truth(client, Truth([*events, *later])) == []


# --- rows that go meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "removal",
    [
        "ALTER TABLE events DELETE WHERE cityHash64(session_id) % 2 = 0",
        "DELETE FROM events WHERE cityHash64(session_id) % 2 = 0",
        "ALTER TABLE events DROP PARTITION 202610",
    ],
)
def test_rows_that_are_removed_meanwhile_are_not_counted(client: Client, removal: str) -> None:
    land(client, *batches(shuffled(40, 17)))
    said: list[str] = []
    removed = _at("events counted", lambda: client.command(removal, settings={"mutations_sync": 2}))

    def progress(line: str) -> None:
        said.append(line)
        removed(line)

    rebuild(client, client.database or "", "202610", seconds=SECONDS, progress=progress)
    assert any("from the start again" in line for line in said)
    counted = one(client, "SELECT sum(events) FROM sessions_daily WHERE toYYYYMM(date) = 202610")
    there = one(client, "SELECT count() FROM events FINAL WHERE toYYYYMM(created_at) = 202610")
    assert counted == there


def test_a_month_that_expires_is_refused(client: Client) -> None:
    land(client, *batches(shuffled(20, 18)))
    database = client.database or ""
    client.command("ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 50 YEAR")
    assert rebuild(client, database, "202610", seconds=SECONDS).holds == 1
    client.command("ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 1 DAY "
                   "SETTINGS materialize_ttl_after_modify = 0")  # fmt: skip
    with pytest.raises(SchemaError, match="may have expired"):
        rebuild(client, database, "202010", seconds=SECONDS)


# --- replays -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_replay_after_a_rebuild_adds_nothing_even_after_a_crash(
    own_clickhouse: OwnClickHouse,
) -> None:
    client = own_clickhouse.client()
    apply(client, own_clickhouse.database)
    events = shuffled(40, 19)
    sent = batches(events)
    land(client, *sent)
    rebuild_all(client, REBUILDABLE)
    own_clickhouse.kill()  # within a second of the last part, the replaced and the new
    own_clickhouse.start()
    assert against_truth(client, Truth(events)) == []
    land(client, *sent)
    assert against_truth(client, Truth(events)) == []
    rebuild_all(client, REBUILDABLE)
    land(client, *sent)
    own_clickhouse.stop()
    own_clickhouse.start()
    land(client, *sent)
    assert against_truth(client, Truth(events)) == []


def test_a_month_is_known_to_be_rebuilt_since_its_hold(client: Client) -> None:
    database = client.database or ""
    land(client, *batches(shuffled(20, 20)))
    assert rebuilt_since(client, database, MONTHS, 0) == frozenset()
    rebuild(client, database, "202610", seconds=SECONDS)
    [(began, until, finished)] = client.query(
        "SELECT toUnixTimestamp64Milli(began_at), toUnixTimestamp64Milli(hold_until), "
        "toUnixTimestamp64Milli(finished_at) FROM rebuilds FINAL"
    ).result_rows
    assert began < finished < until
    assert rebuilt_since(client, database, MONTHS, finished) == {"202610"}
    assert rebuilt_since(client, database, MONTHS, until) == {"202610"}
    assert rebuilt_since(client, database, MONTHS, until + 1) == frozenset()
    assert rebuilt_since(client, database, ["202611"], 0) == frozenset()


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_before_each_statement_and_run_again(
    clickhouse: ClickHouse, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each kill inserts go on (at the latest when the hold is over), and a rebuild makes the
    views exact; what all the dead have left is dropped when their time is over."""
    sent = batches(shuffled(30, 21), 30)
    landed: list[made.Event] = []
    killer = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.schemas.dying", clickhouse.url, "202610"],
        env=environment(), cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert killer.stdin is not None
        assert killer.stdout is not None
        for last in itertools.count():
            if last < 5:  # before any of them holds
                land(client, sent[last])
                landed += sent[last][0]
            client.command(
                "INSERT INTO pages_daily SELECT * FROM pages_daily "
                "WHERE toYYYYMM(date) = 202610 LIMIT 1"
            )
            killer.stdin.write(f"{last}\n")
            killer.stdin.flush()
            answer = killer.stdout.readline().strip()
            assert answer in ("killed", "done"), answer
            if answer == "done":
                break
            rebuild(client, clickhouse.database, "202610", ["pages_daily"], seconds=SECONDS)
            assert against_truth(client, Truth(landed)) == [], f"killed before statement {last}"
        killer.stdin.close()
        assert killer.wait(30) == 0
    finally:
        killer.kill()
        killer.wait()
        if killer.stdout is not None:
            killer.stdout.close()
    assert last >= 15, "a rebuild has more statements than that"
    assert left_behind(client) != []

    land(client, *sent[5:])  # held, until the last hold is over
    assert against_truth(client, Truth(list(itertools.chain(*(batch for batch, _ in sent))))) == []

    really_now = Database.now_ms
    monkeypatch.setattr(Database, "now_ms", lambda self: really_now(self) + 200_000)
    drop_leftovers(Database(client, clickhouse.database))
    assert left_behind(client) == []


@pytest.mark.slow
def test_the_server_killed_within_the_replacement(
    own_clickhouse: OwnClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the rename of the new part and that of the empty one which covers the old."""
    strace = strace_or_skip()
    client = own_clickhouse.client()
    apply(client, own_clickhouse.database)
    events = shuffled(20, 28)
    land(client, *batches(events))
    really_do = Database.do
    tracers: list[subprocess.Popen[bytes]] = []

    def do(self: Database, statement: str, **settings: object) -> None:
        if "REPLACE PARTITION" in statement and not tracers:
            tracers.append(attach(strace, own_clickhouse.pid, 2, tmp_path / "strace.log"))
        really_do(self, statement, **settings)

    monkeypatch.setattr(Database, "do", do)
    with pytest.raises(ClickHouseError):
        rebuild(client, own_clickhouse.database, "202610", seconds=SECONDS, hold_seconds=3)
    for tracer in tracers:
        tracer.communicate(timeout=30)
    own_clickhouse.start()
    client = own_clickhouse.client()
    assert against_truth(client, Truth(events)) != [], "no hole here: then it need not be told"

    def told() -> bool:
        return cut_off(client, own_clickhouse.database, 0) != {}

    wait_until(told, 20, "the hold is over")
    assert cut_off(client, own_clickhouse.database, 0) == {"202610": SUMMED[::-1]}
    assert cut_off(client, own_clickhouse.database) == {}  # it may still run
    environ = {"PENSTOCK_CLICKHOUSE_URL": own_clickhouse.url}
    assert main(["rebuild", "--partition", "202610"], environ) == 0
    assert cut_off(client, own_clickhouse.database, 0) == {}
    assert against_truth(client, Truth(events)) == []


# --- restore and remove --------------------------------------------------------------------------


def ledger(client: Client) -> list[Any]:
    return list(
        client.query(
            "SELECT DISTINCT topic_id, topic, partition, first, end, epoch, clickhouse_partition, "
            "expected_rows, rows FROM batches ORDER BY ALL"
        ).result_rows
    )


def test_restore_mends_what_hangs_on_the_rows(client: Client) -> None:
    events = shuffled(40, 22)
    sent = batches(events)
    land(client, *sent)
    other = shuffled(10, 23)
    insert(client, other, token(0, 7, len(other), partition=5))
    everything = [*events, *other]
    before = ledger(client)
    for damage in (
        "ALTER TABLE batches DELETE WHERE first = 150 AND clickhouse_partition = '202611'",
        "ALTER TABLE batches DELETE WHERE first = 0",
        "ALTER TABLE sessions DELETE WHERE cityHash64(session_id) % 3 = 0",
        "ALTER TABLE sessions_daily DELETE WHERE project_id = 'demo'",
    ):
        client.command(damage, settings={"mutations_sync": 2})
    given = (Span("topic-id", 0, 0, len(events)), MONTHS)
    done = restore(client, client.database or "", *given, seconds=SECONDS)
    assert done.ledger_rows == 2 + 1 + 2 - 2  # of batch 0 both months, of batch 150 one
    assert done.events == len(events)
    assert [each.partition for each in done.rebuilt] == list(MONTHS)
    restore(client, client.database or "", Span("topic-id", 5, 0, 7), (), seconds=SECONDS)
    # of the first batches nobody knows what they announced
    before = [(*row[:7], row[7] if row[3] else 0, row[8]) for row in before]
    assert ledger(client) == before
    assert against_truth(client, Truth(everything)) == []
    again = restore(client, client.database or "", given[0], MONTHS[:1], seconds=SECONDS)
    assert again.ledger_rows == 0
    assert against_truth(client, Truth(everything)) == []
    land(client, *sent)  # and every token is still taken
    assert ledger(client) == before
    assert against_truth(client, Truth(everything)) == []


def test_restore_without_any_ledger_row_does_not_guess_what_was_announced(client: Client) -> None:
    events = shuffled(20, 24)
    land(client, *batches(events, 10_000))
    before = ledger(client)
    client.command("TRUNCATE TABLE batches")
    database = client.database or ""
    given = (Span("topic-id", 0, 0, 1), ())
    assert restore(client, database, *given, seconds=SECONDS, topic="events").ledger_rows == 2
    assert ledger(client) == [(*row[:7], 0, row[8]) for row in before]
    nothing = restore(client, database, Span("other", 0, 0, 1), (), seconds=SECONDS)
    assert nothing.ledger_rows == 0


def test_a_range_is_taken_out_and_comes_back_under_another_epoch(client: Client) -> None:
    events = shuffled(40, 25)
    sent = batches(events)
    land(client, *sent)
    land(client, *batches(other := shuffled(10, 26), partition=1))
    database = client.database or ""
    gone = [event for batch, _ in sent[1:] for event in batch]
    stays = [*sent[0][0], *other]
    span = Span("topic-id", 0, 150)
    with pytest.raises(SchemaError, match=r"the batch \[0, 150\) lies in the range only in part"):
        remove(client, database, Span("topic-id", 0, 100), seconds=SECONDS)
    assert remove(client, database, span, seconds=SECONDS) == set(MONTHS)
    assert one(client, f"SELECT count() FROM events WHERE {span.within}") == 0
    # after a crash, before the rebuild or in it: all over again
    assert remove(client, database, span, seconds=SECONDS) == set(MONTHS)
    rebuild_all(client, REBUILDABLE)
    forget(client, database, span, seconds=SECONDS)
    assert against_truth(client, Truth(stays)) == []
    assert {(row[2], row[3]) for row in ledger(client)} == {(0, 0), (1, 0)} | {
        (1, first) for first in range(0, len(other), 150)
    }
    assert remove(client, database, span, seconds=SECONDS) == frozenset()
    land(client, (gone, token(150, len(events), len(gone), epoch=1)))
    assert against_truth(client, Truth([*stays, *gone])) == []
    with pytest.raises(SchemaError, match="still has rows"):
        forget(client, database, span, seconds=SECONDS)


# --- the command ---------------------------------------------------------------------------------


def test_the_command(
    clickhouse: ClickHouse, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"PENSTOCK_CLICKHOUSE_URL": clickhouse.url}
    events = shuffled(20, 27)
    land(client, *batches(events))
    client.command("INSERT INTO sessions_daily SELECT * FROM sessions_daily")
    client.command("INSERT INTO pages_daily SELECT * FROM pages_daily")
    for month in MONTHS:
        assert main(["rebuild", "--partition", month], environ) == 0
        told = capsys.readouterr()
        assert told.out.startswith(f"{month}: sessions_daily, pages_daily made again from ")
        assert f"{month}: pages_daily: replaced\n" in told.err
    assert against_truth(client, Truth(events)) == []
    arguments = ["rebuild", "--partition", "202610", "--table", "sessions", "--hold-seconds", "5"]
    assert main(arguments, environ) == 0
    capsys.readouterr()
    assert main(["rebuild", "--partition", "201801"], environ) == 1
    assert capsys.readouterr().err == (
        "penstock-schemas: there is nothing in 201801, and nothing to rebuild\n"
    )
    cut = (
        "INSERT INTO rebuilds SELECT 'cut', '202610', ['pages_daily'], now64(3) - 200, "
        "now64(3) - {ago}, toDateTime64(0, 3)"
    )
    client.command(cut.format(ago=100))  # before the last that finished
    assert main(["check"], environ) == 0
    client.command("TRUNCATE TABLE rebuilds")
    client.command(cut.format(ago=100))
    capsys.readouterr()
    assert main(["check"], environ) == 1
    assert "rebuild --partition 202610 --table pages_daily\n" in capsys.readouterr().out
    client.command("DROP TABLE sessions_daily_mv")
    assert main(["rebuild", "--partition", "202610"], environ) == 1
    assert "sessions_daily_mv is missing" in capsys.readouterr().err
    assert left_behind(client) == []
