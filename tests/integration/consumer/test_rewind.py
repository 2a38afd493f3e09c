"""`rewind` on the real engine and a real log: each event once after it, wherever it died."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from consumer import audit, rewind, rewinding
from consumer.config import consumer_settings
from consumer.rewinding import Rewind
from deploy.local.waiting import wait_until
from schemas.queries import load as load_query
from schemas.rebuild import rebuild as really_rebuild
from schemas.settings import load
from tests.fixtures.asking import said_before_it_asks
from tests.fixtures.children import ROOT, Children, environment
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.events import made_events
from tests.fixtures.kafka import Kafka, MockKafka
from tests.fixtures.pipeline import PROJECTS, Consumer, Pipeline
from tests.fixtures.records import line, produce
from tests.fixtures.tables import against_truth, rows_of, stamp_problems
from tests.fixtures.truth import Truth

_EVENTS = 900
_TURNS = ("2026-10-31",)  # around the end of a month
_SHORT: dict[str, Any] = {
    "INSERT_DEADLINE_SECONDS": 4,
    "INSERT_MAX_SECONDS": 1,
    "COMMIT_TIMEOUT_SECONDS": 2,
    "BATCH_ROWS": 100,
    "BATCH_AGE_SECONDS": 0.3,
    "INSERTS_PER_SECOND": 50,
    "SESSION_TIMEOUT_SECONDS": 6,
}

Said = tuple[int, str, str]


class World:
    """A topic of two partitions whose events have landed, and no consumer."""

    def __init__(self, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
        self.pipeline = pipeline
        self._capsys = capsys
        self.client = pipeline.clickhouse.client()
        self.seed = 1
        self.settings = _SHORT
        pipeline.create_topic(partitions=2)

    def start_consumer(self, *, ready: bool = True) -> Consumer:
        return self.pipeline.start_consumer(ready=ready, **self.settings)

    def produce(self, count: int = _EVENTS) -> None:
        made = made_events(self.seed, count, PROJECTS, _TURNS)
        self.seed += 1
        records = [(number % 2, line(one)) for number, one in enumerate(made)]
        produce(self.pipeline.kafka.bootstrap_servers, self.pipeline.topic, records)

    def consume(self) -> None:
        """A consumer takes all there is, and ends."""
        consumer = self.start_consumer()
        self.pipeline.await_landed()
        consumer.child.stop()

    def environment(self) -> dict[str, str]:
        return self.pipeline.environment(**self.settings)

    def rewind(self, *flags: str, **environ: str) -> Said:
        return self._run(rewind, "rewind", *flags, **environ)

    def _run(self, command: object, *flags: str, **environ: str) -> Said:
        return run(command, self._capsys, {**self.environment(), **environ}, *flags)

    def killed(self, when: str, step: str, count: int, *flags: str) -> None:
        """A rewind that dies there. See dying_rewind.py."""
        module = "tests.integration.consumer.dying_rewind"
        done = subprocess.run(
            [sys.executable, "-m", module, when, step, str(count), *flags],
            env=environment(**self.environment()),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr

    def audit(self) -> Said:
        return self._run(audit, "audit")

    def whole(self) -> None:
        """Every table equals the truth, the ledger tiles, and the audit has nothing to say."""
        assert self.pipeline.problems() == []
        code, out, err = self.audit()
        assert code == 0, out + err

    def batches(self, partition: int) -> list[tuple[int, int, int]]:
        return [
            (first, end, epoch)
            for first, end, epoch in rows_of(
                self.client,
                "SELECT DISTINCT first, end, epoch FROM batches "
                f"WHERE partition = {partition} ORDER BY first",
            )
        ]


def run(
    command: object, capsys: pytest.CaptureFixture[str], environ: dict[str, str], *flags: str
) -> Said:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())  # type: ignore[attr-defined]
    settings = consumer_settings(load("consumer", None, environ))
    capsys.readouterr()
    code = command.run(parser.parse_args([*flags]), settings)  # type: ignore[attr-defined]
    return code, *capsys.readouterr()


@pytest.fixture
def world(
    kafka: Kafka,
    clickhouse_with_schema: ClickHouse,
    start: Children,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> World:
    made = World(Pipeline(kafka, clickhouse_with_schema, start, tmp_path), capsys)
    consumer = made.start_consumer()  # over an empty topic nobody has to wait
    for _ in range(3):  # in three batches or more of each partition
        made.produce(_EVENTS // 3)
        made.pipeline.await_landed()
    consumer.child.stop()
    return made


def not_waiting(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Where every consumer has ended by itself and left nothing behind; how often one would."""
    waited: list[bool] = []
    monkeypatch.setattr(Rewind, "wait", lambda _: waited.append(True))
    return waited


