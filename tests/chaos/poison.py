"""What cannot be inserted, in records of its own and among good events.

Every bad case of the table that the unit tests are made of, and an object over several lines. What
ClickHouse takes wherever it stands (a number that wraps, say) is a letter only where its batch is
looked through: behind such a line goes one for which every batch is. Nothing of the table is left
out. A line can hold no line feed, since that ends it. A bad line always has a good one on either
side, and one that is too large is seldom sent.

Beside them go records that hold no line at all: tombstones, empty records and blank lines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice

from consumer.batch import Filling, Records
from tests.chaos.load import Sender
from tests.fixtures.events import Made
from tests.fixtures.lines import BASE, CASES, Case, good
from tests.fixtures.records import line

NOTHING = (None, b"", b"\n", b"\n\n\n")
_MUCH = 1 << 20
_SPREAD = tuple(json.dumps(BASE, indent=1).encode().split(b"\n"))
_LOOKED_THROUGH = CASES["not UTF-8"].line


def _is_quiet(case: Case) -> bool:
    """Whether ClickHouse takes the line wherever it stands, and nothing has its batch looked at."""
    filling = Filling(0)
    filling.add(Records(range(3), [good(), case.line, good()], 3, 0), 0.0)
    return case.rows is not None and not filling.close().suspect


def _pieces() -> Iterator[tuple[bytes, ...]]:
    """The lines that go together between two good ones."""
    yield _SPREAD
    for case in CASES.values():
        if case.reason is not None:
            yield (case.line, _LOOKED_THROUGH) if _is_quiet(case) else (case.line,)


PIECES = tuple(_pieces())
# The reader knows a bad line by its bytes: nobody else sends one of these.
BAD = frozenset(line for piece in PIECES for line in piece)


class Poison(Sender):
    """Produces to the topic; `good` gives the events that stand beside the bad lines."""

    def __init__(self, servers: str, topic: str, partitions: int, events: Sequence[Made]) -> None:
        super().__init__(servers, topic)
        self._partitions = partitions
        self._events: Iterator[Made] = iter(events)
        self._large = [piece for piece in PIECES if sum(map(len, piece)) >= _MUCH]
        self._usual = [piece for piece in PIECES if piece not in self._large]

    def __call__(self, records: int, seed: float) -> None:
        """So many records, each with a bad line between good ones, and now and then one without
        any line. Does not wait."""
        rng = random.Random(seed)
        for _ in range(records):
            lines: list[bytes] = []
            ids = set()
            for made in islice(self._events, rng.choice((2, 2, 12))):
                if lines and rng.random() < 0.5:
                    lines += rng.choice(self._large if rng.random() < 0.02 else self._usual)
                lines.append(line(made))
                ids.add(made.id)
            self.send(b"\n".join(lines), ids, rng.randrange(self._partitions))
            if rng.random() < 0.3:
                self.send(rng.choice(NOTHING), (), rng.randrange(self._partitions))
        self.producer.poll(0)

    @property
    def over(self) -> bool:
        """Whether everything was acknowledged."""
        return self.producer.flush(0) == 0
