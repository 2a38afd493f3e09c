"""The simulator can find bugs: with any one of the protocol's rules switched off, a seed fails.

Each rule is switched off by a patch of the core that exists only here. Where it fails is part of
the expectation, so that a patch which merely breaks the core does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from consumer import ledger as ledger_module
from consumer import partition as partition_module
from consumer.commands import Answer, Command, CommitAnswered, InsertAnswered, Outcome, SendCommit
from consumer.ledger import Intent
from consumer.partition import Now, Partition, Phase
from consumer.recovery import Begin, Coverage, Halt, Plan, plan
from tests.simulation.faults import (
    EVERYDAY,
    HANDOVER,
    LYING_AT_REPLAY,
    LYING_LOG,
    OLD_BY_ENTRIES,
    OLD_BY_TIME,
    RESET,
    RESET_WHILE_INSERTING,
    UNKNOWN_COMMITS,
    Profile,
)
from tests.simulation.world import Failed, run

Patch = Callable[[pytest.MonkeyPatch], None]


def insert_before_the_answer(patch: pytest.MonkeyPatch) -> None:
    """A batch is inserted as soon as its prepare is sent."""
    prepare = Partition._prepare

    def impatient(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        return [*prepare(self, batch, replay, now), *self._insert(now)]

    patch.setattr(Partition, "_prepare", impatient)


def replay_without_a_prepare(patch: pytest.MonkeyPatch) -> None:
    """What another owner announced is inserted at once: it was announced, after all."""
    prepare = Partition._prepare

    def trusting(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        commands = prepare(self, batch, replay, now)
        if replay is None:
            return commands
        self._sent = None
        return self._insert(now)

    patch.setattr(Partition, "_prepare", trusting)


def cut_anew_instead_of_a_replay(patch: pytest.MonkeyPatch) -> None:
    """An open intent is read again, and cut into whatever batches come of it."""

    def careless(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        found = plan(judgement, commit, coverage, now_ms, **how)
        if isinstance(found, Begin) and judgement.note is not None:
            return Begin(judgement.start, found.epoch)
        return found

    patch.setattr(partition_module, "plan", careless)


def replay_under_a_new_time(patch: pytest.MonkeyPatch) -> None:
    """A replay's intent says when it was replayed, so that it never grows old."""
    prepare = Partition._prepare

    def youthful(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        if replay is not None:
            replay = type(replay)(
                replay.first, replay.end, replay.epoch, now.ms, replay.count, replay.digest
            )
        return prepare(self, batch, replay, now)

    patch.setattr(Partition, "_prepare", youthful)


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    insert = Partition._insert

    def late(self: Partition, now: Now) -> list[Command]:
        assert self._flight is not None
        self._flight.deadline = float("inf")
        return insert(self, now)

    patch.setattr(Partition, "_insert", late)


def deadline_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The deadline counts from when the answer was taken, however long that lay around."""
    answered = Partition._answered

    def generous(self: Partition, event: CommitAnswered, now: Now) -> list[Command]:
        if self._flight is not None:
            self._flight.deadline = now.seconds + self._limits.insert_deadline_seconds
        return answered(self, event, now)

    patch.setattr(Partition, "_answered", generous)


def no_wait(patch: pytest.MonkeyPatch) -> None:
    """A foreign commit is planned at once."""

    def hasty(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        return plan(judgement, commit, coverage, now_ms, **{**how, "waited": True})

    patch.setattr(partition_module, "plan", hasty)


def offset_outside_the_checksum(patch: pytest.MonkeyPatch) -> None:
    """A commit that a tool moved, metadata and all, is taken for one of ours."""
    checksum = ledger_module._checksum
    patch.setattr(ledger_module, "_checksum", lambda offset, text: checksum(0, text))


def forget_the_unanswered_commit(patch: pytest.MonkeyPatch) -> None:
    """A partition is given up while its commit is on the way."""
    patch.setattr(Partition, "outstanding", None)


def an_unknown_commit_counts_as_answered(patch: pytest.MonkeyPatch) -> None:
    """ "Nobody knows" is taken for "it was not applied" when the partition is given up."""
    settle = Partition._settle

    def sure(self: Partition, event: CommitAnswered) -> Any:
        sent = settle(self, event)
        if sent is not None:
            sent.answered = True
        return sent

    patch.setattr(Partition, "_settle", sure)


def a_replay_repeats_the_commit_word_for_word(patch: pytest.MonkeyPatch) -> None:
    """What an owner finds committed may then be its own commit, or the one that this repeats."""
    encode = ledger_module.encode

    def same(offset: int, note: Any) -> str:
        return encode(offset, replace(note, sent_ms=0) if isinstance(note, Intent) else note)

    patch.setattr(partition_module, "encode", same)


def guess_an_unknown_commit(patch: pytest.MonkeyPatch) -> None:
    """A commit whose outcome is unknown is sent again, and the member stays."""
    answered = Partition._answered

    def guessing(self: Partition, event: CommitAnswered, now: Now) -> list[Command]:
        if event.answer is Answer.LOST:
            event = CommitAnswered(event.metadata, Answer.TRY_AGAIN, event.why)
        return answered(self, event, now)

    patch.setattr(Partition, "_answered", guessing)


def believe_an_unclean_answer(patch: pytest.MonkeyPatch) -> None:
    """What is acknowledged after a failed attempt counts as landed, whatever the stamps say."""
    checked = Partition._checked

    def trusting(self: Partition, event: StampsRead, now: Now) -> list[Command]:
        return checked(self, replace(event, missing=frozenset()), now)

    patch.setattr(Partition, "_checked", trusting)


def believe_a_replay(patch: pytest.MonkeyPatch) -> None:
    """A replay that is acknowledged at its first try counts as landed."""
    prepare = Partition._prepare

    def trusting(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        commands = prepare(self, batch, replay, now)
        if self._flight is not None:
            self._flight.unclean = False
            self._flight.first_attempt_ms = None
        return commands

    patch.setattr(Partition, "_prepare", trusting)


def take_a_failure_for_landed(patch: pytest.MonkeyPatch) -> None:
    inserted = Partition._inserted

    def hopeful(self: Partition, event: InsertAnswered, now: Now) -> list[Command]:
        if event.outcome is Outcome.FAILED:
            return self._landed(now)
        return inserted(self, event, now)

    patch.setattr(Partition, "_inserted", hopeful)


def commit_before_landing(patch: pytest.MonkeyPatch) -> None:
    """The end of a batch is committed along with its insert."""
    insert = Partition._insert

    def early(self: Partition, now: Now) -> list[Command]:
        commands = insert(self, now)
        if self.phase is not Phase.INSERTING:
            return commands
        assert self._flight is not None
        assert isinstance(self._flight.note, Intent)
        end = self._flight.note.end
        note = ledger_module.Open(0, 1, self.source.topic_id, now.ms)
        return [*commands, SendCommit(end, ledger_module.encode(end, note))]

    patch.setattr(Partition, "_insert", early)


def nothing_grows_old(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coverage, "old", lambda self, since_ms, now_ms: None)


def coverage_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    """After a foreign commit reading begins at the log's start, whatever the table covers."""

    def blind(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        found = plan(judgement, commit, coverage, now_ms, **how)
        if judgement.note is None and isinstance(found, Begin | Mend | Halt):
            return Begin(commit.low, 0)
        return found

    patch.setattr(partition_module, "plan", blind)


CONFUSED = "double in the|halted without a cause|passes"

# The rule, the family of runs, a seed at or before the first that fails, and how it fails.
RULES: list[tuple[Patch, Profile, int, str]] = [
    (insert_before_the_answer, EVERYDAY, 0, "without an own answered prepare"),
    (replay_without_a_prepare, EVERYDAY, 0, "without an own answered prepare"),
    (cut_anew_instead_of_a_replay, HANDOVER, 0, "double in the"),
    (replay_under_a_new_time, HANDOVER, 0, "was first announced at"),
    (no_deadline, EVERYDAY, 0, "deadline inf of a prepare"),
    (deadline_from_the_answer, EVERYDAY, 0, "deadline .* of a prepare"),
    (no_wait, RESET_WHILE_INSERTING, 0, "double in the"),
    (offset_outside_the_checksum, RESET, 0, CONFUSED),
    (forget_the_unanswered_commit, UNKNOWN_COMMITS, 100, CONFUSED),
    (an_unknown_commit_counts_as_answered, UNKNOWN_COMMITS, 100, CONFUSED),
    (a_replay_repeats_the_commit_word_for_word, UNKNOWN_COMMITS, 2400, CONFUSED),
    (guess_an_unknown_commit, UNKNOWN_COMMITS, 100, CONFUSED),
    (believe_an_unclean_answer, LYING_LOG, 450, "passes .* not in the table"),
    (believe_a_replay, LYING_AT_REPLAY, 550, "passes .* not in the table"),
    (take_a_failure_for_landed, EVERYDAY, 0, "passes .* not in the"),
    (commit_before_landing, EVERYDAY, 0, "passes .* not in the"),
    (nothing_grows_old, OLD_BY_ENTRIES, 0, "double in the"),
    (nothing_grows_old, OLD_BY_TIME, 0, "double in the"),
    (coverage_is_not_asked, RESET, 0, "double in the"),
]


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize(
    ("rule", "profile", "first_seed", "what"),
    RULES,
    ids=[f"{rule.__name__}, {profile.name}" for rule, profile, _, _ in RULES],
)
def test_without_this_rule_a_seed_fails(
    rule: Patch, profile: Profile, first_seed: int, what: str, patch: pytest.MonkeyPatch
) -> None:
    rule(patch)
    with pytest.raises(Failed, match=f"seed \\d+: .*({what})"):
        search(profile, first_seed)


def search(profile: Profile, first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 1000):
        run(seed, profile)
