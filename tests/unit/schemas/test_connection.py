"""ClickHouse URLs, and errors in one line."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from schemas.connection import Address, explained, parse, told

ADDRESS = parse("http://writer:s%40cret@ch.example:8124/penstock")


def test_a_url_in_its_parts() -> None:
    assert Address("http", "ch.example", 8124, "writer", "s@cret", "penstock") == ADDRESS
    assert parse("https://ch.example") == Address(
        "https", "ch.example", 8443, "default", "", "penstock"
    )
    assert parse("http://ch.example/my%2Ddb/").database == "my-db"


@pytest.mark.parametrize(
    "url",
    ["", "ch.example:8123", "ftp://ch.example/", "http:///db", "http://h:x/db", "http://h/a/b"],
)
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be http\(s\)://"):
        parse(url)


def test_no_password_is_shown() -> None:
    assert "s@cret" not in repr(ADDRESS)
    assert ADDRESS.shown == "http://ch.example:8124/penstock"


@pytest.mark.parametrize("code", [192, 193, 194, 516])
def test_a_refused_user(code: int) -> None:
    error = explained(DatabaseError("Code: 516. DB::Exception: no\nmore", code=code), ADDRESS)
    assert str(error) == (
        "ClickHouse at http://ch.example:8124/penstock refuses user 'writer': "
        "wrong name or password"
    )


def test_a_missing_right_is_named() -> None:
    told = "Code: 497. DB::Exception: writer: Not enough privileges. grant CREATE DATABASE\ntrace"
    text = str(explained(DatabaseError(told, code=497), ADDRESS))
    assert text.startswith("user 'writer' lacks a right")
    assert text.endswith("grant CREATE DATABASE")
    assert "\n" not in text


def test_a_server_that_is_not_there() -> None:
    wrapped = 'Error HTTPConnectionPool(...): (Caused by X("...: [Errno 111] Connection refused"))'
    assert str(explained(OperationalError(wrapped), ADDRESS)) == (
        "ClickHouse at http://ch.example:8124/penstock cannot be reached: Connection refused"
    )


def test_any_other_error_keeps_its_first_line() -> None:
    text = str(explained(DatabaseError("Code: 60. Unknown table\ntrace", code=60), ADDRESS))
    assert text == "ClickHouse at http://ch.example:8124/penstock: Code: 60. Unknown table"


def test_an_address_of_ipv6_keeps_its_brackets() -> None:
    address = parse("http://[::1]:8123/penstock")
    assert address.base_url == "http://[::1]:8123"
    assert address.shown == "http://[::1]:8123/penstock"


def test_of_a_long_error_both_ends_are_told_in_one_line() -> None:
    text = told(ValueError("the beginning\n" + "x" * 100_000 + " the end"))
    assert text.startswith("the beginning x")
    assert text.endswith("x the end")
    assert len(text) < 10_000
    assert told(ValueError("a\u2028b")) == "a\u2028b", "only a line feed ends a line"
