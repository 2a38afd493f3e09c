"""The protocol's rules as data: how each is switched off, and what then turns red.

A rule is tried in the simulator, where some seed of a family of runs must fail, or, where only an
exact sequence shows it, by a scripted test of the core. How it fails is part of the expectation, so
that a patch which merely breaks the core does not count. `hole` is the number of the hole that the
rule closes, in the table of consumer/README.md; 0 for a rule of the protocol itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.simulation import off_batches as batches
from tests.simulation import off_plans as plans
from tests.simulation.faults import (
    BAD_LINES,
    EVERYDAY,
    HANDOVER,
    LITTLE_MEMORY,
    LYING_AT_REPLAY,
    OLD_BY_ENTRIES,
    OLD_BY_TIME,
    RECREATED,
    RESET,
    RESET_WHILE_INSERTING,
    UNKNOWN_COMMITS,
    VERSIONS,
    Profile,
)
from tests.simulation.world import Failed, run
from tests.unit.consumer import (
    test_bad_rows,
    test_ledger,
    test_mending,
    test_partition,
    test_planning,
    test_recovery,
)

SEEDS = 1000  # that are tried, from the first on

# Families of runs in which one rule matters more than in those that must pass, where it is one of
# several that would have to fail together.
LYING_UNSEEN = Profile(
    "lying unseen",
    {
        "insert given up": 8.0,
        "server restart": 3.0,
        "server step": 10.0,
        "server crash": 0.5,
        "commit try again": 1.0,
        "crash": 0.3,
    },
    mends_log=False,
    records=5,
    steps=250,
)
REBUILDS = Profile(
    "rebuilds beside inserts",
    {
        **EVERYDAY.faults,
        "window passes": 2.0,
        "insert throws": 6.0,
        "crash": 2.0,
        "insert given up": 3.0,
    },
    partitions=2,
    records=6,
    steps=400,
    window_seconds=600.0,
)
RESET_IN_LITTLE_MEMORY = Profile(
    "reset in little memory",
    {"reset": 1.0, "long pause": 0.3, "run job": 60.0, "produce": 30.0},
    records=14,
    steps=400,
    buffer_bytes=40,
)


Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, eq=False)
class Rule:
    """With `patch`, of the runs of `profile` one fails with `what`: a seed at or a little after
    `first_seed`."""

    patch: Patch
    profile: Profile
    first_seed: int
    what: str
    hole: int = 0

    @property
    def name(self) -> str:
        return f"{self.patch.__name__}, {self.profile.name}"

    def turns_red(self) -> None:
        with pytest.raises(Failed, match=f"seed \\d+: .*({self.what})"):
            self._run()

    def _run(self) -> None:
        for seed in range(self.first_seed, self.first_seed + SEEDS):
            run(seed, self.profile)


@dataclass(frozen=True, eq=False)
class Scripted:
    """With `patch` this scripted test of the core fails, called with `values`."""

    patch: Patch
    test: Callable[..., None]
    values: tuple[object, ...] = ()
    hole: int = 0

    @property
    def name(self) -> str:
        return f"{self.patch.__name__}, {self.test.__name__}"

    def passes(self) -> None:
        self.test(*self.values)

    def turns_red(self) -> None:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            self.passes()


CONFUSED = "double in the|halted|passes|does not come to an end"
UNANNOUNCED = "without an own answered prepare"
UNPAUSED = "is fetched from .* bytes are held|bytes were read on, more than"
OF_ANOTHER_TOPIC = "landed under another topic's id"

RULES: list[Rule] = [
    Rule(batches.insert_before_the_answer, EVERYDAY, 0, UNANNOUNCED, hole=2),
    Rule(batches.replay_without_a_prepare, EVERYDAY, 0, UNANNOUNCED, hole=19),
    Rule(batches.no_deadline, EVERYDAY, 0, "deadline inf of a prepare", hole=6),
    Rule(batches.deadline_from_the_answer, EVERYDAY, 0, "deadline .* of a prepare", hole=6),
    Rule(batches.forget_the_unanswered_commit, UNKNOWN_COMMITS, 300, CONFUSED, hole=7),
    Rule(batches.an_unknown_commit_counts_as_answered, UNKNOWN_COMMITS, 300, CONFUSED, hole=7),
    Rule(batches.guess_an_unknown_commit, UNKNOWN_COMMITS, 300, CONFUSED, hole=7),
    Rule(batches.take_a_failure_for_landed, EVERYDAY, 20, "passes .* not in the"),
    Rule(batches.commit_before_landing, EVERYDAY, 0, "passes .* not in the"),
    Rule(
        batches.believe_an_unclean_answer, LYING_UNSEEN, 900, "passes .* not in the table", hole=21
    ),
    Rule(batches.believe_a_replay, LYING_AT_REPLAY, 600, "passes .* not in the table", hole=21),
    Rule(batches.insert_without_the_topics_id, RECREATED, 0, OF_ANOTHER_TOPIC, hole=5),
    Rule(batches.any_topics_id_will_do, RECREATED, 0, OF_ANOTHER_TOPIC, hole=5),
    Rule(batches.a_commit_of_another_topic_is_ours, RECREATED, 10, CONFUSED, hole=5),
    Rule(batches.offset_outside_the_checksum, RESET, 0, CONFUSED, hole=8),
    Rule(batches.no_letters, BAD_LINES, 0, "not among the dead letters", hole=11),
    Rule(batches.letters_after_the_insert, BAD_LINES, 0, "not among the dead letters", hole=11),
    Rule(
        batches.a_bad_row_changes_the_token,
        BAD_LINES,
        0,
        "not the text that was announced",
        hole=11,
    ),
    Rule(batches.never_pause, LITTLE_MEMORY, 0, UNPAUSED),
    Rule(batches.what_is_in_flight_is_not_counted, LITTLE_MEMORY, 0, UNPAUSED),
    Rule(batches.what_waits_is_not_counted, LITTLE_MEMORY, 0, UNPAUSED),
    Rule(batches.replays_are_read_ahead_without_end, RESET_IN_LITTLE_MEMORY, 0, "second range"),
    Rule(plans.cut_anew_instead_of_a_replay, HANDOVER, 0, "double in the", hole=1),
    Rule(plans.replay_under_a_new_time, HANDOVER, 0, "was first announced at", hole=3),
    Rule(plans.no_wait, RESET_WHILE_INSERTING, 0, "double in the", hole=8),
    Rule(plans.coverage_is_not_asked, RESET, 0, "double in the", hole=8),
    Rule(plans.nothing_grows_old, OLD_BY_ENTRIES, 0, "double in the", hole=3),
    Rule(plans.nothing_grows_old, OLD_BY_TIME, 25, "double in the", hole=3),
    Rule(plans.skip_what_landed, RESET, 0, "passes .* 0 times in the view", hole=23),
    Rule(
        plans.an_intent_of_another_version_is_replayed, VERSIONS, 0, "double in the table", hole=2
    ),
    Rule(plans.no_wait_before_a_mend, OLD_BY_TIME, 600, "double in the", hole=22),
    Rule(
        plans.other_rules_are_trusted_with_their_partitions,
        VERSIONS,
        195,
        "double in the table",
        hole=2,
    ),
    Rule(plans.a_mark_is_replayed_like_an_intent, VERSIONS, 175, "double in the", hole=24),
    Rule(
        plans.a_piece_is_announced_like_a_batch,
        VERSIONS,
        50,
        "was first announced at|double in the|passes",
        hole=24,
    ),
    Rule(plans.believe_the_ledger, VERSIONS, 195, "double in the table", hole=20),
    Rule(plans.a_mend_leaves_the_views, VERSIONS, 195, "passes .* 0 times in the", hole=23),
    Rule(
        plans.the_commit_does_not_wait_for_the_views,
        VERSIONS,
        195,
        "passes .* 0 times in the view",
        hole=23,
    ),
    Rule(
        plans.a_rebuild_meanwhile_is_not_looked_at,
        REBUILDS,
        1455,
        "passes .* 2 times in the view",
        hole=23,
    ),
]

SCRIPTED: list[Scripted] = [
    Scripted(
        batches.a_replay_repeats_the_commit_word_for_word,
        test_partition.test_a_replays_prepare_differs_from_the_commit_that_it_repeats,
        hole=7,
    ),
    Scripted(
        batches.no_checksum,
        test_ledger.test_corrupt_metadata_is_foreign_wherever_it_was_hit,
        (test_ledger.INTENT,),
        hole=16,
    ),
    Scripted(
        batches.a_range_ends_at_its_last_record,
        test_planning.test_a_replay_ends_where_the_position_reaches_its_end_also_in_markers,
        hole=10,
    ),
    Scripted(
        batches.a_letter_is_not_looked_for_in_the_table,
        test_bad_rows.test_a_refused_batch_is_reported_and_looked_through_by_what_clickhouse_said,
        hole=12,
    ),
    Scripted(
        batches.restore_beside_an_older_attempt,
        test_bad_rows.test_where_a_view_threw_on_a_replay_older_attempts_are_over_before_the_views_are_restored,
        hole=12,
    ),
    Scripted(
        batches.no_share_is_too_much,
        test_bad_rows.test_more_than_the_share_of_a_full_window_stops_the_partition_before_any_letter,
    ),
    Scripted(plans.a_restart_is_not_looked_at, test_recovery.test_old_by_a_restart_since, hole=21),
    Scripted(
        plans.another_text_is_replayed,
        test_mending.test_a_replay_that_reads_as_other_text_is_mended_after_the_wait,
        (test_mending.COMPACTED,),
        hole=9,
    ),
    Scripted(
        plans.a_log_that_was_cut_is_read_on,
        test_planning.test_a_halted_partition_says_why_and_does_nothing_more,
    ),
    Scripted(
        plans.our_own_insert_is_not_waited_for,
        test_partition.test_an_own_insert_that_was_given_up_makes_the_wait_longer,
        hole=22,
    ),
    Scripted(
        plans.a_mend_takes_the_old_epoch,
        test_mending.test_a_mark_is_never_replayed_but_waited_for_and_mended_again_under_a_newer_epoch,
        hole=3,
    ),
    Scripted(
        plans.a_doubt_is_forgotten,
        test_mending.test_a_replay_of_a_stamped_batch_whose_count_differs_is_in_doubt,
        hole=9,
    ),
]
