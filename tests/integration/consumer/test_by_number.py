"""Lines that ClickHouse refuses by their number alone: the first refusal leads to all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from consumer import by_number
from consumer.by_number import unreadable
from consumer.clickhouse import INSERT_SETTINGS, ClickHouseTable
from consumer.commands import Isolated, Outcome
from consumer.runner import clock
from schemas.layout import literal
from schemas.record import Fault, faults
from tests.fixtures.batches import SOURCE, batch, name
from tests.fixtures.clickhouse import ClickHouse
from tests.integration.consumer.test_inserts import JANUARY, rows, table_of
from tests.integration.consumer.test_table import event

_BAD = (0, 17, 18, 2_500, 4_999)


@pytest.fixture
def server(clickhouse_with_schema: ClickHouse) -> ClickHouse:
    """Someone made a column of the landing table narrower than its events."""
    clickhouse_with_schema.client().command(
        "ALTER TABLE events_landing MODIFY COLUMN country Enum8('' = 0, 'it''s', 'DE')"
    )
    return clickhouse_with_schema


@pytest.fixture
def table(server: ClickHouse) -> ClickHouseTable:
    return table_of(server)


def of(number: int, country: bytes) -> bytes:
    return event(number, JANUARY + number, 1).removesuffix(b"}") + b',"country":"%s"}' % country


def test_all_lines_that_cannot_be_read_are_found_and_none_is_inserted(
    table: ClickHouseTable, server: ClickHouse
) -> None:
    made = batch(0, *(of(n, b"FR" if n in _BAD else b"it's") for n in range(5_000)))
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)
    found = table.isolate(SOURCE, made, refused.why, None)
    assert isinstance(found, Isolated)
    assert [letter.offset for letter in found.letters] == list(_BAD)
    assert {letter.reason for letter in found.letters} == {"refused"}
    assert all("'FR'" in letter.error for letter in found.letters)
    assert rows(server.client(), "SELECT count() FROM events") == [(0,)]
    rest = made.without(found.letters)
    answer = table.insert(rest, name(made), clock() + 60, None)
    assert (answer.outcome, answer.rows) == (Outcome.LANDED, 5_000 - len(_BAD))


def test_a_map_that_cannot_be_read_leaves_nothing_in_doubt(table: ClickHouseTable) -> None:
    """Its error has a code of its own."""
    made = batch(0, of(1, b"DE").removesuffix(b"}") + b',"properties":{"plan"')
    refused = table.insert(made, name(made), clock() + 60, None)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)


def test_no_line_is_looked_at_twice(
    table: ClickHouseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the row that ClickHouse named is not at fault by our rules, all are looked at."""
    looked: list[bytes] = []

    def counted(lines: Iterable[bytes]) -> list[tuple[int, Fault]]:
        lines = list(lines)
        looked.extend(lines)
        return faults(lines)

    monkeypatch.setattr("consumer.content.faults", counted)
    wraps = of(2, b"DE")[:-1] + b',"duration":18446744073709551617}'
    made = batch(0, of(1, b"DE"), wraps, of(3, b"FR"), of(4, b"DE"))
    refused = table.insert(made, name(made), clock() + 60, None)
    found = table.isolate(SOURCE, made, refused.why, None)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.reason) for each in found.letters] == [(1, "out_of_range")]
    assert sorted(looked) == sorted(made.lines())


