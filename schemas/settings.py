"""Every setting of every Penstock program, and the one way they are read.

A setting is known by one name. It may come from four places, and the first that has it wins:

    a flag                  --batch-rows 20000
    the environment         PENSTOCK_BATCH_ROWS=20000
    a TOML file (--config)  BATCH_ROWS = 20000       (the PENSTOCK_ prefix may stand there too)
    the default             the table below

`SETTINGS` is that table: it is what `--help` prints, what the README's table is held equal to, and
what an unknown name is compared with. All programs share it, because they are usually run with one
environment: a name is unknown only when *no* program knows it. A secret may also come from a file
(`PENSTOCK_CLICKHOUSE_URL_FILE=/run/secrets/url`).

Any librdkafka property passes as `PENSTOCK_KAFKA__SECURITY_PROTOCOL` (two underscores after KAFKA;
each later single one becomes a dot), except those that the guarantees rest on.

`load` collects every mistake before it gives up, so that one start names them all.
"""

from __future__ import annotations

import argparse
import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PREFIX = "PENSTOCK_"
KAFKA_PREFIX = "KAFKA__"
_DEST = "set_"  # of the flags

Program = Literal["shim", "consumer", "schemas"]
Kind = Literal["text", "integer", "number", "choice"]


class SettingsError(Exception):
    """Settings that cannot be used. `problems`: one line each; programs print them and exit 2."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Setting:
    """One setting: its name without the prefix, who reads it, and what it may be."""

    name: str
    programs: tuple[Program, ...]
    default: str
    meaning: str
    kind: Kind = "text"
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    secret: bool = False
    other_defaults: tuple[tuple[Program, str], ...] = ()

    def default_of(self, program: Program) -> str:
        return dict(self.other_defaults).get(program, self.default)

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")

    def problem(self, value: str) -> str | None:
        """What is wrong with this value, or None."""
        if self.kind == "choice":
            if value not in self.choices:
                return f"must be one of {', '.join(self.choices)}"
            return None
        if self.kind == "text":
            return None if value else "must not be empty"
        try:
            number = int(value) if self.kind == "integer" else float(value)
        except ValueError:
            return f"must be {'a whole number' if self.kind == 'integer' else 'a number'}"
        if not self.low <= number <= self.high:
            return f"must be from {_shown(self.low)} to {_shown(self.high)}"
        return None


def _shown(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _whole(
    name: str, programs: tuple[Program, ...], default: int, low: float, high: float, meaning: str
) -> Setting:
    return Setting(name, programs, str(default), meaning, "integer", low, high)


def _number(
    name: str, programs: tuple[Program, ...], default: float, low: float, high: float, meaning: str
) -> Setting:
    return Setting(name, programs, f"{default:g}", meaning, "number", low, high)


_ALL: tuple[Program, ...] = ("shim", "consumer", "schemas")
_KAFKA: tuple[Program, ...] = ("shim", "consumer")
_SHIM: tuple[Program, ...] = ("shim",)
_CONSUMER: tuple[Program, ...] = ("consumer",)
_CLICKHOUSE: tuple[Program, ...] = ("consumer", "schemas")

_KIB, _MIB = 1 << 10, 1 << 20

SETTINGS: tuple[Setting, ...] = (
    Setting("KAFKA_BOOTSTRAP_SERVERS", _KAFKA, "127.0.0.1:9092", "brokers: host:port,host:port"),
    Setting("KAFKA_TOPIC", _KAFKA, "events", "the topic that carries the events"),
    Setting("KAFKA_GROUP", _KAFKA, "penstock", "the consumer group"),
    Setting(
        "CLICKHOUSE_URL",
        _CLICKHOUSE,
        "http://127.0.0.1:8123/penstock",
        "http(s)://user:password@host:port/database",
        secret=True,
    ),
    # consumer: what makes a batch
    _whole("BATCH_ROWS", _CONSUMER, 50_000, 1, 1_000_000, "events that close a batch"),
    _whole("BATCH_BYTES", _CONSUMER, 64 * _MIB, _KIB, 512 * _MIB, "bytes that close a batch"),
    _number(
        "BATCH_AGE_SECONDS", _CONSUMER, 2, 0.01, 600, "age of its first event that closes a batch"
    ),
    _number(
        "INSERTS_PER_SECOND",
        _CONSUMER,
        4,
        0.01,
        1000,
        "inserts a consumer aims at: with many partitions the age stretches to keep it",
    ),
    _whole("INSERT_THREADS", _CONSUMER, 4, 1, 64, "partitions that insert at the same time"),
    _whole(
        "BUFFER_BYTES",
        _CONSUMER,
        256 * _MIB,
        _MIB,
        1 << 40,
        "event bytes held over all partitions before fetching pauses",
    ),
    # consumer: the deadlines that the protocol counts with
    _number(
        "INSERT_DEADLINE_SECONDS",
        _CONSUMER,
        30,
        1,
        3600,
        "after its prepare was sent, no insert of that batch is sent any more",
    ),
    _number("INSERT_MAX_SECONDS", _CONSUMER, 30, 1, 3600, "max_execution_time of an insert"),
    _number(
        "COMMIT_TIMEOUT_SECONDS", _CONSUMER, 10, 0.1, 300, "an unanswered commit is unknown after"
    ),
    Setting(
        "KAFKA_GROUP_PROTOCOL",
        _CONSUMER,
        "cooperative",
        "how the group shares partitions; consumer: KIP-848, from Kafka 4.0 on",
        "choice",
        choices=("cooperative", "eager", "consumer"),
    ),
    _number(
        "SESSION_TIMEOUT_SECONDS",
        _CONSUMER,
        10,
        1,
        300,
        "a silent consumer is replaced after (KIP-848: the broker's setting decides)",
    ),
    _number(
        "WORST_OUTAGE_HOURS",
        _CONSUMER,
        24,
        0,
        8760,
        "longest outage to survive: `check` holds Kafka's retention against it",
    ),
    # shim
    Setting("HTTP_HOST", _SHIM, "0.0.0.0", "address it listens on"),  # noqa: S104 - a door
    _whole("HTTP_PORT", _SHIM, 8080, 0, 65535, "port the shim listens on"),
    _whole("WORKERS", _SHIM, 1, 1, 256, "shim processes on that port"),
    Setting(
        "PROJECTS_FILE", _SHIM, "projects.toml", "TOML: projects and their keys, re-read on change"
    ),
    _number(
        "PACK_MILLISECONDS",
        _SHIM,
        3,
        0,
        1000,
        "events that arrive within it share a record; 0: one each",
    ),
    _whole("PACK_BYTES", _SHIM, 512 * _KIB, _KIB, 16 * _MIB, "bytes that close a pack"),
    _whole("LANES", _SHIM, 1, 1, 10_000, "equal runs of partitions; a session stays in one"),
    _whole(
        "TRUSTED_PROXIES", _SHIM, 0, 0, 16, "proxies before the shim whose X-Forwarded-For counts"
    ),
    _whole(
        "BROWSER_BODY_BYTES", _SHIM, 64 * _KIB, _KIB, 16 * _MIB, "largest body with a public key"
    ),
    _whole("BODY_BYTES", _SHIM, _MIB, _KIB, 64 * _MIB, "largest body, also after decompression"),
    _whole("BODY_EVENTS", _SHIM, 500, 1, 100_000, "most events in a body"),
    _number("BODY_SECONDS", _SHIM, 10, 0.1, 600, "a request must be complete within"),
    _whole(
        "QUEUE_EVENTS",
        _SHIM,
        100_000,
        1,
        10_000_000,
        "events waiting for Kafka before 503, a worker",
    ),
    _number(
        "PRODUCE_TIMEOUT_SECONDS",
        _SHIM,
        10,
        1,
        300,
        "an unacknowledged event is answered 503 after",
    ),
    _whole(
        "BACKLOG_BYTES",
        _SHIM,
        0,
        0,
        1 << 50,
        "bytes in a partition that KAFKA_GROUP has not committed before 503; 0: no limit",
    ),
    # both services
    Setting("ADMIN_HOST", _KAFKA, "127.0.0.1", "address of /metrics, /livez and /readyz"),
    Setting(
        "ADMIN_PORT",
        _KAFKA,
        "9400",
        "their port (0: any free one, logged)",
        "integer",
        0,
        65535,
        other_defaults=(("consumer", "9401"),),
    ),
    _number("STOP_SECONDS", _KAFKA, 30, 1, 600, "SIGTERM: finish what was taken within"),
    _number(
        "BAD_SHARE",
        _CONSUMER,
        0.1,
        0,
        1,
        "a partition stops when more than this share of its newest events cannot be inserted",
    ),
    _whole("BAD_WINDOW_ROWS", _CONSUMER, 1000, 1, 1_000_000, "of at least so many events"),
    _number(
        "RESTORE_SECONDS",
        _CONSUMER,
        900,
        10,
        86_400,
        "after a doubt: bring a month of the views up to the table within",
    ),
    Setting(
        "LOG_LEVEL",
        _ALL,
        "info",
        "least level that is logged",
        "choice",
        choices=("debug", "info", "warning", "error"),
    ),
    Setting(
        "LOG_FORMAT",
        _ALL,
        "auto",
        "auto: text on a terminal, else JSON",
        "choice",
        choices=("auto", "json", "text"),
    ),
)

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}

# What the guarantees rest on. Setting one of these would not tune Penstock but break it.
RESERVED_KAFKA = {
    "bootstrap.servers": "set PENSTOCK_KAFKA_BOOTSTRAP_SERVERS",
    "group.id": "set PENSTOCK_KAFKA_GROUP",
    "session.timeout.ms": "set PENSTOCK_SESSION_TIMEOUT_SECONDS",
    "enable.auto.commit": "offsets are committed only after their insert",
    "enable.auto.offset.store": "offsets are committed only after their insert",
    "auto.offset.reset": "a missing offset is planned from the tables, never skipped",
    "isolation.level": "aborted records must never be read",
    "enable.idempotence": "the producer must not double or reorder",
    "acks": "an answer to a client means that every in-sync replica has the event",
    "group.instance.id": "a static member does not leave the group when it must",
    "enable.partition.eof": "the end of a range is seen by it",
    "partition.assignment.strategy": "set PENSTOCK_KAFKA_GROUP_PROTOCOL",
    "group.protocol": "set PENSTOCK_KAFKA_GROUP_PROTOCOL",
    "client.id": "it names the process in the broker's logs",
    "test.mock.num.brokers": "point PENSTOCK_KAFKA_BOOTSTRAP_SERVERS at a broker",
}
SECRET_KAFKA = frozenset(
    {
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
    }
)


@dataclass(frozen=True)
class Values:
    """What one program runs with: values by name, and librdkafka properties that pass through."""

    program: Program
    values: Mapping[str, str] = field(repr=False)
    kafka: Mapping[str, str] = field(repr=False)

    def text(self, name: str) -> str:
        return self.values[name]

    def integer(self, name: str) -> int:
        return int(self.values[name])

    def number(self, name: str) -> float:
        return float(self.values[name])


def of_program(program: Program) -> Iterator[Setting]:
    return (setting for setting in SETTINGS if program in setting.programs)


class _Formatter(argparse.HelpFormatter):
    """Without the settings in the usage, which stands before each error: they would bury both."""

    def add_usage(self, usage: Any, actions: Iterable[argparse.Action], *more: Any) -> None:
        own = [action for action in actions if not action.dest.startswith(_DEST)]
        super().add_usage(usage, own, *more)


def add_flags(parser: argparse.ArgumentParser, program: Program) -> None:
    """One flag for each setting that `program` reads, and `--config`. Secrets have no flag: a
    command line is public on its machine."""
    parser.formatter_class = _Formatter
    secrets = [PREFIX + setting.name for setting in of_program(program) if setting.secret]
    only = f"; only there: {', '.join(secrets)}" if secrets else ""
    group = parser.add_argument_group(
        "settings", f"also as {PREFIX}NAME in the environment or NAME in the --config file{only}"
    )
    group.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for setting in of_program(program):
        if setting.secret:
            continue
        group.add_argument(
            setting.flag,
            dest=_DEST + setting.name,
            metavar="|".join(setting.choices) or setting.kind.upper(),
            help=f"{setting.meaning} (default: {setting.default_of(program)})".replace("%", "%%"),
        )


def load(program: Program, flags: argparse.Namespace | None, environ: Mapping[str, str]) -> Values:
    """The values for `program` from its flags, the environment, its file and the defaults.

    Raises SettingsError with every problem found, in the order: file, environment, values.
    """
    problems: list[str] = []
    given = vars(flags) if flags is not None else {}
    path = given.get("config")
    from_file = _named(_file_entries(path, problems), f" in {path}", problems)
    from_environ = _named(
        ((name, value) for name, value in environ.items() if name.startswith(PREFIX)), "", problems
    )
    values: dict[str, str] = {}
    for setting in of_program(program):
        name = setting.name
        flag = given.get(_DEST + name)
        value = flag if flag is not None else from_environ.get(name, from_file.get(name))
        if value is None:
            values[name] = setting.default_of(program)
            continue
        values[name] = value
        problem = setting.problem(value)
        if problem:
            shown = "" if setting.secret else f", not {value!r}"
            problems.append(
                f"{setting.flag if flag is not None else PREFIX + name} {problem}{shown}"
            )
    kafka = {
        _property(name): value
        for name, value in {**from_file, **from_environ}.items()
        if name.startswith(KAFKA_PREFIX)
    }
    if problems:
        raise SettingsError(problems)
    return Values(program, values, kafka)


def _property(name: str) -> str:
    """KAFKA__SECURITY_PROTOCOL -> security.protocol"""
    return name.removeprefix(KAFKA_PREFIX).lower().replace("_", ".")


def _file_entries(path: str | None, problems: list[str]) -> Iterator[tuple[str, str]]:
    if path is None:
        return
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"--config {path}: cannot be read: {error}")
        return
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            problems.append(f"{name} in {path} must be text or a number")
            continue
        yield PREFIX + name.removeprefix(PREFIX), str(value)


def _named(entries: Iterable[tuple[str, str]], where: str, problems: list[str]) -> dict[str, str]:
    """Entries by setting name, secrets read from their files; what cannot be is noted."""
    found: dict[str, str] = {}
    for full, given in entries:
        name, value = full.removeprefix(PREFIX), given
        if name.endswith("_FILE") and _may_be_file(name.removesuffix("_FILE")):
            name = name.removesuffix("_FILE")
            try:
                value = Path(given).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{full}{where}: cannot be read: {error}")
                continue
        if name.startswith(KAFKA_PREFIX):
            reason = RESERVED_KAFKA.get(_property(name))
            if reason:
                problems.append(f"{full}{where} is reserved: {reason}")
        elif name not in BY_NAME:
            problems.append(f"{full}{where} is not a setting{_nearest(name)}")
            continue
        if name in found and found[name] != value:
            problems.append(f"{PREFIX}{name}{where} is given twice with different values")
        found[name] = value
    return found


def _may_be_file(name: str) -> bool:
    setting = BY_NAME.get(name)
    if setting is not None:
        return setting.secret
    return name.startswith(KAFKA_PREFIX) and _property(name) in SECRET_KAFKA


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.5)
    return f"; did you mean {PREFIX}{close[0]}?" if close else "; see --help"
