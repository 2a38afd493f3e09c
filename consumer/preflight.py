"""What must be true before anything is consumed. Each finding says the sentence that mends it.

`run` does this first and refuses to start (exit code 3) while something would break a guarantee;
`check` prints the same findings. A server that is away is not a finding: `run` waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from consumer.clickhouse import ClickHouseTable
from consumer.config import ConsumerSettings
from consumer.kafka import topic_identity
from consumer.ports import LogError
from schemas.check import differences
from schemas.tables import LANDING


@dataclass(frozen=True, slots=True)
class Finding:
    """What would break a guarantee, and what mends it."""

    what: str
    mend: str


class Away(Exception):
    """Kafka or ClickHouse does not answer: nothing can be said yet."""


def check(settings: ConsumerSettings, table: ClickHouseTable) -> list[Finding]:
    """Everything that keeps the consumer from starting. Raises Away."""
    return [*_kafka(settings), *_clickhouse(settings, table)]


def _kafka(settings: ConsumerSettings) -> list[Finding]:
    try:
        topic_identity(settings)
    except LogError as error:
        if "does not exist" in str(error):
            return [
                Finding(
                    str(error),
                    f"kafka-topics.sh --bootstrap-server {settings.kafka_bootstrap_servers} "
                    f"--create --topic {settings.kafka_topic} --partitions 12 "
                    "--config message.timestamp.type=LogAppendTime",
                )
            ]
        raise Away(str(error)) from error
    return []


def _clickhouse(settings: ConsumerSettings, table: ClickHouseTable) -> list[Finding]:
    try:
        client = table.client()
        return [
            *(Finding(d.what, d.mend) for d in differences(client, settings.clickhouse.database)),
            *_distributed(client, settings.clickhouse.database),
        ]
    except ClickHouseError as error:
        text = str(error).strip() or type(error).__name__
        raise Away(f"ClickHouse: {text.splitlines()[0]}") from error


def _distributed(client: Client, database: str) -> list[Finding]:
    rows = client.query(
        "SELECT name FROM system.tables WHERE database = {database:String} "
        "AND name = {name:String} AND engine = 'Distributed'",
        parameters={"database": database, "name": LANDING},
    ).result_rows
    return [
        Finding(
            f"{database}.{LANDING} is a Distributed table: it acknowledges before its shards have "
            "the rows, and tokens are not shared across shards",
            "point PENSTOCK_CLICKHOUSE_URL at a shard's own tables",
        )
        for _ in rows
    ]
