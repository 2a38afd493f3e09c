"""The shim's settings as one frozen value, made before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.settings import SettingsError, Values

# What a record needs in its batch beside its value; librdkafka counts it against message.max.bytes.
RECORD_OVERHEAD_BYTES = 512
DEFAULT_MESSAGE_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Config:
    """Everything that the shim was told. Sizes in bytes, times in seconds unless named else."""

    bootstrap_servers: str
    topic: str
    group: str
    kafka: Mapping[str, str] = field(repr=False)
    http_host: str
    http_port: int
    workers: int
    projects_file: Path
    pack_milliseconds: float
    pack_bytes: int
    lanes: int
    trusted_proxies: int
    browser_body_bytes: int
    body_bytes: int
    body_events: int
    body_seconds: float
    queue_events: int
    produce_timeout_seconds: float
    backlog_bytes: int
    admin_host: str
    admin_port: int
    stop_seconds: float


def from_values(values: Values) -> Config:
    """Raises SettingsError when settings contradict each other."""
    config = Config(
        bootstrap_servers=values.text("KAFKA_BOOTSTRAP_SERVERS"),
        topic=values.text("KAFKA_TOPIC"),
        group=values.text("KAFKA_GROUP"),
        kafka=values.kafka,
        http_host=values.text("HTTP_HOST"),
        http_port=values.integer("HTTP_PORT"),
        workers=values.integer("WORKERS"),
        projects_file=Path(values.text("PROJECTS_FILE")),
        pack_milliseconds=values.number("PACK_MILLISECONDS"),
        pack_bytes=values.integer("PACK_BYTES"),
        lanes=values.integer("LANES"),
        trusted_proxies=values.integer("TRUSTED_PROXIES"),
        browser_body_bytes=values.integer("BROWSER_BODY_BYTES"),
        body_bytes=values.integer("BODY_BYTES"),
        body_events=values.integer("BODY_EVENTS"),
        body_seconds=values.number("BODY_SECONDS"),
        queue_events=values.integer("QUEUE_EVENTS"),
        produce_timeout_seconds=values.number("PRODUCE_TIMEOUT_SECONDS"),
        backlog_bytes=values.integer("BACKLOG_BYTES"),
        admin_host=values.text("ADMIN_HOST"),
        admin_port=values.integer("ADMIN_PORT"),
        stop_seconds=values.number("STOP_SECONDS"),
    )
    problems = list(_contradictions(config))
    if problems:
        raise SettingsError(problems)
    return config


def _contradictions(config: Config) -> list[str]:
    problems = []
    given = config.kafka.get("message.max.bytes", str(DEFAULT_MESSAGE_MAX_BYTES))
    if not given.isdecimal():
        problems.append(f"PENSTOCK_KAFKA__MESSAGE_MAX_BYTES must be a whole number, not {given!r}")
    elif config.pack_bytes > int(given) - RECORD_OVERHEAD_BYTES:
        problems.append(
            f"PENSTOCK_PACK_BYTES {config.pack_bytes} must stay {RECORD_OVERHEAD_BYTES} bytes "
            f"below Kafka's message.max.bytes {given}"
        )
    if config.browser_body_bytes > config.body_bytes:
        problems.append(
            f"PENSTOCK_BROWSER_BODY_BYTES {config.browser_body_bytes} must not be larger than "
            f"PENSTOCK_BODY_BYTES {config.body_bytes}"
        )
    if config.body_events > config.queue_events:
        problems.append(
            f"PENSTOCK_BODY_EVENTS {config.body_events} must not be larger than "
            f"PENSTOCK_QUEUE_EVENTS {config.queue_events}: no such body could ever be taken"
        )
    if config.http_port and config.http_port == config.admin_port:
        problems.append(f"PENSTOCK_HTTP_PORT and PENSTOCK_ADMIN_PORT are both {config.http_port}")
    return problems
