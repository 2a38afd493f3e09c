"""Mutants of the pure core: the plan after an assignment, and what commits say."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_UNIT = "tests/unit/consumer/"
_RECOVERY, _PARTITION = "consumer/recovery.py", "consumer/partition.py"
_LEDGER, _BATCH = "consumer/ledger.py", "consumer/batch.py"


def mutant(
    name: str, hole: int, off: str, path: str, old: str, new: str, *tests: str, also: str = ""
) -> Mutant:
    named = tuple(f"{_UNIT}{test}" for test in tests)
    fails_with = tuple(also.split())
    return Mutant(name, hole, off, (Edit(path, old, new),), named, fails_with)


PLAN = (
    mutant(
        "part-landed-clashes", 2,
        "a batch that landed in part is replayed under its token, which fills what is missing",
        _RECOVERY,
        "clash = [c for c in coverage.batches if (c.first, c.end, c.epoch) != own]",
        "clash = list(coverage.batches)",
        "test_recovery.py::test_a_young_intent_that_landed_in_part_or_whole_is_replayed_too",
    ),
    mutant(
        "old-by-entries", 3, "an intent grows old by the entries of the window",
        _RECOVERY,
        "if self.entries_since > self.window_entries // 2:",
        "if self.entries_since > self.window_entries * 10**9 + 10**9:",
        "test_recovery.py::test_old_by_entries_is_past_half_of_the_window",
        "test_recovery.py::test_a_window_of_nothing_makes_every_insert_old",
    ),
    mutant(
        "old-by-time", 3, "an intent grows old by the seconds of the window",
        _RECOVERY,
        "if self.window_seconds is not None and age_seconds > self.window_seconds / 2:",
        "if self.window_seconds is not None and age_seconds > 10**9:",
        "test_recovery.py::test_old_by_seconds_is_past_half_of_the_window",
    ),
    mutant(
        "all-of-a-window", 3, "old is past half of a window, not past all of it",
        _RECOVERY,
        "age_seconds > self.window_seconds / 2:",
        "age_seconds > self.window_seconds:",
        "test_recovery.py::test_old_by_seconds_is_past_half_of_the_window",
    ),
    mutant(
        "commit-of-another-topic", 5, "a commit says which topic's it is",
        _RECOVERY,
        "note.topic_id != topic_id or commit.offset is None",
        "commit.offset is None",
        "test_recovery.py::test_a_foreign_commits_offset_means_nothing",
    ),
    mutant(
        "foreign-does-not-wait", 8, "a foreign commit means to wait before the table is believed",
        _RECOVERY,
        "if not waited and (commit.low < commit.high or landed):",
        "if not waited and False:",
        "test_recovery.py::test_a_foreign_commit_waits_before_the_table_is_believed",
        "test_planning.py::test_a_foreign_commit_waits_until_every_older_insert_is_over"
        "_and_then_reads_the_table",
    ),
    mutant(
        "landed-past-an-open-commit", 8,
        "what landed past a commit that says nothing is open is seen: its offset was moved",
        _RECOVERY,
        "            if coverage.batches:\n",
        "            if False:\n",
        "test_recovery.py::test_nothing_open_but_landed_past_it_is_mended",
    ),
    mutant(
        "clash", 8, "an intent that clashes with what the table has is not replayed",
        _RECOVERY,
        "    if clash:\n",
        "    if False:\n",
        "test_recovery.py::test_an_intent_that_clashes_with_the_coverage",
    ),
    mutant(
        "foreign-does-not-read-the-rows", 8, "after a foreign commit the rows are asked for stamps",
        _PARTITION,
        "whole=note is None or self._waited)",
        "whole=self._waited)",
        "test_planning.py::test_a_foreign_commit_asks_the_rows_themselves_from_the_logs_start",
    ),
    mutant(
        "trimmed-intent", 9, "an intent whose records have left the log is not replayed",
        _RECOVERY,
        "    if commit.low > intent.first:\n",
        "    if False:\n",
        "test_recovery.py::test_an_intent_whose_records_are_gone_from_the_log",
    ),
    mutant(
        "digest", 9, "a replay is compared with the digest that was announced",
        _PARTITION,
        "        and replay.digest in (None, batch.digest)\n",
        "",
        "test_mending.py::test_a_replay_that_reads_as_other_text_is_mended_after_the_wait",
    ),
    mutant(
        "count", 9, "a replay whose digest is not known is compared with the count of its token",
        _PARTITION,
        "        and replay.count in (None, batch.rows)\n",
        "",
        "test_mending.py::test_a_replay_of_a_stamped_batch_whose_count_differs_is_in_doubt",
    ),
    mutant(
        "replay-ends-by-count", 10, "a range ends where the position reaches it, markers counted",
        _PARTITION,
        "if self._filling.position >= replay.end:",
        "if self._filling.rows >= (replay.count or 0) and self._filling.position > replay.end:",
        "test_planning.py::test_a_replay_ends_where_the_position_reaches_its_end_also_in_markers",
    ),
    mutant(
        "a-hole-cuts-short", 10, "what is split within a hole of the log ends at the split",
        _BATCH,
        "self.values[:kept], end, self.append_ms)",
        "self.values[:kept], self.offsets[kept - 1] + 1 if kept else end, self.append_ms)",
        "test_batch.py::test_split_in_a_hole_ends_there",
    ),
    mutant(
        "position-by-count", 10, "a batch ends at the position, not at so many records",
        _BATCH,
        "        self.position = records.position\n",
        "        self.position += len(records.values)\n",
        "test_batch.py::test_position_goes_past_markers_that_follow_the_last_record",
    ),
    mutant(
        "version-of-an-intent", 17, "an intent of other rules of the rows is not replayed",
        _RECOVERY,
        "    if intent.version != ROWS_VERSION:\n",
        "    if False:\n",
        "test_recovery.py::test_an_intent_of_another_version_of_the_rows_rules",
    ),
    mutant(
        "version-of-a-stamp", 17, "a batch that other rules stamped is not replayed either",
        _RECOVERY,
        "elif since_ms is None or c.version != ROWS_VERSION:",
        "elif since_ms is None:",
        "test_recovery.py::test_what_its_tokens_cannot_settle_is_mended",
    ),
    mutant(
        "ids-decide", 17, "where other rules may have placed rows, the ids say what is missing",
        _RECOVERY,
        "by_ids=bool(versions - {ROWS_VERSION})",
        "by_ids=False",
        "test_mend_plan.py::test_where_other_rules_may_have_placed_the_rows_the_ids_decide",
    ),
    mutant(
        "believe-the-ledger", 20, "a line of the ledger counts only with a stamped row",
        _RECOVERY,
        "self.listed_rows == self.expected_rows and self.listed <= self.stamped",
        "self.listed_rows == self.expected_rows",
        "test_mend_plan.py::test_a_line_of_the_ledger_without_a_row_is_not_believed",
    ),
    mutant(
        "part-of-the-ledger", 20, "a batch is whole when the ledger has every row announced",
        _RECOVERY,
        "self.listed_rows == self.expected_rows and self.listed <= self.stamped",
        "self.listed <= self.stamped",
        "test_mend_plan.py::test_a_batch_that_the_ledger_has_in_part_is_read_again",
    ),
    mutant(
        "landed-by-the-ledger", 20, "what landed is what is stamped, not what is listed",
        _RECOVERY,
        "landed = frozenset[str]().union(*(c.stamped for c in covers))",
        "landed = frozenset[str]().union(*(c.listed for c in covers))",
        "test_mend_plan.py::test_a_line_of_the_ledger_without_a_row_is_not_believed",
    ),
    mutant(
        "restart-is-harmless", 21, "a restart makes an intent old where the log can lie",
        _RECOVERY,
        "if not self.restart_keeps_log and self.server_started_ms >= since_ms:",
        "if False:",
        "test_recovery.py::test_old_by_a_restart_since",
    ),
    mutant(
        "views-kept-what-was-lost", 21,
        "where a server may have lost rows that its views kept, a gap counts as touched",
        _RECOVERY,
        "touched = bool(covers) or not coverage.restart_keeps_log",
        "touched = bool(covers)",
        "test_mend_plan.py::test_a_server_that_may_have_lost_what_its_views_kept_touched_everything",
    ),
    mutant(
        "mend-does-not-wait", 22, "a mend waits until every older insert is over",
        _RECOVERY,
        "    if not waited:\n        return Wait(why)\n",
        "",
        "test_planning.py::test_an_old_intent_waits_and_then_asks_the_rows_themselves"
        "_and_is_mended",
        "test_mending.py::test_a_mark_is_never_replayed_but_waited_for"
        "_and_mended_again_under_a_newer_epoch",
    ),
    mutant(
        "short-wait", 22, "the wait counts the time that an insert may run, not only its deadline",
        _PARTITION,
        "now.seconds + limits.insert_deadline_seconds + limits.insert_max_seconds",
        "now.seconds + limits.insert_deadline_seconds",
        "test_planning.py::test_a_foreign_commit_waits_until_every_older_insert_is_over"
        "_and_then_reads_the_table",
    ),
    mutant(
        "own-insert-forgotten", 22, "an insert of our own that was given up makes the wait longer",
        _PARTITION,
        "self._quiet_at = max(self._quiet_at, flight.deadline + self._limits.insert_max_seconds)",
        "pass",
        "test_partition.py::test_an_own_insert_that_was_given_up_makes_the_wait_longer",
    ),
    mutant(
        "read-before-the-wait", 22, "what was read before the wait was over is not believed",
        _PARTITION,
        "        text, self._text = self._text, None\n",
        "        text, self._text = self._text, None\n"
        "        self._waited = now.seconds >= self._quiet_at\n",
        "test_planning.py::test_what_was_asked_before_the_wait_was_over_is_not_believed_after_it",
    ),
    mutant(
        "skip-what-landed", 23, "what landed before a foreign commit is replayed for its views",
        _RECOVERY,
        "return Begin(position, epoch, tuple(replays))",
        "return Begin(position, epoch)",
        "test_recovery.py::test_what_landed_is_replayed_under_its_own_tokens_for_the_views_sake",
    ),
    mutant(
        "whole-needs-no-rebuild", 23, "the views of what is whole and old are rebuilt too",
        _RECOVERY,
        "            rebuild |= c.stamped\n",
        "            if c.complete:\n                continue\n            rebuild |= c.stamped\n",
        "test_mend_plan.py::test_a_whole_batch_is_not_read_again_and_its_views_are_rebuilt",
    ),
    mutant(
        "mend-in-the-old-epoch", 24, "a mend has an epoch above all that were seen",
        _RECOVERY,
        "epoch=max(epochs, default=0) + 1,",
        "epoch=max(epochs, default=0),",
        "test_mend_plan.py::test_a_mend_has_an_epoch_above_all_that_were_seen",
    ),
    mutant(
        "mark-is-replayed", 24, "a mark is mended again, and never replayed",
        _RECOVERY,
        "        case Mark() as note:\n",
        "        case Mark() as note if waited or not doubt:\n"
        "            again = Replay(note.first, note.end, note.epoch, note.time_ms)\n"
        "            return Begin(note.end, note.epoch, (again,))\n"
        "        case Mark() as note:\n",
        "test_mending.py::test_a_mark_is_never_replayed_but_waited_for"
        "_and_mended_again_under_a_newer_epoch",
    ),
    mutant(
        "the-log-was-cut", 0, "a log that ends before what was reached once stops the partition",
        _RECOVERY,
        "    if known_end > commit.high:\n",
        "    if False:\n",
        "test_recovery.py::test_a_log_that_ends_before_what_was_reached_once_stops_the_partition",
    ),
    mutant(
        "halted-by-an-old-log-end", 0, "the log's end is asked again before the table is believed",
        _PARTITION,
        "                if reached <= self._reached:\n",
        "                if reached:\n",
        "test_planning.py::test_a_log_that_grew_before_the_table_was_read_was_not_cut",
    ),
)  # fmt: skip

COMMITS = (
    mutant(
        "token-without-the-topic", 5, "the token names the topic's id",
        _LEDGER,
        'f"{source.cluster}:{source.topic_id}:{source.partition}:{batch.first}-{batch.end}"',
        'f"{source.cluster}:{source.topic}:{source.partition}:{batch.first}-{batch.end}"',
        "test_ledger.py::test_the_token_names_cluster_topic_range_text_epoch_version_and_time",
    ),
    mutant(
        "offset-outside-the-checksum", 8, "the checksum covers the offset: a moved one is foreign",
        _LEDGER,
        "zlib.crc32(f'{text}@{offset}'.encode())",
        "zlib.crc32(f'{text}'.encode())",
        "test_ledger.py::test_a_commit_that_was_moved_is_foreign",
    ),
    mutant(
        "an-end-without-metadata", 8, "every commit of ours carries metadata",
        _PARTITION,
        "return self._send_commit(offset, encode(offset, note), now)",
        'return self._send_commit(offset, "", now)',
        "test_partition.py::test_every_commit_has_metadata_of_ours",
    ),
    mutant(
        "token-without-the-partition", 14, "the token names the Kafka partition",
        _LEDGER,
        'f"{source.cluster}:{source.topic_id}:{source.partition}:{batch.first}-{batch.end}"',
        'f"{source.cluster}:{source.topic_id}:0:{batch.first}-{batch.end}"',
        "test_ledger.py::test_the_token_names_cluster_topic_range_text_epoch_version_and_time",
        "test_several_partitions.py"
        "::test_the_same_range_of_two_partitions_is_two_inserts_under_two_tokens",
    ),
    mutant(
        "a-fetch-mixes-partitions", 14, "what one fetch brought is told apart by its partition",
        "consumer/kafka.py",
        "for partition, run in groupby(messages, _partition):",
        "for partition, run in groupby(messages, lambda _: _partition(messages[0])):",
        "test_several_partitions.py::test_a_fetch_keeps_the_records_of_each_partition_apart",
    ),
    mutant(
        "records-of-all-partitions", 14, "records go to their own partition, and to no other",
        "consumer/assignment.py",
        "        partition = self._partitions.get(number)\n        if partition is None:\n"
        "            return []\n"
        "        return [(partition, command) for command in partition.records(records, now)]",
        "        every = self._partitions.values()\n"
        "        return [(p, command) for p in every for command in p.records(records, now)]",
        "test_several_partitions.py"
        "::test_records_fill_the_batch_of_their_partition_and_of_no_other",
    ),
    mutant(
        "no-checksum", 16, "metadata whose checksum is wrong is foreign",
        _LEDGER,
        "    if checksum != _checksum(offset, text):\n        return None\n",
        "",
        "test_ledger.py::test_corrupt_metadata_is_foreign_wherever_it_was_hit",
    ),
    mutant(
        "oversize-metadata", 16, "metadata longer than ours can be is foreign",
        _LEDGER,
        "if not metadata or len(metadata) > _LONGEST:",
        "if not metadata:",
        "test_ledger_more.py::test_metadata_that_is_too_long_is_foreign_whatever_it_says",
    ),
    mutant(
        "other-format", 16, "metadata of another version of the form is foreign",
        _LEDGER,
        'rf"{_MARK}:open:(\\d+)',
        'rf"penstock[0-9]:open:(\\d+)',
        "test_ledger.py::test_another_format_is_foreign_even_when_its_checksum_is_right",
    ),
    mutant(
        "token-without-its-time", 24, "what is announced anew, in a mend too, has another token",
        _LEDGER,
        ":{note.version}:{note.time_ms}",
        ":{note.version}:0",
        "test_ledger.py::test_what_is_announced_anew_has_a_token_of_its_own"
        "_and_a_replay_has_the_old_one",
    ),
)  # fmt: skip

MUTANTS: tuple[Mutant, ...] = (*PLAN, *COMMITS)
