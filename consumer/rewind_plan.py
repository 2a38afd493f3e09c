"""What a rewind does to each Kafka partition: from its commit, the table and the target, a step.

The target becomes a **boundary**: a batch is removed whole, since a row bears its batch's stamp and
no offset of its own, and so is what is open in the commit. So a target inside one moves back to its
beginning. Where that beginning has left the log, the batch could not be ingested again as a whole:
an offset that was asked for is refused then, a time or the earliest offset moves on to its end.

    target <= commit    every batch from the target on is removed, and read again
    target > commit     [commit, target) is skipped

What is open, or landed past the commit, has to be settled before it can be skipped: whether it is
whole cannot be seen from here. A commit that is not ours means nothing, so all that landed is past
it. Pure: no clock, no server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.ledger import Intent, Mark, Open
from consumer.recovery import Commit, Covered, judge


class Refused(Exception):
    """It is not done, for the reason that the message gives, and nothing has been changed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a partition should go. `exact`: this very offset was asked for."""

    offset: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to one partition.

    `commit`: where Kafka's commit is, None: there is none that is ours. `target`: where reading
    goes on. `removed`: the batches in [target, end), which are taken out. `skipped`: a range that
    is passed over. `epoch`: what is read again lands under it. `moved`: why the target is not the
    offset that was asked for. `gone`: rows of batches past the log's end. `quiet`: no insert can be
    under way that matters, so there is nothing to wait for.
    """

    partition: int
    commit: int | None
    target: int
    end: int
    epoch: int
    removed: tuple[Covered, ...] = ()
    skipped: tuple[int, int] | None = None
    lost: tuple[int, int] | None = None
    moved: str = ""
    gone: int = 0
    quiet: bool = False
    idle: bool = False

    @property
    def rows(self) -> int:
        """That the ledger lists of what is removed."""
        return sum(batch.listed_rows for batch in self.removed)

    @property
    def months(self) -> frozenset[str]:
        """ClickHouse partitions that have something of what is removed."""
        return frozenset[str]().union(*(b.stamped | b.listed for b in self.removed))


def decide(
    partition: int,
    commit: Commit,
    topic_id: str,
    wanted: Wanted,
    read: Callable[[int], Sequence[Covered]],
) -> Step:
    """The step. `read`: all batches that the table has with an end past an offset. Raises Refused,
    and what `read` raises."""
    offset = max(0, min(judge(commit, topic_id).start, wanted.offset))
    while True:
        step = _decide(partition, commit, topic_id, read(offset), wanted)
        if step.target >= offset:
            return step
        offset = step.target  # what ends between the two may lie across the boundary as well


def _decide(
    partition: int, commit: Commit, topic_id: str, batches: Sequence[Covered], wanted: Wanted
) -> Step:
    named = f"partition {partition}"
    if not commit.low <= wanted.offset <= commit.high:
        raise Refused(
            f"{named}: {wanted.offset} is not in the log, which has [{commit.low}, {commit.high}): "
            "choose an offset from its start to its end"
        )
    judgement = judge(commit, topic_id)
    note, start = judgement.note, judgement.start
    spans = [(batch.first, batch.end) for batch in batches]
    opened = (note.first, note.end) if isinstance(note, Intent | Mark) else None
    if opened is not None:
        spans.append(opened)
    target, moved = _boundary(named, wanted, commit, spans)
    removed = tuple(batch for batch in batches if batch.end > target)
    skipped = None
    if target > start:
        _refuse_unsettled(named, start, target, opened, batches)
        first = max(start, commit.low)
        skipped = (first, target) if first < target else None
    ends = [target, *(batch.end for batch in removed)]
    if opened is not None:
        ends.append(opened[1])
    epochs = [0, *(batch.epoch for batch in batches)]
    if note is not None:
        epochs.append(note.epoch)
    untouched = isinstance(note, Open) and not removed
    return Step(
        partition=partition,
        commit=None if note is None else start,
        target=target,
        end=max(ends),
        epoch=max(epochs) + 1,
        removed=removed,
        skipped=skipped,
        lost=(start, commit.low) if start < commit.low else None,
        moved=moved,
        gone=sum(batch.listed_rows for batch in removed if batch.end > commit.high),
        # over an empty log and table nobody has inserted yet
        quiet=untouched or (note is None and commit.low == commit.high and not batches),
        idle=untouched and target == start,
    )


def _boundary(
    named: str, wanted: Wanted, commit: Commit, spans: Sequence[tuple[int, int]]
) -> tuple[int, str]:
    """The boundary to go to, and why it is not what was asked for."""
    target, whole = wanted.offset, (0, 0)
    while inside := [span for span in spans if span[0] < target < span[1]]:
        whole = min(inside)
        target = whole[0]
    if target >= commit.low:
        if target == wanted.offset:
            return target, ""
        return target, (
            f"{wanted.offset} lies inside the batch [{whole[0]}, {whole[1]}), "
            f"which is removed whole: from {target} on"
        )
    target = wanted.offset
    while inside := [span for span in spans if span[0] < target < span[1]]:
        target = max(end for _, end in inside)
    why = f"{wanted.offset} lies inside a batch whose beginning, {whole[0]}, has left the log"
    if wanted.exact:
        raise Refused(f"{named}: {why}: it stays as it is; choose {target}, its end, or later")
    if target > commit.high:
        raise Refused(f"{named}: {why}, and it goes past the log's end {commit.high}")
    return target, f"{why}, so it stays as it is: from {target} on"


def _refuse_unsettled(
    named: str,
    start: int,
    target: int,
    opened: tuple[int, int] | None,
    batches: Sequence[Covered],
) -> None:
    mend = f"start a consumer once, or rewind to {start} or before"
    if opened is not None:
        raise Refused(
            f"{named}: [{opened[0]}, {opened[1]}) is open, and may have landed in part: before it "
            f"is passed over, {mend}"
        )
    landed = [batch for batch in batches if batch.end > start and batch.first < target]
    if landed:
        raise Refused(
            f"{named}: [{landed[0].first}, {max(b.end for b in landed)}) has landed, and no commit "
            f"of ours says that it is whole: before it is passed over, {mend}"
        )
