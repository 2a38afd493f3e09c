"""Whatever a body holds: an answer that names the member, and the good events are kept."""

from __future__ import annotations

import gzip
import json
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shim.running import Shim, event, stored

DAY = 86_400_000


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"session_id": 5}, "wrong_type: session_id"),
        ({"session_id": ""}, "empty: session_id"),
        ({"session_id": None}, "wrong_type: session_id"),
        ({"name": "x" * 129}, "too_long: name"),
        ({"name": ["x"]}, "wrong_type: name"),
        ({"id": "not-a-uuid"}, "bad_id: id"),
        ({"id": 7}, "wrong_type: id"),
        ({"path": "/" + "x" * 2048}, "too_long: path"),
        ({"previous_path": "x" * 2049}, "too_long: previous_path"),
        ({"referrer": "x" * 2049}, "too_long: referrer"),
        ({"referrer": None}, "wrong_type: referrer"),
        ({"utm_source": {}}, "wrong_type: utm_source"),
        ({"duration": -1}, "out_of_range: duration"),
        ({"duration": 1.5}, "wrong_type: duration"),
        ({"duration": "5"}, "wrong_type: duration"),
        ({"duration": 4294967296}, "out_of_range: duration"),
        ({"duration": 10**30}, "out_of_range: duration"),
        ({"duration": True}, "wrong_type: duration"),
        ({"max_scroll": 101}, "out_of_range: max_scroll"),
        ({"country": "DEU"}, "too_long: country"),
        ({"country": "D1"}, "bad_text: country"),
        ({"value": "a lot"}, "out_of_range: value"),
        ({"value": "NaN"}, "out_of_range: value"),
        ({"value": 10**14}, "out_of_range: value"),
        ({"value": "1e999999999"}, "out_of_range: value"),
        ({"created_at": "2026-01-01T00:00:00"}, "bad_time: created_at"),
        ({"created_at": "yesterday"}, "bad_time: created_at"),
        ({"created_at": -1}, "out_of_range: created_at"),
        ({"created_at": 1.5}, "wrong_type: created_at"),
        ({"properties": []}, "wrong_type: properties"),
        ({"properties": {"a": None}}, "wrong_type: properties"),
        ({"properties": {"a": {"b": 1}}}, "wrong_type: properties"),
        ({"properties": {"a": "x" * 1025}}, "too_long: properties"),
        ({"properties": {"x" * 129: "a"}}, "too_long: properties"),
        ({"properties": {"": "a"}}, "empty: properties"),
        ({"properties": {str(n): n for n in range(31)}}, "too_many: properties"),
        ({"session_id": "a\0b"}, "nul_character: session_id"),
        ({"path": "\0"}, "nul_character: path"),
        ({"properties": {"a": "\0"}}, "nul_character: properties"),
        ({"properties": {"\0": "a"}}, "nul_character: properties"),
        ({"project": "x"}, "unknown_member: project"),
        ({"is_bot": 0}, "unknown_member: is_bot"),
        ({"received_at": 1}, "unknown_member: received_at"),
        ({"project_id": "other"}, "other_project: project_id"),
    ],
)
def test_a_bad_member_is_named_and_the_others_are_kept(
    shim: Shim, members: dict[str, Any], reason: str
) -> None:
    first, last, bad = event(), event(), event(**members)
    reply = shim.post([first, bad, last])
    assert reply.status == 202
    results = reply.json["results"]
    assert [r["status"] for r in results] == ["ok", "drop", "ok"]
    assert results[1]["reason"] == reason
    assert reason.partition(": ")[2] in results[1]["detail"]
    assert results[1]["id"] == (None if "id" in members else bad["id"])
    alone = shim.post(bad)
    assert alone.status == 400
    assert alone.json["results"][0]["reason"] == reason
    assert stored(shim, [first["id"], last["id"]]).keys() == {first["id"], last["id"]}


@pytest.mark.parametrize("missing", ["session_id", "name"])
def test_a_missing_member_is_named(shim: Shim, missing: str) -> None:
    one = event()
    del one[missing]
    reply = shim.post([event(), one])
    assert reply.json["results"][1]["reason"] == f"missing_member: {missing}"


def test_caps_are_inclusive(shim: Shim) -> None:
    one = event(
        session_id="ü" * 128,
        name="x" * 128,
        path="/" * 2048,
        referrer="x" * 2048,
        utm_term="x" * 128,
        duration=4294967295,
        value="-99999999999999.9999",
        properties={f"{n:0128d}": "v" * 1024 for n in range(30)},
    )
    assert shim.post(one).status == 202


