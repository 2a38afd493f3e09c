"""Taking bodies apart: what is kept of what cannot be parsed as a whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer_shim.answers import Rejected
from producer_shim.validate import Bad, _pruned, posted
from schemas.event import Event

GOOD = {"session_id": "s", "name": "n"}
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(alphabet='a"\\[]{}, ')),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(alphabet='a"\\[{'), inner, max_size=4)
    ),
    max_leaves=30,
)


@given(trees)
def test_shallow_json_is_not_pruned(tree: object) -> None:
    body = json.dumps(tree).encode()
    assert _pruned(body) == body


@given(trees, st.integers(20, 3000), st.sampled_from(["list", "object"]))
def test_deep_json_is_pruned_and_stays_json(tree: object, depth: int, kind: str) -> None:
    opening, closing = ("[", "]") if kind == "list" else ('{"a":', "}")
    deep = opening * depth + json.dumps(tree) + closing * depth
    pruned = json.loads(_pruned(f"[{json.dumps(GOOD)},{deep},5]".encode()))
    assert (pruned[0], pruned[2]) == (GOOD, 5)
    at, levels = pruned[1], 0
    while at:
        at, levels = (at[0] if isinstance(at, list) else at["a"]), levels + 1
    assert levels < 40


@given(st.binary(max_size=200), st.booleans())
def test_any_body_is_taken_or_rejected(body: bytes, ndjson: bool) -> None:
    try:
        found = len(posted(body, ndjson, 10).events)
    except Rejected as rejected:
        found = -rejected.answer.status
    assert 1 <= found <= 10 or found in (-400, -413)


@given(st.lists(st.sampled_from(["good", "bad", "deep", "utf8", "nul"]), min_size=1, max_size=8))
def test_each_element_has_its_own_verdict(kinds: list[str]) -> None:
    parts = {
        "good": json.dumps(GOOD).encode(),
        "bad": b'{"session_id":5,"name":"n"}',
        "deep": b'{"session_id":' + b"[" * 3000 + b"]" * 3000 + b"}",
        "utf8": b'{"session_id":"\xff","name":"n"}',
        "nul": b'{"session_id":"\\u0000","name":"n"}',
    }
    elements = [parts[kind] for kind in kinds]
    for body, ndjson in (
        (b"[" + b",".join(elements) + b"]", False),
        (b'{"events":[' + b",".join(elements) + b"]}", False),
        (b"\n".join(elements), True),
        (b"\n".join([*elements, parts["good"]]), False),  # lines that nobody called so
    ):
        found = posted(body, ndjson, 10).events
        expected = [kind == "good" for kind in kinds]
        if len(found) > len(kinds):
            expected.append(True)
        assert [isinstance(event, Event) for event in found] == expected


def test_the_id_of_a_refused_event_is_told() -> None:
    known = "0189c4f2-1111-7abc-8def-0123456789ab"
    body = json.dumps([{"id": known.upper(), "name": 5}, {"id": 7}, {"id": "x"}]).encode()
    found = posted(body, False, 10).events
    assert [event.id for event in found if isinstance(event, Bad)] == [known, None, None]


@pytest.mark.parametrize("count", [10, 11])
def test_the_cap_on_events_is_inclusive(count: int) -> None:
    body = json.dumps([GOOD] * count).encode()
    if count == 10:
        assert len(posted(body, False, 10).events) == 10
    else:
        with pytest.raises(Rejected, match="more than 10"):
            posted(body, False, 10)


def test_a_bad_first_line_does_not_hide_the_others() -> None:
    body = b'{"session_id":5,"name":"n"}\n' + json.dumps(GOOD).encode()
    found = posted(body, False, 10).events
    assert [isinstance(event, Event) for event in found] == [False, True]


def test_deep_json_that_is_too_much_work_is_refused_as_a_whole() -> None:
    found = posted(b'[{"a":' * 150_000, False, 10).events
    assert [event.refusal.code for event in found if isinstance(event, Bad)] == ["too_deep"]
