"""What the consumer runs with: one frozen value, made before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consumer.assignment import Shares
from consumer.flight import Limits
from schemas.connection import Address, parse
from schemas.settings import SettingsError, Values


@dataclass(frozen=True)
class ConsumerSettings:
    """Seconds, bytes and events, as their names say."""

    kafka_bootstrap_servers: str
    kafka_topic: str
    kafka_group: str
    kafka: Mapping[str, str] = field(repr=False)
    clickhouse: Address
    limits: Limits
    shares: Shares
    insert_threads: int
    group_protocol: str
    session_timeout_seconds: float
    worst_outage_hours: float
    admin_host: str
    admin_port: int
    stop_seconds: float
    restore_seconds: float
    log_level: str
    log_format: str


def consumer_settings(values: Values) -> ConsumerSettings:
    """The settings, or SettingsError with every contradiction among them."""
    problems: list[str] = []
    address = None
    try:
        address = parse(values.text("CLICKHOUSE_URL"))
    except ValueError as error:  # which never quotes the URL: it may hold a password
        problems.append(f"PENSTOCK_CLICKHOUSE_URL {error}")
    batch_bytes, buffer_bytes = values.integer("BATCH_BYTES"), values.integer("BUFFER_BYTES")
    if buffer_bytes < batch_bytes:
        problems.append(
            f"PENSTOCK_BUFFER_BYTES ({buffer_bytes}) must hold at least one batch: "
            f"PENSTOCK_BATCH_BYTES is {batch_bytes}"
        )
    commit_seconds = values.number("COMMIT_TIMEOUT_SECONDS")
    deadline_seconds = values.number("INSERT_DEADLINE_SECONDS")
    if commit_seconds > deadline_seconds:
        problems.append(
            f"PENSTOCK_COMMIT_TIMEOUT_SECONDS ({commit_seconds:g}) must not exceed "
            f"PENSTOCK_INSERT_DEADLINE_SECONDS ({deadline_seconds:g}), which counts from the same "
            "commit"
        )
    if problems or address is None:
        raise SettingsError(problems)
    return ConsumerSettings(
        kafka_bootstrap_servers=values.text("KAFKA_BOOTSTRAP_SERVERS"),
        kafka_topic=values.text("KAFKA_TOPIC"),
        kafka_group=values.text("KAFKA_GROUP"),
        kafka=values.kafka,
        clickhouse=address,
        limits=Limits(
            batch_rows=values.integer("BATCH_ROWS"),
            batch_bytes=batch_bytes,
            insert_deadline_seconds=deadline_seconds,
            insert_max_seconds=values.number("INSERT_MAX_SECONDS"),
            commit_timeout_seconds=commit_seconds,
            bad_share=values.number("BAD_SHARE"),
            bad_window_rows=values.integer("BAD_WINDOW_ROWS"),
        ),
        shares=Shares(
            buffer_bytes=buffer_bytes,
            batch_age_seconds=values.number("BATCH_AGE_SECONDS"),
            inserts_per_second=values.number("INSERTS_PER_SECOND"),
        ),
        insert_threads=values.integer("INSERT_THREADS"),
        group_protocol=values.text("KAFKA_GROUP_PROTOCOL"),
        session_timeout_seconds=values.number("SESSION_TIMEOUT_SECONDS"),
        worst_outage_hours=values.number("WORST_OUTAGE_HOURS"),
        admin_host=values.text("ADMIN_HOST"),
        admin_port=values.integer("ADMIN_PORT"),
        stop_seconds=values.number("STOP_SECONDS"),
        restore_seconds=values.number("RESTORE_SECONDS"),
        log_level=values.text("LOG_LEVEL"),
        log_format=values.text("LOG_FORMAT"),
    )
