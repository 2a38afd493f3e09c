"""The dead-letter topic on a real Kafka: writing letters, and what a person does with them."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from consumer import letter_topic, letters
from consumer.batch import Letter
from consumer.config import ConsumerSettings, consumer_settings
from consumer.dead_letters import KafkaDeadLetters
from consumer.ledger import Source
from deploy.local.child import Child
from deploy.local.mock_broker import mock_broker
from deploy.local.waiting import free_port, wait_until
from schemas.settings import load
from tests.fixtures.asking import said_before_it_asks
from tests.fixtures.children import Children
from tests.fixtures.kafka import INIT_PRODUCER_ID, PRODUCE, Kafka, MockKafka

_TOPIC_ID = "the-topic-id"


def settings_of(address: str, topic: str, seconds: float = 10) -> ConsumerSettings:
    values = load(
        "consumer",
        None,
        {
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": address,
            "PENSTOCK_KAFKA_TOPIC": topic,
            "PENSTOCK_COMMIT_TIMEOUT_SECONDS": str(seconds),
        },
    )
    return consumer_settings(values)


@dataclass(frozen=True)
class Found:
    partition: int
    offset: int
    value: bytes | None
    headers: Mapping[str, str]


def records(kafka: Kafka, topic: str, isolation: str = "read_committed") -> list[Found]:
    """Everything in a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "reader",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        }
    )
    partitions = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in partitions])
    found = []
    deadline = time.monotonic() + 60
    while partitions:
        assert time.monotonic() < deadline
        message = consumer.poll(1)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            partitions.discard(message.partition() or 0)
            continue
        headers = {
            name: value.decode() if isinstance(value, bytes) else str(value)
            for name, value in dict(message.headers() or ()).items()
        }
        found.append(
            Found(message.partition() or 0, message.offset() or 0, message.value(), headers)
        )
    consumer.close()
    return found


class Post:
    """A topic with its dead letters: what the consumer writes, and the commands of a person."""

    def __init__(self, kafka: Kafka, dead: Mapping[str, str] | None = None) -> None:
        self.kafka = kafka
        self.topic = kafka.create_topic(4)
        self.dead = kafka.create_topic(2, f"{self.topic}.dead", **(dead or {}))
        self.settings = settings_of(kafka.bootstrap_servers, self.topic)
        self.letters = KafkaDeadLetters(self.settings)

    def source(self, partition: int = 3, topic_id: str = _TOPIC_ID) -> Source:
        return Source("cluster", self.topic, topic_id, partition)

    def write(self, *made: Letter, partition: int = 3, topic_id: str = _TOPIC_ID) -> None:
        assert self.letters.write(self.source(partition, topic_id), made) is None

    def run(self, *arguments: str) -> int:
        return run(self.settings, *arguments)

    def events(self) -> list[tuple[int, bytes | None]]:
        return [(each.partition, each.value) for each in records(self.kafka, self.topic)]

    def markers(self) -> list[Found]:
        return [each for each in records(self.kafka, self.dead) if each.value is None]


