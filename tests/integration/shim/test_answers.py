"""Every row of the contract's table of answers, and every form in which a body may come."""

from __future__ import annotations

import gzip
import json
import time
import uuid
from urllib.parse import quote, urlencode

import pytest

from tests.integration.shim.running import Shim, event, request, stored

PROBLEM = "application/problem+json"


def test_one_event_is_acknowledged_and_in_kafka(shim: Shim) -> None:
    before = int(time.time() * 1000)
    one = event(path="/pricing", referrer="https://www.google.com/search?q=x")
    reply = shim.post(one)
    after = int(time.time() * 1000)
    assert (reply.status, reply.json) == (202, {"accepted": 1})
    line = stored(shim, [one["id"]])[one["id"]]
    assert line.pop("received_at") == line["created_at"]
    assert before <= line.pop("created_at") <= after
    assert line == {
        "id": one["id"],
        "project_id": "demo",
        "session_id": "s-1",
        "name": "screen_view",
        "path": "/pricing",
        "referrer": "https://www.google.com/search?q=x",
        "referrer_name": "google.com",
    }


def test_every_member_arrives(shim: Shim) -> None:
    now = int(time.time() * 1000)
    sent = {
        "id": str(uuid.uuid4()).upper(),
        "session_id": "s",
        "name": "purchase",
        "created_at": now - 5000,
        "path": "/a?b=ü",
        "previous_path": "/",
        "duration": 17,
        "referrer": "",
        "utm_source": "newsletter",
        "utm_medium": "email",
        "utm_campaign": "autumn",
        "utm_term": "shoes",
        "utm_content": "red",
        "country": "de",
        "city": "Köln",
        "device": "phone",
        "browser": "Firefox",
        "browser_version": "130",
        "os": "Linux",
        "os_version": "6",
        "max_scroll": 100,
        "value": "19.99999",
        "properties": {"text": "x", "whole": 3, "fraction": 1.5, "truth": True},
    }
    assert shim.post(sent, key="demo-secret").status == 202
    line = stored(shim, [str(sent["id"]).lower()]).popitem()[1]
    del line["received_at"], sent["referrer"]
    assert line == {
        **sent,
        "id": str(sent["id"]).lower(),
        "project_id": "demo",
        "country": "DE",
        "value": 20.0,
        "properties": {"text": "x", "whole": "3", "fraction": "1.5", "truth": "true"},
    }


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-ndjson",
        "application/x-www-form-urlencoded",
        "",
    ],
)
@pytest.mark.parametrize("form", ["one", "array", "object", "ndjson"])
@pytest.mark.parametrize("zipped", [False, True])
def test_forms_of_a_body(shim: Shim, content_type: str, form: str, zipped: bool) -> None:
    first, second = event(), event()
    bodies = {
        "one": json.dumps(first),
        "array": json.dumps([first, second]),
        "object": json.dumps({"events": [first, second], "sent_at": int(time.time() * 1000)}),
        "ndjson": json.dumps(first) + "\n\n" + json.dumps(second) + "\n",
    }
    if content_type == "application/x-ndjson":  # there, a line is an event whatever it is
        bodies["array"] = bodies["object"] = bodies["ndjson"]
    body = bodies[form].encode()
    if "form" in content_type:
        body = b"data=" + quote(bodies[form]).encode()
    headers = {"Content_Encoding": "gzip"} if zipped else {}
    reply = shim.post(gzip.compress(body) if zipped else body, content_type=content_type, **headers)
    expected = 1 if form == "one" else 2
    assert (reply.status, reply.json) == (202, {"accepted": expected})
    assert len(stored(shim, [first["id"], second["id"]])) == expected


def test_curl_without_a_content_type_sends_json_as_a_form(shim: Shim) -> None:
    reply = shim.post(event(), content_type="application/x-www-form-urlencoded")
    assert reply.status == 202


def test_gzip_of_two_members_is_one_body(shim: Shim) -> None:
    text = json.dumps(event()).encode()
    body = gzip.compress(text[:20]) + gzip.compress(text[20:])
    assert shim.post(body, Content_Encoding="gzip").status == 202


def test_key_may_come_in_four_ways(shim: Shim) -> None:
    assert shim.post(event(), key="demo-public").status == 202
    assert shim.post(event(), key=None, Authorization="Bearer demo-secret").status == 202
    assert shim.post({**event(), "key": "demo-public"}, key=None).status == 202
    assert shim.post({"events": [event()], "key": "demo-public"}, key=None).status == 202
    form = urlencode({"key": "demo-public", "data": json.dumps(event())})
    kind = "application/x-www-form-urlencoded"
    assert shim.post(form, key=None, content_type=kind).status == 202


