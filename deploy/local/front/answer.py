"""One request turned into engine calls, and their outcome into ClickHouse's kind of answer.

Every URL parameter that is not one of HTTP's own is a setting of that one query, so a misspelt
one is error 115, as on a server. The client's `query_id` travels as `log_comment`, since chDB
gives each query an id of its own: `KILL QUERY WHERE query_id = ...` and questions to
`system.processes` are answered in the client's ids.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field

from deploy.local.front.body import BadRequest, Spool
from deploy.local.front.engine import Call, Engine, EngineError, Outcome
from deploy.local.front.statement import (
    DataInsert,
    asks_for_query_ids,
    data_insert,
    read_statement,
    with_client_ids,
)

STATEMENT_BYTES = 1 << 20

# URL parameters that belong to HTTP and never reach the engine as settings.
_TRANSPORT = frozenset(
    """
    query database default_format query_id user password quota_key role stacktrace
    session_id session_timeout session_check close_session client_protocol_version
    compress decompress enable_http_compression http_zlib_compression_level
    wait_end_of_query buffer_size add_http_cors_header send_progress_in_http_headers
    http_headers_progress_interval_ms cancel_http_readonly_queries_on_client_close
    """.split()  # noqa: SIM905 - twenty names read better so
)

# How a server maps its error codes to HTTP; all others are 500.
_STATUS = {
    **dict.fromkeys((516, 194, 192, 193), 401),
    497: 403,
    **dict.fromkeys((6, 26, 27, 33, 36, 38, 41, 42, 43, 53, 57, 62, 69, 70, 72, 131, 457), 400),
    **dict.fromkeys((16, 46, 47, 50, 56, 60, 81, 115, 152), 404),
    159: 408,
    48: 501,
    164: 403,
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def plain(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), {"Content-Type": "text/plain; charset=UTF-8"})


def query_answer(
    engine: Engine, method: str, params: dict[str, str], headers: dict[str, str], body: Spool
) -> Answer:
    """Run what `params` and `body` ask for. `body` is whole."""
    query_id = params.get("query_id") or headers.get("x-clickhouse-query-id") or str(uuid.uuid4())
    common = {"X-ClickHouse-Query-Id": query_id, "X-ClickHouse-Timezone": "UTC"}
    try:
        outcome, fmt = _run(engine, method, params, headers, body, query_id)
    except EngineError as error:
        text = f"{error.text} (version {engine.version})\n"
        return Answer(
            _STATUS.get(error.code, 500),
            text.encode(),
            {
                "Content-Type": "text/plain; charset=UTF-8",
                "X-ClickHouse-Exception-Code": str(error.code),
                **common,
            },
        )
    summary = {
        "read_rows": str(outcome.read_rows),
        "read_bytes": str(outcome.read_bytes),
        "written_rows": str(outcome.written_rows),
        "written_bytes": str(outcome.written_bytes),
        "total_rows_to_read": "0",
        "result_rows": str(outcome.written_rows),
        "result_bytes": str(outcome.written_bytes or len(outcome.body)),
        "elapsed_ns": str(outcome.elapsed_ns),
    }
    common["X-ClickHouse-Summary"] = json.dumps(summary, separators=(",", ":"))
    if fmt is not None:
        common["X-ClickHouse-Format"] = fmt
        common["Content-Type"] = _CONTENT_TYPES.get(fmt, "application/octet-stream")
    return Answer(200, outcome.body, common)


_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "Pretty": "text/plain; charset=UTF-8",
}


def _run(
    engine: Engine,
    method: str,
    params: dict[str, str],
    headers: dict[str, str],
    body: Spool,
    query_id: str,
) -> tuple[Outcome, str | None]:
    settings = {name: value for name, value in params.items() if name not in _TRANSPORT}
    settings.setdefault("log_comment", query_id)
    if method != "POST":
        settings["readonly"] = "2"
    database = params.get("database") or headers.get("x-clickhouse-database") or "default"
    default = params.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"

    text = params.get("query", "").encode()
    head = text or body.head(STATEMENT_BYTES)
    insert = data_insert(head)
    if insert is not None and not _inline_values(insert, text, body):
        _put_rows_at_start(insert, text, body)
        if method != "POST":
            raise EngineError("Code: 164. DB::Exception: Cannot insert with GET. (READONLY)")
        return engine.run(Call((insert, body.path), "Null", database, settings)), None

    if body.size > STATEMENT_BYTES:
        raise BadRequest(413, f"a statement may hold {STATEMENT_BYTES} bytes")
    text = text + b"\n" + body.read() if text and body.size else text or body.read()
    if insert is not None:
        return engine.run(Call(text, "Null", database, settings)), None
    statement = read_statement(text)
    if not statement.kind:
        raise EngineError("Code: 62. DB::Exception: Syntax error: Empty query. (SYNTAX_ERROR)")
    if statement.several:
        raise EngineError(
            "Code: 62. DB::Exception: Syntax error (Multi-statements are not allowed)."
            " (SYNTAX_ERROR)"
        )
    if asks_for_query_ids(text):
        text = with_client_ids(text)
    outcome = engine.run(Call(text, default, database, settings))
    return outcome, (statement.format or default) if statement.answers else None


def _inline_values(insert: DataInsert, text: bytes, body: Spool) -> bool:
    """A short `INSERT ... VALUES (...)` runs as it stands; so its expressions keep working."""
    if insert.format != b"Values":
        return False
    return len(text) + body.size <= STATEMENT_BYTES


def _put_rows_at_start(insert: DataInsert, text: bytes, body: Spool) -> None:
    """Leave nothing but the rows in `body`."""
    if text:
        body.replace_start(0, text[insert.data_at :])
    else:
        body.replace_start(insert.data_at, b"")
