"""Names of the hybrid layout's tables, and the facts about them that other packages count with.

The SQL in `layouts/` is what the server gets; this module is what Python needs to know of it
without reading SQL. Tests hold the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime

LANDING = "events_landing"
EVENTS = "events"
BATCHES = "batches"
SESSIONS = "sessions"
SESSIONS_DAILY = "sessions_daily"
PAGES_DAILY = "pages_daily"
REBUILDS = "rebuilds"
REWINDS = "rewinds"
MIGRATIONS = "schema_migrations"

# What a rebuild makes again from `events`: the sums, which can be wrong after a doubt, and
# `sessions`, which only the removal of events can make wrong.
SUMMED = (SESSIONS_DAILY, PAGES_DAILY)
REBUILDABLE = (SESSIONS, *SUMMED)

# A refused insert whose error (code 469) names a constraint that begins so was refused for a
# moment only: nothing of it has landed, and it can be sent again as it is.
HOLD = "held_for_a_rebuild"

# Tables that a batch is written to, directly or by a view. On each of them a replayed token must
# find its entry in the deduplication log, or the replay lands a second time there.
DEDUPLICATED = (EVENTS, BATCHES, SESSIONS, SESSIONS_DAILY, PAGES_DAILY)

# Entries (one a block and ClickHouse partition) that each of those logs keeps, and for replicated
# tables also how long.
DEDUPLICATION_WINDOW = 100_000
DEDUPLICATION_WINDOW_SECONDS = 7 * 24 * 3600

# A created_at outside [first, end) is refused by the landing table. Epoch milliseconds.
CREATED_AT_FIRST = 1_420_070_400_000  # 2015-01-01
CREATED_AT_END = 4_102_444_800_000  # 2100-01-01


def clickhouse_partition(created_at_ms: int) -> str:
    """The id of the ClickHouse partition of `events` that a row with this created_at falls in.

    It is a pure function of the record's bytes, so the same record falls in the same partition
    whoever inserts it. Raises ValueError for a time that the landing table refuses.
    """
    if not CREATED_AT_FIRST <= created_at_ms < CREATED_AT_END:
        raise ValueError(f"created_at {created_at_ms} is not within 2015-01-01 to 2100-01-01")
    # whole seconds: a float of milliseconds could round up into the next month
    at = datetime.fromtimestamp(created_at_ms // 1000, UTC)
    return f"{at.year:04}{at.month:02}"
