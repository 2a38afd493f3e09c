"""The producer itself: what its errors become, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from producer_shim import produce
from producer_shim.config import Config, from_values
from producer_shim.metrics import Board, ProduceReason
from producer_shim.pack import Pack
from producer_shim.produce import Kafka
from schemas import settings
from tests.fixtures.kafka import PRODUCE, MockKafka


class Waiter:
    def __init__(self) -> None:
        self.answer: asyncio.Future[ProduceReason | None] = asyncio.Future()

    def delivered(self, positions: Sequence[int], failed: ProduceReason | None) -> None:
        self.answer.set_result(failed)


def config(mock_kafka: MockKafka, **more: str) -> Config:
    topic = mock_kafka.create_topic(1)
    given = {
        "KAFKA_BOOTSTRAP_SERVERS": mock_kafka.bootstrap_servers,
        "KAFKA_TOPIC": topic,
        "PROJECTS_FILE": str(Path("projects.toml")),
        **more,
    }
    environ = {f"PENSTOCK_{name}": value for name, value in given.items()}
    return from_values(settings.load("shim", None, environ))


def pack(waiter: Waiter, size: int = 10) -> Pack:
    made = Pack(0)
    made.lines.append(b"x" * size)
    made.waiters.append((waiter, (0,)))
    return made


def with_kafka(
    config: Config, board: Board, test: Callable[[Kafka], Coroutine[Any, Any, None]]
) -> None:
    async def whole() -> None:
        kafka = Kafka(config, board, asyncio.get_running_loop())
        kafka.start()
        try:
            async with asyncio.timeout(20):
                while kafka.refuses():  # noqa: ASYNC110 - the state is another thread's
                    await asyncio.sleep(0.01)
                await test(kafka)
        finally:
            kafka.stop()

    asyncio.run(whole())


async def answer(kafka: Kafka, size: int = 10) -> ProduceReason | None:
    waiter = Waiter()
    kafka.send(pack(waiter, size))
    return await waiter.answer


def test_a_fatal_error_makes_the_producer_anew(mock_kafka: MockKafka) -> None:
    board = Board()

    async def test(kafka: Kafka) -> None:
        assert await answer(kafka) is None
        mock_kafka.fail_next(PRODUCE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        assert await answer(kafka) is not None
        while not board.total("producer_restarts"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await answer(kafka) is None
        assert not kafka.waiting()

    with_kafka(config(mock_kafka), board, test)
    assert board.total("producer_restarts") == 1


def test_a_record_that_kafka_refuses_is_answered(mock_kafka: MockKafka) -> None:
    board = Board()

    async def test(kafka: Kafka) -> None:
        assert await answer(kafka, 2_000_000) == "refused"  # over message.max.bytes
        assert await answer(kafka) is None

    with_kafka(config(mock_kafka), board, test)
    assert board.total("produce_errors", "refused") == 1


def test_a_full_client_queue_is_answered(mock_kafka: MockKafka) -> None:
    board = Board()

    async def test(kafka: Kafka) -> None:
        answers = await asyncio.gather(*(answer(kafka, 900_000) for _ in range(4)))
        assert "queue_full" in answers
        assert None in answers

    more = {"KAFKA__QUEUE_BUFFERING_MAX_KBYTES": "1024", "KAFKA__LINGER_MS": "50"}
    with_kafka(config(mock_kafka, **more), board, test)


def test_a_pack_whose_report_never_comes_is_answered(
    mock_kafka: MockKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produce, "_GRACE_SECONDS", -1.0)

    async def test(kafka: Kafka) -> None:
        waiter = Waiter()
        kafka._callback = lambda *_: lambda *_: None  # type: ignore[method-assign]
        kafka.send(pack(waiter))
        while not waiter.answer.done():
            kafka.sweep()
            await asyncio.sleep(0.01)
        assert waiter.answer.result() == "timed_out"
        assert not kafka.waiting()

    with_kafka(config(mock_kafka, PRODUCE_TIMEOUT_SECONDS="1"), Board(), test)
