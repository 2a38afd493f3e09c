"""Nothing is acknowledged that Kafka has not: away, slow, full, or wrongly set up."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition

from deploy.local.child import Child
from deploy.local.mock_broker import mock_broker
from deploy.local.waiting import free_port
from tests.fixtures.children import Children
from tests.fixtures.kafka import Kafka, MockKafka
from tests.integration.shim.running import (
    NOBODY,
    Reply,
    Shim,
    event,
    records,
    stored,
    until,
)

StartShim = Callable[..., Shim]


def refused(reply: Reply, reason: str, ids: list[str]) -> None:
    """The contract's 503."""
    assert reply.status == 503
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert int(reply.headers["Retry-After"]) > 0
    answer = reply.json
    assert answer["reason"] == reason
    assert [r["id"] for r in answer["results"] if r["status"] == "retry"] == ids


def test_kafka_away_at_the_start(start_shim: StartShim) -> None:
    shim = start_shim(bootstrap_servers=NOBODY, topic="events", wait=False)
    until(lambda: shim.admin("/readyz").json.get("reason") == "unreachable", "it says so")
    assert shim.admin("/readyz").status == 503
    assert shim.admin("/livez").status == 200
    good, bad = event(), event(duration=-1)
    reply = shim.post([good, bad])
    refused(reply, "unreachable", [good["id"]])
    assert [r["status"] for r in reply.json["results"]] == ["retry", "drop"]
    assert (reply.json["accepted"], reply.json["rejected"]) == (0, 1)
    assert shim.post(bad).status == 400
    assert shim.post(good, query="dry_run=1").status == 200
    pixel = shim.get("/v1/pixel.gif?key=demo-public&session_id=s&name=n")
    assert (pixel.status, "image" in pixel.headers["Content-Type"]) == (503, False)
    assert shim.metric("penstock_events_total", outcome="unacknowledged") == 2
    assert shim.metric("penstock_produce_errors_total", reason="unreachable") == 2


def test_kafka_that_comes_later_is_found(start_shim: StartShim) -> None:
    port = free_port()
    shim = start_shim(bootstrap_servers=f"127.0.0.1:{port}", topic="events", wait=False)
    assert shim.post(event()).status == 503
    with mock_broker(port, {"events": 4}):
        until(shim.ready, "the shim is ready")
        assert shim.post(event()).status == 202


def broker_command(port: int) -> list[str]:
    return [sys.executable, "-m", "deploy.local.mock_broker", "--port", str(port)]


def test_kafka_that_goes_away_and_comes_back(start: Children, start_shim: StartShim) -> None:
    port = free_port()
    broker: Child = start("broker", broker_command(port))
    shim = start_shim(
        bootstrap_servers=f"127.0.0.1:{port}", topic="events", PRODUCE_TIMEOUT_SECONDS="2"
    )
    assert shim.post(event()).status == 202
    broker.kill()
    lost = event()
    began = time.monotonic()
    reply = shim.post(lost)
    assert reply.status == 503
    assert time.monotonic() - began < 8
    assert [r["id"] for r in reply.json["results"]] == [lost["id"]]
    until(lambda: not shim.ready(), "the shim is not ready")
    broker.start()
    until(shim.ready, "the shim is ready again")
    until(lambda: shim.post(lost).status == 202, "the resend is taken")
    assert lost["id"] in stored(shim, [lost["id"]])
    assert shim.metric("penstock_produce_queue_events") == 0


def test_a_stopped_broker_is_answered_for_in_time(start: Children, start_shim: StartShim) -> None:
    port = free_port()
    broker: Child = start("broker", broker_command(port))
    shim = start_shim(
        bootstrap_servers=f"127.0.0.1:{port}",
        topic="events",
        PRODUCE_TIMEOUT_SECONDS="2",
        QUEUE_EVENTS="500",
    )
    assert shim.post(event()).status == 202
    broker.signal(19)  # SIGSTOP: connections stay, nothing answers
    try:
        first = [event() for _ in range(500)]
        replies: list[Reply] = []
        waiting = threading.Thread(target=lambda: replies.append(shim.post(first, "demo-secret")))
        waiting.start()
        until(lambda: shim.metric("penstock_produce_queue_events") == 500, "the queue is full")
        over = event()
        refused(shim.post(over), "queue_full", [over["id"]])
        waiting.join(15)
        refused(replies[0], "timed_out", [e["id"] for e in first])
    finally:
        broker.signal(18)
    until(lambda: shim.post(event()).status == 202, "events are taken again")


def test_a_missing_topic_is_named(kafka: Kafka, start_shim: StartShim) -> None:
    shim = start_shim(bootstrap_servers=kafka.bootstrap_servers, topic="nowhere", wait=False)
    until(lambda: shim.admin("/readyz").json.get("reason") == "topic_missing", "it says so")
    assert "KAFKA_TOPIC" in shim.admin("/readyz").json["detail"]
    assert shim.post(event()).json["reason"] == "topic_missing"


