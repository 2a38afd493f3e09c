"""The page: what it may be asked, and that its figures are those of the tables."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.page.figures import ClickHouse as Database
from deploy.local.page.figures import Figures, chart, verdict
from deploy.local.page.server import PageServer
from deploy.local.waiting import free_port
from tests.fixtures.clickhouse import ClickHouse

NOBODY = "http://127.0.0.1:1"
STATUS = {"kafka": "embedded", "bootstrap_servers": "x", "parts": [], "notices": []}


@pytest.fixture
def away(tmp_path: Path) -> Figures:
    """Figures none of whose sources answers."""
    return Figures(Database(f"{NOBODY}/penstock"), NOBODY, tmp_path / "status.json")


@pytest.fixture
def page(away: Figures) -> Iterator[PageServer]:
    server = PageServer(("127.0.0.1", free_port()), away, "http://127.0.0.1:8080")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def get(page: PageServer, path: str, host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", page.server_address[1], timeout=10)
    connection.request("GET", path, headers={"Host": host})
    reply = connection.getresponse()
    body = reply.read().decode()
    connection.close()
    return reply.status, reply.headers["Content-Type"], body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/live.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/site/", "text/html; charset=utf-8"),
        ("/site/tools/level?a=b", "text/html; charset=utf-8"),
        ("/figures.json", "application/json"),
        ("/healthz", "text/plain"),
    ],
)
def test_what_there_is(page: PageServer, path: str, kind: str) -> None:
    status, found, body = get(page, path)
    assert (status, found) == (200, kind)
    assert "{{shim}}" not in body


@pytest.mark.parametrize(
    "path", ["/nothing", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/static/live.js"]
)
def test_what_there_is_not(page: PageServer, path: str) -> None:
    assert get(page, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8088", "127.0.0.1.evil.example"])
def test_a_name_that_is_not_this_machines_is_refused(page: PageServer, host: str) -> None:
    assert get(page, "/figures.json", host)[0] == 403


def test_sources_that_are_away_are_named_and_nothing_else(away: Figures) -> None:
    figures = json.loads(away.document())
    assert figures["sessions"] is None
    assert figures["lag"] is None
    assert len(figures["troubles"]) == 3
    assert figures["troubles"][0].startswith("ClickHouse does not answer")


def test_callers_within_a_second_share_one_collection(away: Figures) -> None:
    assert json.loads(away.document())["at"] == json.loads(away.document())["at"]


def test_the_chart_has_a_place_for_each_of_the_last_sixty_seconds() -> None:
    counts = chart([{"ago": 0, "events": 9}, {"ago": 1, "events": 5}, {"ago": 60, "events": 2}])
    assert counts == [2, *[0] * 58, 5], "the second that has only begun is left out"


class TestOnTables:
    @pytest.fixture
    def figures(self, clickhouse_with_schema: ClickHouse, tmp_path: Path) -> Figures:
        status = tmp_path / "status.json"
        status.write_text(json.dumps(STATUS), encoding="utf-8")
        return Figures(Database(clickhouse_with_schema.url), NOBODY, status)

    @staticmethod
    def land(server: ClickHouse, first: int, end: int, *events: dict[str, Any], n: int = 1) -> None:
        """One batch of partition 0, as the consumer sends it; `n` is the rows it should have."""
        token = f"cluster:topic-id:0:{first}-{end}:{n}:digest:0:events"
        body = "\n".join(json.dumps(event) for event in events)
        settings = {"insert_deduplication_token": token, "async_insert": 0}
        server.client().raw_insert(
            "events_landing", insert_block=body, settings=settings, fmt="JSONEachRow"
        )

    @staticmethod
    def event(server: ClickHouse, number: int, **more: Any) -> dict[str, Any]:
        now = int(str(server.client().command("SELECT toUnixTimestamp64Milli(now64(3))")))
        return {
            "id": f"00000000-0000-7000-8000-{number:012d}",
            "project_id": "demo",
            "session_id": "s",
            "name": "screen_view",
            "path": "/<b>",
            "created_at": now,
            "received_at": now,
            **more,
        }

    def test_an_empty_table_has_no_trouble(self, figures: Figures) -> None:
        found = json.loads(figures.document())
        assert found["troubles"] == ["the consumer does not answer"]
        assert found["totals"] == {"events": 0}
        assert found["chart"] == [0] * 60
        assert found["ledger"] == {"ok": True, "faults": [], "batches": 0, "rows": 0}
        assert found["stack"] == STATUS

    def test_what_landed_is_shown(
        self, figures: Figures, clickhouse_with_schema: ClickHouse
    ) -> None:
        server = clickhouse_with_schema
        self.land(server, 0, 1, self.event(server, 1))
        left = {"path": "/b", "previous_path": "/<b>", "duration": 30}
        self.land(server, 1, 2, self.event(server, 2, **left))
        found = json.loads(figures.document())
        assert found["troubles"] == ["the consumer does not answer"]
        assert found["totals"] == {"events": 2}
        assert found["ledger"] == {"ok": True, "faults": [], "batches": 2, "rows": 2}
        session = found["sessions"][0]
        assert (session["session_id"], session["page_views"], session["engaged_seconds"]) == (
            "s",
            2,
            30,
        )
        assert (session["entry_path"], session["exit_path"]) == ("/<b>", "/b")
        pages = {page["path"]: (page["views"], page["time_per_session"]) for page in found["pages"]}
        assert pages == {"/<b>": (1, 30), "/b": (1, 0)}
        assert found["freshness"]["events"] == 2
        assert 0 <= found["freshness"]["median_seconds"] < 30

    def test_a_gap_is_a_fault(self, figures: Figures, clickhouse_with_schema: ClickHouse) -> None:
        server = clickhouse_with_schema
        self.land(server, 0, 1, self.event(server, 1))
        self.land(server, 4, 5, self.event(server, 2))
        assert json.loads(figures.document())["ledger"] == {
            "ok": False,
            "faults": ["partition 0: 1 gaps between its batches, 3 offsets in all"],
            "batches": 2,
            "rows": 2,
        }

    def test_an_overlap_and_missing_rows_are_faults(
        self, figures: Figures, clickhouse_with_schema: ClickHouse
    ) -> None:
        server = clickhouse_with_schema
        self.land(server, 0, 2, self.event(server, 1), self.event(server, 2), n=2)
        self.land(server, 1, 3, self.event(server, 3), n=2)
        ledger = json.loads(figures.document())["ledger"]
        assert ledger["faults"] == [
            "partition 0: 1 batches overlap an earlier one; 1 batches have fewer rows than expected"
        ]


def test_a_verdict_without_a_known_fault_is_still_a_fault() -> None:
    row = {"partition": 3, "batches": 1, "rows": 1, "missing_offsets": 0, "verdict": "odd"}
    kinds = ("gaps", "overlaps", "doubles", "short_batches", "long_batches", "unknown_batches")
    row |= dict.fromkeys(kinds, 0)
    assert verdict([row])["faults"] == ["partition 3: odd"]
