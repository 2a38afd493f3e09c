"""What `schemas.record` says of a line, asked of the real engine with the project's own layout.

A line that passes lands as exactly one row, where `clickhouse_partition` says; a line that does not
is refused, but for the cases in which the module says that it is stricter.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.batch import Filling, Records
from consumer.clickhouse import INSERT_SETTINGS
from schemas.record import faults
from schemas.tables import CREATED_AT_END, CREATED_AT_FIRST, LANDING, clickhouse_partition
from tests.fixtures.clickhouse import ClickHouse
from tests.fixtures.lines import BASE, CASES, good
from tests.fixtures.odd import odd_events
from tests.fixtures.tables import against_truth
from tests.fixtures.truth import Truth


class Landing:
    """Inserts as the consumer's, each under a token of its own, and what came of them."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._client = clickhouse.client()
        self._client.command("SYSTEM STOP MERGES events")  # equal ids must stay to be counted
        known = self._client.server_settings
        self._pinned = {name: INSERT_SETTINGS[name] for name in INSERT_SETTINGS if name in known}
        self._numbers = count()

    def insert(self, lines: Sequence[bytes]) -> str | None:
        """The topic id that its rows are stamped with, or None when it is refused."""
        topic_id = f"topic-{next(self._numbers)}"
        token = f"cluster:{topic_id}:0:0-{len(lines)}:{len(lines)}:digest:0:events"
        settings = {**self._pinned, "insert_deduplication_token": token, "max_execution_time": 60}
        try:
            body = (text for text in [b"\n".join(lines)])
            self._client.raw_insert(
                LANDING, insert_block=body, settings=settings, fmt="JSONEachRow"
            )
        except DatabaseError:
            return None
        except UnicodeDecodeError:  # the client, on a message that quotes the line
            return None
        return topic_id

    def landed(self, topic_ids: Collection[str | None]) -> dict[str, Counter[str]]:
        """Rows by topic id and ClickHouse partition."""
        found: dict[str, Counter[str]] = {}
        for topic_id, partition, rows in self._client.query(
            "SELECT _topic_id, _partition_id, count() FROM events "
            "WHERE _topic_id IN {topics:Array(String)} GROUP BY 1, 2",
            parameters={"topics": [topic_id for topic_id in topic_ids if topic_id is not None]},
        ).result_rows:
            found.setdefault(topic_id, Counter())[partition] = rows
        return found

    def rows(self, topic_id: str | None) -> Counter[str] | None:
        return None if topic_id is None else self.landed([topic_id]).get(topic_id, Counter())


@pytest.fixture
def landing(clickhouse_with_schema: ClickHouse) -> Landing:
    return Landing(clickhouse_with_schema)


def is_suspect(lines: Sequence[bytes]) -> bool:
    filling = Filling(0)
    filling.add(Records(range(len(lines)), lines, len(lines), 1), 0.0)
    return filling.close().suspect


def expected(lines: Sequence[bytes]) -> Counter[str]:
    """Where lines that pass belong."""
    return Counter(
        clickhouse_partition(json.loads(line, strict=False)["created_at"]) for line in lines
    )


def test_each_case_alone(landing: Landing) -> None:
    topics = {name: landing.insert([case.line]) for name, case in CASES.items()}
    landed = landing.landed(topics.values())
    wrong = {}
    for name, case in CASES.items():
        topic = topics[name]
        rows = None if topic is None else landed.get(topic, Counter())
        if case.reason is None:
            if rows != expected([case.line]):
                wrong[name] = rows
        elif (None if rows is None else rows.total()) != case.rows:
            wrong[name] = rows
    assert wrong == {}


def test_where_a_line_stands_decides_nothing_unless_its_batch_is_suspect(landing: Landing) -> None:
    """First, in the middle and last among good lines it is refused, or always one row. A suspect
    batch is looked through, and the line set aside, before ClickHouse sees it."""
    suspect, topics, wrong = [], {}, {}
    for name, case in CASES.items():
        if case.reason is None:
            continue
        places = [[good()] * at + [case.line] + [good()] * (2 - at) for at in range(3)]
        looked_through = {is_suspect(lines) for lines in places}
        if looked_through == {True}:
            suspect.append(name)
            assert [index for index, _ in faults(places[1])] == [1], name
        else:
            assert looked_through == {False}, name
            topics[name] = [landing.insert(lines) for lines in places]
    landed = landing.landed([topic for three in topics.values() for topic in three])
    for name, three in topics.items():
        rows = [None if topic is None else landed[topic].total() for topic in three]
        if rows not in ([None] * 3, [3] * 3):
            wrong[name] = rows
    assert wrong == {}
    assert min(len(landed), len(topics) * 3 - len(landed), len(suspect)) > 20, "of each some"


def test_there_are_lines_that_are_taken_in_one_place_only(landing: Landing) -> None:
    """Were there none, no batch would have to be looked through for them."""
    comma = CASES["a comma before it"].line
    assert is_suspect([good(), comma])
    assert landing.insert([comma, good()]) is None
    assert landing.insert([good(), comma]) is not None


def test_all_that_pass_land_together(landing: Landing) -> None:
    lines = [case.line for case in CASES.values() if case.reason is None]
    assert faults(lines) == []
    assert landing.rows(landing.insert(lines)) == expected(lines)


