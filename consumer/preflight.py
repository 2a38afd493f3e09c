"""What must be true before anything is consumed. Each finding says the sentence that mends it.

`run` does this first. A finding that would break a guarantee refuses the start (exit code 3); one
that is merely unwise is said, and the consumer starts: also where the log may be trimmed too soon,
since to stand still would make that loss certain. `check` prints both. A server that is away is not
a finding: `run` waits for it.

What a server does not tell is not guessed at: an older ClickHouse without CHECK GRANT and the
in-memory broker without settings get fewer findings, not false ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from clickhouse_connect.driver.exceptions import ClickHouseError, Error

from consumer import preflight_clickhouse, preflight_kafka
from consumer.clickhouse import ClickHouseTable
from consumer.config import ConsumerSettings
from consumer.errors import NO_DATABASE
from consumer.findings import Away, Finding
from schemas.connection import explained

__all__ = ["Away", "Finding", "look", "report"]


def look(settings: ConsumerSettings, table: ClickHouseTable) -> list[Finding]:
    """Every finding, those that refuse the start first. Raises Away."""
    kafka = preflight_kafka.look(settings)
    found = [*kafka.findings]
    try:
        found += preflight_clickhouse.look(settings, table.client(), kafka.members)
    except ClickHouseError as error:
        if not (isinstance(error, Error) and error.code == NO_DATABASE):
            raise Away(str(explained(error, settings.clickhouse))) from error
        found.append(_missing(settings))
    return sorted(found, key=lambda finding: not finding.refuses)


def _missing(settings: ConsumerSettings) -> Finding:
    return Finding(
        f"database {settings.clickhouse.database!r} does not exist on ClickHouse at "
        f"{settings.clickhouse.base_url}",
        "penstock-schemas apply, or name the database that has the tables in "
        "PENSTOCK_CLICKHOUSE_URL",
    )


def report(findings: Sequence[Finding]) -> int:
    """Print them for a person. Returns the exit code of `check`."""
    for finding in findings:
        print(f"{'' if finding.refuses else 'warning: '}{finding.what}\n  mend: {finding.mend}")
    refusing = sum(finding.refuses for finding in findings)
    if not refusing:
        print("nothing keeps the consumer from starting")
    return 3 if refusing else 0
