"""The event contract: decoder, JSON Schema and record agree about every event."""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from schemas import event as contract
from schemas.event import (
    DECODE_ERRORS,
    EVENTS,
    REASONS,
    RECORDS,
    Event,
    Record,
    Refused,
    json_schema,
    refusal,
    schema_text,
    settle,
)

SCHEMA_FILE = Path(contract.__file__).with_name("event.schema.json")
VALIDATOR = Draft202012Validator(json_schema(), format_checker=FormatChecker())

# What the contract says, in its own words: not read from the code.
NAMES = [
    *("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "city", "device"),
    *("browser", "browser_version", "os", "os_version"),
]
URLS = ["path", "previous_path", "referrer"]
SERVERS = ["received_at", "referrer_name", "referrer_kind", "click_id_kind", "is_bot"]

characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def texts(longest: int, shortest: int = 0) -> st.SearchStrategy[str]:
    """Short ones, and the longest there may be."""
    short = st.text(characters, min_size=shortest, max_size=6)
    return st.one_of(short, characters.map(lambda one: one * longest))


names, required = texts(128), texts(128, 1)
property_values = st.one_of(
    texts(1024),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
)
zones = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
events = st.fixed_dictionaries(
    {"session_id": required, "name": required},
    optional={
        "id": st.uuids().map(str),
        "created_at": st.one_of(
            st.integers(0, 253_402_300_799_999),
            st.datetimes(timezones=zones).map(lambda moment: moment.isoformat()),
        ),
        **dict.fromkeys(NAMES, names),
        **{name: texts(2048) for name in URLS},
        "country": st.sampled_from(["", "DE", "us", "zZ"]),
        "duration": st.integers(0, 2**32 - 1),
        "max_scroll": st.integers(0, 100),
        "value": st.decimals(-(10**13), 10**13, places=4).map(str),
        "properties": st.dictionaries(required, property_values, max_size=5),
    },
)


def test_the_schema_file_is_the_contract() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    Draft202012Validator.check_schema(json_schema())


@given(events)
@example({"session_id": "s", "name": "n", "created_at": "0001-01-01T00:00:00+14:00"})
@example({"session_id": "s", "name": "n", "created_at": "9999-12-31T23:59:59-14:00"})
def test_what_the_contract_allows_is_taken(sent: dict[str, Any]) -> None:
    event = EVENTS.decode(json.dumps(sent))
    settle(event)
    for body in (sent, [sent], {"events": [sent]}):
        VALIDATOR.validate(body)
    stored = msgspec.to_builtins(event, builtin_types=())
    for member, value in sent.items():
        if member in (*NAMES, *URLS, "session_id", "name", "duration", "max_scroll"):
            assert stored.get(member, type(value)()) == value
    assert event.country == sent.get("country", "").upper()
    assert all(type(text) is str for text in event.properties.values())
    assert list(event.properties) == list(sent.get("properties", {}))


@given(events)
def test_a_settled_event_is_a_record(sent: dict[str, Any]) -> None:
    event = EVENTS.decode(json.dumps({**sent, "id": "0189c4f2-1111-7abc-8def-0123456789ab"}))
    settle(event)
    event.project_id, event.created_at = "demo", 0
    line = msgspec.json.Encoder(decimal_format="number").encode(event)
    assert b"\n" not in line
    record = RECORDS.decode(line)
    assert (record.session_id, record.properties) == (event.session_id, event.properties)


WRONG: list[tuple[str, Any]] = [
    *((name, "x" * 129) for name in [*NAMES, "session_id", "name"]),
    *((name, "x" * 2049) for name in URLS),
    *((name, 5) for name in [*NAMES, *URLS, "session_id", "name", "id", "country"]),
    *((name, None) for name in [*NAMES, *URLS, "session_id", "created_at", "value", "duration"]),
    *((name, 1) for name in SERVERS),
    ("session_id", ""),
    ("name", ""),
    ("id", "x"),
    ("country", "DEU"),
    ("country", "1"),
    ("duration", -1),
    ("duration", 2**32),
    ("duration", 0.5),
    ("duration", True),
    ("max_scroll", 101),
    ("max_scroll", -1),
    ("created_at", True),
    ("created_at", -1),
    ("value", {}),
    ("properties", []),
    ("properties", {"": "x"}),
    ("properties", {"x": None}),
    ("properties", {"x": []}),
    ("properties", {"x" * 129: "x"}),
    ("properties", {"x": "x" * 1025}),
    ("properties", {str(n): n for n in range(31)}),
]


@pytest.mark.parametrize(("member", "value"), WRONG, ids=lambda value: repr(value)[:30])
def test_what_it_does_not_allow_is_refused_by_name(member: str, value: Any) -> None:
    body = {"session_id": "s", "name": "n", member: value}
    with pytest.raises(msgspec.ValidationError) as raised:
        EVENTS.decode(json.dumps(body))
    found = refusal(raised.value)
    assert (found.member, found.code in REASONS) == (member, True)
    assert member in found.detail
    assert not VALIDATOR.is_valid(body)


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"session_id":' + b"[" * 100_000)
@example(b'{"session_id":"s","name":"n","value":1e999999999}')
@example(b'{"session_id":"s","name":"n","value":"1e-999999999"}')
@example(b'{"session_id":"s","name":"n","properties":{"a":' + b"9" * 5000 + b"}}")
def test_any_bytes_are_an_event_or_a_refusal(data: bytes) -> None:
    try:
        settle(EVENTS.decode(data))
    except (*DECODE_ERRORS, Refused) as error:
        found = refusal(error)
        assert found.code in REASONS
        assert len(found.member) <= 128


def test_an_unknown_name_is_quoted_in_part_only() -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        EVENTS.decode(json.dumps({"session_id": "s", "name": "n", "x" * 5000: 1}))
    assert len(refusal(raised.value).detail) < 200


def test_a_record_has_every_member_of_an_event() -> None:
    assert set(Event.__struct_fields__) < set(Record.__struct_fields__)
    assert set(Record.__struct_fields__) - set(Event.__struct_fields__) == set(SERVERS)


@pytest.mark.parametrize(
    ("given_value", "stored"),
    [("1.00005", "1.0000"), ("1.00015", "1.0002"), ("-0.1", "-0.1000"), ("1e-9", "0.0000")],
)
def test_value_is_rounded_to_a_ten_thousandth(given_value: str, stored: str) -> None:
    event = EVENTS.decode(json.dumps({"session_id": "s", "name": "n", "value": given_value}))
    settle(event)
    assert str(event.value) == stored
