"""How long a partition goes without an insert when its owner dies, or is stopped.

Two consumers with default settings share a topic that gets events all the time. One of them, in
turn, gets kill -9 or SIGTERM at some moment; the other takes its partitions over. Measured is from
the signal to the successor's first insert in one of them, and to its first in the last of them.

A group learns of a kill by the session timeout, which runs from the last heartbeat: what counts is
how much is above it.
"""

from __future__ import annotations

import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from confluent_kafka import Producer

from deploy.local.child import Child
from deploy.local.waiting import wait_until
from schemas.settings import load
from tests.bench.events import line
from tests.bench.facts_log import Fact, Log
from tests.bench.parts import Parts

Say = Callable[[str], None]

_PARTITIONS = 4
_PACK = 10
_PACKS_A_SECOND = 100


@dataclass(frozen=True)
class _Member:
    child: Child
    log: Log


@dataclass(frozen=True)
class _Handover:
    """Seconds from the signal."""

    exited: float
    assigned: float
    first: float
    last: float


def measure(parts: Parts, repeats: int, say: Say) -> list[dict[str, object]]:
    """Of a kill and of a clean stop: seconds to the successor's first inserts."""
    session = load("consumer", None, {}).number("SESSION_TIMEOUT_SECONDS")
    return [
        _figures("kill -9", _handovers(parts, repeats, signal.SIGKILL, say), session),
        _figures("SIGTERM", _handovers(parts, repeats, signal.SIGTERM, say), 0),
    ]


def _handovers(parts: Parts, repeats: int, number: signal.Signals, say: Say) -> list[_Handover]:
    parts.fresh_database()
    topic = parts.create_topic(_PARTITIONS)
    seen = []
    parts.create_topic(1, f"{topic}.dead")
    with ExitStack() as stack:
        first = _join(parts, topic, stack)  # the topic is empty: nothing to wait for
        stack.enter_context(_steady(parts.kafka, topic))
        members = [first, _join(parts, topic, stack)]
        for turn in range(repeats):
            owner, successor = members
            taken = _settled(owner, successor)
            time.sleep(random.random() * 3)
            seen.append(_one(owner, successor, taken, number))
            say(f"{number.name} {turn + 1}: {seen[-1]}")
            members = [successor, _join(parts, topic, stack)]
    parts.drop_database()
    return seen


def _join(parts: Parts, topic: str, stack: ExitStack) -> _Member:
    child, _ = stack.enter_context(parts.consumer(topic, PENSTOCK_LOG_LEVEL="debug"))
    return _Member(child, Log(child.log))


def _settled(owner: _Member, successor: _Member) -> set[int]:
    """Wait until both insert what is theirs. The owner's partitions."""
    since = time.time()

    def of(member: _Member) -> set[int]:
        return {f.partition for f in member.log.inserts() if f.at > since}

    wait_until(
        lambda: len(of(owner)) == len(of(successor)) == _PARTITIONS // 2,
        120,
        "both consumers insert",
    )
    return of(owner)


def _one(owner: _Member, successor: _Member, taken: set[int], number: signal.Signals) -> _Handover:
    began = time.time()
    if number is signal.SIGKILL:
        owner.child.kill()
    else:
        owner.child.signal(number)
        owner.child.wait(60)
    exited = time.time()

    def inserts() -> list[Fact]:
        return [f for f in successor.log.inserts() if f.partition in taken and f.at > began]

    wait_until(lambda: {f.partition for f in inserts()} == taken, 90, "all is taken over", 0.02)
    firsts = {f.partition: f.at for f in reversed(inserts())}
    assigned = successor.log.first("partitions assigned", began)
    assert assigned is not None
    return _Handover(
        round(exited - began, 3),
        round(assigned - began, 3),
        round(min(firsts.values()) - began, 3),
        round(max(firsts.values()) - began, 3),
    )


@contextmanager
def _steady(address: str, topic: str) -> Iterator[None]:
    """Events at a steady rate over all partitions, from a thread."""
    done = threading.Event()
    producer = Producer({"bootstrap.servers": address, "linger.ms": 5})

    def write() -> None:
        began, record = time.monotonic(), 0
        while not done.wait(0.01):
            while record < (time.monotonic() - began) * _PACKS_A_SECOND:
                numbers = range(record * _PACK + 1, (record + 1) * _PACK + 1)
                producer.produce(
                    topic, b"\n".join(map(line, numbers)), partition=record % _PARTITIONS
                )
                record += 1
            producer.poll(0)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        producer.flush(10)


def _figures(name: str, seen: list[_Handover], session: float) -> dict[str, object]:
    def middle(pick: Callable[[_Handover], float]) -> float:
        return round(statistics.median(map(pick, seen)), 2)

    return {
        "case": name,
        "repeats": len(seen),
        "partitions_taken_over": _PARTITIONS // 2,
        "session_timeout_seconds": session,
        "exited_seconds": middle(lambda each: each.exited),
        "assigned_seconds": middle(lambda each: each.assigned),
        "first_insert_seconds": middle(lambda each: each.first),
        "first_insert_seconds_worst": round(max(each.first for each in seen), 2),
        "last_partition_seconds_worst": round(max(each.last for each in seen), 2),
        "above_session_timeout_worst": round(max(each.first for each in seen) - session, 2),
        "after_exit_seconds_worst": round(max(each.first - each.exited for each in seen), 2),
    }
