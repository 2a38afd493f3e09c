"""What a deletion on record erased is not inserted again by a mend; and all else is."""

from __future__ import annotations

import logging
import time
import uuid

import orjson
import pytest

from consumer.clickhouse import ClickHouseTable
from consumer.commands import Sifted
from consumer.config import consumer_settings
from consumer.runner import clock
from deploy.local.waiting import wait_until
from schemas.layout import read
from schemas.settings import load
from schemas.tables import LANDING
from tests.fixtures.batches import batch
from tests.fixtures.clickhouse import ClickHouse

_JANUARY, _FEBRUARY = 1_767_225_600_000, 1_769_904_000_000  # 2026-01-01, 2026-02-01
_TOMORROW = int((time.time() + 86_400) * 1000)


class Erased:
    """Tables, deletions, and what a mend would insert of a batch of which nothing is stamped."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        values = load("consumer", None, {"PENSTOCK_CLICKHOUSE_URL": clickhouse.url})
        self.table = ClickHouseTable(consumer_settings(values), clock)
        self.client = clickhouse.client()

    def delete(self, condition: str, partition: str = "") -> None:
        self.client.command(f"ALTER TABLE events DELETE{partition} WHERE {condition}",
                            settings={"mutations_sync": 1})  # fmt: skip

    def kept(self, *lines: bytes, append_ms: int = 0) -> list[int]:
        """The numbers of the lines that are inserted."""
        sifted = self.table.sift(batch(0, *lines, append_ms=append_ms), frozenset(), by_ids=False)
        assert isinstance(sifted, Sifted), sifted
        missing = sifted.missing
        return [] if missing is None else [offset for offset, _, _ in missing.origins()]


@pytest.fixture
def erased(clickhouse: ClickHouse) -> Erased:
    made = Erased(clickhouse)
    for migration in read()[:3]:  # landing, events, and the view between them
        made.client.command(migration.statement(clickhouse.database))
    return made


def event(session: str, created_at: int = _JANUARY, **more: object) -> bytes:
    named = {"project_id": "p", "session_id": session, "name": "screen_view"}
    times = {"created_at": created_at, "received_at": created_at}
    return orjson.dumps({"id": str(uuid.uuid4()), **named, **times, **more})


def test_without_a_deletion_everything_is_inserted(erased: Erased) -> None:
    assert erased.kept(event("a"), event("b")) == [0, 1]


def test_what_was_erased_stays_erased_and_what_was_not_is_inserted(erased: Erased) -> None:
    erased.delete("session_id = 'a'")
    assert erased.kept(event("a"), event("b"), event("a", _FEBRUARY)) == [1]
    assert erased.kept(event("a")) == []


def test_a_line_that_cannot_be_read_hides_none_behind_it(erased: Erased) -> None:
    """A UUID is read by its 36 bytes, past the end of a line that is too short."""
    erased.client.command(f"ALTER TABLE {LANDING} ADD COLUMN visitor UUID")
    erased.delete("session_id = 'a'")
    assert erased.kept(event("b", visitor="x"), event("a"), event("a")) == [0]


def test_a_lightweight_deletion(erased: Erased) -> None:
    erased.client.command("DELETE FROM events WHERE session_id = 'a'")
    assert erased.kept(event("a"), event("b")) == [1]


def test_where_the_ids_decide_too(erased: Erased) -> None:
    erased.delete("session_id = 'a'")
    made = batch(0, event("a"), event("b"))
    sifted = erased.table.sift(made, frozenset({"202601"}), by_ids=True)
    assert isinstance(sifted, Sifted)
    assert sifted.missing is not None
    assert [offset for offset, _, _ in sifted.missing.origins()] == [1]
    assert sifted.partitions == {"202601"}


def test_an_event_that_came_after_the_deletion_is_another_one(erased: Erased) -> None:
    erased.delete("session_id = 'a'")
    assert erased.kept(event("a"), event("a", received_at=_TOMORROW)) == [1]


def test_of_an_event_that_does_not_say_when_it_came_kafka_does(erased: Erased) -> None:
    erased.delete("session_id = 'a'")
    silent = event("a", received_at=0)
    assert erased.kept(silent, append_ms=_TOMORROW) == [0]
    assert erased.kept(silent, append_ms=_JANUARY) == []
    assert erased.kept(silent) == []
    assert erased.kept(event("a"), append_ms=_TOMORROW) == [], "it says when"


@pytest.mark.parametrize(
    "condition",
    [
        "created_at >= '2026-02-01 00:00:00'",
        "properties['plan'] = 'it\\'s {free:String} \\\\ %s'",
        "events.path LIKE '/private/%' AND NOT is_bot",
        "_partition_id = '202602'",
        "session_id IN ('b', 'x')",
        "path = '/private/_first'",
        "value > 1.5 AND duration = 7",
        "session_id IN (SELECT 'b')",
        "created_at + INTERVAL 200 YEAR > now() AND session_id = 'b'",
        "created_at < today() AND session_id = 'b' AND yesterday() < now64(3) AND 'now()' != path",
    ],
)
def test_conditions_of_every_kind(erased: Erased, condition: str) -> None:
    erased.delete(condition)
    other = event(
        "b",
        _FEBRUARY,
        path="/private/_first",
        value="2.5",
        duration=7,
        properties={"plan": "it's {free:String} \\ %s"},
    )
    assert erased.kept(event("a", path="/"), other, event("c", path="it's")) == [0, 2]


def test_a_deletion_of_one_clickhouse_partition(erased: Erased) -> None:
    erased.delete("session_id = 'a'", " IN PARTITION 202601")
    erased.delete("session_id = 'b'", " IN PARTITION ID '202602'")
    lines = [event(s, at) for s in "ab" for at in (_JANUARY, _FEBRUARY)]
    assert erased.kept(*lines) == [1, 2]


def test_now_is_when_the_deletion_was_made(erased: Erased) -> None:
    """Else a rule by age would go on erasing what was younger than that."""
    edge_ms = int(time.time() * 1000) + 1_500
    erased.delete("created_at < now() AND path != 'now()'")
    younger = event("a", edge_ms, received_at=_JANUARY)
    wait_until(lambda: time.time() * 1000 > edge_ms, 10, "it would be erased by now")
    assert erased.kept(younger, event("a"), event("a", path="now()")) == [0, 2]


def test_deletions_by_stamps_are_not_of_events(erased: Erased) -> None:
    """They take out batches, as a rewind does, and what it reads again has to come."""
    erased.delete("_topic_id = '' AND session_id = 'a'")
    erased.delete("_first = 0")
    assert erased.kept(event("a")) == [0]


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("session_id IN (SELECT session_id FROM people)", "people"),
        ("session_id IN ('a', 'b') AND rand() >= 0", "it cannot be told of a row alone"),
        ("_part != 'all_0_0_0'", "_part"),
    ],
)
def test_where_a_deletion_cannot_be_tried_its_lines_are_inserted_and_a_warning_says_so(
    erased: Erased, condition: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    erased.client.command("CREATE TABLE people (session_id String) ENGINE = MergeTree ORDER BY ()")
    erased.client.command("INSERT INTO people VALUES ('a')")
    erased.delete(condition)
    erased.delete("session_id = 'c'")
    erased.client.command("DROP TABLE people SYNC")
    with caplog.at_level(logging.WARNING, "consumer.content"):
        assert erased.kept(event("a"), event("c")) == [0], "another deletion goes on erasing"
    (said,) = caplog.records
    assert "could not be tried" in said.getMessage()
    fields = vars(said)["fields"]
    assert why in fields["why"]
    assert fields["deletion"].startswith("DELETE WHERE")
    caplog.clear()
    erased.kept(event("a", received_at=_TOMORROW))
    assert caplog.records == [], "it came later: no deletion is asked"


def test_a_deletion_that_fails_on_some_rows_erases_none_of_them(
    erased: Erased, caplog: pytest.LogCaptureFixture
) -> None:
    erased.delete("toUInt8(path) = 1")
    erased.delete("session_id = 'a'")
    assert erased.kept(event("a"), event("b", path="1"), event("c", path="word")) == [1, 2]
    assert len(caplog.records) == 1
    assert erased.kept(event("b", path="1"), event("c", path="2")) == [1]


def test_two_conditions_that_name_the_same_thing_otherwise(erased: Erased) -> None:
    erased.delete("(length(path) AS n) = 1 AND n < 2")
    erased.delete("(length(session_id) AS n) = 3 AND n < 4")
    assert erased.kept(event("b", path="/"), event("abc"), event("ab")) == [2]


def test_lines_that_cannot_be_read_are_kept(erased: Erased) -> None:
    """A refusal will show them; and they do not keep the others from being looked at."""
    erased.delete("1")
    bad = [
        b"not json",
        event("a")[:-1] + b',"city":"\xff"}',
        event("a", duration="long"),
        event("a", _line=1),
        event("a", created_at=-1),
    ]
    assert erased.kept(event("a"), *bad, event("b")) == [1, 2, 3, 4, 5]


def test_more_lines_than_one_statement_holds(erased: Erased) -> None:
    erased.delete("session_id = 'a'")
    for n in (1, 2):
        many = ", ".join(repr(str(n * 10**8 + each)) for each in range(14_000))
        erased.delete(f"path IN ({many})")
    long = event("a", path='"' * 150_000)
    lines = [event("ab"[n % 2]) for n in range(1_100)]
    paths = [event("b", path=str(n * 10**8 + 9)) for n in (1, 2, 3)]
    assert erased.kept(long, *lines, long, *paths) == [*range(2, 1_101, 2), 1_104]


def test_a_line_that_no_statement_holds_is_inserted_and_a_warning_says_so(
    erased: Erased, caplog: pytest.LogCaptureFixture
) -> None:
    erased.delete("session_id = 'a'")
    kept = erased.kept(event("a"), event("a", path="/" * 1_100_000), event("a"))
    said = len([r for r in caplog.records if r.levelno == logging.WARNING])
    assert (kept, said) in (([1], 1), ([], 0)), "the front has a limit, a server need not"
