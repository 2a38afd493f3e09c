"""What an owner does first: a plan from Kafka's commit, the stamps in the table, and the clocks.

Two ledgers decide. Kafka's commit says what is being written; the stamps in the table say what has
landed. `judge` looks at the commit alone and says how far it can be trusted:

    ours, nothing open           its offset is where reading goes on
    ours, an intent              the one range that may have landed in part
    ours, a mend's mark          the same, and what was inserted depended on what was found
    foreign                      none, not ours, unreadable, moved, or of another topic id: its
                                 offset means nothing, the stamps and the log's start decide

`plan` adds what the table covers. A **young** intent is replayed exactly: the deduplication log
still knows its token, so replaying is harmless whatever landed. *Old* is an intent that may have
left a window by time or by entries, that another version of the rows' rules wrote, or that was
sent to a server which has been restarted since and may have lost part of it (its deduplication log
is written before the part, and can name parts that never appeared). What cannot be replayed is
**mended**: only what is missing is inserted, under a new epoch, and the views are restored.

Missing is decided by interval arithmetic (`_mend`). A batch `[first, end)` covers its offsets in
each ClickHouse partition that has a stamped row of it, because a part lands whole. Between two
boundaries of batches all offsets are covered alike; such a segment is read again, and those of its
rows whose ClickHouse partition is not covered are missing.

Before a foreign commit, an old intent or a mark is planned, every older insert must be over: the
**wait**. An empty log over an empty table has no older inserts, so a new topic starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from consumer.ledger import ROWS_VERSION, Intent, Mark, Note, Open, decode


@dataclass(frozen=True, slots=True)
class Commit:
    """Kafka's commit and the log's ends as an owner reads them. `offset` is None where none is."""

    offset: int | None
    metadata: str | None
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Covered:
    """A batch that landed, whole or in part.

    `stamped`: the ClickHouse partitions that have a row of it (not looked for in the rows unless
    the coverage was read `whole`). `listed`: those that the ledger has a line for, of `listed_rows`
    rows in all. `expected_rows`, `version`, `announced_ms`: of its token, how many rows it
    announced, by which version of the rows' rules and when; None where the ledger lacks it.
    """

    first: int
    end: int
    epoch: int
    stamped: frozenset[str]
    listed: frozenset[str]
    landed_ms: int
    listed_rows: int = 0
    expected_rows: int | None = None
    version: int | None = None
    announced_ms: int | None = None

    @property
    def complete(self) -> bool:
        """The ledger has all that was announced, and the table a row for each line of it."""
        return self.listed_rows == self.expected_rows and self.listed <= self.stamped


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

    note: Note | None
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
    """Replay `replays` in their order, then go on reading at `offset` under `epoch`.

    `lost`: offsets that left the log before they were read; nobody can bring them back."""

    offset: int
    epoch: int
    replays: tuple[Replay, ...] = ()
    lost: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Offsets that are to be read again. `landed`: the ClickHouse partitions that have them.
    `touched`: something of them was tried before, so that views may have it, or lack it."""

    first: int
    end: int
    landed: frozenset[str]
    touched: bool


@dataclass(frozen=True, slots=True)
class Mend:
    """Insert what is missing of `segments` under `epoch`, then restore the views of what `[first,
    end)` touched, and go on at `end`.

    `rebuild`: ClickHouse partitions that have something of it. `by_ids`: another version of the
    rows' rules may have brought what landed, into other ClickHouse partitions: the ids decide."""

    first: int
    end: int
    epoch: int
    segments: tuple[Segment, ...]
    rebuild: frozenset[str]
    by_ids: bool
    why: str
    lost: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Every older insert must be over first; then read the table and plan again."""

    why: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The partition stops, if the log is still shorter than `reached` when it is asked again: the
    table is read after the log's end, and may be ahead of it. `why` is for the person who has to
    look."""

    why: str
    reached: int


Plan = Begin | Mend | Wait | Halt


def judge(commit: Commit, topic_id: str) -> Judgement:
    """How far Kafka's commit can be trusted."""
    note = None if commit.offset is None else decode(commit.offset, commit.metadata)
    if note is None or note.topic_id != topic_id or commit.offset is None:
        return Judgement(None, commit.low)
    return Judgement(note, commit.offset)


def plan(
    judgement: Judgement,
    commit: Commit,
    coverage: Coverage,
    now_ms: int,
    *,
    waited: bool,
    doubt: str = "",
) -> Plan:
    """The plan. `waited`: since this assignment began, every older insert has had time to end.
    `doubt`: why what is open cannot be settled by its token, learnt in trying."""
    known_end = max(
        [judgement.start, _end(judgement.note), *(c.end for c in coverage.batches)],
    )
    if known_end > commit.high:
        return Halt(
            f"the log ends at {commit.high}, before {known_end}, which was reached once: it was "
            "cut (an unclean leader election?). See what its records are, then rewind the "
            "partition to where reading should go on",
            known_end,
        )
    match judgement.note:
        case Open() as note:
            why = doubt
            if coverage.batches:
                named = _named(coverage.batches)
                why = why or f"commit at {judgement.start} says nothing is open, but {named} landed"
        case Intent() as note:
            why = doubt or _why_not_replayed(note, commit, coverage, now_ms)
            if not why:
                return Begin(note.end, note.epoch, (_replay(note),))
        case Mark() as note:
            why = f"a mend of [{note.first}, {note.end}) was begun"
        case _:
            return _after_foreign(commit, coverage, now_ms, waited=waited, doubt=doubt)
    if not why:
        lost = (judgement.start, commit.low) if commit.low > judgement.start else None
        return Begin(max(judgement.start, commit.low), note.epoch, lost=lost)
    if not waited:
        return Wait(why)
    end = max(known_end, commit.low)
    return _mend(judgement.start, end, note, commit.low, coverage, why)


