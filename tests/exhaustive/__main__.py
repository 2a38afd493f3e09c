"""Search all scopes, or some, over all cores: `python -m tests.exhaustive --help`.

Exit 0: all were searched whole, and no promise is broken. 1: a promise is broken; the shortest
schedule is printed. 3: a search was cut short by the time or the number of states. A run of all
scopes that was not cut short is recorded in `tests/exhaustive/last.json`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing.managers import DictProxy

from tests.exhaustive import record
from tests.exhaustive.scope import FAULTS, Scope
from tests.exhaustive.scopes import QUICK, SCOPES, unpaired
from tests.exhaustive.search import Found, Search
from tests.fixtures.sources import core_digest

_Shown = tuple[int, int, int, float]


@dataclass(frozen=True)
class _Task:
    scope: Scope
    seconds: float
    most: int


def main() -> int:
    options = _options()
    if options.list:
        for scope in (*SCOPES, *QUICK):
            print(f"{scope.name}: {_sized(scope)}\n    {', '.join(scope.faults)}")
        print("\nfaults:")
        for name, what in FAULTS.items():
            print(f"  {name:18} {what}")
        missing = ", ".join(" with ".join(pair) for pair in unpaired(SCOPES))
        print(f"\npairs of faults in no scope: {missing or 'none'}\n{record.told()}")
        return 0
    scopes = [
        scope
        for scope in (QUICK if options.quick else SCOPES)
        if not options.scope or any(name in scope.name for name in options.scope)
    ]
    if options.pairs:
        scopes = [part for scope in scopes for part in _pairs(scope)]
    if not scopes:
        print("no scope has such a name; --list shows them", file=sys.stderr)
        return 2
    tasks = [_Task(scope, options.minutes * 60, options.states) for scope in scopes]
    core, began = core_digest(), time.monotonic()
    found = _run(tasks, options.processes)
    if [one.scope for one in found] == list(SCOPES) and not any(_cut_short(f) for f in found):
        record.write(found, time.monotonic() - began, core)
    states, seconds = sum(f.states for f in found), sum(f.seconds for f in found)
    print(f"{states:,} states in {seconds:,.0f} seconds of search")
    for one in found:
        if one.wrong:
            print(f"\n{one.scope.name}: {one.wrong}\n" + "\n".join(one.schedule))
    if any(one.wrong for one in found):
        return 1
    return 0 if all(one.complete for one in found) else 3


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.exhaustive", description=__doc__)
    parser.add_argument("--scope", action="append", help="part of a scope's name; again for more")
    parser.add_argument("--quick", action="store_true", help="the small scopes of the test")
    parser.add_argument("--pairs", action="store_true", help="a search for each pair of faults")
    parser.add_argument("--minutes", type=float, default=15.0, help="at most, for each scope")
    parser.add_argument("--states", type=int, default=4_000_000, help="at most, for each scope")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="what there is, and search nothing")
    return parser.parse_args()


def _cut_short(one: Found) -> bool:
    return not one.complete and not one.wrong


def _pairs(scope: Scope) -> list[Scope]:
    return [
        replace(scope, name=f"{scope.name}: {a}, {b}", faults=(a, b))
        for n, a in enumerate(scope.faults)
        for b in scope.faults[n + 1 :]
    ]


def _run(tasks: list[_Task], processes: int) -> list[Found]:
    """Each scope in a process of its own: what a search has learnt of the core goes with it."""
    with (
        multiprocessing.Manager() as manager,
        multiprocessing.Pool(processes, maxtasksperchild=1) as pool,
    ):
        shown: DictProxy[str, _Shown] = manager.dict()
        running = [pool.apply_async(_search, (task, shown)) for task in tasks]
        began = time.monotonic()
        width = max(len(task.scope.name) for task in tasks)
        print(_HEAD.format("scope", width=width), flush=True)
        told: set[int] = set()
        while len(told) < len(running):
            for n, one in enumerate(running):
                if n not in told and one.ready():
                    told.add(n)
                    _clear()
                    print(_row(one.get(), width), flush=True)
            _show(shown, len(told), len(tasks), time.monotonic() - began)
            next((r for r in running if not r.ready()), running[0]).wait(0.5)
        _clear()
        return [r.get() for r in running]


def _search(task: _Task, shown: DictProxy[str, _Shown]) -> Found:
    told_at = 0.0

    def progress(states: int, frontier: int, depth: int, seconds: float) -> None:
        nonlocal told_at
        if seconds - told_at > 0.5:
            told_at = seconds
            shown[task.scope.name] = states, frontier, depth, seconds

    try:
        return Search(task.scope).run(task.seconds, task.most, progress)
    finally:
        shown.pop(task.scope.name, None)


def _show(shown: DictProxy[str, _Shown], done: int, of: int, seconds: float) -> None:
    parts = [
        f"{name}: {states:,} states, {frontier:,} to do, depth {depth}, "
        f"{states / max(passed, 0.1):,.0f}/s"
        for name, (states, frontier, depth, passed) in sorted(shown.items())
    ]
    line = f"{seconds:4.0f} s, {done} of {of} done; " + "; ".join(parts)
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:180]}", end="", file=sys.stderr, flush=True)
    elif int(seconds * 2) % 120 == 0:
        print(line, file=sys.stderr, flush=True)


def _sized(scope: Scope) -> str:
    return f"{scope.consumers} consumers, log {scope.log}, {scope.together} faults together"


_HEAD = "{:{width}}  log     C  faults      states  depth  cores  seconds  result"


def _row(one: Found, width: int) -> str:
    scope = one.scope
    result = one.wrong or ("no violation" if one.complete else "cut short, none so far")
    return (
        f"{scope.name:{width}}  {scope.log:7} {scope.consumers}  "
        f"{scope.together} of {len(scope.faults):2} {one.states:11,} {one.depth:6} "
        f"{one.cores:6} {one.seconds:8.1f}  {result}"
    )


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
