"""Mutants of the pure core: a batch on its way, and a mend."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.of_the_core import mutant

_PARTITION, _BATCH = "consumer/partition.py", "consumer/batch.py"

MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "insert-without-the-topics-id", 5, "nothing is inserted before the topic's id was heard",
        _PARTITION,
        "or self._sent is not None or not flight.identified:",
        "or self._sent is not None:",
        "test_mending.py::test_the_insert_waits_for_both_whichever_comes_first",
    ),
    mutant(
        "any-topic-will-do", 5, "another id of the topic means to leave the group",
        _PARTITION,
        "        if topic_id != self.source.topic_id:\n",
        "        if False:\n",
        "test_mending.py::test_a_topic_that_was_made_again_means_leaving_the_group"
        "_before_any_insert",
    ),
    mutant(
        "any-answer-will-do", 5, "an id that was asked for earlier says nothing of these records",
        _PARTITION,
        "flight is None or flight.note is None or asked != encode(flight.note.first, flight.note):",
        "flight is None or flight.note is None:",
        "test_mending.py::test_an_answer_to_an_earlier_question_says_nothing_of_these_records",
    ),
    mutant(
        "no-timer", 5, "the topic's id is asked for on a timer too",
        "consumer/topic_watch.py",
        "self._wake.wait(self._every_seconds)",
        "self._wake.wait()",
        "test_topic_watch.py::test_without_a_question_it_asks_on_a_timer",
        also="Empty",
    ),
    mutant(
        "no-deadline", 6, "before every send the deadline is looked at",
        _PARTITION,
        "        if now.seconds >= flight.deadline:\n            return self._past_the_deadline",
        "        if False:\n            return self._past_the_deadline",
        "test_partition.py::test_before_every_send_the_deadline_is_looked_at"
        "_and_past_it_all_is_planned_again",
        "test_partition.py::test_an_answer_taken_past_the_deadline_announces_the_same_range_anew",
    ),
    mutant(
        "deadline-from-the-answer", 6, "the deadline counts from the send of the prepare",
        _PARTITION,
        "        self._failures = 0\n        self._sent = None\n",
        "        self._failures = 0\n        self._sent = None\n"
        "        if self._flight is not None:\n"
        "            self._flight.deadline = now.seconds + self._limits.insert_deadline_seconds\n",
        "test_partition.py::test_the_deadline_counts_from_the_send_of_the_prepare",
    ),
    mutant(
        "deadline-from-the-last-send", 6, "a prepare that is sent again keeps its deadline",
        _PARTITION,
        "self._flight.deadline = first_at +",
        "self._flight.deadline = now.seconds +",
        "test_bad_rows.py::test_a_mark_that_kafka_refuses_until_its_deadline_has_passed"
        "_is_not_believed",
        "test_partition.py::test_of_a_prepare_that_was_sent_again_the_deadline_counts"
        "_from_the_first_send",
    ),
    mutant(
        "guess-a-lost-commit", 7, "a commit of unknown outcome means to leave the group",
        _PARTITION,
        "if event.answer in (Answer.FENCED, Answer.LOST):",
        "if event.answer is Answer.FENCED:",
        "test_partition.py::test_a_commit_that_is_lost_or_fenced_means_leaving_the_group",
    ),
    mutant(
        "unanswered-for-ever", 7, "a commit that is not answered in time is unknown",
        _PARTITION,
        "            if now.seconds - sent.first_at >= self._limits.commit_timeout_seconds:\n"
        '                return self._rejoin("a commit was not answered in time")\n',
        "            pass\n",
        "test_partition.py::test_an_unanswered_commit_is_unknown_after_its_time"
        "_and_means_leaving_the_group",
    ),
    mutant(
        "lost-is-settled", 7, "a lost commit stays outstanding: it can still be applied",
        _PARTITION,
        "sent.answered = event.answer is not Answer.LOST",
        "sent.answered = True",
        "test_partition.py::test_a_lost_commit_stays_outstanding_because_it_can_still_be_applied",
    ),
    mutant(
        "any-commits-answer", 7, "an answer is matched with its commit by the metadata",
        _PARTITION,
        "if sent is None or sent.answered or sent.metadata != event.metadata:",
        "if sent is None or sent.answered:",
        "test_partition.py::test_an_answer_is_matched_by_its_metadata",
    ),
    mutant(
        "revoked-unseen", 7, "a revoked partition's commit is seen answered, or the member ends",
        "consumer/runner.py",
        "if sent is not None and not self._leaving and not self._seen(number, *sent):",
        "if False:",
        "test_revocation.py::test_a_commit_that_is_not_seen_in_time_ends_the_member"
        "_before_the_partition_is_given_up",
    ),
    mutant(
        "rest-has-its-own-token", 11, "the rest of a batch goes under the batch's own token",
        _PARTITION,
        "token(self.source, flight.batch, flight.named),",
        "token(self.source, flight.body, flight.named),",
        "test_bad_rows.py::test_the_rest_goes_under_the_same_token_and_the_range_does_not_change",
    ),
    mutant(
        "restored-beside-a-replay", 12, "where a view threw, what was tried before ends first",
        _PARTITION,
        "        if flight.replayed or flight.unheard:\n",
        "        if flight.unheard:\n",
        "test_bad_rows.py::test_where_a_view_threw_on_a_replay_older_attempts_are_over"
        "_before_the_views_are_restored",
    ),
    mutant(
        "restored-beside-an-unheard-attempt", 12, "and so does an attempt without an answer",
        _PARTITION,
        "        flight.unheard |= event.outcome is Outcome.FAILED\n",
        "",
        "test_bad_rows.py::test_where_a_view_threw_after_an_attempt_of_which_the_end_is_not_known",
    ),
    mutant(
        "marked-past-the-deadline", 12, "past its deadline, a batch that a view threw on is mended",
        _PARTITION,
        "            if now.seconds >= flight.deadline:  # the mark's own would",
        "            if False:  # the mark's own would",
        "test_bad_rows.py::test_where_a_view_threw_and_its_deadline_has_passed_there_is_no_mark",
    ),
    mutant(
        "any-line-is-one-object", 11, "a line that may not be one object makes its batch suspect",
        _BATCH,
        "self._suspect = self._suspect or not one_object_each(text)",
        "pass",
        "test_batch.py::test_a_line_that_may_not_be_one_object_is_looked_at_wherever_it_stands",
        "test_batch.py::test_one_object_over_several_lines_is_looked_at",
    ),
    mutant(
        "letters-are-not-waited-for", 11, "letters are acknowledged before the rest is sent",
        _PARTITION,
        "        return [self._writing]\n\n    def _set_aside",
        "        return [self._writing, *self._set_aside(now)]\n\n    def _set_aside",
        "test_bad_rows.py::test_letters_are_acknowledged_before_the_rest_is_sent",
    ),
    mutant(
        "rest-ends-earlier", 11, "without its letters a batch has the same range",
        _BATCH,
        "            self,\n            rows=rows,",
        "            self,\n            end=self.first + rows,\n            rows=rows,",
        "test_batch.py::test_some_of_the_lines_are_a_batch_of_the_same_range",
    ),
    mutant(
        "not-looked-for-in-the-table", 12, "after a doubt a bad row's stamp is looked for",
        _PARTITION,
        "flight.named.epoch if flight.unclean else None)]",
        "None)]",
        "test_bad_rows.py::test_a_refused_batch_is_reported_and_looked_through"
        "_by_what_clickhouse_said",
    ),
    mutant(
        "rebuilt-since-the-mark", 23, "tables rebuilt since a batch was announced are looked for",
        _PARTITION,
        "flight.named.epoch, flight.named.time_ms)]",
        "flight.named.epoch, flight.note.time_ms)]",
        "test_bad_rows.py::test_where_a_view_threw_the_rest_follows_a_mark"
        "_and_the_views_are_restored",
    ),
    mutant(
        "replay-without-a-prepare", 19, "a replay needs a prepare of its own too",
        _PARTITION,
        "            flight.first_attempt_ms = replay.time_ms\n"
        "        return self._announce(flight, now)",
        "            flight.first_attempt_ms = replay.time_ms\n"
        "            commands = self._announce(flight, now)\n"
        "            return [*commands, *self._insert(now)]\n"
        "        return self._announce(flight, now)",
        "test_planning.py::test_a_replay_is_not_sent_without_an_own_answered_prepare",
    ),
    mutant(
        "replay-in-a-new-time", 19, "a replay keeps the intent's original time",
        _PARTITION,
        "time_ms=now.ms if replay is None else replay.time_ms,",
        "time_ms=now.ms,",
        "test_planning.py::test_a_replay_reads_exactly_its_range_and_keeps_digest_epoch_and_time",
        "test_planning.py::test_a_replay_is_sent_under_its_old_token",
    ),
    mutant(
        "stamps-are-not-believed", 21, "what is acknowledged and not there leaves a doubt",
        _PARTITION,
        "        if event.missing:\n",
        "        if False:\n",
        "test_mending.py::test_what_was_acknowledged_and_is_not_there_leaves_a_doubt_and_no_commit",
    ),
    mutant(
        "unclean-is-believed", 21, "after an unclean attempt the stamps are read",
        _PARTITION,
        "return self._check() if flight.unclean else self._landed(now)",
        "return self._landed(now)",
        "test_partition.py::test_after_an_unclean_attempt_the_stamps_are_read_before_the_commit",
        "test_planning.py::test_a_replays_ok_is_believed_only_when_the_stamps_agree",
    ),
    mutant(
        "restarted-is-a-failure", 21, "a server that cannot vouch for the token leaves a doubt",
        _PARTITION,
        "        if event.outcome is Outcome.RESTARTED:\n",
        "        if False:\n",
        "test_mending.py::test_a_server_that_cannot_vouch_for_the_token_leaves_a_doubt",
    ),
    mutant(
        "no-restore", 23, "after a mend the views are restored",
        _PARTITION,
        "        if not self._mending.touched:\n            return self._mended(now)\n"
        "        return self._announce",
        "        return self._mended(now)\n        return self._announce",
        "test_mending.py::test_the_views_of_what_was_missing_and_of_what_was_there_are_restored"
        "_then",
    ),
    mutant(
        "rebuilt-meanwhile", 23, "sums that were rebuilt since the announcement are rebuilt again",
        _PARTITION,
        "        flight.rebuilt = event.rebuilt\n",
        "",
        "test_mending.py::test_a_table_that_was_rebuilt_since_the_announcement"
        "_is_rebuilt_again_before_the_commit",
    ),
    mutant(
        "mend-unannounced", 24, "each piece of a mend is announced by its mark",
        _PARTITION,
        "return self._announce(Flight(batch, mark, body=batch, read_rows=read_rows), now)",
        "return self._prepare(batch, None, now)",
        "test_mending.py::test_a_long_gap_is_mended_in_pieces_each_announced_by_the_mark",
    ),
    mutant(
        "restore-unannounced", 24, "a restore is announced by the mark as well",
        _PARTITION,
        "        return self._announce(Flight(None, self._mending_mark(now)), now)\n",
        "        self.phase = Phase.RESTORING\n        return [self._restoring(self._mending)]\n",
        "test_mending.py::test_a_restore_has_no_deadline_but_waits_for_the_answer_to_its_mark",
    ),
    mutant(
        "read-again-for-each-plan", 0, "the text of a replay is kept while it is planned again",
        _PARTITION,
        "                self._text = batch, replay\n",
        "                pass\n",
        "test_planning.py::test_the_text_of_a_replay_is_not_read_again_for_a_new_plan",
    ),
    mutant(
        "share-of-what-is-missing", 0, "in a mend the share is one of all lines that were read",
        _PARTITION,
        "Flight(batch, mark, body=batch, read_rows=read_rows)",
        "Flight(batch, mark, body=batch, read_rows=batch.rows)",
        "test_bad_rows.py::test_in_a_mend_the_share_is_one_of_all_lines_that_were_read",
    ),
    mutant(
        "all-replays-at-once", 0, "past the limit on memory one replay after another is read",
        "consumer/assignment.py",
        "            replaying = {most: replaying[most]}\n",
        "            pass\n",
        "test_assignment.py::test_past_the_limit_one_replay_after_another_is_read_to_its_end",
    ),
    mutant(
        "insert-before-the-answer", 0, "nothing is inserted before the prepare is answered",
        _PARTITION,
        "if self.phase is not Phase.PREPARING or self._sent is not None or not flight.identified:",
        "if self.phase is not Phase.PREPARING or not flight.identified:",
        "test_partition.py::test_no_insert_without_an_own_prepare_that_was_applied",
        "test_mending.py::test_the_insert_waits_for_both_whichever_comes_first",
    ),
    mutant(
        "too-many-bad-rows", 0, "a share of bad rows that is too large stops the partition",
        _PARTITION,
        "        if too_many:\n",
        "        if False:\n",
        "test_bad_rows.py::test_more_than_the_share_of_a_full_window_stops_the_partition"
        "_before_any_letter",
    ),
    mutant(
        "good-batches-hide-bad-ones", 0, "the share is one of the newest events, and of no others",
        "consumer/share.py",
        "            if rows >= self._window_rows:",
        "            if False:",
        "test_share.py::test_what_has_begun_is_not_hidden_by_good_batches_before_it",
    ),
)  # fmt: skip