def _end(note: Note | None) -> int:
    return note.end if isinstance(note, Intent | Mark) else 0


def _replay(note: Intent) -> Replay:
    return Replay(note.first, note.end, note.epoch, note.time_ms, note.count, note.digest)


def _why_not_replayed(intent: Intent, commit: Commit, coverage: Coverage, now_ms: int) -> str:
    """Why an intent must be mended; empty where it is replayed."""
    named = f"intent [{intent.first}, {intent.end})"
    own = (intent.first, intent.end, intent.epoch)
    clash = [c for c in coverage.batches if (c.first, c.end, c.epoch) != own]
    if clash:
        return f"{named} clashes with {_named(clash)} in the table"
    if intent.version != ROWS_VERSION:
        return f"{named} was made by version {intent.version} of the rows' rules"
    if commit.low > intent.first:
        return f"{named} begins before the log's start {commit.low}: its records are gone"
    old = coverage.old(intent.time_ms, now_ms)
    return f"{named} is too old to be replayed: {old}" if old else ""


def _after_foreign(
    commit: Commit, coverage: Coverage, now_ms: int, *, waited: bool, doubt: str
) -> Plan:
    """Over young batches that follow one another from the log's start on, each is replayed, for the
    views' sake; over anything else all of it is mended."""
    landed = [c for c in coverage.batches if c.end > commit.low]
    if not waited and (commit.low < commit.high or landed):
        return Wait("the commit is not ours, and an older insert could still be running")
    replays: list[Replay] = []
    position, epoch, why = commit.low, 0, doubt
    for c in landed:
        since_ms = c.announced_ms
        if c.first != position:
            why = why or f"{_named([c])} does not follow {position}"
        elif since_ms is None or c.version != ROWS_VERSION:
            why = why or f"the token of {_named([c])} is not known, or of other rules"
        else:
            old = coverage.old(since_ms, now_ms)
            why = why or (f"{_named([c])} is too old to be replayed: {old}" if old else "")
        replays.append(Replay(c.first, c.end, c.epoch, since_ms or 0, c.expected_rows))
        position, epoch = max(position, c.end), max(epoch, c.epoch)
    if not why or not landed:
        return Begin(position, epoch, tuple(replays))
    why = f"the commit is not ours, and {why}"
    return _mend(commit.low, position, None, commit.low, coverage, why)


def _mend(first: int, end: int, note: Note | None, low: int, coverage: Coverage, why: str) -> Mend:
    segments: list[Segment] = []
    rebuild: set[str] = set()
    lost = None
    versions = {c.version for c in coverage.batches}
    if note is not None:
        versions.add(note.version)
    for a, z, covers in _intervals(first, end, coverage.batches):
        for c in covers:
            rebuild |= c.stamped
            rebuild |= c.listed
        if len(covers) == 1 and covers[0].complete:
            continue
        if a < low:
            lost = (a if lost is None else lost[0], min(z, low))
        if z > low:
            landed = frozenset[str]().union(*(c.stamped for c in covers))
            touched = bool(covers) or not coverage.restart_keeps_log
            segments.append(Segment(max(a, low), z, landed, touched))
    epochs = [c.epoch for c in coverage.batches]
    if note is not None:
        epochs.append(note.epoch)
    return Mend(
        first=first,
        end=end,
        epoch=max(epochs, default=0) + 1,
        segments=tuple(segments),
        rebuild=frozenset(rebuild),
        by_ids=bool(versions - {ROWS_VERSION}),
        why=why,
        lost=lost,
    )


def _intervals(
    first: int, end: int, batches: Sequence[Covered]
) -> Iterator[tuple[int, int, list[Covered]]]:
    """`[first, end)` cut at every boundary of a batch, each with the batches that cover it."""
    cuts = {first, end}
    for c in batches:
        cuts.update(offset for offset in (c.first, c.end) if first < offset < end)
    ordered = sorted(cuts)
    coming = sorted(batches, key=lambda c: c.first, reverse=True)
    covering: list[Covered] = []
    for a, z in pairwise(ordered):
        covering = [c for c in covering if c.end > a]
        while coming and coming[-1].first <= a:
            c = coming.pop()
            if c.end > a:
                covering.append(c)
        yield a, z, list(covering)


def _named(batches: Sequence[Covered]) -> str:
    shown = ", ".join(f"[{c.first}, {c.end}) epoch {c.epoch}" for c in batches[:3])
    return shown + (f" and {len(batches) - 3} more" if len(batches) > 3 else "")
