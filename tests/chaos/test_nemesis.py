"""The nemesis does what the plan says as far as there is something to do it to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from tests.chaos.cuts import Cuts
from tests.chaos.nemesis import Nemesis, Slot
from tests.chaos.plan import SLOTS, Fault
from tests.fixtures.pipeline import Consumer, Pipeline


def test_consumers_leave_until_one_is_left(tmp_path: Path) -> None:
    child = SimpleNamespace(alive=True, signal=lambda number: None)
    consumer = cast(Consumer, SimpleNamespace(child=child))
    slots = [Slot(number, consumer, {}, wanted=number < len(SLOTS)) for number in SLOTS]
    pipeline = cast(Pipeline, SimpleNamespace(clickhouse=SimpleNamespace(url="http://nowhere/x")))
    nemesis = Nemesis(pipeline, slots, {}, Cuts(tmp_path), lambda records, seed: None)
    faults = [Fault(0, kind, f"consumer-{n}") for kind in ("join", "leave") for n in SLOTS]
    nemesis.run(faults, 0.05, lambda at: None)
    left = ("leave (3 left)", "leave (2 left)", "leave (1 left)")
    assert nemesis.happened == {"join": len(SLOTS), **dict.fromkeys(left, 1)}
