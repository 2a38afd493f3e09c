"""Kafka's side: packs out, delivery reports back to the event loop.

Two threads besides the loop's:

    poll     serves librdkafka's callbacks; the reports of one poll go to the loop in one call
    watch    asks for the topic's metadata: each second until all is well, then now and then

`state` says whether posts can be taken: None, or why not. It is written by the watch thread and
read by the loop. A broker that goes away is noticed by librdkafka, which wakes the watch thread;
until it has looked, events are taken and wait.

The producer is idempotent and waits for all in-sync replicas. A record's time is bounded by
PRODUCE_TIMEOUT_SECONDS in librdkafka; should its report never come, the pack is answered anyway a
little later. A fatal error makes the producer anew: what was in flight is answered as not
acknowledged, and the client's resend under the same id makes it one event again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from random import randrange
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.callbacks import give_up, serving_callbacks
from schemas.logs import Sparing, fact

from .backlog import Backlog
from .config import Config
from .metrics import Board, ProduceReason
from .pack import Pack

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
_RETRY_SECONDS: Final = 1.0
_METADATA_SECONDS: Final = 15.0
_METADATA_TIMEOUT_SECONDS: Final = 3.0
_GRACE_SECONDS: Final = 3.0
_PURGED: Final = (KafkaError._PURGE_INFLIGHT, KafkaError._PURGE_QUEUE)

Report = tuple[Pack, "ProduceReason | None", int]


def properties(config: Config) -> dict[str, Any]:
    """The producer's configuration."""
    return {
        # Packs are full already; single events gain from waiting a little for one another.
        "linger.ms": 0 if config.pack_milliseconds else 3,
        "queue.buffering.max.messages": max(100_000, config.queue_events * 2),
        **config.kafka,
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": "penstock-shim",
        "acks": "all",
        "enable.idempotence": True,
        "delivery.timeout.ms": int(config.produce_timeout_seconds * 1000),
    }


def problems(config: Config) -> list[str]:
    """What librdkafka says against the properties that were passed through."""
    try:
        Producer(properties(config), logger=_librdkafka_log)
    except KafkaException as error:
        return [f"PENSTOCK_KAFKA__*: {error.args[0].str()}"]
    return []


