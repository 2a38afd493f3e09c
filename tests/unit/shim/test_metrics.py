"""The metrics page: the contract's names, closed label sets, workers added up."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from producer_shim.metrics import METRICS, Board

# The contract's, with the names that a scraper sees.
NAMES = """
penstock_http_requests_total{route,status} penstock_http_request_duration_seconds_bucket{le}
penstock_events_total{outcome,reason} penstock_produce_duration_seconds_bucket{le}
penstock_produce_errors_total{reason} penstock_produce_queue_events
penstock_pack_events_bucket{le} penstock_build_info{version}
"""


def samples(board: Board) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(board.page().decode())
        for sample in family.samples
    }


def test_every_series_is_there_at_zero() -> None:
    found = samples(Board())
    for name, labels in re.findall(r"(\w+)(?:\{([\w,]+)\})?", NAMES):
        wanted = set(labels.split(",")) if labels else set()
        series = [given for found_name, given in found if found_name == name]
        assert series, name
        assert all({label for label, _ in one} == wanted for one in series)
    assert {value for (name, _), value in found.items() if name != "penstock_build_info"} == {0.0}
    assert not any(name.endswith("_created") for name, _ in found)


def test_workers_are_added_up() -> None:
    first = Board(3, 0)
    first.count("events", "accepted", "", by=2)
    first.histogram("pack_events").observe(7)
    first.put("produce_queue_events", 5)
    first.put("produce_queue_events", 4, worker=2)
    found = samples(first)
    accepted = ("penstock_events_total", (("outcome", "accepted"), ("reason", "")))
    assert found[accepted] == 2
    assert found[("penstock_produce_queue_events", ())] == 9
    assert found[("penstock_pack_events_bucket", (("le", "5.0"),))] == 0
    assert found[("penstock_pack_events_bucket", (("le", "10.0"),))] == 1
    assert found[("penstock_pack_events_bucket", (("le", "+Inf"),))] == 1
    assert found[("penstock_pack_events_sum", ())] == 7
    assert found[("penstock_pack_events_count", ())] == 1


def test_a_value_on_a_bound_is_in_its_bucket() -> None:
    board = Board()
    board.histogram("pack_events").observe(10)
    board.histogram("pack_events").observe(1001)
    found = samples(board)
    assert found[("penstock_pack_events_bucket", (("le", "10.0"),))] == 1
    assert found[("penstock_pack_events_bucket", (("le", "1000.0"),))] == 1
    assert found[("penstock_pack_events_count", ())] == 2


def test_names_end_in_base_units() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"[a-z_]+", metric.name)
        assert not metric.name.endswith(("_ms", "_milliseconds", "_kb"))
