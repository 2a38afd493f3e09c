"""The rules of a plan and of a mend, switched off one by one: patches that exist only here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer import partition as partition_module
from consumer import recovery as recovery_module
from consumer.commands import Command, StampsRead
from consumer.flight import Now
from consumer.ledger import Intent, Mark
from consumer.partition import Partition
from consumer.recovery import Begin, Commit, Coverage, Halt, Mend, Plan, Replay, plan


def planned_otherwise(patch: pytest.MonkeyPatch, other: Callable[[Plan], Plan]) -> None:
    def planned(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        return other(plan(judgement, commit, coverage, now_ms, **how))

    patch.setattr(partition_module, "plan", planned)


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


def no_wait(patch: pytest.MonkeyPatch) -> None:
    """A foreign commit is planned at once."""

    def hasty(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        if judgement.note is None:
            how["waited"] = True
        return plan(judgement, commit, coverage, now_ms, **how)

    patch.setattr(partition_module, "plan", hasty)


def no_wait_before_a_mend(patch: pytest.MonkeyPatch) -> None:
    """What has to be mended is read from the table, and mended, at once."""
    look_at = Partition._look_at

    def hasty(self: Partition, commit: Commit) -> list[Command]:
        self._waited = True
        return look_at(self, commit)

    patch.setattr(Partition, "_look_at", hasty)


def our_own_insert_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """The wait counts from the assignment alone, whatever was sent and abandoned since."""
    insert = Partition._insert

    def forgetful(self: Partition, now: Now) -> list[Command]:
        quiet_at = self._quiet_at
        commands = insert(self, now)
        self._quiet_at = quiet_at
        return commands

    patch.setattr(Partition, "_insert", forgetful)


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


def skip_what_landed(patch: pytest.MonkeyPatch) -> None:
    """What a foreign commit finds in the table is passed, and not replayed for the views' sake."""

    def skipping(found: Plan) -> Plan:
        if isinstance(found, Begin) and found.replays and found.replays[0].digest is None:
            return Begin(found.offset, found.epoch)
        return found

    planned_otherwise(patch, skipping)


def a_mend_takes_the_old_epoch(patch: pytest.MonkeyPatch) -> None:
    def modest(found: Plan) -> Plan:
        return replace(found, epoch=found.epoch - 1) if isinstance(found, Mend) else found

    planned_otherwise(patch, modest)


def other_rules_are_trusted_with_their_partitions(patch: pytest.MonkeyPatch) -> None:
    """What another version inserted is looked for in the ClickHouse partitions of this one."""

    def trusting(found: Plan) -> Plan:
        return replace(found, by_ids=False) if isinstance(found, Mend) else found

    planned_otherwise(patch, trusting)


def an_intent_of_another_version_is_replayed(patch: pytest.MonkeyPatch) -> None:
    why = recovery_module._why_not_replayed

    def lenient(intent: Intent, commit: Any, coverage: Any, now_ms: int) -> str:
        version = vars(recovery_module)["ROWS_VERSION"]  # that of the build which runs
        return why(replace(intent, version=version), commit, coverage, now_ms)

    patch.setattr(recovery_module, "_why_not_replayed", lenient)


def a_mark_is_replayed_like_an_intent(patch: pytest.MonkeyPatch) -> None:
    def replaying(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        note = judgement.note
        if isinstance(note, Mark):
            again = Replay(note.first, note.end, note.epoch, note.time_ms)
            return Begin(note.end, note.epoch, (again,))
        return plan(judgement, commit, coverage, now_ms, **how)

    patch.setattr(partition_module, "plan", replaying)


def a_piece_is_announced_like_a_batch(patch: pytest.MonkeyPatch) -> None:
    """By an intent for itself: nothing says any more that a mend is under way."""
    prepare = Partition._prepare

    def plain(self: Partition, batch: Any, read_rows: int, now: Now) -> list[Command]:
        return prepare(self, batch, None, now)

    patch.setattr(Partition, "_prepare_piece", plain)


def believe_the_ledger(patch: pytest.MonkeyPatch) -> None:
    """A mend looks at `batches` alone, which is written by a view."""

    def indexed(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        batches = tuple(replace(c, stamped=c.listed) for c in coverage.batches if c.listed)
        return plan(judgement, commit, replace(coverage, batches=batches), now_ms, **how)

    patch.setattr(partition_module, "plan", indexed)


def a_mend_leaves_the_views(patch: pytest.MonkeyPatch) -> None:
    """Its end is committed when the table is whole, and nothing is restored."""
    patch.setattr(Partition, "_restore", Partition._mended)


def the_commit_does_not_wait_for_the_views(patch: pytest.MonkeyPatch) -> None:
    """A restore is asked for along with the commit past it."""

    def early(self: Partition, now: Now) -> list[Command]:
        assert self._mending is not None
        asked = [self._restoring(self._mending)] if self._mending.touched else []
        return [*asked, *self._mended(now)]

    patch.setattr(Partition, "_restore", early)


def a_rebuild_meanwhile_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    checked = Partition._checked

    def unaware(self: Partition, event: StampsRead, now: Now) -> list[Command]:
        return checked(self, replace(event, rebuilt=frozenset()), now)

    patch.setattr(Partition, "_checked", unaware)


def a_doubt_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What was acknowledged and is not there is planned again as if nothing had been learnt."""

    def hopeful(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        return plan(judgement, commit, coverage, now_ms, **{**how, "doubt": ""})

    patch.setattr(partition_module, "plan", hopeful)


def a_restart_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    old = Coverage.old

    def forgiving(self: Coverage, since_ms: int, now_ms: int) -> str | None:
        return old(replace(self, restart_keeps_log=True), since_ms, now_ms)

    patch.setattr(Coverage, "old", forgiving)


def another_text_is_replayed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(partition_module, "_mismatch", lambda batch, replay: "")


def a_log_that_was_cut_is_read_on(patch: pytest.MonkeyPatch) -> None:
    def brave(judgement: Any, commit: Any, coverage: Any, now_ms: int, **how: Any) -> Plan:
        endless = replace(commit, high=1 << 62)
        return plan(judgement, endless, coverage, now_ms, **how)

    patch.setattr(partition_module, "plan", brave)
