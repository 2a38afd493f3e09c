"""What an owner does first: a plan from Kafka's commit, the stamps in the table, and the clocks.

Two ledgers decide. Kafka's commit says what is being written; the stamps in the table say what has
landed. `judge` looks at the commit alone and says how far it can be trusted:

    ours, nothing open           its offset is where reading goes on
    ours, an intent              the one range that may have landed in part
    foreign                      none, not ours, unreadable, moved, or of another topic id: its
                                 offset means nothing, the stamps and the log's start decide

`plan` adds what the table covers. A **young** intent is replayed exactly: the deduplication log
still knows its token, so replaying is harmless whatever landed. *Old* is an intent that may have
left a window by time or by entries, that another version of the rows' rules wrote, or that was
sent to a server which has been restarted since and may have lost part of it (its deduplication log
is written before the part, and can name parts that never appeared).

Before a foreign commit or an old intent is planned, every older insert must be over: the **wait**.
An empty log over an empty table has no older inserts, so a new topic starts at once.

What this version does not do is reconcile: insert what is missing under a new epoch and build the
views' partitions again. Where that is needed the plan is `Halt`: the partition stops, untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consumer.ledger import ROWS_VERSION, Intent, Open, decode


@dataclass(frozen=True, slots=True)
class Commit:
    """Kafka's commit and the log's ends as an owner reads them. `offset` is None where none is."""

    offset: int | None
    metadata: str | None
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Covered:
    """Stamped rows: a batch that landed, whole or in part, in the table's partitions named.

    `expected_rows`: how many rows its insert had, None where the ledger lacks it."""

    first: int
    end: int
    epoch: int
    clickhouse_partitions: frozenset[str]
    landed_ms: int
    expected_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the table says of one Kafka partition. Times are epoch milliseconds of our own clock.

    `batches`: everything stamped with an end past the offset asked for, in order of `first`.
    `entries_since`: ledger rows of *all* partitions landed since the intent (or the oldest of
    `batches`) was announced. `window_entries`, `window_seconds`: the smallest deduplication window
    of table and views' targets (None: no limit by time). `restart_keeps_log`: the table is
    replicated, or the server mends its log before it starts.
    """

    batches: tuple[Covered, ...]
    entries_since: int
    window_entries: int
    window_seconds: float | None
    server_started_ms: int
    restart_keeps_log: bool

    def old(self, since_ms: int, now_ms: int) -> str | None:
        """Why an attempt of `since_ms` can no longer be replayed under its token, or None."""
        if self.entries_since > self.window_entries // 2:
            return f"{self.entries_since} inserts since, window of {self.window_entries}"
        age_seconds = (now_ms - since_ms) / 1000
        if self.window_seconds is not None and age_seconds > self.window_seconds / 2:
            return f"{age_seconds:.0f} s old, window of {self.window_seconds:.0f} s"
        if not self.restart_keeps_log and self.server_started_ms >= since_ms:
            return "the server was restarted since, and its deduplication log can lie"
        return None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The commit alone. `start`: the offset from which records are needed first."""

    note: Open | Intent | None
    start: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Insert `[first, end)` again under its token. `count` and `digest` where they are known."""

    first: int
    end: int
    epoch: int
    time_ms: int
    count: int | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Replay `replays` in their order, then go on reading at `offset` under `epoch`."""

    offset: int
    epoch: int
    replays: tuple[Replay, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Every older insert must be over first; then read the table and plan again."""

    why: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The partition stops. `why` is for the person who has to look."""

    why: str


Plan = Begin | Wait | Halt


def judge(commit: Commit, topic_id: str) -> Judgement:
    """How far Kafka's commit can be trusted."""
    note = None if commit.offset is None else decode(commit.offset, commit.metadata)
    if note is None or note.topic_id != topic_id or commit.offset is None:
        return Judgement(None, commit.low)
    return Judgement(note, commit.offset)


def plan(
    judgement: Judgement, commit: Commit, coverage: Coverage, now_ms: int, *, waited: bool
) -> Plan:
    """The plan. `waited`: since this assignment began, every older insert has had time to end."""
    match judgement.note:
        case Open() as note:
            return _after_open(note, judgement.start, commit, coverage)
        case Intent() as note:
            return _after_intent(note, commit, coverage, now_ms, waited=waited)
        case _:
            return _after_foreign(commit, coverage, now_ms, waited=waited)


def _after_open(note: Open, start: int, commit: Commit, coverage: Coverage) -> Plan:
    if commit.low > start:
        return Halt(
            f"commit at {start} lies before the log's start {commit.low}: the records between are "
            "gone. Reset the group's offsets, while it has no members, to go on without them"
        )
    if coverage.batches:
        return Halt(
            f"commit at {start} says that nothing is open, but {_named(coverage.batches)} landed "
            "past it: the range needs to be reconciled"
        )
    return Begin(start, note.epoch)


def _after_intent(
    intent: Intent, commit: Commit, coverage: Coverage, now_ms: int, *, waited: bool
) -> Plan:
    named = f"intent [{intent.first}, {intent.end})"
    own = (intent.first, intent.end, intent.epoch)
    clash = [c for c in coverage.batches if (c.first, c.end, c.epoch) != own]
    why: str | None
    if clash:
        why = f"{named} clashes with {_named(clash)} in the table"
    elif intent.version != ROWS_VERSION:
        why = f"{named} was made by version {intent.version} of the rows' rules, not {ROWS_VERSION}"
    elif commit.low > intent.first:
        why = f"{named} begins before the log's start {commit.low}: its records are gone"
    else:
        why = coverage.old(intent.time_ms, now_ms)
        why = why and f"{named} is too old to be replayed: {why}"
    if why is None:
        replay = Replay(
            intent.first, intent.end, intent.epoch, intent.time_ms, intent.count, intent.digest
        )
        return Begin(intent.end, intent.epoch, (replay,))
    if not waited:
        return Wait(why)
    return Halt(f"{why}: the range needs to be reconciled")


def _after_foreign(commit: Commit, coverage: Coverage, now_ms: int, *, waited: bool) -> Plan:
    landed = [c for c in coverage.batches if c.end > commit.low]
    if not waited and (commit.low < commit.high or landed):
        return Wait("the commit is not ours, and an older insert could still be running")
    replays: list[Replay] = []
    position, epoch = commit.low, 0
    for c in landed:
        why = (
            f"{_named([c])} does not follow {position}"
            if c.first != position
            else f"it lies past the log's end {commit.high}"
            if c.end > commit.high
            else coverage.old(c.landed_ms, now_ms)
        )
        if why:
            return Halt(f"the commit is not ours, and of what landed {_named([c])}: {why}: "
                        "the range needs to be reconciled")  # fmt: skip
        replays.append(Replay(c.first, c.end, c.epoch, c.landed_ms, c.expected_rows))
        position, epoch = c.end, max(epoch, c.epoch)
    return Begin(position, epoch, tuple(replays))


def _named(batches: Sequence[Covered]) -> str:
    shown = ", ".join(f"[{c.first}, {c.end}) epoch {c.epoch}" for c in batches[:3])
    return shown + (f" and {len(batches) - 3} more" if len(batches) > 3 else "")
