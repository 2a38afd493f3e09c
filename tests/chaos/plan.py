"""What is going to happen: a list of faults, made from a seed before anything starts.

Several streams of faults run side by side, each with its own pace: cut points in turn, ends and
freezes of whole programs, the network between each consumer and its servers, answers that
ClickHouse did not give, a materialized view that throws, offsets moved by hand. The same arguments
give the same plan; what it meets when it is carried out depends on the machine's timing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cuts import POINTS

SLOTS = (1, 2, 3, 4)
PROTOCOLS = ("cooperative", "eager", "consumer")

THROWS = "a view throws"  # what such a view says

# Parts of the plan that need something of the consumer: each can be left out by name.
SWITCHES = ("offsets", "views", "poison", "versions")
OFF: tuple[str, ...] = ()

# With a session of 3 s, an insert's deadline of 8 s and 5 s for it to run: shorter than all, past
# the session, past the deadline, past every insert.
_FREEZES = (0.5, 0.5, 1.5, 1.5, 4.5, 4.5, 9.0, 14.0)
# Of each half minute the last part is left in peace, so that there is something to disturb.
_CYCLE_SECONDS, _BUSY_SECONDS = 30.0, 24.0

ANSWERS = {
    "too many parts": (
        252,
        "Too many parts (3000 with average size of 1.00 KiB) in table 'penstock.events'. Merges "
        "are processing significantly slower than inserts. (TOO_MANY_PARTS)",
    ),
    "too many partitions": (
        252,
        "Too many partitions for single INSERT block (more than 100). The limit is controlled by "
        "'max_partitions_per_insert_block' setting. (TOO_MANY_PARTS)",
    ),
    "memory": (241, "Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)"),
    "timeout": (159, "Timeout exceeded: elapsed 5.0 seconds, maximum: 5. (TIMEOUT_EXCEEDED)"),
    "unknown status": (319, "Unknown status, client must retry. (UNKNOWN_STATUS_OF_INSERT)"),
}


@dataclass(frozen=True)
class Fault:
    """At `at` seconds `kind` happens to `target`: a consumer's slot, a link, or a server."""

    at: float
    kind: str
    target: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = json.dumps(dict(self.details)) if self.details else ""
        return f"{self.at:7.2f} {self.kind} {self.target} {more}".rstrip()