def run(settings: ConsumerSettings, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    letters.add_parser(parser.add_subparsers(dest="command"))
    return letters.run(parser.parse_args(["dead-letters", *arguments]), settings)


@pytest.fixture
def post(kafka: Kafka) -> Post:
    return Post(kafka)


def letter(offset: int, line: int = 0, **more: object) -> Letter:
    fields = {
        "value": b'{"n": %d}' % offset,
        "reason": "malformed_json",
        "error": "no JSON",
        **more,
    }
    return Letter(offset=offset, line=line, **fields)  # type: ignore[arg-type]


def listed(post: Post, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert post.run("list", "--json", *more) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- writing -------------------------------------------------------------------------------------


def test_a_letter_is_its_line_and_where_it_stood(post: Post) -> None:
    before = int(time.time() * 1000)
    post.write(
        Letter(17, 2, b"\xff{", "invalid_utf8", "at byte 0 \ud800 é"),
        Letter(18, 0, b"{}", "refused", "x" * 5000, in_table=True),
    )
    first, second = records(post.kafka, post.dead)
    assert first.partition == second.partition == 3 % 2
    assert first.value == b"\xff{"
    assert before <= int(first.headers["penstock.at"]) <= int(time.time() * 1000)
    assert {name: value for name, value in first.headers.items() if name != "penstock.at"} == {
        "penstock.topic": post.topic,
        "penstock.topic_id": _TOPIC_ID,
        "penstock.partition": "3",
        "penstock.offset": "17",
        "penstock.line": "2",
        "penstock.reason": "invalid_utf8",
        "penstock.error": "at byte 0 \\ud800 é",
    }
    assert second.headers["penstock.in_table"] == "1"
    assert second.headers["penstock.error"] == "x" * 1000


def test_nothing_to_write_needs_no_kafka() -> None:
    nobody = KafkaDeadLetters(settings_of("127.0.0.1:1", "events"))
    assert nobody.write(Source("c", "events", "t", 0), []) is None
    nobody.close()


def test_a_missing_topic_is_said_not_made_and_found_once_it_is_there(kafka: Kafka) -> None:
    topic = kafka.create_topic(1)
    dead = KafkaDeadLetters(settings_of(kafka.bootstrap_servers, topic, seconds=2))
    source = Source("cluster", topic, _TOPIC_ID, 0)
    why = dead.write(source, [letter(1)])
    assert why is not None
    assert f"topic {topic}.dead does not exist: create it" in why
    assert f"{topic}.dead" not in kafka.admin().list_topics(timeout=10).topics
    kafka.create_topic(1, f"{topic}.dead")
    assert dead.write(source, [letter(1)]) is None
    # ...and deleted again under a producer that knew it
    kafka.delete_topic(f"{topic}.dead")
    why = dead.write(source, [letter(2)])
    assert why is not None
    kafka.create_topic(1, f"{topic}.dead")
    wait_until(lambda: dead.write(source, [letter(2)]) is None, 60, "the topic is found again")
    dead.close()
    dead.close()


def test_a_letter_too_large_for_the_topic_is_said_with_what_to_do(kafka: Kafka) -> None:
    post = Post(kafka, {"max_message_bytes": "2000"})
    why = post.letters.write(post.source(), [letter(1, value=b"x" * 5000)])
    assert why is not None
    assert "refuses a letter of 5000 bytes as too large: set its max.message.bytes to" in why
    post.write(letter(2))
    assert [each.value for each in records(post.kafka, post.dead)] == [b'{"n": 2}']


def test_a_letter_larger_than_clients_send_by_default(kafka: Kafka) -> None:
    post = Post(kafka, {"max_message_bytes": "20000000"})
    post.write(letter(1, value=b"x" * 5_000_000), letter(2))
    assert [len(each.value or b"") for each in records(post.kafka, post.dead)] == [5_000_000, 8]


def test_a_broker_that_is_away_is_said_within_the_deadline() -> None:
    dead = KafkaDeadLetters(settings_of(f"127.0.0.1:{free_port()}", "events", seconds=1))
    began = time.monotonic()
    why = dead.write(Source("c", "events", "t", 0), [letter(1)])
    assert time.monotonic() - began < 4
    assert why is not None
    dead.close()


def test_a_broker_that_dies_under_a_producer_is_said_within_the_deadline() -> None:
    with mock_broker() as broker:
        broker.create_topic("events.dead", 1)
        dead = KafkaDeadLetters(settings_of(broker.address, "events", seconds=2))
        assert dead.write(Source("c", "events", "t", 0), [letter(1)]) is None
    began = time.monotonic()
    why = dead.write(Source("c", "events", "t", 0), [letter(2)])
    assert time.monotonic() - began < 6
    assert why is not None
    assert "did not acknowledge the letters for events.dead within 2 s" in why
    dead.close()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (INIT_PRODUCER_ID, KafkaError.CLUSTER_AUTHORIZATION_FAILED),
        (PRODUCE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER),
    ],
)
def test_a_fatal_error_ends_a_producer_and_not_the_writing(
    mock_kafka: MockKafka, request_: int, code: int
) -> None:
    """After it the producer takes nothing more: the batch would wait for ever."""
    topic = mock_kafka.create_topic(1)
    mock_kafka.create_topic(1, f"{topic}.dead")
    dead = KafkaDeadLetters(settings_of(mock_kafka.bootstrap_servers, topic, seconds=5))
    source = Source("c", topic, "t", 0)
    if request_ == PRODUCE:
        assert dead.write(source, [letter(0)]) is None
    mock_kafka.fail_next(request_, code)
    # It may be heard of in the answer for a letter first, and of the producer only after that.
    answers = [dead.write(source, [letter(1)]) for _ in range(3)]
    assert answers[0] is not None
    assert answers[2] is None
    dead.close()


