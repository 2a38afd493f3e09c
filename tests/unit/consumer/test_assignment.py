"""What partitions share: memory with hysteresis, the rate of inserts, and who is still asked."""

from __future__ import annotations

from dataclasses import replace

from consumer.assignment import Assignment, Shares
from consumer.batch import Records
from consumer.commands import (
    Answer,
    CommitAnswered,
    CoverageRead,
    InsertAnswered,
    Outcome,
    SendCommit,
    TopicRead,
)
from consumer.flight import Limits, Now, Phase
from consumer.partition import Partition
from consumer.recovery import Commit
from tests.unit.consumer.owner import (
    LIMITS,
    SOURCE,
    TOPIC_ID,
    committed,
    coverage,
    intent,
    kinds,
    ms,
    nothing_open,
    records,
)

NOW = Now(1000.0, ms(1000.0))
LARGE = replace(LIMITS, batch_rows=1000, batch_bytes=1_000_000)


def owned(
    assignment: Assignment, number: int, commit: Commit | None = None, limits: Limits = LIMITS
) -> Partition:
    """A partition that reads on at 0, or where the commit says."""
    partition = Partition(replace(SOURCE, partition=number), limits, NOW)
    assignment.add(partition)
    partition.begin(commit or nothing_open(0), NOW)
    partition.on(CoverageRead(coverage()), NOW)
    return partition


def text(first: int, size_bytes: int) -> Records:
    return Records([first], [b"x" * size_bytes], first + 1, 0)


def sharing(buffer_bytes: int = 1000, age: float = 2.0, rate: float = 4.0) -> Assignment:
    return Assignment(Shares(buffer_bytes, age, rate))


# --- who is asked -----------------------------------------------------------------------------


def test_partitions_are_known_by_number_until_they_are_dropped() -> None:
    assignment = sharing()
    one, two = owned(assignment, 1), owned(assignment, 2)
    assert (len(assignment), list(assignment)) == (2, [one, two])
    assert assignment.get(1) is one
    assert assignment.drop(1) is one
    assert assignment.drop(1) is None
    assert assignment.get(1) is None
    assert one not in assignment
    assert two in assignment


def test_an_answer_for_a_partition_that_was_given_up_is_dropped() -> None:
    """Also when the same number was assigned again since: it is another assignment."""
    assignment = sharing()
    before = owned(assignment, 1)
    assignment.drop(1)
    assert assignment.on(before, InsertAnswered(Outcome.LANDED), NOW) == []
    owned(assignment, 1)
    assert assignment.on(before, InsertAnswered(Outcome.LANDED), NOW) == []


def test_answers_and_records_go_to_their_partition() -> None:
    assignment = sharing()
    partition = Partition(replace(SOURCE, partition=1), LIMITS, NOW)
    assignment.add(partition)
    partition.begin(nothing_open(0), NOW)
    found = assignment.on(partition, CoverageRead(coverage()), NOW)
    assert [(p, type(c).__name__) for p, c in found] == [(partition, "Fetch")]
    commands = assignment.records(1, records(0, 4), NOW)
    assert [(p, type(c).__name__) for p, c in commands] == [
        (partition, "SendCommit"), (partition, "ReadTopic")
    ]  # fmt: skip


def test_records_of_a_partition_that_was_given_up_are_dropped() -> None:
    assert sharing().records(1, records(0, 4), NOW) == []


def test_time_passes_for_all() -> None:
    assignment = sharing()
    one, two = owned(assignment, 1), owned(assignment, 2)
    for number in (1, 2):
        assignment.records(number, records(0, 1), NOW)
    assert assignment.tick(Now(1001.9, ms(1001.9))) == []
    commands = assignment.tick(Now(1002.0, ms(1002.0)))
    assert [p for p, _ in commands] == [one, one, two, two]
    assert kinds([c for _, c in commands]) == ["SendCommit", "ReadTopic"] * 2


# --- the rate ---------------------------------------------------------------------------------


def test_few_partitions_close_at_the_age_that_was_set() -> None:
    assignment = sharing(age=2.0, rate=4.0)
    for number in range(8):
        owned(assignment, number)
        assignment.records(number, records(0, 1), NOW)
    assert assignment.age_seconds == 2.0


def test_with_many_filling_partitions_the_age_stretches_to_keep_the_rate() -> None:
    assignment = sharing(age=2.0, rate=4.0)
    for number in range(20):
        owned(assignment, number)
        assignment.records(number, records(0, 1), NOW)
    assert assignment.age_seconds == 5.0


def test_partitions_that_hold_nothing_do_not_stretch_it() -> None:
    assignment = sharing(age=2.0, rate=4.0)
    for number in range(100):
        owned(assignment, number)
    assert assignment.age_seconds == 2.0


# --- memory -----------------------------------------------------------------------------------


