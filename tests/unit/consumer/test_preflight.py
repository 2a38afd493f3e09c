"""What of the preflight no engine of the tests can be brought to: a server scripted by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer import preflight, preflight_clickhouse
from consumer.clickhouse import INSERT_SETTINGS
from consumer.config import ConsumerSettings, consumer_settings
from consumer.findings import Finding, warning
from schemas.settings import load


class Server:
    """Answers what the preflight asks; `made` changes an answer."""

    server_settings: dict[str, Any] = dict.fromkeys(INSERT_SETTINGS, SimpleNamespace(readonly=0))

    def __init__(self) -> None:
        self.distributed: list[str] = []
        self.ahead_seconds = 0.0
        self.denied: set[str] = set()
        self.knows_check_grant = True
        self.stays: dict[str, int] = {}
        self.refuses: DatabaseError | None = None
        self.inserted = 0

    def query(self, sql: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(result_rows=self._rows(sql))

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        if "engine = 'Distributed'" in sql:
            return [(name,) for name in self.distributed]
        if "now64" in sql:
            return [(int((time.time() + self.ahead_seconds) * 1000),)]
        if sql.startswith("CHECK GRANT"):
            if not self.knows_check_grant:
                raise error(62)
            return [(int(not any(right in sql for right in self.denied)),)]
        if "getSetting" in sql:
            return [tuple({**INSERT_SETTINGS, **self.stays}.values())]
        if "ceil(count()" in sql:
            return [(0,)]
        raise AssertionError(f"not expected: {sql}")

    def raw_insert(self, *_: Any, insert_block: Any, **__: Any) -> None:
        assert b"".join(insert_block) == b""
        if self.refuses is not None:
            raise self.refuses
        self.inserted += 1


def error(code: int) -> DatabaseError:
    found = DatabaseError(f"Code: {code}. DB::Exception: no")
    found.code = code
    return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(preflight_clickhouse, "differences", lambda *_: [])
    monkeypatch.setattr(preflight_clickhouse, "cut_off", lambda *_: {})
    return Server()


@pytest.fixture
def settings() -> ConsumerSettings:
    return consumer_settings(load("consumer", None, {}))


@pytest.fixture
def findings(server: Server, settings: ConsumerSettings) -> Callable[[], list[Finding]]:
    def look() -> list[Finding]:
        client: Client = server  # type: ignore[assignment]
        return preflight_clickhouse.look(settings, client, 0)

    return look


def test_a_server_as_it_should_be(findings: Callable[[], list[Finding]], server: Server) -> None:
    assert findings() == []
    assert server.inserted == 1


@pytest.mark.parametrize("name", ["events_landing", "events", "sessions"])
def test_a_distributed_table(
    findings: Callable[[], list[Finding]], server: Server, name: str
) -> None:
    server.distributed = [name]
    (finding,) = findings()
    assert finding.refuses
    assert f"penstock.{name} is a Distributed table" in finding.what
    assert "PENSTOCK_CLICKHOUSE_URL" in finding.mend


@pytest.mark.parametrize(
    ("seconds", "refuses"), [(0.5, None), (1.5, False), (-1.5, False), (4, True), (-4, True)]
)
def test_a_clock_that_is_off(
    findings: Callable[[], list[Finding]], server: Server, seconds: float, refuses: bool | None
) -> None:
    """The protocol's margin is five seconds between any two clocks, so half of it to the server."""
    server.ahead_seconds = seconds
    found = findings()
    assert [f.refuses for f in found] == ([] if refuses is None else [refuses])
    if found:
        assert ("ahead of" if seconds > 0 else "behind") in found[0].what
        assert "NTP" in found[0].mend


def test_rights_are_named_with_the_statement_that_gives_them(
    findings: Callable[[], list[Finding]], server: Server
) -> None:
    server.denied = {"ALTER DELETE", "KILL QUERY"}
    (finding,) = findings()
    assert not finding.refuses
    assert "ALTER DELETE on the database; KILL QUERY on the server" in finding.what
    assert finding.mend == (
        "GRANT ALTER DELETE ON penstock.* TO default; GRANT KILL QUERY ON *.* TO default"
    )


def test_without_the_right_to_insert_nothing_is_tried(
    findings: Callable[[], list[Finding]], server: Server
) -> None:
    server.denied = {"INSERT"}
    found = findings()
    assert found[0].refuses
    assert found[0].mend == "GRANT INSERT ON penstock.* TO default"
    assert server.inserted == 0


def test_a_server_that_does_not_know_check_grant(
    findings: Callable[[], list[Finding]], server: Server
) -> None:
    server.knows_check_grant = False
    assert findings() == []


def test_a_profile_that_keeps_async_insert_on(
    findings: Callable[[], list[Finding]], server: Server
) -> None:
    server.stays = {"async_insert": 1}
    (finding,) = findings()
    assert finding.refuses
    assert finding.what == "async_insert stays 1 where an insert asks for 0"
    assert "ALTER USER default MODIFY SETTING async_insert = 0" in finding.mend


@pytest.mark.parametrize("code", [164, 452, 497])
def test_an_insert_that_the_user_is_not_let(
    findings: Callable[[], list[Finding]], server: Server, code: int
) -> None:
    server.refuses = error(code)
    (finding,) = findings()
    assert finding.refuses
    assert "insert of no rows" in finding.what
    assert f"Code: {code}" in finding.what


def test_a_server_in_trouble_is_no_finding(
    findings: Callable[[], list[Finding]], server: Server
) -> None:
    server.refuses = error(241)
    with pytest.raises(DatabaseError):
        findings()


def test_warnings_do_not_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.report([warning("this is unwise", "do that")]) == 0
    said = capsys.readouterr().out
    assert "warning: this is unwise\n  mend: do that\n" in said
    assert "nothing keeps the consumer from starting" in said


def test_one_refusal_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.report([Finding("broken", "mend it"), warning("unwise", "do that")]) == 3
    said = capsys.readouterr().out
    assert "broken\n  mend: mend it\n" in said
    assert "nothing keeps" not in said