def test_several_threads_write_at_once(post: Post) -> None:
    answers = []

    def write(partition: int) -> None:
        made = [letter(offset) for offset in range(200)]
        answers.append(post.letters.write(post.source(partition), made))

    threads = [threading.Thread(target=write, args=(partition,)) for partition in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [None] * 4
    written = Counter(
        (each.headers["penstock.partition"], each.headers["penstock.offset"])
        for each in records(post.kafka, post.dead)
    )
    assert len(written) == 800
    assert set(written.values()) == {1}


# --- list ----------------------------------------------------------------------------------------


def test_a_letter_written_twice_is_one_letter(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        post.write(letter(1), letter(1, line=1), letter(2))
    post.write(letter(1), partition=2)
    post.write(letter(1), topic_id="a-topic-that-was-made-again")
    found = listed(post, capsys)
    assert Counter((each["offset"], each["line"], each["copies"]) for each in found) == {
        (1, 0, 2): 1, (1, 1, 2): 1, (2, 0, 2): 1, (1, 0, 1): 2,
    }  # fmt: skip
    assert post.run("replay", "--yes") == 0
    assert len(post.events()) == 5
    assert listed(post, capsys) == []


def test_list_shows_letters_safely(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    post.write(
        letter(1, error="bad \x1b[2J \u202e text \n end", value=b"\xff\x1b[2J"),
        letter(2, reason="out_of_range", value='{"é": "\x1b"}'.encode(), in_table=True),
    )
    assert post.run("list") == 0
    out = capsys.readouterr().out
    assert out.isprintable() or set(out) - {"\n"} == {each for each in out if each.isprintable()}, (
        "nothing moves the cursor"
    )
    assert "\\x1b[2J \\u202e text \\n end" in out
    assert "in table" in out
    assert out.splitlines()[-1] == "2 letters of 2"
    first, second = listed(post, capsys)
    assert first["value_base64"] == "/xtbMko="
    assert second["value"] == '{"é": "\x1b"}'
    assert second["in_table"] is True
    assert first["topic_id"] == _TOPIC_ID


def test_filters(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    post.write(letter(1), letter(2, reason="out_of_range"))
    post.write(letter(3, reason="empty"), partition=1)

    def offsets(*arguments: str) -> list[object]:
        return [each["offset"] for each in listed(post, capsys, *arguments)]

    assert sorted(map(str, offsets())) == ["1", "2", "3"]
    assert offsets("--reason", "out_of_range") == [2]
    assert offsets("--reason", "out_of_range", "--reason", "empty") == [2, 3]
    assert offsets("--partition", "1") == [3]
    assert offsets("--partition", "3", "--reason", "empty") == []
    assert offsets("--since", "2999-01-01T00:00:00Z") == []
    assert offsets("--since", "1h", "--limit", "1") == [1]


def test_records_of_others_are_counted_and_left(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.fixtures.records import produce

    produce(post.kafka.bootstrap_servers, post.dead, [(0, b"hello"), (1, None)])
    post.write(letter(1))
    assert post.run("list") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "1 letter of 1; 2 records in the topic are no letters of ours"
    assert post.run("drop", "--all", "--yes") == 0


def test_a_missing_topic_is_said(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(kafka.bootstrap_servers, kafka.create_topic(1))
    assert run(settings, "list") == 1
    assert "does not exist: create it" in capsys.readouterr().err


# --- replay and drop -----------------------------------------------------------------------------


def test_replay_puts_the_bytes_back_where_they_were_once(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    post.write(letter(1, value=b"\xff \x00"), letter(2))
    post.write(letter(3), partition=0)
    assert post.run("replay", "--yes") == 0
    out = capsys.readouterr().out
    assert f"3 letters will be put back on {post.topic}, partitions 0, 3: malformed_json 3" in out
    assert out.splitlines()[-1] == "3 letters replayed"
    assert sorted(post.events()) == [(0, b'{"n": 3}'), (3, b'{"n": 2}'), (3, b"\xff \x00")]
    assert post.run("replay", "--yes") == 0
    assert "nothing to replay" in capsys.readouterr().out
    assert len(post.events()) == 3
    settled = listed(post, capsys, "--all")
    assert {each["state"] for each in settled} == {"replayed"}
    topic_id = post.kafka.topic_id(post.topic)
    assert [each["replayed_to"] for each in settled if each["offset"] == 3] == [
        {"topic_id": topic_id, "partition": 0, "offset": 0}
    ]


def test_a_letter_whose_fix_did_not_help_comes_back_counted(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    topic_id = post.kafka.topic_id(post.topic)
    post.write(letter(100), topic_id=topic_id)
    for returned in range(3):
        [open_letter] = listed(post, capsys)
        assert open_letter["returns"] == returned
        assert post.run("replay", "--yes") == 0
        # the consumer meets it again where the replay put it
        last = max(each.offset for each in records(post.kafka, post.topic))
        post.write(letter(last), topic_id=topic_id)
        assert len(post.events()) == returned + 1, "nothing replays by itself"
    assert post.run("list") == 0
    assert "1 letter of 4; 1 came back after a replay" in capsys.readouterr().out


def test_what_is_in_the_table_is_not_replayed(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    post.write(letter(1, in_table=True), letter(2), letter(3))
    post.write(letter(3, in_table=True))  # found out when it was written again
    assert post.run("replay", "--yes") == 0
    assert "2 letters in the table already, and not in every view" in capsys.readouterr().out
    assert post.events() == [(3, b'{"n": 2}')]
    assert sorted(str(each["offset"]) for each in listed(post, capsys)) == ["1", "3"]
    assert post.run("drop", "--all", "--yes") == 0
    assert listed(post, capsys) == []


def test_replay_asks_and_a_dry_run_only_tells(
    post: Post, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    post.write(letter(1))
    assert post.run("replay", "--dry-run") == 0
    assert "1 letter will be put back" in capsys.readouterr().out
    for answer in ("n\n", "\n", ""):
        read, write = os.pipe()
        os.write(write, answer.encode())
        os.close(write)
        with os.fdopen(read) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert post.run("replay") == 1
        assert "nothing was done" in capsys.readouterr().err
    asking = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": post.kafka.bootstrap_servers,
        "PENSTOCK_KAFKA_TOPIC": post.topic,
    }
    said = said_before_it_asks(["dead-letters", "replay"], asking)
    assert "1 letter will be put back" in said
    assert post.events() == []
    assert post.markers() == []
    read, write = os.pipe()
    os.write(write, b"y\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert post.run("replay") == 0
    assert len(post.events()) == 1


def test_drop_settles_what_the_filter_names(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    post.write(letter(1), letter(2, reason="out_of_range"))
    assert post.run("drop", "--yes") == 2
    assert "drop needs" in capsys.readouterr().err
    assert post.run("drop", "--reason", "out_of_range", "--yes") == 0
    assert [each["offset"] for each in listed(post, capsys)] == [1]
    assert post.run("replay", "--yes") == 0
    assert post.events() == [(3, b'{"n": 1}')]
    [marker] = [each for each in post.markers() if each.headers["penstock.settled"] == "dropped"]
    assert marker.headers["penstock.offset"] == "2"
    assert marker.partition == 1, "where its letter stands"


def test_what_the_topic_refuses_stays_and_the_others_go(
    kafka: Kafka, capsys: pytest.CaptureFixture[str]
) -> None:
    post = Post(kafka)
    small = kafka.create_topic(2, max_message_bytes="1000")
    kafka.create_topic(1, f"{small}.dead")
    settings = settings_of(kafka.bootstrap_servers, small)
    dead = KafkaDeadLetters(settings)
    large = letter(2, value=random.Random(1).randbytes(3000))
    assert dead.write(Source("c", small, "t", 0), [letter(1), large, letter(3)]) is None
    assert dead.write(Source("c", small, "t", 7), [letter(4)]) is None
    assert run(settings, "replay", "--yes") == 1
    said = capsys.readouterr()
    assert "partition 0, offset 2, line 0 stays" in said.err
    assert f"partition 7, offset 4, line 0 stays: {small} has no partition 7" in said.err
    assert said.out.splitlines()[-1] == "2 letters replayed"
    assert [each.value for each in records(post.kafka, small)] == [b'{"n": 1}', b'{"n": 3}']


def test_letters_are_read_again_by_their_place_a_page_at_a_time(
    post: Post, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "AT_ONCE", 2)
    monkeypatch.setattr(letter_topic, "_SKIPPED", 3)
    wanted = (0, 1, 2, 9, 10, 39)
    for partition in (2, 3):
        post.write(
            *(letter(n, reason="empty" if n in wanted else "refused") for n in range(40)),
            partition=partition,
        )
    found = listed(post, capsys, "--reason", "empty")
    assert sorted((str(each["value"]), each["partition"]) for each in found) == sorted(
        (f'{{"n": {n}}}', partition) for n in wanted for partition in (2, 3)
    )
    assert post.run("replay", "--reason", "empty", "--yes") == 0
    assert sorted(post.events()) == sorted(
        (partition, b'{"n": %d}' % n) for n in wanted for partition in (2, 3)
    )
    assert len(post.markers()) == 2 * len(wanted)


def test_what_changes_between_the_question_and_the_answer(
    post: Post, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter leaves its topic, one is found in the table, one is dropped, and one comes."""

    def agreed(_: str) -> bool:
        start = TopicPartition(post.dead, 1, 1)
        post.kafka.admin().delete_records([start])[start].result(30)
        post.write(letter(2, in_table=True), letter(5))
        assert post.run("drop", "--reason", "empty", "--yes") == 0
        return True

    post.write(letter(1), letter(2), letter(3, reason="empty"), letter(4))
    monkeypatch.setattr(letters, "_agreed", agreed)
    assert post.run("replay") == 1
    said = capsys.readouterr()
    assert "4 letters will be put back" in said.out
    assert "1 letter settled by another run meanwhile" in said.out
    assert "1 letter in the table already" in said.out
    assert said.out.splitlines()[-1] == "1 letter replayed"
    assert "offset 1, line 0 stays: it is not in the topic of the dead letters any more" in said.err
    assert post.events() == [(3, b'{"n": 4}')]
    assert sorted(str(each["offset"]) for each in listed(post, capsys)) == ["2", "5"]


# --- runs that are killed, and runs beside each other --------------------------------------------

# The command as a process of its own. CUT: where it kills itself, having been there AFTER times.
_DRIVER = """
import argparse, os, signal, sys
from consumer import letters, settling
from consumer.config import consumer_settings
from schemas.settings import load

cut, left = os.environ.get("CUT", ""), int(os.environ.get("AFTER", "1"))

def may_die(at):
    global left
    if at == cut:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Producer(settling.Producer):
    def produce(self, topic, value, **given):
        if value is None:  # the first marker: every event has its position
            may_die("events are there")
        super().produce(topic, value, **given)
    def commit_transaction(self, *given):
        super().flush(15)
        may_die("markers are there")
        super().commit_transaction(*given)
        may_die("committed")

settling.Producer = Producer
letters.AT_ONCE = int(os.environ.get("AT_ONCE", "500"))
parser = argparse.ArgumentParser()
letters.add_parser(parser.add_subparsers(dest="command"))
flags = parser.parse_args(["dead-letters", *sys.argv[1:]])
sys.exit(letters.run(flags, consumer_settings(load("consumer", flags, os.environ))))
"""


def replay(post: Post, start: Children, name: str, **environment: str) -> Child:
    command = [sys.executable, "-c", _DRIVER, "replay", "--yes"]
    return start(
        name,
        command,
        {
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": post.kafka.bootstrap_servers,
            "PENSTOCK_KAFKA_TOPIC": post.topic,
            **environment,
        },
    )


def many(post: Post, count: int) -> None:
    for partition in range(4):
        post.write(
            *(letter(n, value=b"%d" % n) for n in range(partition, count, 4)), partition=partition
        )


def exactly_once(post: Post, count: int) -> None:
    values = Counter(value for _, value in post.events())
    assert values == Counter(b"%d" % n for n in range(count))


@pytest.mark.parametrize(
    ("cut", "after"), [("events are there", 20), ("markers are there", 1), ("committed", 1)]
)
def test_a_replay_that_is_killed_at_each_cut(
    post: Post, start: Children, cut: str, after: int
) -> None:
    many(post, 60)
    killed = replay(post, start, "killed", CUT=cut, AFTER=str(after), AT_ONCE="20")
    assert killed.wait(60) == -9
    told = len(records(post.kafka, post.topic, "read_uncommitted"))
    assert told == 40, "two transactions' events are in the log, whether they count or not"
    assert replay(post, start, "whole", AT_ONCE="20").wait(60) == 0
    exactly_once(post, 60)
    assert len(post.markers()) == 60


def test_replays_that_are_killed_at_random_moments(post: Post, start: Children) -> None:
    count, seed = 600, random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    many(post, count)
    grown = GrownTo(post)
    for turn in range(2):
        child = replay(post, start, f"turn-{turn}", AT_ONCE="10")
        more = grown.now() + rng.randrange(count // 2)
        wait_until(
            lambda child=child, more=more: not child.alive or grown.now() >= more,  # type: ignore[misc]
            60,
            "it has come so far",
            pause_seconds=0.002,
        )
        child.kill()
    grown.close()
    assert replay(post, start, "whole").wait(120) == 0
    exactly_once(post, count)


class GrownTo:
    """How far a topic has grown, control records and all."""

    def __init__(self, post: Post) -> None:
        self._topic = post.topic
        self._reader = Consumer(
            {"bootstrap.servers": post.kafka.bootstrap_servers, "group.id": "reader"}
        )

    def now(self) -> int:
        ends = (
            self._reader.get_watermark_offsets(TopicPartition(self._topic, each), timeout=10)
            for each in range(4)
        )
        return sum(high for _, high in ends)

    def close(self) -> None:
        self._reader.close()


def test_two_replays_at_once(post: Post, start: Children) -> None:
    many(post, 400)
    both = [replay(post, start, f"one-of-two-{n}", AT_ONCE="10") for n in range(2)]
    ended = sorted(child.wait(120) for child in both)
    assert ended in ([0, 0], [0, 1]), [child.tail() for child in both]
    if ended == [0, 1]:
        told = "".join(child.tail() for child in both)
        assert "another replay or drop has taken over" in told
    exactly_once(post, 400)
    assert len(post.markers()) == 400