def test_some_invalid_the_good_ones_are_kept(shim: Shim) -> None:
    good, other = event(), event()
    bad = event(duration=-1)
    reply = shim.post([good, bad, other])
    assert reply.status == 202
    assert reply.json == {
        "accepted": 2,
        "rejected": 1,
        "results": [
            {"index": 0, "id": good["id"], "status": "ok"},
            {
                "index": 1,
                "id": bad["id"],
                "status": "drop",
                "reason": "out_of_range: duration",
                "detail": "duration must be at least 0",
            },
            {"index": 2, "id": other["id"], "status": "ok"},
        ],
    }
    assert stored(shim, [good["id"], bad["id"], other["id"]]).keys() == {good["id"], other["id"]}


def test_nothing_valid_is_400_in_the_same_shape(shim: Shim) -> None:
    reply = shim.post([{"name": "n"}, 5])
    assert reply.status == 400
    assert reply.headers["Content-Type"] == PROBLEM
    answer = reply.json
    assert (answer["accepted"], answer["rejected"], answer["status"]) == (0, 2, 400)
    assert [r["reason"] for r in answer["results"]] == ["missing_member: session_id", "wrong_type"]


@pytest.mark.parametrize("key", [None, "wrong", ""])
def test_401_without_a_known_key(shim: Shim, key: str | None) -> None:
    reply = shim.post(event(), key=key)
    assert reply.status == 401
    assert reply.headers["Content-Type"] == PROBLEM
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


def test_401_for_another_scheme_or_a_wrong_key_in_the_body(shim: Shim) -> None:
    assert shim.post(event(), key=None, Authorization="Basic ZGVtbzp4").status == 401
    assert shim.post({**event(), "key": "wrong"}, key=None).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://shop.example"}, 202),
        ({"Origin": "HTTPS://Shop.Example"}, 202),
        ({"Origin": "https://eu.shop.example"}, 202),
        ({"Referer": "https://shop.example/a/b"}, 202),
        ({"Origin": "https://evil.example", "Referer": "https://shop.example/"}, 403),
        ({"Origin": "http://shop.example"}, 403),
        ({"Origin": "https://shop.example.evil.example"}, 403),
        ({"Origin": "https://evilshop.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_origins_of_a_public_key(shim: Shim, headers: dict[str, str], status: int) -> None:
    reply = shim.post(event(), key="shop-public", **headers)
    assert reply.status == status
    assert shim.post(event(), key="shop-secret", **headers).status == 202


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/events/", "/v1/event", "/metrics", "/readyz"])
def test_404(shim: Shim, path: str) -> None:
    reply = shim.get(path)
    assert (reply.status, reply.headers["Content-Type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/events", "POST, OPTIONS"),
        ("PUT", "/v1/events", "POST, OPTIONS"),
        ("DELETE", "/v1/events?key=demo-public", "POST, OPTIONS"),
        ("POST", "/v1/pixel.gif", "GET, HEAD, OPTIONS"),
        ("POST", "/penstock.js", "GET, HEAD, OPTIONS"),
    ],
)
def test_405_names_what_is_allowed(shim: Shim, method: str, path: str, allowed: str) -> None:
    reply = request(shim.port, method, path, headers={"Content-Length": "0"})
    assert (reply.status, reply.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/xml", ""),
        ("multipart/form-data; boundary=x", ""),
        ("application/json; charset=utf-16", ""),
        ("application/json", "br"),
        ("application/json", "gzip, gzip"),
    ],
)
def test_415(shim: Shim, content_type: str, encoding: str) -> None:
    headers = {"Content_Encoding": encoding} if encoding else {}
    assert shim.post(event(), content_type=content_type, **headers).status == 415


def test_dry_run_validates_and_produces_nothing(shim: Shim) -> None:
    good, bad = event(), event(max_scroll=101)
    reply = shim.post([good, bad], query="dry_run=1")
    assert reply.status == 200
    assert (reply.json["accepted"], reply.json["rejected"]) == (1, 1)
    assert reply.json["results"][1]["reason"] == "out_of_range: max_scroll"
    assert shim.post(good, query="dry_run=1").json == {"accepted": 1}
    assert shim.post(bad, query="dry_run=1").status == 400
    assert stored(shim, [good["id"]]) == {}


def test_pixel(shim: Shim) -> None:
    one = event(path="/mail", duration=5, value="1.50")
    query = urlencode({"key": "demo-public", **one, "properties.plan": "pro"})
    reply = shim.get(f"/v1/pixel.gif?{query}")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "image/gif")
    assert reply.body.startswith(b"GIF89a")
    line = stored(shim, [one["id"]])[one["id"]]
    assert (line["duration"], line["value"], line["properties"]) == (5, 1.5, {"plan": "pro"})


