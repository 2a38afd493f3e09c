"""What the audit says of Kafka's commit, and which records of the dead-letter topic are letters."""

from __future__ import annotations

import pytest

from consumer.audit_letters import Letter
from consumer.audit_log import _letter, said
from consumer.ledger import Intent, Mark, Note, Open, encode
from consumer.recovery import Commit

_AT = 1_700_000_000_123  # 2023-11-14T22:13:20Z


def commit(note: Note, offset: int = 10) -> Commit:
    return Commit(offset, encode(offset, note), 0, 100)


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (Open(2, 1, "id", _AT), "10, nothing open"),
        (
            Intent(10, 20, 9, "0" * 16, 2, 1, "id", _AT),
            "10, writing [10, 20) epoch 2 since 2023-11-14T22:13:20Z",
        ),
        (Mark(10, 30, 3, 1, "id", _AT), "10, mending [10, 30) epoch 3 since 2023-11-14T22:13:20Z"),
    ],
)
def test_a_commit_of_ours_is_believed_and_said(note: Note, words: str) -> None:
    assert said(commit(note), "id") == (10, words)
    assert said(commit(note), "another id") == (None, "10, and it is not one of ours")


def test_what_is_not_ours_limits_nothing() -> None:
    assert said(None, "id") == (None, "no such partition")
    assert said(Commit(None, None, 0, 100), "id") == (None, "no commit")
    assert said(Commit(10, "mine", 0, 100), "id") == (None, "10, and it is not one of ours")


def headers(**more: bytes | None) -> list[tuple[str, bytes | None]]:
    given: dict[str, bytes | None] = {
        "topic_id": b"id",
        "partition": b"3",
        "offset": b"7",
        "line": b"2",
        "at": b"5",
        **more,
    }
    return [(f"penstock.{name}", value) for name, value in given.items()]


def test_a_letter_is_known_by_its_headers() -> None:
    assert _letter(headers()) == Letter("id", 3, 7, 2, in_table=False, at_ms=5)
    assert _letter(headers(in_table=b"1")) == Letter("id", 3, 7, 2, in_table=True, at_ms=5)


@pytest.mark.parametrize(
    "broken",
    [
        {"offset": b"seven"},
        {"line": None},
        {"partition": b"\xff"},
        {"at": b""},
        {"settled": b"dropped"},
    ],
)
def test_what_is_no_letter_explains_nothing(broken: dict[str, bytes | None]) -> None:
    assert _letter(headers(**broken)) is None
    assert _letter([]) is None
