"""Logs: a JSON object a line, or plain text on a terminal; what a client sent cannot forge one."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from schemas import logs

UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Written:
    """Standard error as a test sees it."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def getvalue(self) -> str:
        return self._captured.readouterr().err


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """The root logger is put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Written(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: Written) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().split("\n") if line]


def test_a_fact_is_one_json_object_a_line(err: Written) -> None:
    logs.configure("consumer")
    log = logging.getLogger("consumer.some")
    logs.fact(log, logging.INFO, "batch landed", rows=50_000, topic="events")
    logs.fact(log, logging.WARNING, "waiting")

    first, second = lines(err)
    assert re.fullmatch(UTC, str(first.pop("at")))
    assert first == {
        "level": "info",
        "program": "consumer",
        "logger": "consumer.some",
        "message": "batch landed",
        "rows": 50_000,
        "topic": "events",
    }
    assert (second["level"], second["message"]) == ("warning", "waiting")


def test_what_was_sent_stays_within_its_line(err: Written) -> None:
    logs.configure("shim")
    forged = 'x"}\n{"level": "error", "message": "forged\u2028"}'
    logs.fact(logging.getLogger("shim"), logging.INFO, "refused", key=forged)
    (line,) = lines(err)
    assert line["key"] == forged


def test_in_text_too(err: Written) -> None:
    logs.configure("shim", form="text")
    logs.fact(logging.getLogger("shim"), logging.INFO, "refused", key="x\nforged")
    (line,) = err.getvalue().splitlines()
    assert re.fullmatch(rf"{UTC} info    refused key='x\\nforged'", line)


def test_an_exception_is_part_of_its_line(err: Written) -> None:
    logs.configure("consumer")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("consumer").exception("an insert raised")
    (line,) = lines(err)
    assert line["level"] == "error"
    assert "ValueError: broken" in str(line["exception"])


def test_an_exception_follows_its_text(err: Written) -> None:
    logs.configure("consumer", form="text")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("consumer").exception("an insert raised")
    text = err.getvalue()
    assert "error   an insert raised\nTraceback" in text
    assert text.endswith("ValueError: broken\n")


def test_values_that_are_no_json_are_shown_as_text(err: Written) -> None:
    logs.configure("consumer")
    logs.fact(logging.getLogger("consumer"), logging.INFO, "x", why=ValueError("no"), by={1: "a"})
    (line,) = lines(err)
    assert (line["why"], line["by"]) == ("no", {"1": "a"})


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_below_the_level_is_not_logged(err: Written, level: str, seen: list[str]) -> None:
    logs.configure("consumer", level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logs.fact(logging.getLogger("consumer"), number, "x")
    assert [line["level"] for line in lines(err)] == seen


def test_auto_is_text_on_a_terminal_and_json_elsewhere(
    err: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("consumer")
    logging.getLogger().info("to a file")
    assert lines(err)[0]["message"] == "to a file"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure("consumer")
    logging.getLogger().info("to a person")
    assert re.fullmatch(rf"{UTC} info    to a person\n", terminal.getvalue())


def test_json_can_be_asked_for_on_a_terminal(err: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure("consumer", form="json")
    logging.getLogger().info("x")
    assert json.loads(terminal.getvalue())["message"] == "x"


def test_configuring_twice_logs_once(err: Written) -> None:
    logs.configure("consumer")
    logs.configure("consumer")
    logging.getLogger().info("x")
    assert len(lines(err)) == 1


def test_of_each_kind_of_the_librarys_messages_one_passes_in_a_while() -> None:
    sparing = logs.Sparing(seconds=30)

    def passes(message: str, at: float) -> bool:
        record = logging.LogRecord("librdkafka", logging.WARNING, "", 0, message, (), None)
        record.created = at
        return bool(sparing.filter(record))

    assert passes("FAIL [a] connect to 1 failed", 100)
    assert not passes("FAIL [b] connect to 2 failed", 129.9)
    assert passes("SESSTMOUT [a] session timed out", 129.9), "another kind"
    assert passes("FAIL [a] connect to 1 failed", 130)
