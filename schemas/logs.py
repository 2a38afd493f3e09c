"""Logs of every program: one JSON object a line on standard error, or plain text on a terminal.

The standard library's logging does the work. Facts go beside the message as `extra={"fields": ...}`
through `fact`, so that a log shipper finds them as members and a person finds them after the text.
Nothing that a client sent is ever part of a message: in JSON it is escaped, in text it is shown by
`repr`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

import orjson

_STANDARD_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _JsonLines(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": _utc(record.created),
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value!r}" for name, value in _fields(record).items())
        text = f"{_utc(record.created)} {record.levelname.lower():7} {record.getMessage()}{fields}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


class Sparing(logging.Filter):
    """For librdkafka's log. While a broker is away it says so at each try, many times a second: of
    each kind of its messages one in `seconds` passes."""

    def __init__(self, seconds: float = 30.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.getMessage().partition(" ")[0]
        if record.created - self._last.get(kind, -self._seconds) < self._seconds:
            return False
        self._last[kind] = record.created
        return True


def configure(program: str, level: str = "info", form: str = "auto") -> None:
    """Send the root logger's records to standard error. `form`: auto, json or text."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if text else _JsonLines(program))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_STANDARD_LEVELS[level])


def fact(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log a message with its facts: `fact(log, logging.INFO, "batch landed", rows=50_000)`."""
    logger.log(level, message, extra={"fields": fields})
