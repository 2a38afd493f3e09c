"""What a rewind is about to do, said before it asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consumer.rewind_plan import Step


def number(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}es" if noun.endswith("ch") else f"{count} {noun}s"


def intended(steps: Sequence[Step]) -> Iterator[str]:
    """A line or more for each partition, and one for all of them."""
    for step in steps:
        yield f"partition {step.partition}: {_what(step)}"
        yield from (f"  {line}" for line in _notes(step))
    months = sorted(frozenset[str]().union(*(step.months for step in steps)))
    if months:
        rows = sum(step.rows for step in steps)
        yield (
            f"removed in all: {number(rows, 'row')}; rebuilt: the views of "
            f"{number(len(months), 'ClickHouse partition')}, {', '.join(months)}. Rows "
            "that were erased from them come back with the log's records"
        )
    if any(step.skipped for step in steps):
        yield (
            "if Kafka forgets the group's commits (offsets.retention.minutes), what was skipped is "
            "read after all"
        )


def _what(step: Step) -> str:
    if step.idle:
        return f"stays at {step.target}"
    begins = "no commit of ours" if step.commit is None else f"from {step.commit}"
    text = f"{begins}, to {step.target}"
    if step.removed:
        text += (
            f": {number(len(step.removed), 'batch')} of [{step.target}, {step.end}), "
            f"{number(step.rows, 'row')} in {number(len(step.months), 'ClickHouse partition')}, "
            "are removed, and ingested again"
        )
    if step.skipped is not None:
        first, end = step.skipped
        text += f": the records of [{first}, {end}) are SKIPPED"
    return text


def _notes(step: Step) -> Iterator[str]:
    if step.moved:
        yield step.moved
    if step.gone:
        yield (
            f"{number(step.gone, 'row')} are of batches past the log's end: their records are not "
            "in the log any more, and do NOT come back"
        )
    if step.lost is not None:
        yield f"[{step.lost[0]}, {step.lost[1]}) left the log before it was read, and stays lost"