class Reading:
    """A landing table of one narrow column, and the requests that looking for bad lines takes."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self.client = clickhouse.client()
        known = self.client.server_settings
        self.settings = {name: value for name, value in INSERT_SETTINGS.items() if name in known}
        self.structure = ""
        self.requests = 0

    def narrow(self, kind: str) -> None:
        self.structure = f"n UInt64, {f'k {kind}, ' * bool(kind)}properties Map(String, String)"
        self.client.command(f"CREATE TABLE events_landing ({self.structure}) ENGINE = Null")

    def refusal(self, lines: Iterable[bytes], where: str = "events_landing") -> str:
        try:
            self.client.raw_insert(
                where, insert_block=b"\n".join(lines), fmt="JSONEachRow",
                settings=dict(self.settings),
            )  # fmt: skip
        except DatabaseError as error:
            return str(error)
        return ""

    def bad_alone(self, lines: Iterable[bytes]) -> list[int]:
        nowhere = f"FUNCTION null({literal(self.structure)})"
        return [index for index, line in enumerate(lines) if self.refusal([line], nowhere)]

    def unreadable(self, lines: list[bytes], refusal: str = "") -> dict[int, str]:
        """What the server cannot read of them, once it has refused the first such line."""
        refusal = refusal or self.refusal(lines)
        counting: Any = _Counting(self.client)
        found = unreadable(counting, self.settings, lines, refusal)
        self.requests = counting.requests
        return found


class _Counting:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        self.requests += 1
        return getattr(self._client, name)


@pytest.fixture
def reading(clickhouse: ClickHouse) -> Reading:
    return Reading(clickhouse)


def line(number: int, text: str) -> bytes:
    return f'{{"n":{number},"k":{text},"properties":{{"k":"no \\" enum","n":"x"}}}}'.encode()


@pytest.mark.parametrize("distinct", [1, 200])
def test_many_bad_lines_take_few_requests(reading: Reading, distinct: int) -> None:
    reading.narrow("Enum8('a' = 1, 'it''s' = 2)")
    bad = {n: f'"b{n // 40 % distinct}"' for n in range(7, 8_000, 40)}
    found = reading.unreadable([line(n, bad.get(n, '"it\'s"')) for n in range(8_000)])
    assert sorted(found) == list(bad)
    assert reading.requests <= 2 + min(distinct - 1, 16)
    own = [n for n, why in found.items() if f"'{bad[n][1:-1]}'" in why]
    assert len(own) == (200 if distinct == 1 else 17)
    others = [found[n] for n in bad if n not in own]
    assert all(why.startswith("ClickHouse could not read it; of another line") for why in others)


_TEXTS = [
    r'"a"', r'"it\u0027s"', r'"a\"b"', r'"\\"', r'"\\\""', r'"\n"', r'"a\nb\\n"', "\"'\"",
    r'"\u00e9€"', '"é"', '"}"', '"{"', '"],"', '""', '" a"', '"1"', '"12x"', '"1.2"', '"::1"',
    '"00000000-0000-0000-0000-00000000000a"', '"0000"', '"2026-01-01"', '"2026-01"',
    "1", "-1", "300", "1.5", "1e30", "123456789012345678901234567890", "true", "null",
    "[]", r'["a","b\n"]', "{}", '{"a":"b"}', r'{"a":{"k":"\\"}}', '{"a":1}',
]  # fmt: skip
_OUT_OF_TIME = ("1e30", "123456789012345678901234567890")


@pytest.mark.parametrize(
    "kind",
    [
        "Enum8('a' = 1, 'it''s' = 2, '\\\\' = 3, '{' = 4)", "UUID", "FixedString(2)", "UInt8",
        "Nullable(Int8)", "Decimal(3, 1)", "Float32", "Bool", "Date", "DateTime", "DateTime64(3)",
        "IPv4", "IPv6", "Array(String)", "Map(String, String)", "Map(String, UInt8)", "String", "",
    ],
)  # fmt: skip
def test_what_is_found_is_what_cannot_be_read_alone(reading: Reading, kind: str) -> None:
    """Whatever stands beside it: also a value that the server reads past the end of its line."""
    reading.narrow(kind)
    # a number that is out of a time's range is refused without a row: nothing here can tell whose
    texts = [text for text in _TEXTS if kind != "DateTime64(3)" or text not in _OUT_OF_TIME]
    lines = [line(n, text) for n, text in enumerate(texts)]
    lines += [line(n, text) for n, text in enumerate(reversed(texts))]
    lines += [b'{"n":1,"properties":{"k":"a"}}', b'{"n":1}']
    bad = reading.bad_alone(lines)
    found = reading.unreadable(lines) if bad else {}
    assert sorted(found) == bad
    assert all(found.values())
    if bad:
        assert reading.requests <= 2 + by_number._READ_ALONE


@pytest.mark.parametrize(
    "said",
    [
        "who knows: (at row 3)",
        "spoilt: (while reading the value of key properties): (at row 3)",
        "spoilt: (while reading the value of key `n`): (at row 3)",
        "spoilt: (while reading the value of key _line): (at row 3)",
        "spoilt: (while reading the value of key nobody): (at row 3)",
    ],
)
def test_where_the_member_is_not_known_the_lines_are_read_on(reading: Reading, said: str) -> None:
    reading.narrow("Enum8('a' = 1)")
    lines = [line(n, '"b"' if n in (2, 3, 90) else '"a"') for n in range(100)]
    assert sorted(reading.unreadable(lines, said)) == [2, 3, 90]


def test_where_the_look_fails_the_lines_are_read_on(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading.narrow("Enum8('a' = 1)")
    lines = [line(n, '"b"' if n in (2, 3, 90) else '"a"') for n in range(100)]
    refusal = reading.refusal(lines)

    def broken(*_: object, **__: object) -> bytes:
        return b"[[0,1"

    monkeypatch.setattr(reading.client, "raw_query", broken)
    assert sorted(reading.unreadable(lines, refusal)) == [2, 3, 90]
    monkeypatch.setattr(by_number, "_SECONDS", 0.0)
    assert reading.unreadable(lines, refusal) == {2: refusal[:1_000]}


def test_a_line_that_cannot_be_looked_at_is_left_to_the_next_insert(reading: Reading) -> None:
    reading.narrow("Enum8('a' = 1)")
    lines = [line(0, '"b"'), line(1, '"b"').replace(b"b", b"\xff"), b"{", line(3, '"c"')]
    assert sorted(reading.unreadable(lines)) == [0, 3]
    refusal = reading.refusal(lines[3:]).replace("(at row 1)", "(at row 2)")
    assert sorted(reading.unreadable(lines, refusal)) == [1, 2, 3]
