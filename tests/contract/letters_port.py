"""What a contract test of the dead letters needs: the port, and what it does behind its back.

A `LetterServer` is a dead-letter topic as the consumer meets it: the real one behind the consumer's
own adapter, or the simulation's model behind the simulation's own consumer. What is there is what a
reader of letters sees, who counts one identity as one letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from consumer.batch import Letter
from consumer.ledger import Source

LARGE = b'"' + b"x" * 4000 + b'"'


class There(NamedTuple):
    """A letter that is there. `topic`: 0 for the first of its name, 1 for the one made again."""

    topic: int
    partition: int
    offset: int
    line: int
    in_table: bool = False


class LetterServer(Protocol):
    def source(self, partition: int = 0, topic: int = 0) -> Source: ...

    def write(self, source: Source, letters: Sequence[Letter]) -> str | None:
        """None when all are acknowledged, or why not."""

    def there(self) -> list[There]:
        """Each letter once, where it first stood."""

    def missing(self) -> AbstractContextManager[None]:
        """Meanwhile there is no topic for them."""

    def refusing_large(self) -> AbstractContextManager[None]:
        """Meanwhile `LARGE` is too large for the topic."""


def letter(offset: int, line: int = 0, *, in_table: bool = False, value: bytes = b"{") -> Letter:
    return Letter(offset, line, value, "malformed_json", "no JSON", in_table)
