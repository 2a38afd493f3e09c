"""The protocol's rules, each switched off by a patch of the core: most are the simulator's.

Beside each: the smallest scope that shows what is then broken, and how it is broken, so that a
patch which merely breaks the core does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from consumer.commands import Command, ReadStamps
from consumer.flight import Now
from consumer.ledger import Intent
from consumer.partition import Partition
from consumer.recovery import Coverage
from tests.exhaustive.scope import DEADLINE_SECONDS, Scope
from tests.simulation import off_batches as batches
from tests.simulation import off_plans as plans

Patch = Callable[[pytest.MonkeyPatch], None]


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


def no_mark_before_the_rest(patch: pytest.MonkeyPatch) -> None:
    """Rows are in the table, the view threw on them, and the rest follows under the intent alone:
    whoever comes after finds that, and replays it."""

    def plain(self: Partition, flight: Any, intent: Intent, now: Now) -> list[Command]:
        return self._insert(now)

    patch.setattr(Partition, "_mark_before_the_rest", plain)


def the_rest_is_named_by_its_mark(patch: pytest.MonkeyPatch) -> None:
    """Its token is no more that of the intent, under which the rest has landed too."""
    mark = Partition._mark_before_the_rest

    def renamed(self: Partition, flight: Any, intent: Intent, now: Now) -> list[Command]:
        commands = mark(self, flight, intent, now)
        flight.intent = None
        return commands

    patch.setattr(Partition, "_mark_before_the_rest", renamed)


def rebuilds_are_asked_for_since_the_mark(patch: pytest.MonkeyPatch) -> None:
    """Which is later than the intent of the batch whose rest it announces."""
    check = Partition._check

    def short(self: Partition) -> list[Command]:
        assert self._flight is not None
        assert self._flight.note is not None
        since = self._flight.note.time_ms
        return [replace(c, since_ms=since) if isinstance(c, ReadStamps) else c for c in check(self)]

    patch.setattr(Partition, "_check", short)


@dataclass(frozen=True)
class Off:
    """A rule that is off. `steps`: of the shortest schedule with the fewest faults. `slow`: it lies
    deep."""

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
_AGAIN = "committed, and not once in the view"
_UNTOLD = r"commit \d passes .* not in the dead letters"
_STUCK = "does not come to an end"  # a commit that came late took back one that was final
_LATE = "with deadline"
_FOREIGN = "rows of another topic"
_CUT = "halted: the log ends at"

RULES = (
    Off(batches.insert_before_the_answer, _scope(), _UNPREPARED, 3),
    Off(batches.replay_without_a_prepare, _scope("crash"), _UNPREPARED, 8),
    Off(plans.cut_anew_instead_of_a_replay, _scope("crash"), _DOUBLE, 14),
    Off(
        plans.replay_under_a_new_time,
        _scope("window", log="a", consumers=1, window_part=0.4),
        _DOUBLE,
        12,
    ),
    Off(batches.no_deadline, _scope("pause"), _LATE, 6),
    Off(batches.deadline_from_the_answer, _scope("pause"), _LATE, 7),
    Off(plans.no_wait, _scope("reset"), _DOUBLE, 14),
    Off(wait_for_the_deadline_alone, _scope("reset", "pause"), _DOUBLE, 25, slow=True),
    Off(plan_from_before_the_wait, _scope("reset", "pause"), _DOUBLE, 20, slow=True),
    Off(batches.offset_outside_the_checksum, _scope("reset"), _LOST, 5),
    Off(batches.forget_the_unanswered_commit, _scope("rebalance", together=2), _DOUBLE, 17),
    Off(
        batches.an_unknown_commit_counts_as_answered,
        _scope("rebalance", "commit unknown"),
        _STUCK,
        24,
    ),
    Off(batches.guess_an_unknown_commit, _scope("rebalance", "commit unknown"), _DOUBLE, 23),
    Off(
        batches.believe_an_unclean_answer,
        _scope("insert unanswered", "restart", mends_log=False),
        _LOST,
        15,
    ),
    Off(batches.believe_a_replay, _scope("crash", "restart", mends_log=False), _LOST, 16),
    Off(batches.take_a_failure_for_landed, _scope("insert throws"), _LOST, 7),
    Off(batches.commit_before_landing, _scope(), _LOST, 5),
    Off(plans.nothing_grows_old, _scope("window", together=2), _DOUBLE, 13),
    Off(plans.nothing_grows_old, _scope("window", together=2, window_seconds=600.0), _DOUBLE, 13),
    Off(plans.coverage_is_not_asked, _scope("reset"), _DOUBLE, 19),
    Off(plans.skip_what_landed, _scope("reset"), _UNSEEN, 16),
    Off(plans.a_mend_leaves_the_views, _scope("window"), _UNSEEN, 11),
    Off(plans.the_commit_does_not_wait_for_the_views, _scope("window"), _UNSEEN, 11),
    Off(
        plans.an_intent_of_another_version_is_replayed,
        _scope("crash", versions=(1, 2)),
        _DOUBLE,
        13,
    ),
    Off(
        plans.other_rules_are_trusted_with_their_partitions,
        _scope("crash", versions=(1, 2)),
        _DOUBLE,
        19,
    ),
    Off(plans.a_mark_is_replayed_like_an_intent, _scope("window", "crash"), _DOUBLE, 18),
    Off(plans.believe_the_ledger, _scope("window"), _DOUBLE, 12),
    Off(
        plans.a_rebuild_meanwhile_is_not_looked_at,
        _scope("rebuild", "insert throws"),
        _UNSEEN,
        16,
    ),
    Off(batches.no_letters, _scope(log="x"), _UNTOLD, 7),
    Off(batches.letters_after_the_insert, _scope(log="ax"), _UNTOLD, 11),
    Off(batches.a_bad_row_changes_the_token, _scope(log="ax"), _UNPREPARED, 7),
    Off(batches.a_letter_is_not_looked_for_in_the_table, _scope(log="av"), _STUCK, 15),
    Off(
        batches.restore_beside_an_older_attempt,
        _scope("rebalance", "view mended", log="v"),
        _AGAIN,
        23,
    ),
    Off(no_mark_before_the_rest, _scope("crash", log="av"), _UNSEEN, 25),
    Off(the_rest_is_named_by_its_mark, _scope(log="av"), _DOUBLE, 13),
    Off(
        rebuilds_are_asked_for_since_the_mark,
        _scope("rebuild", "insert unanswered", log="wa"),
        _UNSEEN,
        22,
    ),
    Off(batches.insert_without_the_topics_id, _scope("recreate"), _FOREIGN, 7),
    Off(batches.any_topics_id_will_do, _scope("recreate"), _FOREIGN, 8),
    Off(batches.a_commit_of_another_topic_is_ours, _scope("recreate"), _CUT, 8),
    Off(batches.never_pause, _scope(log="abab"), "fetched while .* bytes are held", 5),
    Off(batches.what_is_in_flight_is_not_counted, _scope(), "bytes of batches are held", 3),
)
