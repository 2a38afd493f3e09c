"""Insert events as a consumer does: NDJSON, one block, one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from clickhouse_connect.driver.client import Client

Event = Mapping[str, Any]

ONE_BLOCK: Mapping[str, int] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "materialized_views_ignore_errors": 0,
    "optimize_on_insert": 0,
    "max_insert_threads": 1,
    "parallel_view_processing": 0,
    "input_format_parallel_parsing": 0,
    "input_format_skip_unknown_fields": 0,
    "max_insert_block_size": 1 << 24,
    "min_insert_block_size_rows": 1 << 24,
    "min_insert_block_size_bytes": 1 << 32,
}


def token(first: int, end: int, count: int, *, epoch: int = 0, partition: int = 0) -> str:
    return f"cluster:topic-id:{partition}:{first}-{end}:{count}:digest:{epoch}:events"


def insert(client: Client, events: Sequence[Event], deduplication_token: str = "") -> None:
    settings: dict[str, Any] = dict(ONE_BLOCK)
    if deduplication_token:
        settings["insert_deduplication_token"] = deduplication_token
    body = b"".join(orjson.dumps(event) + b"\n" for event in events)
    client.raw_insert("events_landing", insert_block=body, settings=settings, fmt="JSONEachRow")
