"""The benchmark's figures as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Case = Mapping[str, Any]

_CONSUMER = {
    "floor_us": "floor",
    "consumer_us": "consumer",
    "consumer_over_floor": "/floor",
    "clickhouse_us": "ClickHouse",
    "together_us": "together",
    "rows_per_insert": "rows/insert",
}
_BAD_ROWS = {
    "seconds": "seconds",
    "over_none": "/none",
    "cpu_seconds": "CPU seconds",
    "cpu_over_none": "/none",
}
_HANDOVER = {
    "exited_seconds": "exited",
    "assigned_seconds": "assigned",
    "first_insert_seconds": "inserted",
    "first_insert_seconds_worst": "worst",
    "above_session_timeout_worst": "above timeout",
    "after_exit_seconds_worst": "after exit",
}
_RECOVERY = {"empty_seconds": "empty ledger", "seconds": "seconds", "seconds_worst": "worst"}


def table(results: Mapping[str, Any]) -> str:
    """Every part that was measured once, each with its date."""
    lines: list[str] = []
    for part, lines_of in _PARTS.items():
        if part in results:
            title, *rest = lines_of(results[part]["figures"])
            lines += ["", f"{title} ({results[part]['measured']['at'][:10]})", *rest]
    return "\n".join(lines)


def _cases(title: str, columns: Mapping[str, str], cases: Sequence[Case]) -> list[str]:
    lines = [title, f"{'':44}" + "".join(f"{name:>14}" for name in columns.values())]
    for case in cases:
        shown = (f"{case[member]:14,}" for member in columns)
        lines.append(f"{case['case']:44}" + "".join(shown))
    return lines


def _shim(shim: Case) -> list[str]:
    return [
        "CPU microseconds an acknowledged request, shim side",
        f"{'empty-answer uvicorn':44}{shim['empty_uvicorn_us']:14.2f}",
        f"{'shim, one event':44}{shim['shim_single_us']:14.2f}"
        f"   = {shim['shim_over_empty_uvicorn']} of it",
        f"{'shim, ten events':44}{shim['shim_ten_events_us']:14.2f}"
        f"   = {shim['shim_events_per_second_per_core_in_tens']:,} events/s/core",
    ]


def _obvious(obvious: Case) -> list[str]:
    return [
        "CPU microseconds an event, the obvious consumer (orjson, rows, insert)",
        f"{'':44}{obvious['obvious_us']:14.2f}",
    ]


_PARTS: Mapping[str, Callable[[Any], list[str]]] = {
    "shim": _shim,
    "consumer": lambda cases: _cases("CPU microseconds an event, consumer side", _CONSUMER, cases),
    "obvious": _obvious,
    "bad-rows": lambda cases: _cases("A batch with bad lines", _BAD_ROWS, cases),
    "handover": lambda cases: _cases(
        "Seconds from a signal to the owner until the successor inserts", _HANDOVER, cases
    ),
    "recovery": lambda cases: _cases(
        "Seconds to a partition's plan, over a ledger of many batches", _RECOVERY, cases
    ),
}