class Kafka:
    """The producer, and what is known about its topic."""

    def __init__(self, config: Config, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self.state: ProduceReason | None = "starting"
        self.problem = "Kafka has not been asked yet"
        self._config = config
        self._board = board
        self._loop = loop
        self._queue: deque[Report] = deque()
        self._handing_over = False
        self._outstanding: dict[Pack, None] = {}
        self._partitions = 0
        self._turn = [randrange(1 << 16) for _ in range(config.lanes)]  # noqa: S311 - to spread
        self._seconds = board.histogram("produce_duration_seconds")
        self._pack_events = board.histogram("pack_events")
        self._stopping = threading.Event()
        self._look = threading.Event()
        self._fatal = False
        self._producer = self._made()
        self.backlog = Backlog(config) if config.backlog_bytes else None
        self._threads = [
            threading.Thread(target=self._poll, name="poll", daemon=True),
            threading.Thread(target=self._watch, name="watch", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    # --- the loop's side

    def send(self, pack: Pack) -> None:
        """Produce a pack to the next partition of its lane. Its answer comes later, always."""
        pack.sent = time.monotonic()
        self._outstanding[pack] = None
        self._pack_events.observe(len(pack.lines))
        run = self._partitions // self._config.lanes
        if not run:
            self._fail(pack, self.state or "starting")
            return
        turn = self._turn[pack.lane] = self._turn[pack.lane] + 1
        pack.partition = pack.lane * run + turn % run
        lines = pack.lines
        value = lines[0] if len(lines) == 1 else b"\n".join(lines)
        pack.lines = []
        try:
            self._producer.produce(
                self._config.topic,
                value,
                partition=pack.partition,
                on_delivery=self._callback(pack, len(value)),
            )
        except BufferError:
            self._fail(pack, "queue_full")
        except KafkaException as error:
            self._look.set()
            self._fail(pack, self._reason(error.args[0]))

    def refuses(self) -> ProduceReason | None:
        """Why posts cannot be taken now, or None."""
        if self.state is None and self.backlog is not None and self.backlog.full():
            return "backlog"
        return self.state

    def waiting(self) -> bool:
        return bool(self._outstanding)

    def sweep(self) -> None:
        """Answer packs whose report is long overdue: nobody waits for ever."""
        oldest = time.monotonic() - self._config.produce_timeout_seconds - _GRACE_SECONDS
        overdue = [pack for pack in self._outstanding if pack.sent < oldest]
        for pack in overdue:
            self._answer(pack, "timed_out")

    def _fail(self, pack: Pack, reason: ProduceReason) -> None:
        self._loop.call_soon(self._answer, pack, reason)

    def _answer(self, pack: Pack, failed: ProduceReason | None) -> None:
        if pack.answered:
            return
        self._outstanding.pop(pack, None)
        if failed is None:
            self._seconds.observe(time.monotonic() - pack.sent)
        else:
            self._board.count("produce_errors", failed)
        pack.answer(failed)

    def _hand_over(self) -> None:
        self._handing_over = False
        queue = self._queue
        while queue:
            pack, failed, _ = queue.popleft()
            try:
                self._answer(pack, failed)
            except Exception:
                _log.exception("an acknowledged pack could not be answered")

    # --- the poll thread's side

    def _callback(self, pack: Pack, size: int) -> Callable[[KafkaError | None, Any], None]:
        reports, backlog = self._queue, self.backlog

        def report(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                reports.append((pack, self._reason(error), size))
                return
            if backlog is not None:
                backlog.produced(message.partition(), message.offset(), size)
            reports.append((pack, None, size))

        return report

    def _poll(self) -> None:
        while not self._stopping.is_set():
            try:
                with serving_callbacks():
                    self._producer.poll(_POLL_SECONDS)
            except KafkaException as error:
                self._error(error.args[0])
            if self._fatal:
                self._renew()
            if self._queue and not self._handing_over:
                self._handing_over = True
                self._loop.call_soon_threadsafe(self._hand_over)

    def _renew(self) -> None:
        self._fatal = False
        self._board.count("producer_restarts")
        fact(_log, logging.ERROR, "producer made anew after a fatal error")
        old, self._producer = self._producer, self._made()
        give_up(old)

    def _made(self) -> Producer:
        return Producer(
            {**properties(self._config), "error_cb": self._error}, logger=_librdkafka_log
        )

    def _error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
        self._look.set()
        _log.debug("librdkafka: %s", error)

    def _reason(self, error: KafkaError) -> ProduceReason:
        code = error.code()
        if error.fatal() or code == KafkaError._FATAL:
            self._fatal = True
            return "fatal"
        if code in _PURGED:
            return "fatal"
        if code in (KafkaError._MSG_TIMED_OUT, KafkaError.REQUEST_TIMED_OUT):
            return "timed_out"
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return "topic_missing"
        return "refused"

    # --- the watch thread's side

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._look.clear()
            self._inspect()
            wait = _RETRY_SECONDS if self.state else _METADATA_SECONDS
            self._look.wait(wait)
            # An error storm wakes this thread for each error; one look a moment is enough.
            self._stopping.wait(_POLL_SECONDS)

    def _inspect(self) -> None:
        topic, lanes = self._config.topic, self._config.lanes
        try:
            found = self._producer.list_topics(topic, timeout=_METADATA_TIMEOUT_SECONDS)
        except KafkaException as error:
            self._become("unreachable", f"no answer from Kafka: {error.args[0].str()}")
            return
        metadata = found.topics.get(topic)
        if metadata is None or metadata.error is not None or not metadata.partitions:
            self._become("topic_missing", f"the topic {topic!r} does not exist")
            return
        partitions = len(metadata.partitions)
        if partitions % lanes:
            self._become(
                "lanes",
                f"LANES {lanes} must divide the {partitions} partitions of {topic!r}",
            )
            return
        self._partitions = partitions
        self._become(None, "")

    def _become(self, state: ProduceReason | None, problem: str) -> None:
        if self._stopping.is_set():
            return
        before, self.state, self.problem = self.state, state, problem
        if state != before:
            level = logging.INFO if state is None else logging.WARNING
            text = "Kafka is ready" if state is None else "posts are refused"
            fact(_log, level, text, reason=state, problem=problem, partitions=self._partitions)

    def stop(self) -> None:
        """End the threads; what is still in flight is forgotten."""
        self._stopping.set()
        self._look.set()
        if self.backlog is not None:
            self.backlog.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_METADATA_TIMEOUT_SECONDS + 1)
        give_up(self._producer)


_librdkafka_log = logging.getLogger("librdkafka")
_librdkafka_log.addFilter(Sparing())
