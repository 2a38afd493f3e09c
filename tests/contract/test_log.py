"""The log's contract: what the simulation's Kafka assumes, and Apache Kafka does.

Each test runs on both, on the real one through the consumer's own adapter, and says once what comes
of it. So the model cannot drift from the broker, nor from what the adapter makes of its answers.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumer.commands import Answer
from consumer.ports import LogError
from consumer.recovery import Commit
from tests.contract.log_model import ModelLog
from tests.contract.log_port import LogServer, Read, numbered
from tests.contract.log_real import RealLog
from tests.fixtures.kafka import Kafka


@pytest.fixture(params=["model", pytest.param("real", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest) -> Iterator[LogServer]:
    if request.param == "model":
        yield ModelLog()
        return
    kafka: Kafka = request.getfixturevalue("kafka")
    found = RealLog(kafka)
    yield found
    found.close()


# --- commits -------------------------------------------------------------------------------------


def test_a_commit_is_its_offset_and_its_metadata_and_the_last_one_stands(server: LogServer) -> None:
    server.produce(*numbered(0, 3))
    member = server.join()
    commit = member.committed()
    assert (commit.offset, commit.low, commit.high) == (None, 0, 3)
    assert not commit.metadata
    for offset, metadata in (
        (2, "intent"),
        (2, "the same offset"),
        (0, "moved back: \u00e9\u4e16"),
    ):
        assert member.commit(offset, metadata) is Answer.APPLIED
        assert member.committed() == Commit(offset, metadata, 0, 3)


def test_an_ex_owner_that_is_still_a_member_replaces_the_owners_commit(server: LogServer) -> None:
    """Who owns the partition is not looked at."""
    old, new = server.pair()
    assert new.commit(5, "intent of the owner") is Answer.APPLIED
    assert old.commit(2, "late commit of the ex-owner") is Answer.APPLIED
    commit = new.committed()
    assert (commit.offset, commit.metadata) == (2, "late commit of the ex-owner")


def test_one_that_was_put_out_is_refused_while_others_are_there(server: LogServer) -> None:
    old, new = server.pair()
    assert new.commit(5, "intent of the owner") is Answer.APPLIED
    old.put_out()
    assert old.commit(2, "late commit of the ex-owner") is Answer.FENCED
    commit = new.committed()
    assert (commit.offset, commit.metadata) == (5, "intent of the owner")


def test_one_that_was_put_out_is_refused_in_an_empty_group_too(server: LogServer) -> None:
    member = server.join()
    assert member.commit(5, "while it was one") is Answer.APPLIED
    member.put_out()
    assert member.commit(2, "late") is Answer.FENCED
    member.leave()
    commit = server.join().committed()
    assert (commit.offset, commit.metadata) == (5, "while it was one")


def test_a_commit_outlives_its_member(server: LogServer) -> None:
    member = server.join()
    member.commit(5, "intent")
    member.leave()
    commit = server.join().committed()
    assert (commit.offset, commit.metadata) == (5, "intent")


# --- records -------------------------------------------------------------------------------------


def test_reading_begins_anywhere_and_goes_on_with_what_is_appended(server: LogServer) -> None:
    server.produce(b"0", None, b"", b"3")
    member = server.join()
    assert member.read(0) == Read((0, 1, 2, 3), (b"0", None, b"", b"3"), 4)
    assert member.read(2) == Read((2, 3), (b"", b"3"), 4)
    server.produce(b"4")
    assert member.read(4) == Read((4,), (b"4",), 5)
    assert member.committed().high == 5


def test_offsets_that_nobody_reads_are_passed(server: LogServer) -> None:
    """What a transaction aborted, and its marker: between records, and at the log's end."""
    server.produce(*numbered(0, 2))
    server.abort()
    server.produce(b"4")
    server.abort()
    member = server.join()
    assert member.committed().high == 7
    assert member.read(0) == Read((0, 1, 4), (b"0", b"1", b"4"), 7)
    assert member.read(2) == Read((4,), (b"4",), 7)
    assert member.read(5) == Read((), (), 7)


def test_a_log_of_markers_alone_is_not_empty(server: LogServer) -> None:
    server.abort()
    member = server.join()
    commit = member.committed()
    assert (commit.offset, commit.low, commit.high) == (None, 0, 2)
    assert member.read(0) == Read((), (), 2)


def test_a_trimmed_log_begins_later_and_nothing_before_that_can_be_read(server: LogServer) -> None:
    server.produce(*numbered(0, 5))
    member = server.join()
    member.commit(1, "intent")
    server.trim(3)
    assert member.committed() == Commit(1, "intent", 3, 5), "the commit stays where it was"
    assert member.read(3) == Read((3, 4), (b"3", b"4"), 5)
    with pytest.raises(LogError):
        member.read(2)


def test_there_is_nothing_to_read_behind_the_end(server: LogServer) -> None:
    server.produce(b"0")
    member = server.join()
    with pytest.raises(LogError):
        member.read(2)


def test_a_log_may_be_trimmed_to_its_end(server: LogServer) -> None:
    server.produce(*numbered(0, 3))
    server.trim(3)
    member = server.join()
    commit = member.committed()
    assert (commit.offset, commit.low, commit.high) == (None, 3, 3)


# --- a topic that is made again ------------------------------------------------------------------


def test_a_topic_that_was_made_again_begins_anew_without_commits(server: LogServer) -> None:
    server.produce(*numbered(0, 3))
    member = server.join()
    member.commit(3, "intent")
    assert not member.made_again()
    server.make_again()
    assert member.made_again()
    member.leave()
    later = server.join()
    assert not later.made_again()
    commit = later.committed()
    assert (commit.offset, commit.low, commit.high) == (None, 0, 0)
    assert not commit.metadata
    server.produce(b"other")
    assert later.read(0) == Read((0,), (b"other",), 1)


def test_a_member_of_the_topic_before_commits_into_the_new_one(server: LogServer) -> None:
    """It is a member still, and commits know topics by their names."""
    server.produce(*numbered(0, 3))
    member = server.join()
    server.make_again()
    assert member.commit(3, "intent of before") is Answer.APPLIED
    assert member.committed() == Commit(3, "intent of before", 0, 0)
    with pytest.raises(LogError):
        member.read(3)


def test_a_topic_that_has_grown_past_the_old_position_is_read_on_unnoticed(
    server: LogServer,
) -> None:
    server.produce(*numbered(0, 3))
    member = server.join()
    position = member.read(0).position
    server.make_again()
    server.produce(*numbered(10, 5))
    assert member.read(position) == Read((3, 4), (b"13", b"14"), 5)
    assert member.made_again(), "only its id tells"