def test_a_line_that_passes_lands_as_what_it_says(
    landing: Landing, clickhouse_with_schema: ClickHouse
) -> None:
    """Read by the truth of the pipeline's tests, in every table."""
    odd = odd_events(1, 2 * len(CASES))
    assert landing.insert([each.line for each in odd]) is not None
    truth = Truth(each.members for each in odd)
    assert against_truth(clickhouse_with_schema.client(), truth) == []


# --- made lines ----------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3),
    max_leaves=6,
).map(json.dumps)  # fmt: skip
_TEXT = st.text(max_size=12)
# As the value's own characters, with escapes, and with such as JSON does not know.
_WRITTEN_TEXT = (
    _TEXT.map(json.dumps)
    | _TEXT.map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.lists(
        st.sampled_from(["a", "\\", '"', "\\n", "\\/", "\\u0041", "\\ud83d", "\\ude00", "\t", "é"]),
        max_size=5,
    ).map(lambda parts: f'"{"".join(parts)}"')
)
_DIGITS = st.text("0123456789", min_size=1, max_size=25)
_NUMBER = st.one_of(
    st.integers(0, 300).map(str),
    st.sampled_from(["4294967295", "4294967296", "-0", "-1", "1.0", "1e2", "01", "+1", ".5", "1."]),
    st.builds(
        lambda minus, whole, point, fraction, e, exponent: (
            minus + (whole.lstrip("0") or "0") + (f".{fraction}" if point else "")
            + (f"e{exponent}" if e else "")
        ),
        st.sampled_from(["", "-"]), _DIGITS, st.booleans(), _DIGITS, st.booleans(),
        st.integers(-40, 40),
    ),
)  # fmt: skip
_VALUES = _JSON | _WRITTEN_TEXT | _NUMBER | _NUMBER.map(lambda number: f'"{number}"')
_UUIDS = st.uuids().map(str)
_IDS = _UUIDS | _UUIDS.map(str.upper) | _UUIDS.map(lambda text: text.replace("-", "")) | st.builds(
    lambda text, at, other: text[:at] + other + text[at + 1 :],
    _UUIDS, st.integers(0, 36), st.sampled_from(["", "-", "g", "0", "\\u0030", " "]),
)  # fmt: skip
_MOMENTS = st.integers(1_767_225_600_000, 1_798_761_599_999) | st.sampled_from(
    [CREATED_AT_FIRST - 1, CREATED_AT_FIRST, CREATED_AT_END - 1, CREATED_AT_END, 0, -1]
)
_OPTIONAL = (
    "received_at", "path", "duration", "referrer", "city", "max_scroll", "value", "properties",
    "is_bot", "os",
)  # fmt: skip
_OBJECTS = st.dictionaries(_TEXT, st.none() | st.booleans() | st.text(max_size=5)).map(json.dumps)


@st.composite
def made_lines(draw: st.DrawFn) -> bytes:
    """A line that may be good, and often is nearly so: one or two members are made up."""
    members = {name: json.dumps(value) for name, value in BASE.items()}
    if draw(st.booleans()):
        members["id"] = f'"{draw(_IDS)}"'
    members["created_at"] = str(draw(_MOMENTS))
    for name in draw(st.lists(st.sampled_from(_OPTIONAL), max_size=4, unique=True)):
        members[name] = draw(
            {"properties": _OBJECTS, "value": _NUMBER, "path": _WRITTEN_TEXT}.get(name, _NUMBER)
        )
    for name in draw(st.lists(st.sampled_from([*_OPTIONAL, *BASE]), max_size=1)):
        members[name] = draw(_VALUES)
    pairs = [f'"{name}"{draw(_SPACE)}:{draw(_SPACE)}{text}' for name, text in members.items()]
    pairs += draw(st.lists(st.sampled_from(['"os": ""', '"x": 1', '"Path": ""', ""]), max_size=1))
    line = "{" + ",".join(draw(st.permutations(pairs))) + "}"
    return (line + draw(_ENDS)).encode("utf-8", "surrogatepass")


_SPACE = st.sampled_from(["", "", "", " ", "\t", "\r"])
_ENDS = st.sampled_from(["", "", "", "", "", "\r", " ", ",", "}", "{}", "x"])

# What the module says it is stricter in, and what of it may be among the lines that are made.
_MAY_BE_TAKEN = (
    "malformed_json", "not_one_object", "out_of_range", "wrong_type", "unknown_member",
)  # fmt: skip


def made(number: int) -> list[bytes]:
    """So many different made lines, as Hypothesis would try them."""
    lines: dict[bytes, None] = {}

    @settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))
    @given(made_lines())
    def make(line: bytes) -> None:
        lines[line] = None

    make()
    return list(lines)


def test_made_lines(landing: Landing) -> None:
    lines = made(1000)
    why = dict(faults(lines))
    passed = [line for index, line in enumerate(lines) if index not in why]
    met = Counter(found.reason for found in why.values())
    assert len(passed) > 150, "a generator of bad lines alone would prove nothing of the first law"
    assert len(met) > 5
    # Together, and when that is not as it must be, one by one to tell which.
    if landing.rows(landing.insert(passed)) != expected(passed):
        alone = {line: landing.rows(landing.insert([line])) for line in passed}
        wrong = {line: rows for line, rows in alone.items() if rows != expected([line])}
        pytest.fail(f"lines that pass and do not land as one row: {wrong}")
    found = [index for index in why if why[index].reason not in _MAY_BE_TAKEN]
    taken = {lines[at]: why[at] for at in found[:40] if landing.insert([lines[at]]) is not None}
    assert taken == {}
