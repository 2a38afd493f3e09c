"""`python -m tests.mutants.each_line`: mutmut over the pure core, and its score.

Where `tests.mutants` switches off each rule of the protocol, this changes each expression of the
pure modules in turn and lets their unit tests look. Some changes mean the same as what they
replace, so there is no mark to reach: the score and the names of what survived are written to
`each_line.json` for a person to read. The sources are copied: mutmut writes beside what it mutates.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fixtures import sources

_ROOT = Path(__file__).resolve().parents[2]
_LAST = Path(__file__).with_name("each_line.json")
_WORK = _ROOT / ".penstock" / "mutmut"
_COPIED = ("consumer", "schemas", "deploy", "producer_shim", "tests", "pyproject.toml", "uv.lock")
CORE = tuple(name for name in sources.CORE if name != "commands")  # no expression in it
_ENOUGH_SECONDS = 3 * 3600
_RESULT = re.compile(r"^\s*(consumer\.(\w+)\.\S+): (.+)$", re.M)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.each_line", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(CORE)}; all without")
    modules = parser.parse_args().modules or list(CORE)
    if unknown := set(modules) - set(CORE):
        parser.error(f"not of the pure core: {', '.join(sorted(unknown))}")
    _copy(modules)
    began = time.monotonic()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run(
        [*mutmut, "run"], cwd=_WORK, env=environment, check=True, timeout=_ENOUGH_SECONDS
    )
    told = subprocess.run(
        [*mutmut, "results", "--all", "true"],
        cwd=_WORK, env=environment, check=True, timeout=600, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = _RESULT.findall(told)
    if not found:
        print(f"mutmut named no mutant:\n{told[:2000]}", file=sys.stderr)
        return 1
    result = _score(found, time.monotonic() - began)
    print(json.dumps({key: result[key] for key in ("score", "mutants", "modules")}, indent=1))
    if set(modules) == set(CORE):
        _LAST.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _copy(modules: list[str]) -> None:
    shutil.rmtree(_WORK, ignore_errors=True)
    _WORK.mkdir(parents=True)
    for name in _COPIED:
        source = _ROOT / name
        if source.is_dir():
            shutil.copytree(source, _WORK / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, _WORK / name)
    settings = {
        "source_paths": ["consumer"],
        "only_mutate": [f"consumer/{module}.py" for module in modules],
        "also_copy": [name for name in _COPIED if name not in ("consumer", "uv.lock")],
        "pytest_add_cli_args": ["--noconftest", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": ["tests/unit/consumer"],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (_WORK / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


def _score(found: list[tuple[str, str, str]], seconds: float) -> dict[str, object]:
    verdicts = Counter(verdict for _, _, verdict in found)
    noticed = sum(count for verdict, count in verdicts.items() if verdict in ("killed", "timeout"))
    by_module = {
        module: dict(Counter(verdict for _, of, verdict in found if of == module))
        for module in sorted({module for _, module, _ in found})
    }
    return {
        "code": sources.digest(*(f"consumer/{module}.py" for module in CORE)),
        "score": round(noticed / len(found), 3),
        "mutants": len(found),
        "seconds": round(seconds),
        "modules": by_module,
        "survived": sorted(name for name, _, verdict in found if verdict == "survived"),
    }


if __name__ == "__main__":
    sys.exit(main())
