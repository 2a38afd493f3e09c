"""What the load sends is bad, or good, wherever it stands."""

from __future__ import annotations

from consumer.batch import Filling, Records
from schemas.record import fault, faults
from tests.chaos.poison import BAD, NOTHING, PIECES
from tests.fixtures.lines import CASES, good
from tests.fixtures.odd import event_id, odd_events


def test_every_bad_case_is_sent_and_no_good_one() -> None:
    assert {case.line for case in CASES.values() if case.reason is not None} <= BAD
    assert [line for line in BAD if fault(line) is None] == []


def test_what_becomes_of_a_piece_does_not_hang_on_its_neighbours() -> None:
    """ClickHouse refuses it, or its batch is looked through before it is sent."""
    refused = {case.line for case in CASES.values() if case.reason and case.rows is None}
    for piece in PIECES:
        lines = [good(), *piece, good()]
        filling = Filling(0)
        filling.add(Records([7], [b"\n".join(lines)], 8, 0), 0.0)
        batch = filling.close()
        assert batch.suspect or refused.issuperset(piece), piece
        assert [at for at, _ in faults(batch.lines())] == list(range(1, len(lines) - 1))


def test_a_record_without_a_line_has_no_rows() -> None:
    filling = Filling(0)
    filling.add(Records(range(len(NOTHING)), NOTHING, len(NOTHING), 0), 0.0)
    assert filling.close().rows == 0


def test_odd_events_are_every_good_case_under_ids_of_their_own() -> None:
    good_cases = sum(case.reason is None for case in CASES.values())
    odd = odd_events(3, 3 * good_cases)
    assert odd == odd_events(3, 3 * good_cases)
    assert odd[:good_cases] != odd_events(4, good_cases)
    assert len({each.id for each in odd}) == len(odd)
    assert faults([each.line for each in odd]) == []
    assert [event_id(each.line) for each in odd] == [each.id for each in odd]
    assert sum(len(each.line) > 1_000_000 for each in odd) == 1
