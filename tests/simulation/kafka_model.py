"""A Kafka as the protocol needs to see it: logs, commits, and a group that fences by membership.

A commit is applied when it arrives, if its sender is a member then; who *owns* the partition is not
looked at. Requests of one member arrive in their order, but a request whose connection broke is
`stray`: its sender was told that nobody knows, and it may still arrive at any time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.batch import Letter
from consumer.ledger import Open, encode
from consumer.recovery import Commit
from tests.simulation.faults import Profile

TOPIC_IDS = ("topic-id-0", "topic-id-1")


def key(incarnation: int, partition: int) -> int:
    """What records and stamps are told apart by: the topic's incarnation and the partition."""
    return partition + 100 * incarnation


@dataclass(frozen=True)
class Request:
    """A commit on its way."""

    member: int
    partition: int
    offset: int
    metadata: str


class OutOfRange(Exception):
    """There is no such position in the log."""


class Kafka:
    def __init__(self, profile: Profile, rng: random.Random) -> None:
        self._profile = profile
        self._rng = rng
        self.incarnation = 0
        made = [_log(p, profile, rng) for p in range(profile.partitions)]
        self.logs = [log for log, _ in made]
        self.ends = [end for _, end in made]
        self.visible = [0] * profile.partitions  # how much of each log has been produced
        self.lows = [0] * profile.partitions
        self.commits: list[tuple[int | None, str | None]] = [
            # most runs begin on a group that has run before, so that they need not wait first
            (None, None) if rng.random() < 0.15 else (0, encode(0, Open(0, 1, TOPIC_IDS[0], 0)))
            for _ in range(profile.partitions)
        ]
        self.resets = [0] * profile.partitions
        self.members: set[int] = set()
        self.owners: list[int | None] = [None] * profile.partitions
        self.revoking: set[int] = set()  # partitions whose owner was asked to give them up
        self.wires: dict[int, deque[Request]] = {}
        self.stray: list[Request] = []
        self.on_applied: Callable[[Request], None] = lambda _: None
        self.on_recreated: Callable[[], None] = lambda: None
        self.letters: dict[tuple[int, int, int], bool] = {}  # record -> in the table
        self._next_member = 0

    @property
    def topic_id(self) -> str:
        return TOPIC_IDS[self.incarnation]

    def key(self, partition: int) -> int:
        return key(self.incarnation, partition)

    def recreate(self) -> None:
        """The topic is deleted and made again, with other records: the group's commits go with it,
        its members do not notice by themselves."""
        self.incarnation += 1
        numbers = range(self._profile.partitions)
        made = [_log(self.key(p), self._profile, self._rng) for p in numbers]
        self.logs = [log for log, _ in made]
        self.ends = [end for _, end in made]
        self.visible = [self._rng.randint(0, len(log)) for log in self.logs]
        self.lows = [0 for _ in numbers]
        self.commits = [(None, None) for _ in numbers]
        self.resets = [0 for _ in numbers]
        self.on_recreated()

    # --- the group ---------------------------------------------------------------------------

    def join(self) -> int:
        self._next_member += 1
        self.members.add(self._next_member)
        self.wires[self._next_member] = deque()
        return self._next_member

    def remove(self, member: int) -> None:
        """By leaving, or by the session timeout: its partitions are free at once."""
        self.members.discard(member)
        for partition, owner in enumerate(self.owners):
            if owner == member:
                self.free(partition)

    def free(self, partition: int) -> None:
        self.owners[partition] = None
        self.revoking.discard(partition)

    # --- commits -----------------------------------------------------------------------------

    def arrive(self, request: Request) -> bool:
        """Apply a commit, if its sender is a member."""
        if request.member not in self.members:
            return False
        self.commits[request.partition] = (request.offset, request.metadata)
        self.on_applied(request)
        return True

    def read(self, partition: int) -> Commit:
        offset, metadata = self.commits[partition]
        return Commit(offset, metadata, self.lows[partition], self.high(partition))

    def write_letters(self, key: int, letters: Sequence[Letter]) -> None:
        """A repeat is the same letter; one that says that its row is in the table is believed."""
        for letter in letters:
            record = key, letter.offset, letter.line
            self.letters[record] = self.letters.get(record, False) or letter.in_table

    # --- records -----------------------------------------------------------------------------

    def high(self, partition: int) -> int:
        """Behind the last record, and behind what markers follow the very last."""
        shown, log = self.visible[partition], self.logs[partition]
        if shown == len(log):
            return self.ends[partition]
        return 0 if not shown else log[shown - 1][0] + 1

    def trim(self, partition: int, low: int) -> None:
        self.lows[partition] = min(low, self.high(partition))

    def following(self, partition: int, position: int) -> int:
        """The first record at or after `position`, or the log's end where none is visible."""
        shown = self.logs[partition][: self.visible[partition]]
        return next((o for o, _ in shown if o >= position), max(position, self.high(partition)))

    def fetch(
        self, partition: int, position: int, most: int
    ) -> tuple[list[int], list[bytes | None]]:
        """Raises OutOfRange before the log's start and behind its end."""
        if not self.lows[partition] <= position <= self.high(partition):
            raise OutOfRange
        shown = self.logs[partition][: self.visible[partition]]
        found = [(o, v) for o, v in shown if o >= position][:most]
        return [o for o, _ in found], [v for _, v in found]


def line(record: str) -> bytes:
    """One object: others make a batch suspect."""
    return f'{{"at {record}"}}'.encode()


def record_of(text: bytes) -> str:
    return text.decode()[len('{"at ') : -len('"}')]


def _log(
    key: int, profile: Profile, rng: random.Random
) -> tuple[list[tuple[int, bytes | None]], int]:
    """Records with holes, packs of several lines, tombstones, blank lines and bad lines; and the
    log's end, before which there may be a hole too."""
    log: list[tuple[int, bytes | None]] = []
    offset = 0
    for _ in range(profile.records):
        kind = rng.random()
        lines = [
            line(f"{key}/{offset}/{number}/{rng.choice('aab')}/{_fault(profile, rng)}")
            for number in range(rng.choice((1, 1, 1, 2)))
        ]
        text = b"\n".join(lines)
        if kind < 0.06:
            log.append((offset, None))
        elif kind < 0.12:
            log.append((offset, b"\n"))
        elif kind < 0.2:
            log.append((offset, b"\n" + text.replace(b"\n", b"\n\n") + b"\n"))
        else:
            log.append((offset, text))
        offset += 1 if rng.random() < 0.85 else 2
    return log, offset


def _fault(profile: Profile, rng: random.Random) -> str:
    if not profile.bad_lines or rng.random() >= profile.bad_lines:
        return ""
    return rng.choice(("bad", "view"))
