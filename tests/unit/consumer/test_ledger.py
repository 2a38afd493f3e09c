"""What a commit's metadata says. What is not certainly ours, whole and in its place is foreign."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest

from consumer.ledger import Intent, Mark, Note, Open, Source, decode, encode, token
from tests.unit.consumer.owner import batch

INTENT = Intent(10, 20, 9, "0123456789abcdef", 2, 1, "AAAAAAAAAAAAAAAAAAAAAQ", 1_700_000_000_123,
                1_700_000_000_456)  # fmt: skip
MARK = Mark(10, 20, 3, 1, "AAAAAAAAAAAAAAAAAAAAAQ", 1_700_000_000_123, 1_700_000_000_456)
OPEN = Open(2, 1, "AAAAAAAAAAAAAAAAAAAAAQ", 1_700_000_000_123)


def sealed(text: str, offset: int = 10) -> str:
    """Metadata with a right checksum, whatever it says."""
    return f"{text}:{zlib.crc32(f'{text}@{offset}'.encode()):08x}"


@pytest.mark.parametrize("note", [INTENT, OPEN, MARK])
def test_a_note_reads_as_it_was_written(note: Note) -> None:
    read = decode(10, encode(10, note))
    assert read == note
    assert getattr(read, "sent_ms", 0) == getattr(note, "sent_ms", 0)


def test_the_same_intent_sent_twice_is_equal_but_not_the_same_commit() -> None:
    """An owner that looks whether its commit was applied must not take another's for it."""
    again = replace(INTENT, sent_ms=INTENT.sent_ms + 1)
    assert again == INTENT
    assert encode(10, again) != encode(10, INTENT)


def test_an_intent_is_one_line_with_all_that_a_replay_needs() -> None:
    text = "penstock1:intent:20:9:0123456789abcdef:2:1:AAAAAAAAAAAAAAAAAAAAAQ:1700000000123"
    text += ":1700000000456"
    assert encode(10, INTENT) == sealed(text)


def test_a_mark_says_what_is_mended_and_nothing_that_could_be_replayed() -> None:
    text = "penstock1:mend:20:3:1:AAAAAAAAAAAAAAAAAAAAAQ:1700000000123:1700000000456"
    assert encode(10, MARK) == sealed(text)


def test_an_open_note_is_one_line() -> None:
    text = "penstock1:open:2:1:AAAAAAAAAAAAAAAAAAAAAQ:1700000000123"
    assert encode(10, OPEN) == sealed(text)


@pytest.mark.parametrize("metadata", [None, "", "mine", "penstock1", ":::", "penstock1:open"])
def test_what_is_not_ours_is_foreign(metadata: str | None) -> None:
    assert decode(10, metadata) is None


@pytest.mark.parametrize("note", [INTENT, OPEN, MARK])
def test_a_commit_that_was_moved_is_foreign(note: Note) -> None:
    """The checksum covers the offset: a tool may move a commit and keep its metadata."""
    assert decode(11, encode(10, note)) is None


@pytest.mark.parametrize("note", [INTENT, OPEN, MARK])
def test_corrupt_metadata_is_foreign_wherever_it_was_hit(note: Note) -> None:
    metadata = encode(10, note)
    for at, was in enumerate(metadata):
        hit = metadata[:at] + ("0" if was != "0" else "1") + metadata[at + 1 :]
        assert decode(10, hit) is None, hit


@pytest.mark.parametrize("note", [INTENT, OPEN, MARK])
def test_metadata_that_was_cut_is_foreign(note: Note) -> None:
    metadata = encode(10, note)
    assert all(decode(10, metadata[:length]) is None for length in range(len(metadata)))


def test_oversize_metadata_is_foreign_even_when_its_checksum_is_right() -> None:
    assert decode(10, sealed("penstock1:open:2:1:" + "A" * 1100 + ":1")) is None


def test_another_format_is_foreign_even_when_its_checksum_is_right() -> None:
    assert decode(10, sealed("penstock2:open:2:1:AAAA:1")) is None


@pytest.mark.parametrize("end", [0, 9, 10])
def test_an_intent_or_a_mark_that_holds_nothing_is_foreign(end: int) -> None:
    assert decode(10, sealed(f"penstock1:mend:{end}:2:1:AAAA:1:1")) is None
    assert decode(10, sealed(f"penstock1:intent:{end}:9:0123456789abcdef:2:1:AAAA:1:1")) is None


def test_the_longest_of_our_metadata_is_read_and_fits_kafkas_limit() -> None:
    note = Intent(2**63 - 2, 2**63 - 1, 10**9, "f" * 16, 2**32 - 1, 999, "c" * 22 + "." + "t" * 249,
                  10**14, 10**14)  # fmt: skip
    metadata = encode(note.first, note)
    assert len(metadata.encode()) <= 4095
    assert decode(note.first, metadata) == note


@pytest.mark.parametrize("note", [INTENT, MARK])
def test_the_token_names_cluster_topic_range_text_epoch_version_and_time(
    note: Intent | Mark,
) -> None:
    text = batch(10, 14)
    source = Source("cluster-1", "events", "AAAAAAAAAAAAAAAAAAAAAQ", 3)
    assert token(source, text, note) == (
        f"cluster-1:AAAAAAAAAAAAAAAAAAAAAQ:3:10-14:4:{text.digest}:{note.epoch}:events:1"
        ":1700000000123"
    )


def test_what_is_announced_anew_has_a_token_of_its_own_and_a_replay_has_the_old_one() -> None:
    """A deduplication log may still know, or wrongly claim to know, the attempt before."""
    text, source = batch(10, 14), Source("cluster-1", "events", "AAAA", 3)
    replayed = replace(INTENT, sent_ms=INTENT.sent_ms + 1)
    anew = replace(INTENT, time_ms=INTENT.time_ms + 1)
    assert token(source, text, replayed) == token(source, text, INTENT)
    assert token(source, text, anew) != token(source, text, INTENT)