@pytest.mark.parametrize(
    "created_at", ["9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", 253402300799000, 0]
)
def test_a_time_that_cannot_be(shim: Shim, created_at: str | int) -> None:
    one, good = event(created_at=created_at), event()
    before = int(time.time() * 1000)
    assert shim.post(one).status == 202  # a browser's clock is brought into the last three days
    after = int(time.time() * 1000)
    kept = stored(shim, [one["id"]])[one["id"]]["created_at"]
    if str(created_at) > "2":
        assert before <= kept <= after
    else:
        assert before - 3 * DAY <= kept <= after - 3 * DAY
    reply = shim.post([one, good], key="demo-secret")
    assert reply.status == 202
    assert reply.json["results"][0]["reason"] == "bad_time: created_at"
    assert reply.json["results"][1]["status"] == "ok"


def test_a_server_may_send_the_past(shim: Shim) -> None:
    one = event(created_at="2015-01-01T01:00:00+01:00")
    assert shim.post(one, key="demo-secret").status == 202
    assert stored(shim, [one["id"]])[one["id"]]["created_at"] == 1_420_070_400_000
    early = event(created_at="2014-12-31T23:59:59.999Z")
    assert shim.post(early, key="demo-secret").status == 400
    soon = int(time.time() * 1000) + DAY
    assert shim.post(event(created_at=soon - 60_000), key="demo-secret").status == 202
    assert shim.post(event(created_at=soon + 60_000), key="demo-secret").status == 400


def test_a_wrong_clock_is_corrected_in_whole_minutes(shim: Shim) -> None:
    now = int(time.time() * 1000)
    off = 2 * 3_600_000 + 7_000  # two hours and seven seconds ahead
    one = event(created_at=now + off - 90_000)
    assert shim.post({"events": [one], "sent_at": now + off}).status == 202
    assert stored(shim, [one["id"]])[one["id"]]["created_at"] == now + 7_000 - 90_000
    near = event(created_at=now - 90_000)
    assert shim.post({"events": [near], "sent_at": now + 50_000}).status == 202
    assert stored(shim, [near["id"]])[near["id"]]["created_at"] == now - 90_000


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"}",
        b"{]",
        b"nonsense",
        b'{"session_id":"s","name":"n",}',
        b"{'session_id':'s'}",
        b'[{"session_id":"s","name":"n"}',
        b'{"session_id":"a\x00b","name":"n"}',
        b'{"session_id":"\\ud800","name":"n"}',
        b'{"session_id":"s","name":NaN}',
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_malformed_json(shim: Shim, body: bytes) -> None:
    reply = shim.post(body)
    assert reply.status == 400
    assert "malformed_json" in reply.body.decode()


@pytest.mark.parametrize("body", [b"", b"  \n", b"[]", b'{"events":[]}', b"null", b"5", b'"text"'])
def test_no_event_at_all(shim: Shim, body: bytes) -> None:
    assert shim.post(body).status == 400


@pytest.mark.parametrize(
    "body",
    [b'{"events":5}', b'{"events":[],"more":1}', b'{"events":[{}],"sent_at":"noon"}'],
)
def test_a_bad_body_object_names_its_member(shim: Shim, body: bytes) -> None:
    reply = shim.post(body)
    assert reply.status == 400
    assert any(name in reply.json["detail"] for name in ("events", "more", "sent_at"))


def test_a_byte_order_mark_is_no_harm(shim: Shim) -> None:
    assert shim.post(b"\xef\xbb\xbf" + json.dumps(event()).encode()).status == 202


def test_invalid_utf8_spoils_one_event_only(shim: Shim) -> None:
    good = event()
    bad = b'{"session_id":"\xff","name":"n"}'
    reply = shim.post(b"[" + json.dumps(good).encode() + b"," + bad + b"]")
    assert reply.status == 202
    assert reply.json["results"][1]["reason"] == "invalid_utf8"
    assert shim.post(bad).status == 400
    lines = shim.post(json.dumps(event()).encode() + b"\n" + bad)
    assert (lines.status, lines.json["accepted"], lines.json["rejected"]) == (202, 1, 1)


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "text/plain", "application/json"])
def test_a_bad_line_of_ndjson_keeps_the_others(shim: Shim, content_type: str) -> None:
    first, last = event(), event()
    body = "\n".join([json.dumps(first), '{"session_id":', "garbage", json.dumps(last)])
    reply = shim.post(body, content_type=content_type)
    assert (reply.status, reply.json["accepted"], reply.json["rejected"]) == (202, 2, 2)
    assert [r["status"] for r in reply.json["results"]] == ["ok", "drop", "drop", "ok"]
    upside_down = "\n".join(["garbage", json.dumps(event())])
    assert shim.post(upside_down, content_type=content_type).json["accepted"] == 1


