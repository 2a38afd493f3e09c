"""The front over its own socket: what a client sends wrong, cut short, or all at once."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from deploy.local.waiting import free_port, wait_until
from tests.fixtures.children import ROOT, Children
from tests.integration.front.conftest import Front, command, run_front

ROWS = b'{"n":1}\n{"n":2}\n{"n":3}\n'
INSERT = "INSERT INTO t FORMAT JSONEachRow"


@pytest.fixture
def table(front: Front) -> Front:
    """The shared front with a fresh table `t (n UInt64)` of its engine's own."""
    front.ask("CREATE OR REPLACE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    return front


def count(front: Front) -> int:
    return int(front.ask("SELECT count() FROM t").body)


def test_a_statement_in_the_url_or_in_the_body_or_in_both(table: Front) -> None:
    assert table.ask("SELECT 1").body == b"1\n"
    assert table.post({}, b"SELECT 2").body == b"2\n"
    assert table.post({"query": INSERT}, ROWS).status == 200
    assert table.post({}, INSERT.encode() + b"\n" + ROWS).status == 200
    assert table.post({"query": "INSERT INTO t VALUES"}, b"(7),(8)").status == 200
    assert table.post({}, b"INSERT INTO t (n) SELECT 9").status == 200
    assert count(table) == 9


def test_parameters_formats_and_settings(front: Front) -> None:
    answer = front.post({"query": "SELECT {x:Array(UInt8)} AS x FORMAT JSON", "param_x": "[1,2]"})
    assert json.loads(answer.body)["data"] == [{"x": [1, 2]}]
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert front.post({"query": "SELECT 1 AS a", "default_format": "CSVWithNames"}).body == (
        b'"a"\n1\n'
    )
    assert front.post({"query": "SELECT getSetting('max_threads')", "max_threads": "3"}).body == (
        b"3\n"
    )
    assert front.ask("SELECT getSetting('max_threads') = 3").body == b"0\n", "a setting leaked"


def form(*parts: tuple[str, bytes]) -> bytes:
    """As a client sends parameters that are too long for a URL."""
    said = [
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in parts
    ]
    return b"".join(said) + b"--x--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def test_parameters_in_a_form(front: Front) -> None:
    """clickhouse-connect sends more than 4 096 bytes of parameters so."""
    numbers = f"[{', '.join(map(str, range(5_000)))}]".encode()
    asked = "SELECT length({x:Array(UInt16)}), {s:String},\r\n 'ü'".encode()
    body = form(("query", asked), ("param_x", numbers), ("param_s", b"--x\\n'"))
    answer = front.post({"default_format": "JSONCompactEachRow"}, body, FORM)
    assert (answer.status, json.loads(answer.body)) == (200, [5000, "--x\n'", "ü"])
    assert front.post({"query": "SELECT {y:UInt8}"}, form(("param_y", b"7")), FORM).body == b"7\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"SELECT 1", 400),
        (form(("query", b"SELECT 1"))[:-6], 400),
        (form(("query", b"SELECT '\xff'")), 400),
        (form(("query", b"SELECT 1")).replace(b"; name=", b"; x="), 400),
        (form(('t"; filename="t', b"1")), 501),
        (form(("query", b"SELECT 1 --" + b" " * (1 << 20))), 413),
    ],
)
def test_a_form_that_is_none_is_refused(front: Front, body: bytes, status: int) -> None:
    assert front.post({}, body, FORM).status == status


def test_headers_of_an_answer(front: Front) -> None:
    answer = front.post({"query": "SELECT 1", "query_id": "mine"})
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    summary = json.loads(answer.headers["X-ClickHouse-Summary"])
    assert summary["read_rows"] == "1"
    assert all(isinstance(value, str) for value in summary.values())


@pytest.mark.parametrize(
    ("statement", "settings", "code", "status"),
    [
        ("SELECT * FROM nowhere", {}, 60, 404),
        ("SELECT 1", {"no_such_setting": "1"}, 115, 404),
        ("SELECT 1", {"bad name": "1"}, 115, 404),
        ("SELECT sleep(3)", {"max_execution_time": "1"}, 159, 408),
        ("SELECT 1; SELECT 2", {}, 62, 400),
        ("SELECT FROM WHERE", {}, 62, 400),
        ("/* nothing */", {}, 62, 400),
        ("SELECT {x:UInt8}", {}, 456, 500),
    ],
)
def test_errors_come_in_clickhouses_words(
    front: Front, statement: str, settings: dict[str, str], code: int, status: int
) -> None:
    answer = front.post({"query": statement, **settings})
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.body.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert answer.status == status


