"""`audit` on the real engine and a real log: each kind of fault, made by hand, is found, and each
recorded cause explains it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer import audit
from consumer.audit_causes import Causes
from consumer.audit_log import Log
from consumer.audit_tables import Tables
from consumer.audit_tiles import Fault, Kind
from consumer.config import consumer_settings
from consumer.kafka_client import topic_identity
from consumer.ledger import ROWS_VERSION, Intent, Open, Source, encode
from deploy.local.waiting import wait_until
from schemas.queries import load as load_query
from schemas.settings import load
from tests.fixtures.children import ROOT, environment
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.kafka import Kafka
from tests.fixtures.records import produce
from tests.integration.schemas.landing import insert

_JANUARY, _FEBRUARY = 1_767_225_600_000, 1_769_904_000_000  # 2026-01-01, 2026-02-01
_MARCH = 1_772_323_200_000
_RECORDS = 30  # of one event each: even offsets in January, odd ones in February


def line(number: int) -> bytes:
    at = _FEBRUARY if number % 2 else _JANUARY
    return orjson.dumps(
        {
            "id": f"00000000-0000-4000-8000-{number:012x}",
            "project_id": "p",
            "session_id": f"session-{number}",
            "name": "screen_view",
            "created_at": at + number,
            "received_at": at + number,
        }
    )


class World:
    """A topic of one partition with 30 events, and the tables, which a test fills as it likes."""

    def __init__(self, kafka: Kafka, clickhouse: ClickHouse) -> None:
        self.kafka, self.clickhouse = kafka, clickhouse
        self.topic = kafka.create_topic(1)
        kafka.create_topic(1, f"{self.topic}.dead")
        produce(kafka.bootstrap_servers, self.topic, [(0, line(n)) for n in range(_RECORDS)])
        self.client = clickhouse.client()
        self.environ = {
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "PENSTOCK_KAFKA_TOPIC": self.topic,
            "PENSTOCK_KAFKA_GROUP": f"group-of-{self.topic}",
            "PENSTOCK_CLICKHOUSE_URL": clickhouse.url,
        }
        self.settings = consumer_settings(load("consumer", None, self.environ))
        cluster, self.topic_id = topic_identity(self.settings)
        self.source = Source(cluster, self.topic, self.topic_id, 0)

    def land(
        self,
        first: int,
        end: int,
        epoch: int = 0,
        lines: Sequence[bytes] | None = None,
    ) -> None:
        """The batch `[first, end)`. `lines`: what is inserted of it, in place of all."""
        lines = [line(n) for n in range(first, end)] if lines is None else lines
        source = self.source
        insert(
            self.client,
            [orjson.loads(text) for text in lines],
            f"{source.cluster}:{source.topic_id}:{source.partition}:{first}-{end}:{end - first}"
            f":digest:{epoch}:{source.topic}",
        )

    def land_all(self) -> None:
        for first in range(0, _RECORDS, 10):
            self.land(first, first + 10)

    def commit(self, offset: int, note: Open | Intent | None = None) -> None:
        """As the group's owner does; with nothing open by default."""
        said = note or Open(0, ROWS_VERSION, self.topic_id, int(time.time() * 1000))
        self.commit_as(offset, encode(offset, said))

    def commit_as(self, offset: int, metadata: str) -> None:
        wait_until(lambda: self._committed(offset, metadata), 30, "it is committed")

    def _committed(self, offset: int, metadata: str) -> bool:
        """False while a broker that has just started looks for the group's coordinator."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap_servers,
                "group.id": self.settings.kafka_group,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        place = TopicPartition(self.topic, 0, offset, metadata=metadata)
        try:
            consumer.commit(offsets=[place], asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_COORDINATOR:
                raise
            return False
        finally:
            consumer.close()
        return True

    def letter(self, offset: int, **headers: str) -> None:
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0})
        given = {
            "penstock.topic": self.topic,
            "penstock.topic_id": self.topic_id,
            "penstock.partition": "0",
            "penstock.offset": str(offset),
            "penstock.line": "0",
            "penstock.reason": "wrong_type",
            "penstock.at": str(int(time.time() * 1000)),
            **{f"penstock.{name}": value for name, value in headers.items()},
        }
        producer.produce(f"{self.topic}.dead", b"bad", headers=list(given.items()))
        assert producer.flush(30) == 0

    def delete(self, condition: str, table: str = "events") -> None:
        self.client.command(
            f"ALTER TABLE {table} DELETE WHERE {condition}", settings={"mutations_sync": 1}
        )

    def rewrite_ledger(self, what: str, condition: str) -> None:
        self.client.command(
            f"ALTER TABLE batches UPDATE {what} WHERE {condition}", settings={"mutations_sync": 1}
        )

    def findings(self, *flags: str) -> list[tuple[str, int, int, str, bool]]:
        """(kind, first, end, ClickHouse partition, explained) of each finding."""
        code, said = self.said(*flags)
        found = said["findings"]
        assert code == (1 if any(f["cause"] is None for f in found) else 0)
        assert said["unexplained"] == sum(f["cause"] is None for f in found)
        return [
            (f["kind"], f["first"], f["end"], f["clickhouse_partition"], f["cause"] is not None)
            for f in found
        ]

    def said(self, *flags: str) -> tuple[int, dict[str, Any]]:
        code, out = self.run("--json", *flags)
        return code, json.loads(out)

    run: Callable[..., tuple[int, str]]


@pytest.fixture
def world(
    kafka: Kafka, clickhouse_with_schema: ClickHouse, capsys: pytest.CaptureFixture[str]
) -> World:
    made = World(kafka, clickhouse_with_schema)

    def run(*flags: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        audit.add_parser(parser.add_subparsers())
        code = audit.run(parser.parse_args(["audit", *flags]), made.settings)
        said = capsys.readouterr()
        assert said.err == "", "no bar where there is no terminal"
        return code, said.out

    made.run = run
    return made


def test_what_landed_once_is_whole(world: World) -> None:
    world.land_all()
    world.commit(30)
    code, said = world.said()
    assert code == 0
    assert said["findings"] == []
    (only,) = said["partitions"]
    assert (only["first"], only["end"], only["batches"], only["rows"]) == (0, 30, 3, 30)
    assert only["commit"] == "30, nothing open"
    assert only["verdict"] == "whole"


def test_a_person_reads_a_line_a_partition(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("_first = 10")
    code, out = world.run()
    assert code == 1
    topic, head, verdict, *findings, last = out.splitlines()
    assert world.topic in topic
    assert head.split()[0] == "partition"
    assert verdict.split()[0] == "0"
    assert "[0, 30)" in verdict
    assert verdict.endswith("UNEXPLAINED: 2 x no rows")
    assert findings[0] == (
        "UNEXPLAINED: no rows: partition 0 [10, 20) in 202601 epoch 0: the ledger lists 5 rows, "
        "and the table has none of this batch"
    )
    assert last == "2 findings, 2 unexplained"


def test_the_command(world: World) -> None:
    def call(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "consumer", "audit", *flags],
            env=environment(**world.environ),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )

    world.land_all()
    world.commit(30)
    done = call()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "0 findings, 0 unexplained"
    world.delete("_first = 10")
    assert call("--json", "--partition", "0").returncode == 1
    done = call("--from", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is neither a time" in done.stderr


# --- gaps ----------------------------------------------------------------------------------------


def test_a_gap(world: World) -> None:
    world.land(0, 10)
    world.land(20, 30)
    world.commit(30)
    assert world.findings() == [("gap", 10, 20, "", False)]


def test_a_gap_at_each_end(world: World) -> None:
    world.land(10, 20)
    world.commit(30)
    assert world.findings() == [("gap", 0, 10, "", False), ("gap", 20, 30, "", False)]


def test_a_commit_over_nothing_at_all(world: World) -> None:
    world.commit(30)
    assert world.findings() == [("gap", 0, 30, "", False)]


def test_a_ledger_row_that_was_dropped(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("first = 10", "batches")
    assert world.findings() == [
        ("not in the ledger", 10, 20, "202601", False),
        ("not in the ledger", 10, 20, "202602", False),
    ]


def test_a_gap_of_dead_letters(world: World) -> None:
    world.land(0, 10)
    world.land(20, 30)
    world.commit(30)
    for offset in range(10, 19):
        world.letter(offset)
        world.letter(offset)  # written twice, and counted once
    assert world.findings() == [("gap", 10, 20, "", False)]
    world.letter(19)
    assert world.findings() == [("gap", 10, 20, "", True)]


def test_letters_of_another_topic_id_explain_nothing(world: World) -> None:
    world.land(0, 10)
    world.land(20, 30)
    world.commit(30)
    for offset in range(10, 20):
        world.letter(offset, topic_id="another")
    assert world.findings() == [("gap", 10, 20, "", False)]


def test_offsets_without_events(world: World) -> None:
    """Tombstones, empty records, an aborted transaction and the markers of two."""
    world.land_all()
    producer = Producer(
        {
            "bootstrap.servers": world.kafka.bootstrap_servers,
            "transactional.id": f"transaction-{world.topic}",
            "log_level": 0,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(world.topic, line(1000), partition=0)
    producer.flush(30)
    producer.abort_transaction(30)  # 30, and its marker at 31
    producer.begin_transaction()
    producer.produce(world.topic, None, partition=0)
    producer.produce(world.topic, b"\n", partition=0)
    producer.commit_transaction(30)  # 32, 33, and its marker at 34
    world.commit(35)
    assert world.findings() == [("gap", 30, 35, "", True)]


def test_a_trimmed_log_explains_nothing(world: World) -> None:
    world.land(0, 10)
    world.land(20, 30)
    world.commit(30)
    place = TopicPartition(world.topic, 0, 20)
    world.kafka.admin().delete_records([place])[place].result(30)
    assert world.findings() == [("gap", 10, 20, "", False)]


def test_records_that_left_the_log_before_they_were_read(world: World) -> None:
    world.land(0, 10)
    world.commit(10)
    place = TopicPartition(world.topic, 0, 20)
    world.kafka.admin().delete_records([place])[place].result(30)
    assert world.findings() == [("gap", 10, 20, "", False)]


def test_a_commit_past_the_logs_end(world: World) -> None:
    """Kafka has lost what it had acknowledged. What it has no more cannot be offsets without an
    event, and nothing is asked of it that it would refuse."""
    world.land_all()
    world.commit(40)
    lost = [("commit past the log's end", 30, 40, "", False), ("gap", 30, 40, "", False)]
    assert sorted(world.findings()) == lost
    world.land(40, 50, lines=[line(n) for n in range(40, 45)])
    world.commit(50)
    assert sorted(world.findings()) == [
        (lost[0][0], 30, 50, "", False),
        lost[1],
        ("short batch", 40, 50, "", False),
    ]


def test_a_partition_that_the_topic_has_not(world: World) -> None:
    """It was made again with fewer, by a broker that gives no ids, say."""
    world.land_all()
    world.commit(30)
    world.source = Source(world.source.cluster, world.topic, world.topic_id, 1)
    world.land(0, 10, lines=[line(n) for n in range(9)])
    world.rewrite_ledger("landed_at = landed_at - 3600", "partition = 1")
    code, said = world.said()
    assert (code, [each["verdict"] for each in said["partitions"]]) == (
        1,
        ["whole", "UNEXPLAINED: 1 x short batch"],
    )


# --- batches that are not whole ------------------------------------------------------------------


def test_a_batch_that_did_not_land_whole(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(0, 10, 2)])
    world.commit(10)
    assert world.findings() == [("short batch", 0, 10, "", False)]


def test_what_was_missing_came_under_another_epoch(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(0, 10, 2)])
    world.land(0, 10, epoch=1, lines=[line(n) for n in range(1, 10, 2)])
    world.commit(10)
    assert world.findings() == []


def test_a_short_batch_of_dead_letters(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(8)])
    world.commit(10)
    world.letter(8)
    assert world.findings() == [("short batch", 0, 10, "", False)]
    world.letter(9)
    assert world.findings() == [("short batch", 0, 10, "", True)]


@pytest.mark.parametrize(("epoch", "said"), [(1, {}), (0, {"in_table": "1"})])
def test_letters_of_lines_that_landed_do_not_hide_those_that_did_not(
    world: World, epoch: int, said: dict[str, str]
) -> None:
    """As many as are missing, and none of these: they are of an earlier try, or of a view."""
    world.land(0, 10, epoch=epoch, lines=[line(n) for n in range(0, 10, 2)])
    world.commit(10)
    for offset in range(0, 10, 2):
        world.letter(offset, **said)
    assert world.findings() == [("short batch", 0, 10, "", False)]
    for offset in range(1, 10, 2):
        world.letter(offset)
    assert world.findings() == [("short batch", 0, 10, "", True)]


def test_a_short_batch_of_letters_whose_other_rows_went_by_a_rule(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(8)])
    world.commit(10)
    for offset in (8, 9):
        world.letter(offset)
    world.delete("_first = 0 AND session_id = 'session-3'")
    short = ("short batch", 0, 10, "")
    assert world.findings() == [(*short, False)]
    world.delete("session_id = 'session-3'")
    assert world.findings() == [(*short, True)]
    world.client.command(
        "ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 1 DAY",
        settings={"materialize_ttl_after_modify": 0},
    )
    world.delete("_first = 0 AND session_id != 'session-0' AND session_id != 'session-1'")
    assert world.findings() == [(*short, True)]


def test_letters_that_were_replayed_still_say_why_their_batch_is_short(world: World) -> None:
    again = [line(8), line(9)]
    produce(world.kafka.bootstrap_servers, world.topic, [(0, each) for each in again])
    world.land(0, 10, lines=[line(n) for n in range(8)])
    world.land(10, 30)
    world.land(30, 32, lines=again)
    world.commit(32)
    assert world.findings() == [("short batch", 0, 10, "", False)]
    for offset in (8, 9):
        world.letter(offset)
    assert world.findings() == [("short batch", 0, 10, "", True)]


def test_letters_are_counted_where_the_log_has_their_lines_no_more(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(8)])
    world.land(20, 30)
    world.commit(30)
    trim(world, 20)
    for offset in (8, *range(10, 20)):
        world.letter(offset)
    world.letter(9, in_table="1")
    gap, short = ("gap", 10, 20, ""), ("short batch", 0, 10, "")
    assert sorted(world.findings()) == [(*gap, True), (*short, False)], "a letter of a view"
    world.letter(7)
    assert sorted(world.findings()) == [(*gap, True), (*short, True)]
    said = world.said()[1]
    for found in said["findings"]:
        assert found["cause"].endswith(", only counted: Kafka's log does not reach back to it")
    world.client.command(
        "INSERT INTO rewinds (topic_id, partition, first, end, epoch, what, at) "
        f"VALUES ('{world.topic_id}', 0, 0, 20, 2, 'removed', now64(3, 'UTC') + 1)"
    )
    # of a later try: with the rows that it took out, and letters of its own where a line is bad
    world.delete("first = 0", "batches")
    world.delete("_first = 0")
    world.land(0, 10, epoch=2, lines=[line(n) for n in range(8)])
    assert sorted(world.findings()) == [(*gap, False), (*short, False)], "they are outdated"


def test_letters_of_views_are_counted_as_far_as_the_ledger_lacks_rows(world: World) -> None:
    world.land(0, 10)
    world.rewrite_ledger("rows = rows - 1", "clickhouse_partition = '202601'")
    world.commit(10)
    trim(world, 10)
    short = ("short batch", 0, 10, "")
    assert (*short, False) in world.findings()
    world.letter(8, in_table="1")
    assert (*short, True) in world.findings()


def test_a_batch_of_unknown_size_whose_lines_were_set_aside(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(8)])
    world.rewrite_ledger("expected_rows = 0", "first = 0")
    world.commit(10)
    unknown = ("size not known", 0, 10, "")
    for offset in (3, 8):
        world.letter(offset)
    world.letter(9, in_table="1")
    assert world.findings() == [(*unknown, False)], "9 had landed"
    produce(world.kafka.bootstrap_servers, world.topic, [(0, line(9))])
    world.land(10, 30)
    world.land(30, 31, lines=[line(9)])
    world.commit(31)
    assert world.findings() == [(*unknown, True)]
    world.delete("_first = 0 AND session_id = 'session-4'")
    assert world.findings() == [(*unknown, False)]


def test_letters_do_not_explain_rows_that_had_landed(world: World) -> None:
    """Nor do they hide what else is gone of their part."""
    world.land(0, 10)
    world.commit(10)
    world.delete("_first = 0 AND _partition_id = '202601'")
    gone = ("no rows", 0, 10, "202601")
    for offset in (0, 2, 4, 6):
        world.letter(offset, in_table="1")
    world.delete("session_id = 'session-8'")
    assert world.findings() == [(*gone, False)]
    for offset in (0, 2, 4):
        world.letter(offset)
    world.delete("session_id = 'session-6'")
    assert world.findings() == [(*gone, False)], "5 rows of it had landed, whatever letters say"


def test_a_row_that_landed_and_is_not_in_every_view(world: World) -> None:
    """A view threw: the table has the row, the ledger was written without it."""
    world.land(0, 10)
    world.rewrite_ledger("rows = rows - 1", "clickhouse_partition = '202601'")
    world.commit(10)
    found = [("double", 0, 10, "202601"), ("short batch", 0, 10, "")]
    assert sorted(world.findings()) == [(*one, False) for one in found]
    world.letter(8)
    assert sorted(world.findings()) == [(*found[0], False), (*found[1], True)]
    world.letter(8, in_table="1")
    assert sorted(world.findings()) == [(*one, True) for one in found]


def test_a_ledger_that_is_short_of_what_the_table_has(world: World) -> None:
    """It is written with the views, so these may be short too, until they are counted again."""
    world.land(0, 10)
    world.rewrite_ledger("rows = rows - 1", "clickhouse_partition = '202601'")
    world.commit(10)
    short = ("short batch", 0, 10, "")
    assert (*short, False) in world.findings()
    rebuild(world, "202601")
    assert (*short, False) in world.findings()
    rebuild(world, "202602")
    assert (*short, True) in world.findings()
    world.delete("session_id = 'session-3' AND _first = 0")
    assert (*short, False) in world.findings(), "one of its events is not there"


def test_rows_that_are_gone(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("_first = 10 AND _partition_id = '202601'")
    assert world.findings() == [("no rows", 10, 20, "202601", False)]


def test_one_row_of_a_part_is_enough(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("_first = 10 AND session_id != 'session-10' AND _partition_id = '202601'")
    assert world.findings() == []


def test_rows_that_were_erased(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("session_id IN ('session-10','session-12','session-14','session-16','session-18')")
    assert world.findings() == [("no rows", 10, 20, "202601", True)]


def test_an_erasure_before_it_landed_explains_nothing(world: World) -> None:
    world.delete("session_id = 'somebody'")
    ended = time.time() + 2  # mutations have whole seconds
    wait_until(lambda: time.time() > ended, 10, "two seconds pass")
    world.land_all()
    world.commit(30)
    world.delete("_first = 10")
    assert [explained for *_, explained in world.findings()] == [False, False]


def test_rows_that_expired(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.client.command(
        "ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 1 DAY",
        settings={"materialize_ttl_after_modify": 0},
    )
    world.delete("_first = 10 AND _partition_id = '202601'")
    assert world.findings() == [("no rows", 10, 20, "202601", True)]


def test_a_ttl_that_is_not_over_explains_nothing(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.client.command(
        "ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL 50 YEAR",
        settings={"materialize_ttl_after_modify": 0},
    )
    world.delete("_first = 10 AND _partition_id = '202601'")
    assert world.findings() == [("no rows", 10, 20, "202601", False)]


def test_a_deletion_explains_its_own_rows_and_no_others(world: World) -> None:
    """An erasure does not hide a part that was lost."""
    world.land_all()
    world.commit(30)
    world.delete("session_id = 'somebody'")
    world.delete("_first = 10 AND _partition_id = '202601'")
    assert world.findings() == [("no rows", 10, 20, "202601", False)]
    world.delete("session_id IN ('session-10', 'session-12', 'session-14', 'session-16')")
    assert world.findings() == [("no rows", 10, 20, "202601", False)], "all but one"
    world.delete("session_id = 'session-18'")
    assert world.findings() == [("no rows", 10, 20, "202601", True)]
    (found,) = world.said()[1]["findings"]
    assert found["cause"] == (
        "erasure: DELETE WHERE session_id IN ('session-10', 'session-12', 'session-14', "
        "'session-16') (4 of its 5 events), "
        "erasure: DELETE WHERE session_id = 'session-18' (1 of its 5 events)"
    )


def test_a_deletion_within_one_month_says_nothing_of_another(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.client.command("ALTER TABLE events DELETE IN PARTITION 202602 WHERE city = 'nowhere' "
                         "AND id IN (toUUID('00000000-0000-4000-8000-000000000001'))",
                         settings={"mutations_sync": 1})  # fmt: skip
    world.delete("_first = 10 AND _partition_id = '202601'")
    assert world.findings() == [("no rows", 10, 20, "202601", False)]


def test_of_thousands_of_events_each_is_looked_for(world: World) -> None:
    """More ids than one statement takes as a parameter."""
    many = [line(n) for n in range(30, 5_030)]
    produce(world.kafka.bootstrap_servers, world.topic, [(0, each) for each in many])
    world.land_all()
    world.land(30, 5_030, lines=many)
    world.commit(5_030)
    world.client.command("ALTER TABLE events UPDATE _first = 7, _end = 8 WHERE _first = 30",
                         settings={"mutations_sync": 1})  # fmt: skip
    causes = {f["cause"] for f in world.said()[1]["findings"] if f["first"] == 30}
    assert causes == {"resends: each of its 2500 events is in the table"}


def test_rows_of_which_some_were_erased_and_some_resent(world: World) -> None:
    again = [line(12), line(14)]
    produce(world.kafka.bootstrap_servers, world.topic, [(0, each) for each in again])
    world.land_all()
    world.land(30, 32, lines=again)
    world.commit(32)
    world.delete("_first = 10 AND _partition_id = '202601'")
    missing = ("no rows", 10, 20, "202601")
    world.delete("session_id IN ('session-10', 'session-16')")
    assert world.findings() == [(*missing, False)], "neither erased nor resent: 18"
    world.delete("session_id = 'session-18'")
    assert world.findings() == [(*missing, True)]


def trim(world: World, offset: int) -> None:
    place = TopicPartition(world.topic, 0, offset)
    world.kafka.admin().delete_records([place])[place].result(30)


def test_what_the_log_has_no_more_cannot_be_checked_and_the_report_says_so(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("_first = 10 AND _partition_id = '202601'")
    trim(world, 20)
    assert world.findings() == [("no rows", 10, 20, "202601", False)], "no deletion, no cause"
    world.delete("session_id = 'somebody'")
    assert world.findings() == [("no rows", 10, 20, "202601", True)]
    assert world.run()[1].splitlines()[-2].endswith(
        "(erasure: DELETE WHERE session_id = 'somebody': could not be checked: "
        "Kafka's log does not reach back to it)"
    )  # fmt: skip


def test_of_more_findings_than_are_looked_up_the_rest_cannot_be_checked(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("session_id != ''")
    looked: list[int] = []
    log = Log(world.settings)
    causes = Causes(Tables(world.client), log, looks=1, looked=lambda: looked.append(1))
    fault = Fault(Kind.NO_ROWS, world.topic_id, 0, 10, 20, "202601", (0,), 5, 0, "")
    assert str(causes.explain(fault)).endswith("(5 of its 5 events)")
    assert causes.explain(fault) == (
        "erasure: DELETE WHERE session_id != '': could not be checked: "
        "1 findings were looked up in Kafka's log, and no more are"
    )
    log.close()
    assert looked == [1]


def test_a_deletion_that_cannot_be_tried_cannot_be_checked(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.delete("session_id IN ('session-10', 'session-12') AND rand() >= 0")
    world.delete("_first = 10 AND _partition_id = '202601'")
    (found,) = world.said()[1]["findings"]
    assert "could not be checked for 5 of its 5 events: it cannot be told" in found["cause"]


def test_a_deletion_that_asks_other_tables_can_have_meant_more_than_it_does_now(
    world: World,
) -> None:
    world.client.command("CREATE TABLE people (session_id String) ENGINE = MergeTree ORDER BY ()")
    world.client.command("INSERT INTO people VALUES ('session-10')")
    world.land_all()
    world.commit(30)
    world.delete("session_id IN (SELECT session_id FROM people)")
    world.delete("_first = 10 AND _partition_id = '202601'")
    (found,) = world.said()[1]["findings"]
    assert found["cause"].endswith("could not be checked for 4 of its 5 events: it asks other "
                                   "tables")  # fmt: skip


def test_a_batch_of_which_a_mend_left_out_what_was_erased(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(1, 10, 2)])
    world.land(20, 30)
    world.commit(30)
    erased = ", ".join(f"'session-{n}'" for n in (0, 2, 4, 6, 8, *range(10, 19)))
    world.delete(f"session_id IN ({erased})")
    short, gap = ("short batch", 0, 10, ""), ("gap", 10, 20, "")
    assert sorted(world.findings()) == [(*gap, False), (*short, False)]
    rebuild(world, "202602")
    assert sorted(world.findings()) == [(*gap, False), (*short, True)], "19 was not erased"
    world.delete("session_id = 'session-19'")
    assert sorted(world.findings()) == [(*gap, True), (*short, True)]


def test_a_ttl_explains_the_rows_that_expired_and_not_their_month(world: World) -> None:
    later = [
        orjson.dumps(orjson.loads(line(n)) | {"created_at": _JANUARY + 20 * 86_400_000 + n})
        for n in range(30, 40)
    ]
    produce(world.kafka.bootstrap_servers, world.topic, [(0, each) for each in later])
    world.land_all()
    world.land(30, 40, lines=later)
    world.commit(40)
    seconds = int(time.time()) - _JANUARY // 1000 - 10 * 86_400  # over for the first ten days
    world.client.command(
        f"ALTER TABLE events MODIFY TTL toDateTime(created_at) + INTERVAL {seconds} SECOND",
        settings={"materialize_ttl_after_modify": 0},
    )
    world.delete("_first IN (10, 30) AND _partition_id = '202601'")
    assert sorted(world.findings()) == [
        ("no rows", 10, 20, "202601", True),
        ("no rows", 30, 40, "202601", False),
    ]
    trim(world, 40)
    causes = [str(found["cause"]) for found in world.said()[1]["findings"]]
    assert len(causes) == 2
    assert all("could not be checked for each row: Kafka's log does not" in c for c in causes)


def test_a_ttl_that_deletes_only_some_rows(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.client.command(
        "ALTER TABLE events MODIFY TTL toDateTime(received_at) + INTERVAL 1 DAY DELETE "
        "WHERE session_id IN ('session-0', 'x, y'), toDateTime(created_at) + INTERVAL 50 YEAR",
        settings={"materialize_ttl_after_modify": 0},
    )
    world.delete("_first = 0 AND _partition_id = '202601'")
    assert world.findings() == [("no rows", 0, 10, "202601", False)]
    world.delete("session_id IN ('session-2', 'session-4', 'session-6', 'session-8')")
    (found,) = world.said()[1]["findings"]
    assert "erasure: DELETE WHERE session_id IN ('session-2'" in found["cause"]
    assert "TTL toDateTime(received_at)" in found["cause"]


def test_a_batch_of_resends(world: World) -> None:
    world.land_all()
    produce(world.kafka.bootstrap_servers, world.topic, [(0, line(n)) for n in range(20, 30)])
    world.land(30, 40, lines=[line(n) for n in range(20, 30)])
    world.commit(40)
    world.client.command("OPTIMIZE TABLE events FINAL")
    found = world.findings()
    assert len(found) == 2, "of two copies one stays"
    assert {(kind, explained) for kind, _, _, _, explained in found} == {("no rows", True)}
    world.delete("session_id = 'session-21' AND _topic_id != ''")  # names a stamp: no erasure
    assert [explained for *_, explained in world.findings()] == [True, False]


def test_more_rows_than_announced(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(12)])
    world.commit(10)
    assert world.findings() == [("long batch", 0, 10, "", False)]


def test_a_range_that_landed_again_in_another_month(world: World) -> None:
    """No ClickHouse partition has it twice, and the table has each event twice."""
    world.land_all()
    moved = [orjson.loads(line(n)) | {"created_at": _MARCH + n} for n in range(10)]
    world.land(0, 10, epoch=1, lines=[orjson.dumps(each) for each in moved])
    world.commit(30)
    assert world.findings() == [("long batch", 0, 10, "", False)]
    (row,) = world.client.query(load_query("ledger_verdict")).named_results()
    assert row["verdict"] == "long"


# --- doubles and overlaps ------------------------------------------------------------------------


def rebuild(world: World, partition: str, at: str = "now64(3) + 1") -> None:
    """What `penstock-schemas rebuild` records."""
    world.client.command(
        "INSERT INTO rebuilds (id, clickhouse_partition, tables, began_at, hold_until, finished_at)"
        f" SELECT 'test', '{partition}', ['sessions_daily', 'pages_daily'], {at}, {at}, {at}"
    )


def test_a_batch_that_landed_again_under_another_epoch(world: World) -> None:
    world.land_all()
    world.land(10, 20, epoch=1)
    world.commit(30)
    both = [("overlap", 10, 20, "202601", False), ("overlap", 10, 20, "202602", False)]
    assert sorted(world.findings()) == both
    rebuild(world, "202601", "now64(3) - 60")
    assert sorted(world.findings()) == both, "what was rebuilt before it landed"
    rebuild(world, "202601")
    assert sorted(world.findings()) == [("overlap", 10, 20, "202601", True), both[1]]
    rebuild(world, "202602")
    assert [explained for *_, explained in world.findings()] == [True, True]


def test_batches_that_overlap(world: World) -> None:
    world.land(0, 10)
    world.land(8, 20)
    world.land(20, 30)
    world.commit(30)
    assert sorted(world.findings()) == [
        ("overlap", 8, 10, "202601", False),
        ("overlap", 8, 10, "202602", False),
    ]


def test_batches_that_overlap_in_different_clickhouse_partitions(world: World) -> None:
    world.land(0, 10, lines=[line(n) for n in range(0, 10, 2)])
    world.land(0, 12, epoch=1, lines=[line(n) for n in (*range(1, 10, 2), 11)])
    world.land(10, 12, epoch=2, lines=[line(10)])
    world.commit(12)
    kinds = [kind for kind, *_ in world.findings()]
    assert "overlap" not in kinds
    assert "gap" not in kinds


def test_a_batch_that_landed_twice_under_one_epoch(world: World) -> None:
    """As without a window: the token is not known any more."""
    world.land(0, 10)
    for name in ("events", "batches"):
        world.client.command(
            f"ALTER TABLE {name} MODIFY SETTING non_replicated_deduplication_window = 0"
        )
    world.land(0, 10)
    world.commit(10)
    found = world.findings()
    assert len(found) == 4, "in the ledger and in the table, in both ClickHouse partitions"
    assert {(kind, explained) for kind, _, _, _, explained in found} == {("double", False)}
    world.client.command("OPTIMIZE TABLE events FINAL")  # by id the table is right again
    assert len(world.findings()) == 2, "and the sums are not"


def test_rows_without_a_batch(world: World) -> None:
    world.land_all()
    world.commit(30)
    world.client.command(
        "INSERT INTO events (id, project_id, session_id, name, created_at) "
        "VALUES (generateUUIDv4(), 'p', 's', 'n', '2026-01-05 00:00:00')"
    )
    assert world.findings() == [("rows without a batch", 0, 0, "202601", False)]
    assert world.run()[0] == 1


def test_a_rewind_that_was_recorded(world: World) -> None:
    """Offsets that were passed over, or whose rows were taken out, on purpose."""
    world.land_all()
    world.commit(30)
    world.delete("_first = 10")
    world.delete("first = 20", "batches")
    world.delete("_first = 20")
    missing = [
        ("gap", 20, 30, "", False),
        ("no rows", 10, 20, "202601", False),
        ("no rows", 10, 20, "202602", False),
    ]
    assert sorted(world.findings()) == missing
    into = "INSERT INTO rewinds (topic_id, partition, first, end, epoch, what, at) VALUES "
    one, now = f"'{world.topic_id}'", "now64(3, 'UTC')"
    world.client.command(
        f"{into}({one}, 0, 5, 25, 1, 'removed', {now}), ('another', 0, 20, 30, 1, 'skipped', {now})"
        f", ({one}, 1, 20, 30, 1, 'skipped', {now}), ({one}, 0, 20, 30, 1, 'removed', {now})"
        f", ({one}, 0, 20, 30, 1, 'to skip', {now})"
    )
    assert sorted(world.findings()) == [missing[0], *((*f[:4], True) for f in missing[1:])], (
        "what was taken out to be read again must be there again"
    )
    world.client.command(f"{into}({one}, 0, 25, 30, 1, 'skipped', {now})")
    assert sorted(world.findings())[0] == missing[0], "a part of it"
    world.client.command(f"{into}({one}, 0, 20, 25, 1, 'skipped', {now})")
    assert [explained for *_, explained in world.findings()] == [True, True, True]
    world.client.command(f"{into}({one}, 0, 22, 30, 2, 'read again', now64(3, 'UTC') + 1)")
    assert [explained for *_, explained in world.findings()] == [True, True, True]
    world.commit(30, Open(2, ROWS_VERSION, world.topic_id, 1_700_000_000_000))
    assert sorted(world.findings())[0] == missing[0], "nothing from 22 on is skipped any more"


def test_a_rewind_explains_nothing_of_what_came_after_it(world: World) -> None:
    world.land(0, 30, epoch=1)
    world.commit(30)
    world.delete("_first = 0 AND _partition_id = '202602'")
    world.client.command(
        "INSERT INTO rewinds (topic_id, partition, first, end, epoch, what, at) "
        f"VALUES ('{world.topic_id}', 0, 0, 30, 1, 'removed', now64(3, 'UTC'))"
    )
    assert [(kind, cause) for kind, _, _, _, cause in world.findings()] == [("no rows", False)]


# --- what is in flight, and what is looked at ----------------------------------------------------


def test_what_is_in_flight_is_not_judged(world: World) -> None:
    world.land(0, 10)
    world.land(10, 20, lines=[line(n) for n in range(10, 20, 2)])
    world.commit(
        10, Intent(10, 20, 10, "0" * 16, 0, ROWS_VERSION, world.topic_id, 1_700_000_000_000)
    )
    code, said = world.said()
    assert code == 0
    assert said["findings"] == []
    (only,) = said["partitions"]
    assert only["in_flight"] == 1
    assert only["commit"] == "10, writing [10, 20) epoch 0 since 2023-11-14T22:13:20Z"


def test_a_foreign_commit_is_said_and_not_believed(world: World) -> None:
    world.land_all()
    world.commit_as(5, "somebody else's")
    code, said = world.said()
    assert code == 0
    assert said["partitions"][0]["commit"] == "5, and it is not one of ours"


def test_a_topic_that_was_made_again(world: World) -> None:
    world.source = Source(world.source.cluster, world.topic, "an-earlier-id", 0)
    world.land(0, 10)
    world.land(20, 30)
    world.source = Source(world.source.cluster, world.topic, world.topic_id, 0)
    world.land_all()
    world.commit(30)
    assert world.findings() == [("gap", 10, 20, "", False)]
    assert "an-earlier-id" in world.run()[1]


def test_other_topics_are_left_alone(world: World) -> None:
    world.source = Source(world.source.cluster, "elsewhere", "its-id", 0)
    world.land(0, 10)
    world.land(20, 30)
    world.source = Source(world.source.cluster, world.topic, world.topic_id, 0)
    world.land_all()
    world.commit(30)
    assert world.findings() == []


def test_a_time_range(world: World) -> None:
    world.land(0, 10)
    world.delete("_first = 0")
    now = "SELECT toUnixTimestamp64Milli(now64(3))"
    between = world.client.query(now).result_rows[0][0] + 1
    wait_until(lambda: world.client.query(now).result_rows[0][0] > between, 10, "a moment passes")
    world.land(20, 30)
    world.delete("_first = 20")
    world.commit(30)
    before = [("no rows", 0, 10, "202601", False), ("no rows", 0, 10, "202602", False)]
    after = [("no rows", 20, 30, "202601", False), ("no rows", 20, 30, "202602", False)]
    assert sorted(world.findings("--to", str(between))) == before
    assert sorted(world.findings("--from", str(between))) == after
    assert sorted(world.findings()) == [("gap", 10, 20, "", False), *before, *after]


def test_one_partition(world: World) -> None:
    world.land(0, 10)
    world.land(20, 30)
    world.commit(30)
    assert world.findings("--partition", "0") == [("gap", 10, 20, "", False)]


def complaint(world: World, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code, _, err = answer(world, capsys, *flags)
    return code, err


def answer(world: World, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    audit.add_parser(parser.add_subparsers())
    code = audit.run(parser.parse_args(["audit", *flags]), world.settings)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_partition_that_there_is_not(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = complaint(world, capsys, "--partition", "7")
    assert (code, "has no partition 7" in err) == (2, True)


def test_that_nothing_landed_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.land_all()
    world.commit(30)
    then = ("--from", "2001-01-01", "--to", "2001-01-02T00:00:00Z")
    code, err = complaint(world, capsys, *then)
    assert (code, "no batch landed in that time" in err) == (0, True)
    code, out, err = answer(world, capsys, "--json", *then)
    assert (code, "no batch landed in that time" in err) == (0, True)
    assert json.loads(out)["findings"] == []
    assert complaint(world, capsys, "--from", "2001-01-01") == (0, "")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_has_seen_enough(world: World, flags: list[str]) -> None:
    world.land_all()
    world.delete("first = 10", "batches")
    world.commit(30)
    with subprocess.Popen(
        [sys.executable, "-m", "consumer", "audit", *flags],
        env=environment(**world.environ),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert (child.wait(120), child.stderr.read()) == (1, b""), "as if it had been read"


def test_it_can_be_stopped(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Log, "commits", interrupted)
    assert answer(world, capsys) == (1, "", "penstock-consumer: stopped\n")


def test_a_range_that_is_none(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    audit.add_parser(parser.add_subparsers())
    flags = parser.parse_args(["audit", "--from", "2026-01-02", "--to", "2026-01-01"])
    assert audit.run(flags, world.settings) == 2
    assert "--from must be before --to" in capsys.readouterr().err


def test_nothing_is_changed(world: World) -> None:
    world.land_all()
    world.commit(20)
    sizes = (
        "SELECT name, total_rows FROM system.tables WHERE database = currentDatabase() "
        "ORDER BY name"
    )
    before = world.client.query(sizes).result_rows
    world.run()
    after = world.client.query(sizes).result_rows
    assert after == before
    assert world.said()[1]["partitions"][0]["commit"] == "20, nothing open"


def test_a_server_that_is_away(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    given = world.environ | {"PENSTOCK_CLICKHOUSE_URL": "http://127.0.0.1:1/penstock"}
    parser = argparse.ArgumentParser()
    audit.add_parser(parser.add_subparsers())
    flags = parser.parse_args(["audit"])
    assert audit.run(flags, consumer_settings(load("consumer", None, given))) == 1
    said = capsys.readouterr().err
    assert said.startswith("penstock-consumer: the audit was not done: ")
    assert len(said.splitlines()) == 1