def test_fetching_pauses_at_the_limit_and_goes_on_below_three_quarters_of_it() -> None:
    assignment = sharing(buffer_bytes=1000)
    for number in (1, 2, 3):
        owned(assignment, number, limits=LARGE)
    assignment.records(1, text(0, 600), NOW)
    assignment.records(2, text(0, 300), NOW)
    assignment.records(3, text(0, 99), NOW)
    assert assignment.buffered_bytes == 999
    assert assignment.fetched() == {1, 2, 3}
    assignment.records(3, text(1, 1), NOW)
    assert assignment.buffered_bytes == 1000
    assert assignment.fetched() == frozenset()
    assignment.drop(3)
    assert assignment.buffered_bytes == 900
    assert assignment.fetched() == frozenset()
    assignment.drop(2)
    assert assignment.buffered_bytes == 600
    assert assignment.fetched() == {1}


def test_three_quarters_itself_is_not_below() -> None:
    assignment = sharing(buffer_bytes=1000)
    for number in (1, 2):
        owned(assignment, number, limits=LARGE)
    assignment.records(1, text(0, 750), NOW)
    assignment.records(2, text(0, 250), NOW)
    assert assignment.fetched() == frozenset()
    assignment.drop(2)
    assert assignment.fetched() == frozenset()


def test_a_replay_is_not_paused_while_its_range_is_being_read() -> None:
    """It needs its whole range before it can be sent."""
    assignment = sharing(buffer_bytes=1000)
    owned(assignment, 1, limits=LARGE)
    owned(assignment, 2, committed(intent(0, 4, at=990)))
    assignment.records(1, text(0, 1000), NOW)
    assert assignment.fetched() == {2}
    assignment.records(2, records(0, 3), NOW)
    assert assignment.fetched() == {2}
    assignment.records(2, records(3, 4), NOW)
    assert assignment.fetched() == frozenset()


def test_past_the_limit_one_replay_after_another_is_read_to_its_end() -> None:
    """All of them at once are as many announced batches as there were other owners."""
    assignment = sharing(buffer_bytes=1000)
    for number in range(5):
        owned(assignment, number, committed(intent(0, 4, at=990)))
    for number in range(5):
        assignment.records(number, text(0, 201 if number == 2 else 200), NOW)
    assert assignment.fetched() == {2}
    assignment.records(2, text(1, 500), NOW)
    assert assignment.fetched() == {2}
    assignment.records(2, records(2, 4), NOW)
    assert assignment.fetched() == {0}, "its range is whole: the next one"
    assignment.drop(0)
    assignment.drop(2)
    assert assignment.fetched() == {1, 3, 4}


def test_a_partition_is_held_for_its_own_ready_batches_until_it_is_drained() -> None:
    assignment = sharing(buffer_bytes=10_000)
    one, _ = owned(assignment, 1), owned(assignment, 2)
    commands = []
    for first in range(0, 12, 4):  # one in flight, two ready
        commands += assignment.records(1, records(first, first + 4), NOW)
    assert assignment.fetched() == {2}

    def lands() -> None:
        metadata = [c.metadata for _, c in commands if isinstance(c, SendCommit)][-1]
        assignment.on(one, TopicRead(TOPIC_ID, metadata), NOW)
        assignment.on(one, CommitAnswered(metadata, Answer.APPLIED), NOW)
        commands.extend(assignment.on(one, InsertAnswered(Outcome.LANDED), NOW))

    lands()
    assert one.wants_records
    assert assignment.fetched() == {2}  # a pause drops what was prefetched: not at the same mark
    lands()
    assert assignment.fetched() == {1, 2}


def test_without_a_plan_nothing_is_fetched() -> None:
    assignment = sharing()
    partition = Partition(SOURCE, LIMITS, NOW)
    assignment.add(partition)
    assert assignment.fetched() == frozenset()
    assert not assignment.planned
    partition.begin(nothing_open(0), NOW)
    partition.on(CoverageRead(coverage()), NOW)
    assert assignment.planned
    assert assignment.fetched() == {SOURCE.partition}


def test_phases_are_counted() -> None:
    assignment = sharing()
    owned(assignment, 1)
    owned(assignment, 2)
    assignment.add(Partition(replace(SOURCE, partition=3), LIMITS, NOW))
    assert assignment.in_phase(Phase.READING) == 2
    assert assignment.in_phase(Phase.PLANNING) == 1
    assert assignment.in_phase(Phase.HALTED) == 0


# --- stop -------------------------------------------------------------------------------------


def test_on_a_stop_nothing_new_is_begun_and_the_running_insert_is_waited_for() -> None:
    assignment = sharing()
    busy, idle = owned(assignment, 1), owned(assignment, 2)
    _, command = assignment.records(1, records(0, 4), NOW)[0]
    assert isinstance(command, SendCommit)
    assignment.on(busy, TopicRead(TOPIC_ID, command.metadata), NOW)
    assignment.on(busy, CommitAnswered(command.metadata, Answer.APPLIED), NOW)
    assignment.stop()
    assert not assignment.at_rest
    assert assignment.records(2, records(0, 4), NOW) == []
    assert idle.at_rest
    assignment.drop(1)
    assert assignment.at_rest