def test_get_cannot_write(table: Front) -> None:
    for statement in ("INSERT INTO t SELECT 1", "DROP TABLE t", "INSERT INTO t VALUES (1)"):
        assert table.get({"query": statement}).headers["X-ClickHouse-Exception-Code"] == "164"
    assert count(table) == 0


def test_an_unknown_database_is_an_error(front: Front) -> None:
    answer = front.post({"query": "SELECT 1", "database": "nowhere"})
    assert answer.headers["X-ClickHouse-Exception-Code"] == "81"


def _head(length: str) -> bytes:
    query = urlencode({"query": INSERT, "database": "penstock"}, quote_via=quote)
    return f"POST /?{query} HTTP/1.1\r\nHost: front\r\n{length}\r\n\r\n".encode()


_CUT = {
    "content_length_larger_than_what_came": _head("Content-Length: 100") + ROWS,
    "chunks_without_the_last_one": _head("Transfer-Encoding: chunked")
    + b"%x\r\n%s\r\n" % (len(ROWS), ROWS),
    "the_last_chunk_without_its_line_end": _head("Transfer-Encoding: chunked")
    + b"%x\r\n%s\r\n0\r\n" % (len(ROWS), ROWS),
    "a_chunk_cut_at_a_line_end": _head("Transfer-Encoding: chunked")
    + b"%x\r\n%s" % (len(ROWS) * 2, ROWS),
}


@pytest.mark.parametrize("sent", _CUT.values(), ids=_CUT.keys())
@pytest.mark.parametrize("ending", ["close", "shutdown"])
def test_a_body_cut_short_lands_nothing(table: Front, sent: bytes, ending: str) -> None:
    with socket.create_connection(("127.0.0.1", table.port), 10) as connection:
        connection.sendall(sent)
        if ending == "shutdown":
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert not answer.startswith(b"HTTP/1.1 200")
    wait_until(lambda: table.about()["open_requests"] == 1, 10, "the cut request is over")
    assert count(table) == 0


def test_a_frozen_client_cannot_land_after_max_execution_time(table: Front) -> None:
    """It counts from the request's head: who is silent in the body is cut off, not waited for."""
    query = {"database": "penstock", "query": INSERT, "max_execution_time": "1"}
    head = f"POST /?{urlencode(query)} HTTP/1.1\r\nHost: f\r\nContent-Length: {len(ROWS)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", table.port), timeout=20) as frozen:
        frozen.sendall(head.encode() + ROWS[:8])
        answer = b"".join(iter(lambda: frozen.recv(65536), b""))
        assert not answer.startswith(b"HTTP/1.1 200")
    assert count(table) == 0


@pytest.mark.parametrize("missing", [1, 4, 8, 12])
def test_a_gzip_stream_cut_short_lands_nothing(table: Front, missing: int) -> None:
    packed = gzip.compress(ROWS)[:-missing]
    answer = table.post({"query": INSERT}, packed, {"Content-Encoding": "gzip"})
    assert answer.status == 400
    assert b"end mark" in answer.body or b"damaged" in answer.body
    assert count(table) == 0


def test_a_gzip_body_lands_whole(table: Front) -> None:
    packed = gzip.compress(ROWS) + gzip.compress(ROWS)
    assert table.post({"query": INSERT}, packed, {"Content-Encoding": "gzip"}).status == 200
    assert count(table) == 6