def test_pixel_takes_both_forms_of_time(shim: Shim) -> None:
    now = int(time.time() * 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now // 1000))
    for given, expected in ((str(now - 1000), now - 1000), (stamp, now // 1000 * 1000)):
        one = event(created_at=given)
        query = urlencode({"key": "demo-public", **one})
        assert shim.get(f"/v1/pixel.gif?{query}").status == 200
        assert stored(shim, [one["id"]])[one["id"]]["created_at"] == expected


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("session_id=s&name=n", 401),
        ("key=wrong&session_id=s&name=n", 401),
        ("key=shop-public&session_id=s&name=n", 403),
        ("key=demo-public&session_id=s", 400),
        ("key=demo-public&session_id=s&name=n&duration=-1", 400),
        ("key=demo-public&session_id=s&name=n&zz=1", 400),
        ("key=demo-public&session_id=s&name=%FF", 400),
        ("key=demo-public&session_id=s&name=n&name=m", 400),
    ],
)
def test_pixel_without_picture(shim: Shim, query: str, status: int) -> None:
    reply = shim.get(f"/v1/pixel.gif?{query}")
    assert (reply.status, reply.headers["Content-Type"]) == (status, PROBLEM)


def test_sdk(shim: Shim) -> None:
    reply = shim.get("/penstock.js")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/javascript")
    assert b"screen_view" in reply.body


@pytest.mark.parametrize("path", ["/v1/events?key=shop-public", "/v1/pixel.gif", "/penstock.js"])
def test_preflight(shim: Shim, path: str) -> None:
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    reply = request(shim.port, "OPTIONS", path, headers=headers)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] in ("*", "https://shop.example")
    assert "Content-Type" in reply.headers["Access-Control-Allow-Headers"]
    assert int(reply.headers["Access-Control-Max-Age"]) > 0


def test_answers_may_be_read_by_pages(shim: Shim) -> None:
    for reply in (shim.post(event()), shim.post(event(), key="wrong"), shim.post("{")):
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert reply.headers["Access-Control-Expose-Headers"] == "Retry-After"


def test_project_is_the_keys(shim: Shim) -> None:
    assert shim.post(event(project_id="demo")).status == 202
    reply = shim.post(event(project_id="shop"))
    assert reply.status == 400
    assert reply.json["results"][0]["reason"] == "other_project: project_id"


def test_what_a_browser_says_about_its_place_counts_for_nothing(shim: Shim) -> None:
    told = {"country": "DE", "city": "X", "device": "d", "browser": "b", "browser_version": "1"}
    told |= {"os": "o", "os_version": "2"}
    public, secret = event(**told), event(**told)
    assert shim.post(public).status == 202
    assert shim.post(secret, key="demo-secret").status == 202
    lines = stored(shim, [public["id"], secret["id"]])
    assert not told.keys() & lines[public["id"]].keys()
    assert told.items() <= lines[secret["id"]].items()


def test_a_missing_id_is_made(shim: Shim) -> None:
    session = str(uuid.uuid4())
    reply = shim.post([{"session_id": session, "name": "a"}, {"session_id": "s", "name": ""}])
    made = uuid.UUID(reply.json["results"][0]["id"])
    assert made.version == 7
    assert abs((made.int >> 80) - time.time() * 1000) < 60_000
    assert stored(shim, [str(made)])[str(made)]["session_id"] == session


def test_admin_port(shim: Shim) -> None:
    assert shim.admin("/livez").status == 200
    assert shim.admin("/readyz").json == {"ready": True}
    assert shim.admin("/").status == 404
    assert request(shim.admin_port, "POST", "/metrics").status == 405


def test_metrics_count_what_was_answered(shim: Shim) -> None:
    def now() -> tuple[float, ...]:
        return (
            shim.metric("penstock_http_requests_total", route="events", status="202"),
            shim.metric("penstock_http_requests_total", route="events", status="401"),
            shim.metric("penstock_events_total", outcome="accepted"),
            shim.metric("penstock_events_total", outcome="rejected", reason="unknown_member"),
            shim.metric("penstock_pack_events_sum"),
        )

    before = now()
    assert shim.post([event(), event(), event(zz=1)]).status == 202
    assert shim.post(event(), key="wrong").status == 401
    assert tuple(a - b for a, b in zip(now(), before, strict=True)) == (1, 1, 2, 1, 2)
    assert shim.metric("penstock_build_info") == 1
    assert b"_created" not in shim.admin("/metrics").body
