"""The ClickHouse partition of an event, at the edges of months."""

from __future__ import annotations

import pytest

from schemas.queries import load, names
from schemas.tables import CREATED_AT_END, CREATED_AT_FIRST, clickhouse_partition


@pytest.mark.parametrize(
    ("created_at", "partition"),
    [
        (1_420_070_400_000, "201501"),  # 2015-01-01T00:00:00.000Z
        (1_793_491_199_999, "202610"),  # 2026-10-31T23:59:59.999Z
        (1_793_491_200_000, "202611"),  # 2026-11-01T00:00:00.000Z
        (1_709_251_199_999, "202402"),  # 2024-02-29T23:59:59.999Z
        (4_102_444_799_999, "209912"),  # 2099-12-31T23:59:59.999Z
    ],
)
def test_the_partition_is_the_month_in_utc(created_at: int, partition: str) -> None:
    assert clickhouse_partition(created_at) == partition


@pytest.mark.parametrize("created_at", [CREATED_AT_FIRST - 1, CREATED_AT_END, 0, -1, 10**18])
def test_a_time_that_the_landing_table_refuses_has_none(created_at: int) -> None:
    with pytest.raises(ValueError, match="not within"):
        clickhouse_partition(created_at)


def test_every_named_query_can_be_loaded() -> None:
    read = {"session_list", "dashboard", "pages", "live", "ledger_verdict"}
    audit = {"audit_partitions", "audit_ledger", "audit_stamps"}
    assert set(names()) == read | audit
    for name in names():
        assert load(name).startswith(f"-- name: {name}\n")
        assert not load(name).endswith(";")


def test_an_unknown_query() -> None:
    with pytest.raises(KeyError, match="session_list"):
        load("../layouts/hybrid/0001_events_landing")