def test_ndjson_with_windows_line_ends(shim: Shim) -> None:
    body = json.dumps(event()) + "\r\n" + json.dumps(event()) + "\r\n"
    assert shim.post(body, content_type="application/x-ndjson").json == {"accepted": 2}


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'{"properties":{"a":['])
def test_deep_nesting_is_refused_and_the_others_are_kept(shim: Shim, opening: bytes) -> None:
    deep = opening * (24_000 // len(opening))
    assert shim.post(deep).status == 400
    closing = {b"[": b"]", b"{": b"}"}
    closed = deep + b"1" + b"".join(closing[bytes([c])] for c in reversed(deep) if c in b"[{")
    good = event()
    text = json.dumps(good).encode()
    assert shim.post(closed).status == 400
    for body in (
        b"[" + text + b"," + closed + b"]",
        b'{"events":[' + closed + b"," + text + b"]}",
        text + b"\n" + closed,
    ):
        reply = shim.post(body)
        assert (reply.status, reply.json["accepted"]) == (202, 1)
    assert shim.post(event()).status == 202


def test_a_million_tiny_events(start_shim: Any) -> None:
    shim = start_shim(BODY_BYTES=str(16 << 20))
    for body in (
        b"[" + b"{}," * 10**6 + b"{}]",
        b"[" + b"1," * 10**6 + b"1]",
        b'{"events":[' + b"{}," * 10**6 + b"{}]}",
        b"{}\n" * 10**6,
        b"\n" * 10**6,
        b"[" * 10**6,
    ):
        began = time.monotonic()
        assert shim.post(body, key="demo-secret").status in (400, 413)
        assert time.monotonic() - began < 5
    memory = shim_memory(shim.child.pid)
    assert memory < 400 << 20
    assert shim.post(event()).status == 202


def shim_memory(pid: int) -> int:
    """The most memory that the process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_more_events_than_allowed(shim: Shim) -> None:
    tiny = {"session_id": "s", "name": "n"}
    assert shim.post([tiny] * 500, query="dry_run=1").json == {"accepted": 500}
    for body in (
        json.dumps([tiny] * 501),
        json.dumps({"events": [tiny] * 501}),
        "\n".join([json.dumps(tiny)] * 501),
    ):
        reply = shim.post(body, query="dry_run=1")
        assert (reply.status, "501" in reply.json["detail"]) == (413, True)


def padded(size: int) -> bytes:
    """A valid body of exactly this size."""
    body = json.dumps([event()]).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(
    ("key", "where", "cap"),
    [
        ("demo-public", "url", 64 << 10),
        ("demo-public", "header", 64 << 10),
        ("demo-secret", "url", 1 << 20),
        ("demo-secret", "header", 1 << 20),
    ],
)
def test_body_caps(shim: Shim, key: str, where: str, cap: int) -> None:
    headers = {"Authorization": f"Bearer {key}"} if where == "header" else {}
    in_url = key if where == "url" else None
    assert shim.post(padded(cap), key=in_url, **headers).status == 202
    assert shim.post(padded(cap + 1), key=in_url, **headers).status == 413


def test_body_cap_of_a_key_in_the_body(shim: Shim) -> None:
    def body(key: str, size: int) -> bytes:
        text = json.dumps({"key": key, "events": [event()]}).encode()
        return text + b" " * (size - len(text))

    assert shim.post(body("demo-public", 64 << 10), key=None).status == 202
    assert shim.post(body("demo-public", (64 << 10) + 1), key=None).status == 413
    assert shim.post(body("demo-secret", 1 << 20), key=None).status == 202
    assert shim.post(body("demo-secret", (1 << 20) + 1), key=None).status == 413


def test_gzip_bomb(shim: Shim) -> None:
    bomb = gzip.compress(b" " * (50 << 20))
    assert len(bomb) < 64 << 10
    for key in ("demo-public", "demo-secret"):
        assert shim.post(bomb, key=key, Content_Encoding="gzip").status == 413
    fits = gzip.compress(padded(64 << 10))
    assert shim.post(fits, Content_Encoding="gzip").status == 202
    assert shim.post(gzip.compress(padded((64 << 10) + 1)), Content_Encoding="gzip").status == 413


def test_gzip_that_is_none(shim: Shim) -> None:
    whole = gzip.compress(json.dumps(event()).encode())
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    for body in (
        whole[:-1],
        whole[:-9],
        whole[:12],
        whole[:1],
        b"",
        bytes(broken),
        whole + b"tail",
        json.dumps(event()).encode(),
        zlib.compress(b"{}"),
    ):
        assert shim.post(body, Content_Encoding="gzip").status == 400


@pytest.mark.parametrize(
    "body", [b"", b"x=1", b"data=", b"data=%7B", b"data=1&data=2", b"data=%7B%7D&more=1"]
)
def test_bad_forms(shim: Shim, body: bytes) -> None:
    assert shim.post(body, content_type="application/x-www-form-urlencoded").status == 400


def test_ids_are_normalised(shim: Shim) -> None:
    given = uuid.uuid4()
    assert shim.post(event(id=str(given).upper())).status == 202
    assert list(stored(shim, [str(given)])) == [str(given)]