def test_lanes_that_do_not_divide_the_partitions(start_shim: StartShim) -> None:
    shim = start_shim(partitions=4, wait=False, LANES="3")
    until(lambda: shim.admin("/readyz").json.get("reason") == "lanes", "it says so")
    assert shim.post(event()).json["reason"] == "lanes"


def test_the_backlog_is_bounded(start_shim: StartShim, mock_kafka: MockKafka) -> None:
    topic = mock_kafka.create_topic(1)
    shim = start_shim(topic=topic, BACKLOG_BYTES="100000", KAFKA_GROUP="readers")
    big = event(properties={f"p{n}": "x" * 1000 for n in range(30)})
    taken = 0
    while (reply := shim.post(big, "demo-secret")).status == 202:
        taken += 1
        assert taken < 20, "100 000 bytes hold no 20 events of 30 000"
    assert taken >= 3
    refused(reply, "backlog", [big["id"]])
    assert shim.admin("/readyz").json["reason"] == "backlog"
    consumer = Consumer(
        {
            "bootstrap.servers": mock_kafka.bootstrap_servers,
            "group.id": "readers",
            "log_level": 0,
        }
    )
    try:
        answered = consumer.commit(offsets=[TopicPartition(topic, 0, taken)], asynchronous=False)
        assert answered is not None
        assert answered[0].error is None
    finally:
        consumer.close()
    until(shim.ready, "committed bytes are no backlog")
    assert shim.post(big, "demo-secret").status == 202


def test_events_of_a_post_share_a_record(start_shim: StartShim) -> None:
    shim = start_shim(partitions=4)
    sent = [event() for _ in range(100)]
    assert shim.post(sent).status == 202
    found = records(shim.bootstrap_servers, shim.topic)
    assert [[line["id"] for line in record.lines] for record in found] == [
        [one["id"] for one in sent]
    ]


def test_posts_that_come_together_share_a_record(start_shim: StartShim) -> None:
    shim = start_shim(partitions=4, PACK_MILLISECONDS="200")
    threads = [threading.Thread(target=shim.post, args=(event(),)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [len(r.lines) for r in records(shim.bootstrap_servers, shim.topic)] == [10]


def test_without_packing_each_event_is_a_record(start_shim: StartShim) -> None:
    shim = start_shim(partitions=4, PACK_MILLISECONDS="0")
    sent = [event() for _ in range(40)]
    assert shim.post(sent).json == {"accepted": 40}
    found = records(shim.bootstrap_servers, shim.topic)
    assert [len(r.lines) for r in found] == [1] * 40
    assert sorted(r.partition for r in found) == sorted([0, 1, 2, 3] * 10)


def test_a_pack_is_bounded(start_shim: StartShim) -> None:
    shim = start_shim(partitions=4, PACK_BYTES="4096")
    sent = [event(path="/" + "x" * 300) for _ in range(100)]
    large = event(properties={f"p{n}": "x" * 1000 for n in range(30)})  # larger than a pack
    assert shim.post([*sent[:50], large, *sent[50:]], "demo-secret").json == {"accepted": 101}
    found = records(shim.bootstrap_servers, shim.topic)
    assert sum(len(r.lines) for r in found) == 101
    for record in found:
        assert len(record.value) <= 4096 or [large["id"]] == [line["id"] for line in record.lines]


def test_packs_go_round_the_partitions(start_shim: StartShim) -> None:
    shim = start_shim(partitions=4)
    for _ in range(12):
        assert shim.post(event()).status == 202
    found = records(shim.bootstrap_servers, shim.topic)
    assert sorted(r.partition for r in found) == sorted([0, 1, 2, 3] * 3)


# murmur2 as the test of Kafka's own Java client states it: -973932308, -790332482, -985981536.
KNOWN_LANES = {"21": {0}, "foobar": {0}, "a-little-bit-long-string": {2}}


def test_a_session_stays_in_its_lane(start_shim: StartShim) -> None:
    shim = start_shim(partitions=6, LANES="3")
    names = [*KNOWN_LANES, *(f"s-{n}" for n in range(20))]
    sent = [event(session_id=name) for name in names * 8]
    assert shim.post(sent).status == 202
    for one in sent[:40]:
        assert shim.post(json.dumps(one)).status == 202
    lanes: dict[str, set[int]] = {}
    used = set()
    for record in records(shim.bootstrap_servers, shim.topic):
        used.add(record.partition)
        for line in record.lines:
            lanes.setdefault(line["session_id"], set()).add(record.partition // 2)
    assert all(len(lane) == 1 for lane in lanes.values())
    assert used == set(range(6))
    assert {name: lanes[name] for name in KNOWN_LANES} == KNOWN_LANES