def test_a_chunked_body_lands_whole_and_the_connection_goes_on(table: Front) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", table.port, timeout=30)
    path = "/?" + urlencode({"query": INSERT, "database": "penstock"})
    for _ in range(2):
        connection.request("POST", path, body=iter([ROWS[:5], ROWS[5:]]), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()
    assert count(table) == 6


def test_expect_100_continue(table: Front) -> None:
    with socket.create_connection(("127.0.0.1", table.port), 10) as connection:
        connection.sendall(_head(f"Content-Length: {len(ROWS)}\r\nExpect: 100-continue"))
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(ROWS)
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
    assert count(table) == 3


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Encoding: rot13\r\nContent-Length: 1\r\n\r\nx", 415),
        (b"GET / HTTP/1.1\r\nOrigin: https://elsewhere.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * 300_000, 431),
        (b"PUT / HTTP/1.1\r\n\r\n", 405),
        (b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"hello\r\n\r\n", 400),
    ],
)
def test_bad_requests_are_refused(front: Front, request_head: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", front.port), 10) as connection:
        connection.sendall(request_head)
        assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


def test_several_statements_run_at_once(front: Front) -> None:
    """Each waits for the other two: only together can they end."""
    barrier = threading.Barrier(3, timeout=30)
    failures: list[str] = []

    def ask() -> None:
        barrier.wait()
        answer = front.ask("SELECT sleep(1)")
        if answer.status != 200:
            failures.append(answer.body.decode())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleep(1)%'"
    wait_until(lambda: int(front.ask(running).body) == 3, 5, "three run side by side")
    for thread in threads:
        thread.join()
    assert not failures


def test_kill_query_by_the_clients_id(front: Front) -> None:
    slow = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"
    codes: list[str | None] = []

    def ask() -> None:
        answer = front.post({"query": slow, "query_id": "penstock-7"})
        codes.append(answer.headers["X-ClickHouse-Exception-Code"])

    thread = threading.Thread(target=ask)
    thread.start()
    running = "SELECT query_id FROM system.processes WHERE query_id LIKE 'penstock-%'"
    wait_until(lambda: front.ask(running).body == b"penstock-7\n", 10, "it runs under its id")
    killed = front.ask("KILL QUERY WHERE query_id = 'penstock-7' SYNC")
    thread.join(20)
    assert killed.body.startswith(b"finished")
    assert codes == ["394"]


def test_nothing_of_a_body_stays_on_disk(table: Front) -> None:
    table.post({"query": INSERT}, ROWS)
    left = table.data / "spool"
    assert list(left.iterdir()) == []


Runs = Callable[..., Front]


@pytest.fixture
def run(tmp_path: Path, start: Children) -> Runs:
    def go(name: str = "data", *options: str) -> Front:
        return run_front(start, tmp_path / name, *options)

    return go


def test_a_second_start_goes_on_with_the_data(run: Runs) -> None:
    front = run()
    front.ask("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    front.post({"query": INSERT}, ROWS)
    (front.data / "spool" / "left-by-a-crash").write_bytes(ROWS)
    assert front.child.stop(30), "SIGTERM did not end it"
    assert front.child.exit_code == 0
    front.restart()
    assert count(front) == 3
    assert not (front.data / "spool" / "left-by-a-crash").exists()
    front.child.kill()
    front.restart()
    assert count(front) == 3


def _fails(*command: str) -> str:
    """The one line with which a front ends that cannot start."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("{")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_folder_in_use_is_one_line(run: Runs) -> None:
    first = run()
    line = _fails(*command(first.data, free_port()))
    assert f"in use by another front (pid {first.child.pid})" in line


def test_a_taken_port_is_one_line(run: Runs, tmp_path: Path) -> None:
    first = run()
    line = _fails(*command(tmp_path / "other", first.port))
    assert f"cannot listen on 127.0.0.1:{first.port}" in line


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "as data folder" in _fails(*command(tmp_path / "file", free_port()))


def test_a_broken_data_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken" / "clickhouse").mkdir(parents=True)
    (tmp_path / "broken" / "clickhouse" / "metadata").write_text("not a folder")
    assert "the engine cannot open" in _fails(*command(tmp_path / "broken", free_port()))


def test_broken_metadata_of_a_table_is_one_line(run: Runs) -> None:
    front = run()
    front.ask("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    front.child.stop(30)
    (metadata,) = front.data.glob("clickhouse/store/*/*/t.sql")
    metadata.write_text("this is no statement")
    assert "the engine cannot open" in _fails(*command(front.data, free_port()))


@pytest.mark.parametrize("wrong", [["--port", "99999"], ["--body-bytes", "0"], ["--nonsense"]])
def test_wrong_usage_ends_with_2(tmp_path: Path, wrong: list[str]) -> None:
    line = command(tmp_path / "data", 0)
    done = subprocess.run([*line, *wrong], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert not (tmp_path / "data").exists()


def test_a_running_statement_is_finished_before_the_stop(run: Runs) -> None:
    front = run()
    bodies: list[bytes] = []
    thread = threading.Thread(
        target=lambda: bodies.append(front.ask("SELECT sleep(2), 'sleeper'").body)
    )
    thread.start()
    running = "SELECT count() FROM system.processes WHERE query LIKE '%slee' || 'per%'"
    wait_until(lambda: int(front.ask(running).body) == 1, 10, "the statement runs")
    assert front.child.stop(30)
    thread.join(10)
    assert bodies == [b"0\tsleeper\n"]
    assert front.child.exit_code == 0
