"""Two workers run files side by side, and nothing runs beside a test that is marked `alone`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.children import ROOT, environment

# Who runs has a file here: `met` returns once another's is there too.
_COMMON = """
import contextlib, os, pathlib, time
import pytest
HERE = pathlib.Path(__file__).parent

@contextlib.contextmanager
def runs(name):
    (HERE / f"{name}.runs").touch()
    (HERE / f"{name}.began").touch()
    yield
    (HERE / f"{name}.runs").unlink()

def met(pattern, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(HERE.glob(pattern)):
            return True
        time.sleep(0.005)
    return False
"""
_FIRST = """
def test_meets_the_second():
    with runs("first"):
        assert met("second.began", 20)

@pytest.mark.alone
def test_meets_nobody():
    with runs("alone"):
        assert not met("other*.runs", 0.5)
"""
_SECOND = """
def test_meets_the_first():
    with runs("second"):
        assert met("first.began", 20)

@pytest.mark.parametrize("number", range(5))
def test_meets_nobody_who_is_alone(number):
    with runs(f"other{number}"):
        assert not met("alone.runs", float(os.environ["STAYS"]))
"""


@pytest.mark.parametrize("used", [True, False])
def test_nothing_runs_beside_a_test_that_is_alone(tmp_path: Path, used: bool) -> None:
    """And without the plugin something does: else this would prove nothing."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone\n")
    (tmp_path / "test_a.py").write_text(_COMMON + _FIRST)
    (tmp_path / "test_b.py").write_text(_COMMON + _SECOND)
    options = ["-x", "-n", "2", "--dist", "loadfile"]
    options += ["-p", "tests.fixtures.side_by_side"] if used else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT), PYTEST_ADDOPTS="", STAYS="0.1" if used else "5"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    if used:
        assert "8 passed" in done.stdout, done.stdout
    else:
        assert "::test_meets_nobody" in done.stdout, done.stdout