def plan(seed: int, seconds: float, without: Collection[str] = OFF) -> list[Fault]:
    """The faults of `seconds`, in their order. `without`: switches that are off."""
    streams: list[tuple[float, Callable[[random.Random, float], Fault]]] = [
        (6.0, _program),
        (4.0, _network),
        (3.0, _answer),
    ]
    if "views" not in without:
        streams.append((40.0, _view))
    if "poison" not in without:
        streams.append((4.0, _poison))
    if "versions" not in without:
        streams.append((45.0, _version))
    rng = random.Random(f"{seed} chaos")
    faults = list(_cuts(random.Random(f"{seed} cuts"), seconds))
    for number, (gap, make) in enumerate(streams):
        own = random.Random(f"{seed} {number} {make.__name__}")
        at = own.expovariate(1 / gap)
        while at < seconds:
            faults.append(make(own, at))
            at += own.expovariate(1 / gap)
    # Each of these keeps everything busy for a while: seldom, and spread over the run.
    servers = [("kafka", rng.choice(("kill", "term"))) for _ in range(max(1, int(seconds // 75)))]
    for number, (target, kind) in enumerate(servers):
        share = seconds / len(servers)
        faults.append(
            Fault((number + rng.uniform(0.2, 0.9)) * share, kind, target, {"away": rng.random()})
        )
    if "offsets" not in without:
        for number in range(int(seconds // 100)):
            to = rng.choice(("none", "start", "middle", "end"))
            faults.append(Fault((number + rng.uniform(0.3, 0.8)) * 100, "offsets", "group",
                                {"to": to}))  # fmt: skip
    busy = [fault for fault in faults if fault.at % _CYCLE_SECONDS < _BUSY_SECONDS]
    return sorted(busy, key=lambda fault: fault.at)


def _cuts(rng: random.Random, seconds: float) -> Iterator[Fault]:
    """Every point in turn, each round in a new order."""
    at, points = 1.0, list[str]()
    while at < seconds:
        if not points:
            points = rng.sample(POINTS, len(POINTS))
        act = rng.choices(("kill", "freeze"), (4, 1))[0]
        point = points.pop()
        passings = rng.choice((1, 2, 4, 8)) if "within" in point else rng.choice((1, 1, 2, 3))
        details: dict[str, Any] = {"act": act, "passings": passings}
        if act == "freeze":
            details["seconds"] = rng.choice(_FREEZES)
        yield Fault(at, "cut", point, details)
        at += rng.uniform(1.5, 4.5)


def _slot(rng: random.Random) -> str:
    return f"consumer-{rng.choice(SLOTS)}"


def _program(rng: random.Random, at: float) -> Fault:
    kind = rng.choices(
        ("kill", "freeze", "leave", "join", "kill front", "term front", "freeze front",
         "freeze kafka", "kill shim"),
        (4, 4, 3, 6, 3, 1, 2, 1, 1),
    )[0]  # fmt: skip
    away = rng.choice((0.0, rng.uniform(0, 3)))
    match kind.split(" "):
        case ["freeze"]:
            return Fault(at, "freeze", _slot(rng), {"seconds": rng.choice(_FREEZES)})
        case ["freeze", server]:
            return Fault(at, "freeze", server, {"seconds": rng.choice((0.5, 2.0, 4.5))})
        case [act, server]:
            return Fault(at, act, server, {"away": away})
    return Fault(at, kind, _slot(rng), {"away": away} if kind == "kill" else {})


def _network(rng: random.Random, at: float) -> Fault:
    server = rng.choice(("kafka", "clickhouse"))
    link = f"{_slot(rng)} to {server}"
    kind = rng.choice(("cut", "reset", "refuse", "delay", "deaf", "half-open"))
    seconds = rng.choice((0.3, 1.5, 1.5, 4.0, 9.0))
    match kind:
        case "refuse":
            return Fault(at, "refuse", link, {"seconds": seconds})
        case "delay":
            delay = rng.choice((0.02, 0.2, 1.0))
            return Fault(at, "delay", link, {"seconds": seconds, "delay": delay})
        case "deaf" | "half-open":
            # Half-open: only the connections that there are; new ones get through.
            way = rng.choice(("up", "down"))
            return Fault(at, kind, link, {"seconds": seconds * 2, "way": way})
    return Fault(at, kind + " connections", link)


def _answer(rng: random.Random, at: float) -> Fault:
    link = f"{_slot(rng)} to clickhouse"
    how = rng.choices(
        ("answer before", "answer after", "cut in the body", "lose the answer", "late"),
        (3, 3, 2, 2, 2),
    )[0]
    details: dict[str, Any] = {"inserts": rng.choice((1, 1, 2, 5))}
    if how.startswith("answer"):
        details["error"] = rng.choice(tuple(ANSWERS))
    if how == "late":
        # Within what an insert may take: delivered, it still ends before anybody stops waiting.
        details = {"inserts": 1, "seconds": rng.uniform(0.5, 4)}
    return Fault(at, how, link, details)


def _view(rng: random.Random, at: float) -> Fault:
    """A view that throws for the rows whose id ends so."""
    mark = rng.choice(("a", "7f", "3"))
    return Fault(at, "throwing view", "front", {"mark": mark, "seconds": rng.choice((2, 5, 11))})


def _poison(rng: random.Random, at: float) -> Fault:
    return Fault(at, "poison", "topic", {"records": rng.choice((1, 3, 20)), "seed": rng.random()})


def _version(rng: random.Random, at: float) -> Fault:
    """From here on this consumer is one whose rows have other rules, or the usual ones again."""
    return Fault(at, "version", _slot(rng))
