"""What the server adds to an event."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer_shim import enrich
from producer_shim.projects import Grant
from schemas.event import EVENTS, RECORDS, Refused

NOW = 1_795_000_000_000
DAY = 86_400_000
PUBLIC, SECRET = Grant("demo", True), Grant("demo", False)


def line(
    grant: Grant = PUBLIC, bot: bool = False, by: int = 0, **members: object
) -> dict[str, object]:
    event = EVENTS.decode(json.dumps({"session_id": "s", "name": "n", **members}))
    enrich.finish(event, grant, NOW, by)
    raw = enrich.line(event, enrich.tail(NOW, bot))
    RECORDS.decode(raw)
    found: dict[str, object] = json.loads(raw)
    return found


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        (0, 0),
        (60_000, 0),
        (60_001, -60_000),
        (89_999, -60_000),
        (90_001, -120_000),
        (-60_000, 0),
        (-3_600_000, 3_600_000),
        (10**15, -(10**15) // 60_000 * 60_000),
    ],
)
def test_the_clock_is_corrected_by_whole_minutes(off: int, expected: int) -> None:
    found = enrich.correction(NOW + off, NOW)
    assert found % 60_000 == 0
    assert abs(found - expected) <= (60_000 if off == 10**15 else 0)


@given(st.integers(0, 10**14), st.integers(-(10**14), 10**14))
def test_a_public_time_is_within_three_days(created: int, by: int) -> None:
    found = line(created_at=created, by=by)["created_at"]
    assert isinstance(found, int)
    assert NOW - 3 * DAY <= found <= NOW


@pytest.mark.parametrize("created", [1_420_070_399_999, NOW + DAY + 1, 253_402_300_799_000])
def test_a_secret_time_that_cannot_be_is_refused(created: int) -> None:
    with pytest.raises(Refused) as raised:
        line(SECRET, created_at=created)
    assert raised.value.refusal.reason == "bad_time: created_at"


@pytest.mark.parametrize("created", [1_420_070_400_000, NOW + DAY])
def test_a_secret_time_is_kept(created: int) -> None:
    assert line(SECRET, created_at=created)["created_at"] == created


@pytest.mark.parametrize(
    ("referrer", "name"),
    [
        ("https://www.google.com/search?q=1", "google.com"),
        ("https://News.Example.ORG:8080/a", "news.example.org"),
        ("android-app://com.google.android.gm/", "com.google.android.gm"),
        ("https://user:pass@example.com/", "example.com"),
        ("//example.com/x", "example.com"),
        ("not a url", None),
        ("/only/a/path", None),
        ("http://[::1", None),
        ("https://" + "x" * 300 + ".example", "x" * 128),
    ],
)
def test_referrer_name(referrer: str, name: str | None) -> None:
    assert line(referrer=referrer).get("referrer_name") == name


def test_campaign_from_the_pages_query_where_the_event_has_none() -> None:
    found = line(
        path="/a?utm_source=q&utm_medium=email&gclid=one-click&fbclid=d&utm_term=" + "x" * 200,
        utm_source="own",
    )
    assert (found["utm_source"], found["utm_medium"]) == ("own", "email")
    assert found["utm_term"] == "x" * 128
    assert found["click_id_kind"] == "gclid"
    assert "utm_campaign" not in found
    assert "one-click" not in json.dumps({k: v for k, v in found.items() if k != "path"})


def test_no_campaign_from_odd_queries() -> None:
    assert "utm_source" not in line(path="/a?utm_source=%00&utm_medium=")
    assert "click_id_kind" not in line(path="/a?gclid=")
    assert "utm_source" not in line(path="/a?#utm_source=x")
    assert line(path="/?msclkid=1")["click_id_kind"] == "msclkid"


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", True),
        (b"Mozilla/5.0 (compatible; bingbot/2.0)", True),
        (b"Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/130.0", True),
        (b"facebookexternalhit/1.1", True),
        (b"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", False),
        (b"Mozilla/5.0 (Linux; Android 9; CUBOT_X18) Chrome/130.0 Mobile Safari/537.36", False),
        (b"curl/8.5.0", False),
        (b"", False),
    ],
)
def test_bots_by_their_own_word(agent: bytes, expected: bool) -> None:
    assert enrich.is_bot(agent) is expected
    assert line(bot=expected).get("is_bot", 0) == expected


def test_a_made_id_is_a_uuid7_and_new_each_time() -> None:
    made = [enrich.uuid7(NOW) for _ in range(1000)]
    assert len(set(made)) == 1000
    for one in made:
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
        assert one.int >> 80 == NOW
