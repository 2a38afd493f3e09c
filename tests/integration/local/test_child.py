"""Processes: they end when told, and when whoever started them is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from deploy.local.child import Child
from deploy.local.waiting import free_port, wait_until
from tests.fixtures.children import ROOT

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "


def runs(pid: int) -> bool:
    """Whether it runs; one that has ended and waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_its_output_is_in_the_file_and_goes_on_there(tmp_path: Path) -> None:
    child = Child("speaker", [sys.executable, "-c", "print('heard')"], tmp_path / "log")
    for _ in range(2):
        child.start()
        assert child.wait(20) == 0
    assert child.tail() == "heard\nheard"


def test_stop_asks_and_then_kills(tmp_path: Path) -> None:
    gentle = Child("gentle", [sys.executable, "-c", SLEEP], tmp_path / "gentle")
    gentle.start()
    assert gentle.stop(20)
    assert gentle.exit_code == -signal.SIGTERM

    deaf = Child("deaf", [sys.executable, "-c", DEAF + SLEEP], tmp_path / "deaf")
    deaf.start()
    wait_until(lambda: deaf.tail() == "deaf", 20, "it does not listen")
    assert not deaf.stop(0.2)
    assert deaf.exit_code == -signal.SIGKILL


def test_it_leads_a_process_group_of_its_own_in_our_session(tmp_path: Path) -> None:
    """So that Ctrl-C reaches its starter alone, and the end of the session reaches it."""
    child = Child("child", [sys.executable, "-c", SLEEP], tmp_path / "log")
    child.start()
    try:
        assert os.getpgid(child.pid) == child.pid
        assert os.getsid(child.pid) == os.getsid(0)
    finally:
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = f"""
import sys, time
from pathlib import Path
from deploy.local.child import Child
child = Child("child", [sys.executable, "-c", {DEAF + SLEEP!r}], Path({str(tmp_path / "child")!r}))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = Child("starter", [sys.executable, "-c", starter], tmp_path / "log", cwd=ROOT)
    parent.start()
    try:
        wait_until(lambda: (tmp_path / "child").is_file(), 20, "the child is there")
        wait_until(lambda: "deaf" in (tmp_path / "child").read_text(), 20, "it does not listen")
        wait_until(lambda: parent.tail() != "", 20, "its id is known")
        child = int(parent.tail())
        assert runs(child)
        parent.kill()
        wait_until(lambda: not runs(child), 20, "the child ends")
    finally:
        parent.kill()


def test_a_log_is_kept_small(tmp_path: Path) -> None:
    chatter = "import sys\nfor n in range(20_000): print('line', n)\nprint('last')"
    child = Child("chatter", [sys.executable, "-c", chatter], tmp_path / "chatter.log")
    child.start()
    assert child.wait(20) == 0
    child.bound_log(10_000)
    assert child.log.stat().st_size == 0
    kept = (tmp_path / "chatter.log.1").read_text(encoding="utf-8")
    assert len(kept) == 10_000
    assert kept.endswith("line 19999\nlast\n")
    child.start()
    assert child.wait(20) == 0
    assert child.tail(1) == "last"


def test_a_free_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([20_001, 20_001, 20_002])
    monkeypatch.setattr("deploy.local.waiting.random.choice", lambda *_: next(drawn))
    monkeypatch.setattr("deploy.local.waiting.is_free", lambda _: True)
    monkeypatch.setattr("deploy.local.waiting._given", set())
    assert [free_port(), free_port()] == [20_001, 20_002]