def months(world: World) -> list[str]:
    found = rows_of(world.client, "SELECT DISTINCT _partition_id AS m FROM events ORDER BY m")
    return [month for (month,) in found]


def test_one_partition_from_within_a_batch_and_then_all_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert months(world) == ["202610", "202611"]
    world.whole()
    before = world.batches(1)
    assert {epoch for *_, epoch in before} == {0}
    first, end, _ = before[-1]
    assert end - first > 1
    code, out, err = world.rewind("--to", str(first + 1), "--partition", "1", "--yes")
    assert code == 0, err
    assert f"{first + 1} lies inside the batch [{first}, {end})" in out
    assert f"partition 1: from 450, to {first}: 1 batch of [{first}, 450)" in out
    assert "waiting 5 s" in err
    assert world.pipeline.committed() == {0: 450, 1: first}
    assert world.batches(1) == before[:-1]
    world.consume()
    world.whole()
    assert {epoch for *_, epoch in world.batches(0)} == {0}
    assert {(first >= before[-1][0], epoch) for first, _, epoch in world.batches(1)} == {
        (False, 0),
        (True, 1),
    }

    not_waiting(monkeypatch)
    code, out, err = world.rewind("--to", "earliest", "--yes")
    assert code == 0, err
    assert f"removed in all: {_EVENTS} rows" in out
    for table in ("events", "batches", "sessions", "sessions_daily", "pages_daily"):
        assert list(rows_of(world.client, f"SELECT count() FROM {table}")) == [[0]], table
    assert world.pipeline.committed() == {0: 0, 1: 0}
    world.consume()
    world.whole()
    assert {epoch for *_, epoch in world.batches(0)} == {1}
    assert {epoch for *_, epoch in world.batches(1)} == {2}

    code, out, err = world.rewind("--to", "latest", "--yes")
    assert (code, "nothing to do" in out) == (0, True), err


def test_by_time_and_over_what_is_to_be_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = not_waiting(monkeypatch)
    time.sleep(0.01)  # appended in another millisecond
    now_ms = int(time.time() * 1000)
    world.produce(200)
    code, out, err = world.rewind("--to", str(now_ms), "--yes")
    assert (code, out.count("stays at 450")) == (0, 2), err
    world.consume()

    code, out, err = world.rewind("--to", str(now_ms), "--yes")
    assert code == 0, err
    assert "partition 1: from 550, to 450" in out
    assert waited == [True]
    assert world.pipeline.committed() == {0: 450, 1: 450}

    waited.clear()
    code, out, err = world.rewind("--to", "500", "--partition", "0", "--yes")
    assert code == 0, err
    assert "the records of [450, 500) are SKIPPED" in out
    assert waited == [], "nothing is taken out, and nothing is open"
    world.consume()
    topic = world.pipeline.read_topic()
    kept = [line for n in (0, 1) for line in topic.between(n, 0, 450)]
    kept += [*topic.between(0, 500, 550), *topic.between(1, 450, 550)]
    assert against_truth(world.client, Truth(kept)) == []
    code, out, err = world.audit()
    assert code == 0, out + err
    assert "rewind" in out
    assert list(
        rows_of(world.client, "SELECT partition, first, end FROM rewinds WHERE what = 'skipped'")
    ) == [[0, 450, 500]]

    # what was skipped can still be read
    assert world.rewind("--to", "450", "--yes")[0] == 0
    world.consume()
    world.whole()


