"""Asks for the topic's id in a thread of its own: for each batch, and on a timer.

A topic that was deleted and made again has the same name, and may have grown past the old position
already: nothing else tells its records from those of the topic before. What was asked for while a
call was under way is answered by the next one, so that an answer is never older than its question;
and any number of questions cost one call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from consumer.commands import TopicRead
from consumer.partition import Partition
from consumer.ports import LogError

_PAUSE_SECONDS = 0.2


class TopicWatch:
    """`read` gives the topic's id or raises LogError; `answer` takes what was asked for."""

    def __init__(
        self,
        read: Callable[[], str],
        answer: Callable[[Partition, TopicRead], None],
        every_seconds: float = 5.0,
    ) -> None:
        self._read = read
        self._answer = answer
        self._every_seconds = every_seconds
        self._asked: list[tuple[Partition, str]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._seen = ""
        threading.Thread(target=self._run, name="topic", daemon=True).start()

    @property
    def seen(self) -> str:
        """The id that was heard last, empty while none was."""
        return self._seen

    def begin(self) -> None:
        """A membership begins: what was asked and heard before it means nothing."""
        with self._wake:
            self._asked.clear()
            self._seen = ""

    def ask(self, partition: Partition, asked: str) -> None:
        with self._wake:
            self._asked.append((partition, asked))
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._asked and not self._closed:
                    self._wake.wait(self._every_seconds)
                if self._closed:
                    return
                asked = list(self._asked)
            try:
                topic_id = self._read()
            except LogError:
                with self._wake:
                    self._wake.wait(_PAUSE_SECONDS)
                continue
            with self._wake:
                self._seen = topic_id
                self._asked = [question for question in self._asked if question not in asked]
            for partition, metadata in asked:
                self._answer(partition, TopicRead(topic_id, metadata))
