"""What a rebuild refuses before it asks the server for anything, and by what it asks first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from schemas.__main__ import main
from schemas.connection import SchemaError
from schemas.rebuild import check_names, rebuild
from schemas.tables import HOLD, REBUILDABLE, SUMMED

NOWHERE = {"PENSTOCK_CLICKHOUSE_URL": "http://127.0.0.1:1/penstock"}


def test_names_that_others_rely_on() -> None:
    assert HOLD == "held_for_a_rebuild"
    assert SUMMED == ("sessions_daily", "pages_daily")
    assert REBUILDABLE == ("sessions", "sessions_daily", "pages_daily")


@pytest.mark.parametrize("partition", ["201501", "202611", "209912"])
def test_months_that_events_can_have(partition: str) -> None:
    check_names(partition, REBUILDABLE)


@pytest.mark.parametrize(
    "partition", ["", "2026-11", "202613", "202600", "201412", "210001", "2026111", "all", "202१11"]
)
def test_what_is_no_month(partition: str) -> None:
    with pytest.raises(ValueError, match="not a ClickHouse partition: a month, like 202611"):
        check_names(partition, ())


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("events", "no table 'events' can be rebuilt: there are sessions, sessions_daily"),
        ("batches", "batches is the ledger"),
        ("sessions_daily; DROP", "no table"),
    ],
)
def test_what_cannot_be_rebuilt_is_wrong_usage(
    table: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=told.split(";")[0]):
        check_names("202611", [table])
    assert main(["rebuild", "--partition", "202611", "--table", table], NOWHERE) == 2
    assert told.split(";")[0] in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_that_are_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["rebuild", "--partition", "202611", "--seconds", seconds], NOWHERE)
    assert stop.value.code == 2
    assert f"must be a number above 0, not '{seconds}'" in capsys.readouterr().err


def test_a_month_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["rebuild"], NOWHERE)
    assert stop.value.code == 2
    assert "--partition" in capsys.readouterr().err


@pytest.mark.parametrize(
    "engine", ["ReplicatedAggregatingMergeTree", "SharedMergeTree", "ReplicatedReplacingMergeTree"]
)
def test_replicated_tables_are_refused_before_anything_is_done(engine: str) -> None:
    class Client:
        """Answers the one question that may be asked, and has no way to write."""

        def query(self, text: str, parameters: dict[str, Any]) -> SimpleNamespace:
            assert "engine FROM system.tables" in text
            assert parameters["names"] == ["events", *SUMMED]
            return SimpleNamespace(result_rows=[("events", engine)])

    with pytest.raises(SchemaError, match=r"penstock\.events is replicated"):
        rebuild(Client(), "penstock", "202611", seconds=1)  # type: ignore[arg-type]