def test_what_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = world.pipeline.committed()
    code, _, err = world.rewind("--to", "451", "--yes")
    assert code == 1
    assert "451 is not in the log, which has [0, 450)" in err
    code, _, err = world.rewind("--to", "2099-01-01T00:00:00Z", "--yes")
    assert (code, "no record was appended then or later" in err) == (1, True)
    code, _, err = world.rewind("--to", "0", "--partition", "2", "--yes")
    assert code == 1
    assert "no partition 2" in err
    code, _, err = world.rewind("--to", "0", "--yes", PENSTOCK_KAFKA_TOPIC="no-such-topic")
    assert code == 1
    assert "no-such-topic" in err
    away = "http://127.0.0.1:9/penstock"
    code, _, err = world.rewind("--to", "0", "--yes", PENSTOCK_CLICKHOUSE_URL=away)
    assert code == 1
    assert "ClickHouse" in err

    code, _, err = world.rewind("--to", "0")
    assert (code, "say --yes" in err) == (2, True), "nobody to ask"
    for answer, expected in (("n\n", 1), ("", 1)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        code, _, err = world.rewind("--to", "0")
        assert (code, "nothing was changed" in err) == (expected, True)
    assert world.rewind("--to", "0", "--dry-run")[0] == 0
    said = said_before_it_asks(["rewind", "--to", "0"], world.environment())
    assert f"removed in all: {_EVENTS} rows" in said

    consumer = world.start_consumer()
    wait_until(lambda: consumer.shares(1), 30, "it has its partitions")
    code, _, err = world.rewind("--to", "0", "--yes")
    assert code == 1
    assert "has 1 member: stop every consumer" in err
    code, _, err = world.rewind("--to", "0", "--dry-run")
    assert (code, "it would be refused now" in err) == (0, True)
    consumer.child.stop()
    assert world.pipeline.committed() == committed
    world.whole()
    assert list(rows_of(world.client, "SELECT count() FROM rewinds")) == [[0]]


def test_kafka_forgets_the_commits_and_what_was_skipped_is_read_after_all(world: World) -> None:
    world.produce(100)
    code, out, err = world.rewind("--to", "latest", "--yes")
    assert code == 0, err
    assert "if Kafka forgets the group's commits (offsets.retention.minutes)" in out
    group = world.pipeline.group
    world.pipeline.kafka.admin().delete_consumer_groups([group])[group].result()
    world.consume()
    world.whole()


def test_a_broker_that_cannot_tell_who_is_in_the_group(
    mock_kafka: MockKafka,
    clickhouse_with_schema: ClickHouse,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = mock_kafka.create_topic(1)
    produce(mock_kafka.bootstrap_servers, topic, [(0, b"{}")])
    environ = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": mock_kafka.bootstrap_servers,
        "PENSTOCK_KAFKA_TOPIC": topic,
        "PENSTOCK_CLICKHOUSE_URL": clickhouse_with_schema.url,
    }
    before: list[str] = []
    monkeypatch.setattr(Rewind, "wait", lambda _: before.append(capsys.readouterr().err))
    code, _, err = run(rewind, capsys, environ, "rewind", "--to", "earliest", "--yes")
    assert code == 0, err
    assert "does not say who is in the group penstock: make sure that every" in before[0]


class Terminal:
    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._answer


# --- killed ---------------------------------------------------------------------------------------

_KILLED = [
    ("after", "mark", 1),
    ("after", "replace", 1),
    ("after", "delete batches", 1),
    ("before", "open", 1),
]


@pytest.mark.long
def test_killed_at_any_step_a_consumer_puts_it_right(world: World) -> None:
    for when, step, count in _KILLED:
        named = f"killed {when} {step} {count}"
        world.killed(when, step, count, "--to", "earliest", "--yes")
        world.consume()
        topic = world.pipeline.read_topic()
        assert against_truth(world.client, Truth(topic.lines())) == [], named
        assert stamp_problems(world.client, topic) == [], named
        code, out, err = world.audit()
        assert code == 0, f"{named}: {out}{err}"
    assert world.rewind("--to", "earliest", "--yes")[0] == 0
    world.consume()
    world.whole()


def test_killed_before_it_deletes_beside_a_batch_that_landed_in_part(world: World) -> None:
    """Its line in the ledger is missing too. How many rows it announced is not known, and what is
    there must not be taken for all of it: nobody would read the rest again."""
    first, end, _ = world.batches(0)[0]
    stamp = f"_partition = 0 AND _first = {first} AND _end = {end}"
    for damage in (
        f"ALTER TABLE events DELETE WHERE {stamp} AND _partition_id = '202610'",
        f"ALTER TABLE batches DELETE WHERE partition = 0 AND first = {first}",
    ):
        world.client.command(damage, settings={"mutations_sync": 2})
    assert list(rows_of(world.client, f"SELECT count() > 0 FROM events WHERE {stamp}")) == [[1]]
    world.killed("before", "delete events", 1, "--to", "earliest", "--yes")
    listed = "SELECT DISTINCT expected_rows FROM batches WHERE partition = 0 AND first = 0"
    assert list(rows_of(world.client, listed)) == [[0]]
    (row,) = world.client.query(
        f"SELECT * FROM ({load_query('ledger_verdict')}) WHERE partition = 0"
    ).named_results()
    assert row["verdict"] == "unknown"
    world.consume()
    topic = world.pipeline.read_topic()
    assert against_truth(world.client, Truth(topic.lines())) == []
    assert stamp_problems(world.client, topic) == []
    code, out, err = world.audit()
    assert code == 0, out + err


def test_killed_before_it_records_what_it_skipped_and_run_again(world: World) -> None:
    world.produce(100)
    topic = world.pipeline.read_topic()
    world.killed("before", "record", 2, "--to", "latest", "--yes")
    code, out, _ = world.audit()
    assert (code, "2 findings, 2 unexplained" in out) == (1, True), out
    code, out, err = world.rewind("--to", "latest", "--yes")
    assert (code, "nothing to do" in out) == (0, True), err
    assert "was skipped by a rewind that was cut off: it is recorded now" in err
    code, out, err = world.audit()
    assert code == 0, out + err
    kept = [line for n in (0, 1) for line in topic.between(n, 0, 450)]
    assert against_truth(world.client, Truth(kept)) == []


def test_killed_before_its_mark_what_was_skipped_before_stays_so(world: World) -> None:
    world.produce(100)
    assert world.rewind("--to", "latest", "--yes")[0] == 0
    world.killed("before", "mark", 1, "--to", "earliest", "--yes")
    code, out, err = world.audit()
    assert (code, "2 findings, 0 unexplained" in out) == (0, True), out + err
    world.killed("after", "mark", 1, "--to", "earliest", "--yes")
    code, out, _ = world.audit()
    assert (code, "whole" in out) == (0, True), "all of it is being mended"
    world.consume()
    world.whole()


@pytest.mark.long
def test_killed_while_the_server_deletes_and_run_again(world: World) -> None:
    """The server goes on deleting by itself, and a consumer has to wait for it."""
    world.client.command("SYSTEM STOP MERGES events")  # mutations too
    try:
        world.killed("after", "delete events", 1, "--to", "earliest", "--yes")
        consumer = world.start_consumer(ready=False)
        wait_until(
            lambda: any("still deleting" in str(f) for f in consumer.facts()), 30, "it waits"
        )
    finally:
        world.client.command("SYSTEM START MERGES events")
    world.pipeline.await_landed()
    consumer.child.stop()
    topic = world.pipeline.read_topic()
    assert against_truth(world.client, Truth(topic.lines())) == []
    assert stamp_problems(world.client, topic) == []
    code, out, err = world.audit()
    assert code == 0, out + err

    world.killed("before", "open", 1, "--to", "earliest", "--yes")
    code, _, err = world.rewind("--to", "earliest", "--yes")
    assert code == 0, err
    world.consume()
    world.whole()


def test_a_consumer_that_joins_in_the_middle_is_not_disturbed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings = {**_SHORT, "KAFKA_GROUP_PROTOCOL": "consumer"}
    joined: list[Consumer] = []

    def rebuild(*given: Any, **more: Any) -> Any:
        if not joined:
            joined.append(world.start_consumer(ready=False))
            wait_until(lambda: sum(joined[0].phases().values()) == 2, 30, "it has its partitions")
        return really_rebuild(*given, **more)

    monkeypatch.setattr(rewinding, "rebuild", rebuild)
    not_waiting(monkeypatch)
    code, _, err = world.rewind("--to", "earliest", "--yes")
    assert code == 1
    assert "a consumer has joined the group meanwhile" in err
    code, _, err = world.rewind("--to", "earliest", "--yes")
    assert (code, "has 1 member: stop" in err) == (1, True), err
    world.pipeline.await_landed()
    joined[0].child.stop()
    topic = world.pipeline.read_topic()
    assert against_truth(world.client, Truth(topic.lines())) == []
    code, out, err = world.audit()
    assert code == 0, out + err
