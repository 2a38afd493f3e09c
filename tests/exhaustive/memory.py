"""A searched core's memory: looked at in each state of it that is met.

All bytes that are reachable from it are counted, whatever holds them; so nothing is held that is
not a batch's, and the core's own count, by which fetching pauses, is that of its batches. With a
limit of two full batches it is never fetched past it, but for a range that is read again; and below
it, it is fetched wherever this search reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from consumer.assignment import Assignment, Shares
from consumer.partition import Partition
from tests.simulation.clickhouse_model import Violation
from tests.simulation.memory import held, wrong_in


def look_at(core: Partition, limit: int, *, reads: bool) -> None:
    """Raise `Violation`. `reads`: the search may read on here."""
    found = held(core)
    total = found.batches + found.beside
    if wrong := wrong_in(core, found):
        raise Violation(f"a partition {wrong}")
    if (reachable := sum(map(len, _texts(core)))) != total:
        raise Violation(f"{reachable} bytes are held, {total} of them by batches")
    if core.buffered_bytes != found.batches:
        raise Violation(f"{found.batches} bytes of batches are held, {core.buffered_bytes} told")
    assignment = Assignment(Shares(limit, batch_age_seconds=0.0, inserts_per_second=1.0))
    assignment.add(core)
    fetched = bool(assignment.fetched())
    if fetched and found.batches >= limit and not core.replaying:
        raise Violation(f"it is fetched while {found.batches} bytes are held, of {limit}")
    if reads and not fetched:
        raise Violation(f"it is not fetched while {found.batches} bytes are held, of {limit}")


def _texts(value: Any) -> Iterable[bytes]:
    """Every text once, and none twice by being sent in part: a letter is its line again."""
    seen: dict[int, bytes] = {}
    to_do = [value]
    while to_do:
        each = to_do.pop()
        if isinstance(each, bytes):
            seen[id(each)] = each
        elif isinstance(each, str | int | float | Enum | range | type(None)):
            continue
        elif isinstance(each, dict):
            to_do += each.values()
        elif isinstance(each, Iterable):
            to_do += each
        elif is_dataclass(each):
            to_do += [getattr(each, field.name) for field in fields(each)]
        elif hasattr(each, "__dict__"):
            to_do += vars(each).values()
    return seen.values()
