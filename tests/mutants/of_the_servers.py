"""Mutants of what speaks with servers: adapters, preflight, layout, rebuild and the front."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_CLICKHOUSE, _CONTENT = "consumer/clickhouse.py", "consumer/content.py"
_COVERAGE = "consumer/coverage.py"
_CHECK, _REBUILD, _RESTORE = "schemas/check.py", "schemas/rebuild.py", "schemas/restore.py"
_FRONT = "deploy/local/front/"
_INSERTS = "tests/integration/consumer/test_inserts.py::"
_ERASED = "tests/integration/consumer/test_erased.py::"
_TABLE = "tests/integration/consumer/test_table.py::"
_FOLDING = "tests/integration/consumer/test_coverage.py::"
_PREFLIGHT = "tests/integration/consumer/test_preflight.py::"
_REBUILDING = "tests/integration/schemas/test_rebuild.py::"
_EXPIRY = "tests/integration/schemas/test_expiry.py::"
_MENDING = "tests/integration/front/test_mending_rules.py::"
_HTTP = "tests/integration/front/test_http.py::"


def _mutant(
    name: str, hole: int, off: str, path: str, old: str, new: str, *tests: str, also: str = ""
) -> Mutant:
    return Mutant(name, hole, off, (Edit(path, old, new),), tests, tuple(also.split()))


INSERTS = (
    _mutant(
        "no-pinned-settings", 1, "what cuts an insert into blocks is pinned",
        _CLICKHOUSE,
        "                    if name in client.server_settings\n",
        "                    if name in client.server_settings and 'insert_block' not in name\n",
        f"{_INSERTS}test_a_batch_is_one_block_whatever_the_profile_says",
    ),
    _mutant(
        "views-do-not-deduplicate", 1, "that views deduplicate is pinned too",
        _CLICKHOUSE,
        '    "deduplicate_blocks_in_dependent_materialized_views": 1,\n',
        "",
        f"{_INSERTS}test_a_batch_is_one_block_whatever_the_profile_says",
    ),
    _mutant(
        "a-month-of-another-zone", 2, "a row's ClickHouse partition is a function of its bytes",
        "schemas/tables.py",
        "at = datetime.fromtimestamp(created_at_ms // 1000, UTC)",
        "at = datetime.fromtimestamp(created_at_ms // 1000 + 3600, UTC)",
        "tests/contract/test_layout.py::test_python_knows_the_clickhouse_partition",
    ),
    _mutant(
        "rows-of-the-clock", 17, "no part of a row comes from the server's clock",
        "schemas/layouts/hybrid/0003_events_landing_mv.sql",
        "fromUnixTimestamp64Milli(received_at, 'UTC') AS received_at,",
        "now64(3, 'UTC') AS received_at,",
        "tests/contract/test_layout.py::test_a_row_is_converted_and_stamped",
    ),
    _mutant(
        "body-past-the-deadline", 6, "the deadline is looked at before each piece of the body",
        _CLICKHOUSE,
        "            raise _DeadlinePassed\n",
        "            pass\n",
        f"{_TABLE}test_an_insert_past_its_deadline_is_not_sent",
    ),
    _mutant(
        "no-max-execution-time", 6, "the server stops an insert that runs past its time",
        _CLICKHOUSE,
        '            "max_execution_time": self._settings.limits.insert_max_seconds,\n',
        "",
        f"{_INSERTS}test_an_insert_past_its_time_is_stopped_by_the_server",
    ),
    _mutant(
        "no-look-into-the-table", 12, "of a bad row the table is asked whether it has landed",
        _CONTENT,
        "        if epoch is None:\n            return {}\n        lines",
        "        if found:\n            return {}\n        lines",
        f"{_TABLE}test_bad_lines_are_found_and_what_is_in_the_table_is_said",
    ),
    _mutant(
        "views-are-not-searched", 12, "rows that a view cannot take are looked for in the table",
        _CONTENT,
        "view = None if landed_epoch is None else view_of(self._client, refusal)",
        "view = None",
        f"{_TABLE}test_rows_that_a_view_cannot_take_are_found_in_the_table",
        f"{_TABLE}test_where_a_view_threw_a_line_that_the_table_took_is_no_letter",
    ),
    _mutant(
        "too-many-parts-is-poison", 13, "too many parts (252) passes",
        "consumer/errors.py",
        "TOO_MANY_PARTS, 319,",
        "319,",
        f"{_INSERTS}test_too_many_parts_pass",
    ),
    _mutant(
        "too-many-partitions-passes", 13, "too many partitions (252) never passes",
        _CLICKHOUSE,
        'error.code == TOO_MANY_PARTS and "too many partitions" in why.lower()',
        'error.code == TOO_MANY_PARTS and "no such words" in why.lower()',
        f"{_INSERTS}test_only_what_speaks_of_the_lines_has_them_looked_at",
    ),
    _mutant(
        "every-error-is-the-lines-fault", 0, "only what speaks of the lines has them looked at",
        _CLICKHOUSE,
        "and (error.code in UNREADABLE or named or behind)",
        "",
        f"{_INSERTS}test_only_what_speaks_of_the_lines_has_them_looked_at",
    ),
    _mutant(
        "trouble-blames-rows", 0, "a server that is away or overloaded blames no row",
        "consumer/thrown.py",
        "        if error.code is None or error.code in PASSING:\n            raise\n",
        "",
        "tests/integration/consumer/test_thrown.py::test_a_server_in_trouble_blames_no_row",
    ),
    _mutant(
        "odd-lines-are-nowhere", 20, "whatever can land is placed, however oddly it is written",
        "consumer/placing.py",
        "line = msgspec.convert(_LOOSE.decode(text.decode()), _Line)",
        "raise",
        "tests/integration/consumer/test_thrown.py::"
        "test_a_line_that_is_written_oddly_is_missing_until_it_landed_and_stays_erased",
    ),
    _mutant(
        "few-partitions", 13, "an insert may touch any number of ClickHouse partitions",
        _CLICKHOUSE,
        '    "max_partitions_per_insert_block": 0,\n',
        "",
        f"{_INSERTS}test_more_months_than_the_default_allows_land_in_one_insert",
    ),
    _mutant(
        "no-token", 15, "every insert has its token",
        _CLICKHOUSE,
        '            "insert_deduplication_token": token,\n',
        "",
        f"{_INSERTS}test_a_batch_is_one_block_whatever_the_profile_says",
        f"{_TABLE}test_coverage_is_what_landed_past_the_offset",
    ),
    _mutant(
        "short-body", 15, "a body that was cut short lands nothing",
        f"{_FRONT}body.py",
        "            if self._start == self._end and not self.fill(idle_seconds):\n"
        "                raise Disconnected\n            take",
        "            if self._start == self._end and not self.fill(idle_seconds):\n"
        "                return\n            take",
        f"{_HTTP}test_a_body_cut_short_lands_nothing",
    ),
    _mutant(
        "listed-twice", 20, "the ledger is read distinct by batch and ClickHouse partition",
        _COVERAGE,
        "max(rows) AS most_rows",
        "sum(rows) AS most_rows",
        f"{_INSERTS}test_a_line_of_the_ledger_that_was_written_twice_counts_once",
    ),
    _mutant(
        "stamps-are-not-read", 20, "coverage comes from the stamps in the rows",
        _COVERAGE,
        "lines=_LINES + _STAMPS",
        "lines=_LINES",
        f"{_TABLE}test_coverage_is_what_landed_past_the_offset",
        f"{_INSERTS}test_what_lands_unlisted_is_covered_by_its_stamps",
        also="ValueError",
    ),
    _mutant(
        "folded-with-what-overlaps", 8, "a batch that another reaches into stands alone",
        _COVERAGE,
        " AND first >= max(end) OVER before",
        "",
        f"{_FOLDING}test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of",
    ),
    _mutant(
        "folded-without-stamps", 20, "a batch of which a stamp is missing stands alone",
        _COVERAGE,
        "                AND hasAll(stamped, listed)",
        "               ",
        f"{_FOLDING}test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of",
    ),
    _mutant(
        "stretch-that-is-reached-into", 8, "a stretch that a batch before it reaches into is open",
        _COVERAGE,
        "s.foldable and reached <= s.first and ",
        "s.foldable and ",
        f"{_FOLDING}test_a_stretch_that_another_reaches_into_is_not_folded",
    ),
    _mutant(
        "stretch-that-reaches-out", 8, "a stretch that reaches into the next one is open",
        _COVERAGE,
        "s.first and (next_first is None or s.end <= next_first):",
        "s.first:",
        f"{_FOLDING}test_a_stretch_that_another_reaches_into_is_not_folded",
    ),
    _mutant(
        "stretch-with-gaps", 8, "a stretch with a gap or an overlap is open",
        _COVERAGE,
        "            = arrayPopBack(arraySort(groupArray(last_end))) AS foldable",
        "            != [0] AS foldable",
        f"{_FOLDING}test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of",
    ),
    _mutant(
        "stretch-without-stamps", 20, "a stretch with a batch of which a stamp is missing is open",
        _COVERAGE,
        " AND listed = stamped\n",
        "\n",
        f"{_FOLDING}test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of",
    ),
    _mutant(
        "stretch-with-doubles", 20, "a line that was written twice makes no batch complete",
        _COVERAGE,
        " AND bitCount(listed) = listed_lines\n",
        "\n",
        f"{_FOLDING}test_a_folded_coverage_is_mended_like_the_batches_that_it_is_made_of",
    ),
    _mutant(
        "restart-is-not-looked-for", 21, "a retry asks whether the server was restarted since",
        _CLICKHOUSE,
        "return not server.restart_keeps_log and server.started_ms >= since_ms",
        "return False",
        f"{_INSERTS}test_after_a_restart_a_token_is_trusted_only_where_the_log_is_mended",
    ),
    _mutant(
        "nothing-is-missing", 21, "the stamps say which ClickHouse partitions have no row",
        _CONTENT,
        "unstamped = lines.keys() - stamped",
        "unstamped = set[str]()",
        f"{_TABLE}test_a_batch_that_landed_has_its_stamp_in_each_clickhouse_partition",
    ),
    _mutant(
        "all-is-missing", 20, "only what is not covered is inserted again",
        _CONTENT,
        "wanted = [line is None or line.partition not in landed for line in lines]",
        "wanted = [True for line in lines]",
        f"{_TABLE}test_what_is_missing_is_told_by_clickhouse_partition_or_by_id",
    ),
    _mutant(
        "erased-rows-come-back", 20, "a mend leaves out what a deletion on record erased",
        _CONTENT,
        "        self._keep_erased(batch, lines, wanted)\n",
        "",
        f"{_ERASED}test_what_was_erased_stays_erased_and_what_was_not_is_inserted",
    ),
    _mutant(
        "later-events-are-erased", 20, "an event that came after a deletion is another one",
        "consumer/erased.py",
        "(_came < {each.at_ms}) AND",
        "1 AND",
        f"{_ERASED}test_an_event_that_came_after_the_deletion_is_another_one",
    ),
    _mutant(
        "a-hold-is-a-refusal", 23, "an insert that a rebuild holds is sent again",
        _CLICKHOUSE,
        "    if error.code == REFUSED_BY_A_CONSTRAINT and _constraint(why).startswith(HOLD):\n",
        "    if False:\n",
        f"{_INSERTS}test_a_hold_passes",
    ),
    _mutant(
        "a-hold-is-read-anywhere", 11, "what a row quotes is not taken for the server's words",
        _CLICKHOUSE,
        "_constraint(why).startswith(HOLD)",
        "HOLD in why",
        f"{_INSERTS}test_a_row_that_speaks_of_the_hold_is_refused_all_the_same",
    ),
    _mutant(
        "body-is-read-twice", 15, "a body that was begun is not sent again from its middle",
        _CLICKHOUSE,
        "        if self.begun:\n            raise _ReadTwice\n        return self._chunks()",
        "        self._one = getattr(self, '_one', None) or self._chunks()\n"
        "        return self._one",
        "tests/integration/consumer/test_transport.py::test_a_body_is_never_sent_in_two_halves",
    ),
    _mutant(
        "half-an-error-is-enough", 12, "a view's name behind a long quoted text is read",
        "schemas/connection.py",
        'set_setting("max_error_size", 0)',
        'set_setting("max_error_size", 1000)',
        f"{_INSERTS}test_a_view_that_quotes_a_long_text_has_been_given_rows_of_the_table",
    ),
)  # fmt: skip

PREFLIGHT = (
    _mutant(
        "window-of-a-table", 4, "a table without a large enough window refuses the start",
        _CHECK,
        "        if value < least:\n",
        "        if False:\n",
        f"{_PREFLIGHT}test_a_window_of_each_of_our_tables",
        also="ValueError",
    ),
    _mutant(
        "window-of-a-strangers-target", 4, "so does any other target of a view on our tables",
        _CHECK,
        "        found.extend(_target_differences(view, target, statement, defaults))\n",
        "        pass\n",
        f"{_PREFLIGHT}test_a_window_of_a_target_that_somebody_added",
        f"{_PREFLIGHT}test_a_window_at_the_end_of_a_chain",
        also="ValueError",
    ),
    _mutant(
        "target-without-a-log", 4, "and one that keeps no deduplication log at all",
        _CHECK,
        "    elif table.engine not in _HARMLESS:\n",
        "    elif False:\n",
        f"{_PREFLIGHT}test_a_target_without_a_log",
        also="ValueError",
    ),
    _mutant(
        "distributed", 18, "a Distributed table refuses the start",
        "consumer/preflight_clickhouse.py",
        "    for (name,) in rows:\n        full",
        "    for (name,) in rows[:0]:\n        full",
        "tests/unit/consumer/test_preflight.py::test_a_distributed_table",
        also="ValueError",
    ),
)  # fmt: skip

REBUILDS = (
    _mutant(
        "no-hold", 23, "a rebuild holds inserts while it catches up for the last time",
        "schemas/hold.py",
        'f"CHECK toUnixTimestamp64Milli(now64(3)) >= {until_ms}"',
        'f"CHECK toUnixTimestamp64Milli(now64(3)) >= {until_ms} * 0"',
        f"{_REBUILDING}test_a_held_insert_is_refused_by_name_and_goes_in_afterwards",
    ),
    _mutant(
        "running-inserts-unseen", 23, "and sees the inserts end that had begun before",
        "schemas/hold.py",
        "    while running:\n        if not go_on():",
        "    while False:\n        if not go_on():",
        f"{_REBUILDING}test_an_insert_that_does_not_end_is_let_go_on",
    ),
    _mutant(
        "sums-are-left", 23, "a restore rebuilds the sums",
        _RESTORE,
        "    for each in wanted:\n",
        "    for each in wanted[:0]:\n",
        f"{_REBUILDING}test_restore_mends_what_hangs_on_the_rows",
    ),
    _mutant(
        "kept-days-are-counted", 23, "sums of days whose events may have expired are kept",
        _REBUILD,
        "        kept = ending.days\n",
        "        pass\n",
        f"{_EXPIRY}test_the_other_days_are_counted_and_these_kept",
    ),
    _mutant(
        "kept-beside-another", 23, "and read again where another rebuild was at work",
        "schemas/rebuilds.py",
        "    return bool(rows[0][0])\n",
        "    return False\n",
        f"{_EXPIRY}test_days_that_another_rebuild_may_have_made_right_are_read_again",
    ),
    _mutant(
        "kept-cures-the-cut-off", 23, "a rebuild in part cures none that was cut off",
        "schemas/rebuilds.py",
        "f\"AND arrayExists(t -> endsWith(t, '{_PARTLY}'), tables))) \"",
        '"AND 0)) "',
        f"{_EXPIRY}test_what_was_kept_may_have_been_left_wrong_before",
    ),
    _mutant(
        "restore-without-an-end", 23, "what cannot be rebuilt is left in the last try",
        _RESTORE,
        "            if last or isinstance(error, Refused):\n",
        "            if isinstance(error, Refused):\n",
        f"{_TABLE}test_what_cannot_be_rebuilt_is_left_in_the_last_try_and_not_before",
    ),
    _mutant(
        "ledger-is-left", 20, "a restore writes the ledger's rows that are missing",
        _RESTORE,
        "    for at in range(0, len(missing), _ROWS_AN_INSERT):\n",
        "    for at in range(0):\n",
        f"{_REBUILDING}test_restore_mends_what_hangs_on_the_rows",
    ),
)  # fmt: skip

LETTERS = (
    _mutant(
        "a-dead-producer-is-kept", 0, "a fatal error ends the letters' producer, not the writing",
        "consumer/dead_letters.py",
        "            if fatal and failed in (None, self._producer):\n",
        "            if False:\n",
        "tests/integration/consumer/test_dead_letters.py"
        "::test_a_fatal_error_ends_a_producer_and_not_the_writing",
    ),
)  # fmt: skip

FRONT = (
    _mutant(
        "log-is-not-mended", 21, "the front drops entries whose part is not there",
        f"{_FRONT}mending.py",
        "return any(held.covers(part) for held in",
        "return True or any(held.covers(part) for held in",
        f"{_MENDING}test_an_entry_without_its_part_goes",
    ),
    _mutant(
        "merged-parts-do-not-count", 21, "an entry stands by a part that covers its own",
        f"{_FRONT}mending.py",
        "            and self.first_block <= other.first_block\n"
        "            and self.last_block >= other.last_block\n",
        "            and self.first_block == other.first_block\n"
        "            and self.last_block == other.last_block\n",
        f"{_MENDING}test_an_entry_stands_by_its_part_or_one_that_covers_it",
    ),
)  # fmt: skip

MUTANTS: tuple[Mutant, ...] = (*INSERTS, *PREFLIGHT, *REBUILDS, *LETTERS, *FRONT)
