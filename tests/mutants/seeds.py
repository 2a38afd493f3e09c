"""One of the simulation's rules switched off: a run or a script fails, and passes with the rule.

`python -m tests.mutants.seeds INDEX` prints the verdict on that rule as one JSON object. What shows
it (a family of runs and a first seed, or a script) and how it must fail are the simulation's own.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import time
from dataclasses import asdict

import pytest

from tests.mutants.gate import BROKEN, RED, SURVIVED, Verdict
from tests.simulation.rules import RULES, SCRIPTED, SEEDS, Rule, Scripted
from tests.simulation.world import Failed, run

_BEFORE = 20  # of the seeds before the one that failed are run again too


ALL: tuple[Rule | Scripted, ...] = (*RULES, *SCRIPTED)


def verdict(rule: Rule | Scripted) -> Verdict:
    began = time.monotonic()
    what, test, why, failure, ended = _seeds(rule) if isinstance(rule, Rule) else _script(rule)
    return Verdict(
        name=rule.name,
        holes=(rule.hole,) if rule.hole else (),
        off=inspect.cleandoc(rule.patch.__doc__ or rule.patch.__name__.replace("_", " ")),
        tests=(test,),
        verdict=what,
        seconds=round(ended - began, 2),
        why=why,
        failed=(failure,) if failure else (),
    )


Found = tuple[str, str, str, str, float]  # verdict, test, why, how it failed, when that was


def _seeds(rule: Rule) -> Found:
    failure, seed = "", rule.first_seed
    with pytest.MonkeyPatch.context() as context:
        rule.patch(context)
        for seed in range(rule.first_seed, rule.first_seed + SEEDS):
            try:
                run(seed, rule.profile)
            except Failed as error:
                failure = str(error).splitlines()[0]
                break
    ended = time.monotonic()
    test = f"simulation of {rule.profile.name!r}, seed {seed}"
    if not failure:
        return SURVIVED, test, f"{SEEDS} runs from seed {rule.first_seed} on do not mind", "", ended
    if not re.search(rule.what, failure):
        return BROKEN, test, f"it fails in another way: {failure}", failure, ended
    try:  # with the rule the very seed passes, and so do those before it
        for again in range(max(rule.first_seed, seed - _BEFORE), seed + 1):
            run(again, rule.profile)
    except Failed as error:
        why = f"it fails with the rule too: {str(error).splitlines()[0]}"
        return BROKEN, test, why, failure, ended
    return RED, test, "", failure, ended


def _script(rule: Scripted) -> Found:
    test, failure = rule.test.__name__, ""
    with pytest.MonkeyPatch.context() as context:
        rule.patch(context)
        try:
            rule.test(*rule.values)
        except (AssertionError, pytest.fail.Exception) as error:
            failure = (str(error).splitlines() or [type(error).__name__])[0]
    ended = time.monotonic()
    if not failure:
        return SURVIVED, test, "the script does not mind", "", ended
    try:
        rule.test(*rule.values)
    except (AssertionError, pytest.fail.Exception) as error:
        return BROKEN, test, f"it fails with the rule too: {error}", failure, ended
    return RED, test, "", failure, ended


if __name__ == "__main__":
    print(json.dumps(asdict(verdict(ALL[int(sys.argv[1])]))))
