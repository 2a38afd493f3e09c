"""Questions for the topic's id: an answer is never older than its question."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from consumer.commands import TopicRead
from consumer.flight import Now
from consumer.partition import Partition
from consumer.ports import LogError
from consumer.topic_watch import TopicWatch
from tests.unit.consumer.owner import LIMITS, SOURCE

WAIT_SECONDS = 10.0


class Topic:
    """A topic whose id is told call by call, and what was answered to whom."""

    def __init__(self) -> None:
        self.calls: queue.Queue[None] = queue.Queue()
        self.tells: queue.Queue[str | LogError] = queue.Queue()
        self.answers: queue.Queue[tuple[Partition, TopicRead]] = queue.Queue()

    def read(self) -> str:
        self.calls.put(None)
        told = self.tells.get(timeout=WAIT_SECONDS)
        if isinstance(told, LogError):
            raise told
        return told

    def answer(self, partition: Partition, read: TopicRead) -> None:
        self.answers.put((partition, read))

    def called(self) -> None:
        self.calls.get(timeout=WAIT_SECONDS)

    def is_asked_and_tells(self, told: str | LogError) -> None:
        self.called()
        self.tells.put(told)

    def answered(self) -> tuple[Partition, TopicRead]:
        return self.answers.get(timeout=WAIT_SECONDS)

    @contextmanager
    def watched(self, every_seconds: float) -> Iterator[TopicWatch]:
        watch = TopicWatch(self.read, self.answer, every_seconds)
        try:
            yield watch
        finally:
            watch.close()
            self.tells.put("the last")  # for a call that is under way


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def watch(topic: Topic) -> Iterator[TopicWatch]:
    """One that does not ask by itself."""
    with topic.watched(every_seconds=3600) as watch:
        yield watch


def partition() -> Partition:
    return Partition(SOURCE, LIMITS, Now(0.0, 0))


def test_a_question_is_answered_with_the_id_and_what_was_asked(
    topic: Topic, watch: TopicWatch
) -> None:
    watch.ask(one := partition(), "asked")
    topic.called()
    assert watch.seen == ""
    topic.tells.put("topic-1")
    assert topic.answered() == (one, TopicRead("topic-1", "asked"))
    assert watch.seen == "topic-1"


def test_what_is_asked_during_a_call_is_answered_by_the_next(
    topic: Topic, watch: TopicWatch
) -> None:
    """The call may have looked before the question was asked, and the topic be another since."""
    watch.ask(one := partition(), "first")
    topic.called()
    watch.ask(two := partition(), "second")
    topic.tells.put("topic-1")
    assert topic.answered() == (one, TopicRead("topic-1", "first"))
    topic.is_asked_and_tells("topic-2")
    assert topic.answered() == (two, TopicRead("topic-2", "second"))


def test_any_number_of_questions_cost_one_call(topic: Topic, watch: TopicWatch) -> None:
    watch.ask(partition(), "first")
    topic.called()
    for number in range(50):
        watch.ask(partition(), str(number))
    topic.tells.put("topic-1")
    topic.answered()
    topic.is_asked_and_tells("topic-1")
    found = [topic.answered() for _ in range(50)]
    assert [read.asked for _, read in found] == [str(number) for number in range(50)]
    assert topic.calls.empty()


def test_a_call_that_fails_is_made_again_and_its_questions_wait(
    topic: Topic, watch: TopicWatch
) -> None:
    watch.ask(one := partition(), "asked")
    topic.is_asked_and_tells(LogError("away"))
    topic.called()
    assert topic.answers.empty()
    topic.tells.put("topic-1")
    assert topic.answered() == (one, TopicRead("topic-1", "asked"))


def test_without_a_question_it_asks_on_a_timer(topic: Topic) -> None:
    """A partition that is idle would not find out that its topic is gone."""
    with topic.watched(every_seconds=0.01) as watch:
        topic.is_asked_and_tells("topic-1")
        topic.called()  # so the first was told
        assert watch.seen == "topic-1"
        assert topic.answers.empty()


def test_a_new_membership_forgets_what_was_asked_and_heard(topic: Topic, watch: TopicWatch) -> None:
    watch.ask(one := partition(), "before")
    topic.is_asked_and_tells("topic-1")
    topic.answered()
    watch.ask(one, "before the membership")
    topic.called()
    watch.begin()
    assert watch.seen == ""
    topic.tells.put(LogError("away"))
    watch.ask(one, "of the new membership")
    topic.is_asked_and_tells("topic-2")
    assert topic.answered() == (one, TopicRead("topic-2", "of the new membership"))
    assert watch.seen == "topic-2"
