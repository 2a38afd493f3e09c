"""What the preflight finds, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be, and the sentence that mends it.

    `refuses`: it would break a guarantee, so nothing is consumed before it is mended. Otherwise it
    is unwise, and said.
    """

    what: str
    mend: str
    refuses: bool = True


def warning(what: str, mend: str) -> Finding:
    return Finding(what, mend, refuses=False)


class Away(Exception):
    """Kafka or ClickHouse does not answer: nothing can be said yet."""
