"""The protocol's rules, each switched off by a patch of the core that exists only here.

Beside each: the smallest scope that shows what is then broken, and how it is broken, so that a
patch which merely breaks the core does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from consumer import ledger as ledger_module
from consumer import partition as partition_module
from consumer.commands import (
    Answer,
    Command,
    CommitAnswered,
    InsertAnswered,
    Outcome,
    SendCommit,
    StampsRead,
)
from consumer.ledger import Open
from consumer.partition import Now, Partition, Phase
from consumer.recovery import Begin, Coverage, Mend, plan
from tests.exhaustive.scope import DEADLINE_SECONDS, Scope

Patch = Callable[[pytest.MonkeyPatch], None]


def insert_before_the_answer(patch: pytest.MonkeyPatch) -> None:
    announce = Partition._announce

    def impatient(self: Partition, flight: Any, now: Now) -> list[Command]:
        return [*announce(self, flight, now), *self._insert(now)]

    patch.setattr(Partition, "_announce", impatient)


def replay_without_a_prepare(patch: pytest.MonkeyPatch) -> None:
    prepare = Partition._prepare

    def trusting(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        commands = prepare(self, batch, replay, now)
        if replay is None:
            return commands
        self._sent = None
        return self._insert(now)

    patch.setattr(Partition, "_prepare", trusting)


def cut_anew_instead_of_a_replay(patch: pytest.MonkeyPatch) -> None:
    def careless(judgement: Any, *args: Any, **kind: Any) -> Any:
        found = plan(judgement, *args, **kind)
        if isinstance(found, Begin) and judgement.note is not None:
            return Begin(judgement.start, found.epoch)
        return found

    patch.setattr(partition_module, "plan", careless)


def replay_under_a_new_time(patch: pytest.MonkeyPatch) -> None:
    prepare = Partition._prepare

    def youthful(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        if replay is not None:
            replay = replace(replay, time_ms=now.ms)
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
    answered = Partition._answered

    def generous(self: Partition, event: CommitAnswered, now: Now) -> list[Command]:
        if self._flight is not None:
            self._flight.deadline = now.seconds + self._limits.insert_deadline_seconds
        return answered(self, event, now)

    patch.setattr(Partition, "_answered", generous)


def no_wait(patch: pytest.MonkeyPatch) -> None:
    def hasty(*args: Any, waited: bool, **kind: Any) -> Any:
        return plan(*args, waited=True, **kind)

    patch.setattr(partition_module, "plan", hasty)


def wait_for_the_deadline_alone(patch: pytest.MonkeyPatch) -> None:
    """And not for what was sent at the deadline to come to its end."""
    begin = Partition.begin

    def short(self: Partition, commit: Any, now: Now) -> list[Command]:
        self._quiet_at = now.seconds + DEADLINE_SECONDS
        return begin(self, commit, now)

    patch.setattr(Partition, "begin", short)


def plan_from_before_the_wait(patch: pytest.MonkeyPatch) -> None:
    """What was read before the wait was over is believed, when it is only heard after it."""
    plan_of = Partition._plan

    def trusting(self: Partition, coverage: Coverage, now: Now) -> list[Command]:
        self._waited = now.seconds >= self._quiet_at
        return plan_of(self, coverage, now)

    patch.setattr(Partition, "_plan", trusting)


def offset_outside_the_checksum(patch: pytest.MonkeyPatch) -> None:
    checksum = ledger_module._checksum
    patch.setattr(ledger_module, "_checksum", lambda offset, text: checksum(0, text))


def forget_the_unanswered_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Partition, "outstanding", None)


def an_unknown_commit_counts_as_answered(patch: pytest.MonkeyPatch) -> None:
    settle = Partition._settle

    def sure(self: Partition, event: CommitAnswered) -> Any:
        sent = settle(self, event)
        if sent is not None:
            sent.answered = True
        return sent

    patch.setattr(Partition, "_settle", sure)


def guess_an_unknown_commit(patch: pytest.MonkeyPatch) -> None:
    answered = Partition._answered

    def guessing(self: Partition, event: CommitAnswered, now: Now) -> list[Command]:
        if event.answer is Answer.LOST:
            event = CommitAnswered(event.metadata, Answer.TRY_AGAIN, event.why)
        return answered(self, event, now)

    patch.setattr(Partition, "_answered", guessing)


def believe_an_unclean_answer(patch: pytest.MonkeyPatch) -> None:
    checked = Partition._checked

    def trusting(self: Partition, event: StampsRead, now: Now) -> list[Command]:
        return checked(self, StampsRead(frozenset(), event.rebuilt), now)

    patch.setattr(Partition, "_checked", trusting)


def believe_a_replay(patch: pytest.MonkeyPatch) -> None:
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
    insert = Partition._insert

    def early(self: Partition, now: Now) -> list[Command]:
        commands = insert(self, now)
        if self.phase is not Phase.INSERTING:
            return commands
        assert self._flight is not None
        assert self._flight.batch is not None
        end = self._flight.batch.end
        note = Open(0, 1, self.source.topic_id, now.ms)
        return [*commands, SendCommit(end, ledger_module.encode(end, note))]

    patch.setattr(Partition, "_insert", early)


def nothing_grows_old(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coverage, "old", lambda self, since_ms, now_ms: None)


def coverage_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    def blind(judgement: Any, commit: Any, *args: Any, **kind: Any) -> Any:
        found = plan(judgement, commit, *args, **kind)
        if judgement.note is None and isinstance(found, Begin | Mend):
            return Begin(commit.low, 0)
        return found

    patch.setattr(partition_module, "plan", blind)


def mend_without_restoring(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Partition, "_restore", lambda self, now: self._mended(now))


def rebuilds_are_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    checked = Partition._checked

    def unaware(self: Partition, event: StampsRead, now: Now) -> list[Command]:
        return checked(self, StampsRead(event.missing), now)

    patch.setattr(Partition, "_checked", unaware)


@dataclass(frozen=True)
class Off:
    """A rule that is off. `steps`: the length of the shortest schedule. `slow`: it lies deep."""

    patch: Patch
    scope: Scope
    wrong: str
    steps: int
    slow: bool = False


def _scope(*faults: str, together: int | None = None, log: str = "ab", **kind: Any) -> Scope:
    if together is None:
        together = len(faults)
    return Scope("a rule is off", log=log, faults=faults, together=together, **kind)


_UNPREPARED = "without an own answered prepare"
_DOUBLE = "double in the table"
_LOST = r"commit \d passes .* not in the table"
_UNSEEN = r"commit \d passes .* not in the view once"
_STUCK = "does not come to an end"  # a commit that came late took back one that was final
_LATE = "with deadline"

RULES = (
    Off(insert_before_the_answer, _scope(), _UNPREPARED, 3),
    Off(replay_without_a_prepare, _scope("crash"), _UNPREPARED, 8),
    Off(cut_anew_instead_of_a_replay, _scope("crash"), _DOUBLE, 14),
    Off(
        replay_under_a_new_time,
        _scope("window", log="a", consumers=1, window_part=0.4),
        _DOUBLE,
        12,
    ),
    Off(no_deadline, _scope("pause"), _LATE, 6),
    Off(deadline_from_the_answer, _scope("pause"), _LATE, 8),
    Off(no_wait, _scope("reset"), _DOUBLE, 15),
    Off(wait_for_the_deadline_alone, _scope("reset", "pause"), _DOUBLE, 23, slow=True),
    Off(plan_from_before_the_wait, _scope("reset", "pause"), _DOUBLE, 22, slow=True),
    Off(offset_outside_the_checksum, _scope("reset"), _LOST, 6),
    Off(forget_the_unanswered_commit, _scope("rebalance", together=2), _DOUBLE, 17),
    Off(
        an_unknown_commit_counts_as_answered,
        _scope("rebalance", "commit unknown"),
        _STUCK,
        18,
    ),
    Off(guess_an_unknown_commit, _scope("rebalance", "commit unknown"), _DOUBLE, 23),
    Off(
        believe_an_unclean_answer,
        _scope("insert unanswered", "restart", mends_log=False),
        _LOST,
        15,
    ),
    Off(believe_a_replay, _scope("crash", "restart", mends_log=False), _LOST, 16),
    Off(take_a_failure_for_landed, _scope("insert throws"), _LOST, 7),
    Off(commit_before_landing, _scope(), _LOST, 5),
    Off(nothing_grows_old, _scope("window", together=2), _DOUBLE, 13),
    Off(nothing_grows_old, _scope("window", together=2, window_seconds=600.0), _DOUBLE, 13),
    Off(coverage_is_not_asked, _scope("reset"), _DOUBLE, 20),
    Off(mend_without_restoring, _scope("window"), _UNSEEN, 11),
    Off(rebuilds_are_not_looked_for, _scope("rebuild", "insert throws"), _UNSEEN, 15),
)
