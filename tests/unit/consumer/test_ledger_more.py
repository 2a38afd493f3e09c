"""How long metadata may be: its numbers have no other bound."""

from __future__ import annotations

import pytest

from consumer.ledger import Open, decode, encode

LONGEST = 1024  # far more than any of ours, and a quarter of what Kafka takes


def of_length(size: int) -> str:
    """Metadata of ours, whole and sealed, so many characters long."""
    short = len(encode(10, Open(0, 1, "AAAA", 1)))
    return encode(10, Open(10 ** (size - short), 1, "AAAA", 1))


@pytest.mark.parametrize(("size", "ours"), [(LONGEST, True), (LONGEST + 1, False), (4000, False)])
def test_metadata_that_is_too_long_is_foreign_whatever_it_says(size: int, ours: bool) -> None:
    metadata = of_length(size)
    assert len(metadata) == size
    assert (decode(10, metadata) is not None) == ours
