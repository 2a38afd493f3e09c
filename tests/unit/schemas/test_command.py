"""`penstock-schemas` before it reaches a server: usage, settings, a server that is not there."""

from __future__ import annotations

import socket

import pytest

from schemas.__main__ import main


def test_no_command_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as stop:
        main([], {})
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PENSTOCK_CLICKHOUSE_URL": "nonsense"}, "PENSTOCK_CLICKHOUSE_URL must be http(s)://"),
        ({"PENSTOCK_CLICKHOUSE_ULR": "http://h/d"}, "did you mean PENSTOCK_CLICKHOUSE_URL?"),
    ],
)
def test_wrong_settings(
    environ: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check"], environ) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


@pytest.mark.parametrize("command", ["apply", "check"])
def test_a_server_that_is_not_there(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound and not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"http://127.0.0.1:{port}/penstock"
        assert main([command], {"PENSTOCK_CLICKHOUSE_URL": url}) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"penstock-schemas: ClickHouse at {url} cannot be reached: Connection refused"]
