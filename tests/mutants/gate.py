"""The gate: every mutant's tests pass as the code is, and fail without the rule.

1. All named tests run once as the code is. What is not green there proves nothing about a mutant.
2. Each rule of the simulation is switched off, in a process of its own (see `seeds`).
3. Each mutant runs its own tests in a process of its own, with its rule switched off.

A mutant is red when each of its tests failed in its own words: an assertion that does not hold, or
an error that was expected and did not come. A test that could not be set up, that was not found, or
that took too long has not failed so, and an edit that was never loaded has switched nothing off.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.plugin import RESULTS
from tests.mutants.switching import NAME, REACHED, ROOT

_TEST_SECONDS = 120
_RUN_SECONDS = 600
_ITS_OWN_WORDS = frozenset({"AssertionError", "Failed", "ExceptionGroup"})

RED, SURVIVED, BROKEN, NOT_RUN = "red", "SURVIVED", "BROKEN", "not run"


@dataclass(frozen=True)
class Ended:
    """How one test (one set of its parameters) ended."""

    test: str
    when: str
    outcome: str
    seconds: float
    error: str
    why: str

    @property
    def function(self) -> str:
        return self.test.partition("[")[0]


@dataclass
class Verdict:
    """Of one mutant. `seconds`: of its run without the rule."""

    name: str
    holes: tuple[int, ...]
    off: str
    tests: tuple[str, ...]
    verdict: str
    seconds: float
    why: str = ""
    failed: tuple[str, ...] = field(default=())


def run_tests(
    tests: Sequence[str], environment: Mapping[str, str], seconds: float = _RUN_SECONDS
) -> tuple[list[Ended], str]:
    """How each of these tests ended, and the end of what pytest printed."""
    with tempfile.TemporaryDirectory(prefix="penstock-mutants-") as folder:
        results = Path(folder) / "results"
        command = [
            sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=line",
            "-p", "tests.mutants.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider",
            "--timeout", str(_TEST_SECONDS), *_quickly(tests), *tests,
        ]  # fmt: skip
        given = {**environment, RESULTS: str(results), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        printed = run(command, given, seconds)
        lines = results.read_text().splitlines() if results.exists() else []
    return [Ended(**json.loads(line)) for line in lines], printed


def _quickly(tests: Sequence[str]) -> list[str]:
    """Without the fixtures of servers, whose modules take a second, where no test asks for them."""
    return ["--noconftest"] if all(test.startswith("tests/unit/") for test in tests) else []


def run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """What a command printed at its end. One that takes too long is interrupted, so that it can
    clean up, and then killed with all of its group."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
        try:
            printed, _ = child.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            printed, _ = child.communicate()
        printed += f"\nstopped after {seconds:g} seconds"
    return "\n".join(printed.splitlines()[-15:])


def shares(tests: Sequence[str]) -> list[list[str]]:
    """The tests, each once, in runs that share what they start; the quick ones first."""
    found: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests):
        found.setdefault("/".join(test.split("/")[:-1]), []).append(test)
    return sorted(found.values(), key=lambda share: ("unit" not in share[0], share[0]))


def as_it_is(tests: Sequence[str]) -> dict[str, str]:
    """By test: why it proves nothing, empty where it passes as the code is."""
    ended, printed = run_tests(tests, {})
    found = {}
    for test in tests:
        mine = [each for each in ended if each.function == test]
        bad = [each for each in mine if each.outcome == "failed"]
        skipped = [each for each in mine if each.outcome == "skipped"]
        if bad:
            found[test] = f"it fails as the code is: {bad[0].error}: {_line(bad[0].why)}"
        elif skipped:
            found[test] = f"skipped: {_line(skipped[0].why)}"
        else:
            found[test] = "" if mine else f"it was not run:\n{printed}"
    return found


def without(mutant: Mutant, as_is: Mapping[str, str]) -> Verdict:
    """Run a mutant's tests without its rule."""

    def verdict(what: str, seconds: float, why: str = "", failed: Sequence[str] = ()) -> Verdict:
        return Verdict(
            mutant.name, mutant.holes, mutant.off, mutant.tests, what, round(seconds, 2), why,
            tuple(failed),
        )  # fmt: skip

    for test in mutant.tests:
        if why := as_is[test]:
            return verdict(NOT_RUN if why.startswith("skipped") else BROKEN, 0.0, f"{test}: {why}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-mutants-") as folder:
        reached = Path(folder) / "reached"
        ended, printed = run_tests(mutant.tests, {NAME: mutant.name, REACHED: str(reached)})
        loaded = set(reached.read_text().splitlines()) if reached.exists() else set()
    seconds = time.monotonic() - began
    unloaded = {edit.path for edit in mutant.edits} - loaded
    if not ended:
        return verdict(BROKEN, seconds, f"no test was run:\n{printed}")
    if unloaded:
        return verdict(BROKEN, seconds, f"never loaded: {', '.join(sorted(unloaded))}")
    failed = []
    for test in mutant.tests:
        mine = [each for each in ended if each.function == test and each.outcome == "failed"]
        if not mine:
            return verdict(SURVIVED, seconds, f"{test} does not mind")
        own = [each for each in mine if _in_its_own_words(each, mutant)]
        if not own:
            each = mine[0]
            why = f"{each.test} ended in its {each.when}: {each.error}: {_line(each.why)}"
            return verdict(BROKEN, seconds, why)
        failed.append(f"{own[0].test}: {own[0].error}: {_line(own[0].why)}")
    return verdict(RED, seconds, failed=failed)


def _in_its_own_words(ended: Ended, mutant: Mutant) -> bool:
    return (
        ended.when == "call"
        and ended.error in {*_ITS_OWN_WORDS, *mutant.fails_with}
        and not ended.why.startswith("Timeout")
    )


def _line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


def seeds(index: int) -> Verdict:
    """Switch off rule number `index` of the simulation's."""
    printed = run([sys.executable, "-m", "tests.mutants.seeds", str(index)], {}, _RUN_SECONDS)
    try:
        found = json.loads(printed.splitlines()[-1])
    except (ValueError, IndexError):
        return Verdict(f"simulation rule {index}", (), "", (), BROKEN, 0.0, printed)
    return replace(
        Verdict(**found),
        holes=tuple(found["holes"]),
        tests=tuple(found["tests"]),
        failed=tuple(found["failed"]),
    )


def written(verdicts: Sequence[Verdict], seconds: float, path: Path) -> None:
    path.write_text(
        json.dumps(
            {"seconds": round(seconds, 1), "mutants": [asdict(verdict) for verdict in verdicts]},
            indent=1,
        )
        + "\n"
    )
