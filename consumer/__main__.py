"""`penstock-consumer`: run one consumer, or one of the commands for the person on call.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 preflight refused.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from consumer import audit, letters, preflight, rewind
from consumer.admin import Admin
from consumer.clickhouse import ClickHouseTable
from consumer.config import ConsumerSettings, consumer_settings
from consumer.dead_letters import KafkaDeadLetters
from consumer.kafka import KafkaLog
from consumer.metrics import Metrics
from consumer.runner import Runner, clock
from schemas import logs, settings
from schemas.logs import fact

log = logging.getLogger("consumer")

# A poll loop that has not come round for so long is stuck in a call that has no way out.
_STUCK_SECONDS = 120.0

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 28  # at the end of the heap, free and not given back


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="penstock-consumer",
        description="Carries events from Kafka into ClickHouse, exactly once.",
        epilog="COMMAND --help tells more. Exit codes: 0 done, 1 failed (audit: something is "
        "unexplained), 2 wrong usage or settings, 3 preflight refused.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("run", "consume until stopped (the default)"),
        ("check", "say what would keep the consumer from starting, and what mends it"),
    ):
        settings.add_flags(commands.add_parser(name, help=text, description=text), "consumer")
    letters.add_parser(commands)
    audit.add_parser(commands)
    rewind.add_parser(commands)
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("--") and given[0] not in ("--help", "-h")):
        given.insert(0, "run")
    flags = parser.parse_args(given)
    try:
        values = settings.load("consumer", flags, os.environ)
        chosen = consumer_settings(values)
    except settings.SettingsError as error:
        for problem in error.problems:
            print(f"penstock-consumer: {problem}", file=sys.stderr)
        return 2
    logs.configure("consumer", chosen.log_level, chosen.log_format)
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)  # its failures are answers
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    match flags.command:
        case "check":
            return _check(chosen)
        case "dead-letters":
            return letters.run(flags, chosen)
        case "audit":
            return audit.run(flags, chosen)
        case "rewind":
            return rewind.run(flags, chosen)
    return _run(chosen)


def _check(chosen: ConsumerSettings) -> int:
    try:
        findings = preflight.look(chosen, ClickHouseTable(chosen, clock))
    except preflight.Away as error:
        print(f"penstock-consumer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("penstock-consumer: stopped", file=sys.stderr)
        return 1
    return preflight.report(findings)


def _run(chosen: ConsumerSettings) -> int:
    metrics = Metrics()
    table = ClickHouseTable(chosen, clock, metrics.sums_in_doubt.inc)
    dead_letters = KafkaDeadLetters(chosen)
    runner = Runner(chosen, KafkaLog(chosen), table, dead_letters, metrics, _abort)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stop())

    def livez() -> tuple[bool, dict[str, object]]:
        age = runner.came_round_seconds
        return age < _STUCK_SECONDS, {"alive": age < _STUCK_SECONDS, "poll_loop_age_seconds": age}

    try:
        admin = Admin(chosen.admin_host, chosen.admin_port, metrics.page, livez, runner.readiness)
    except OSError as error:
        print(
            f"penstock-consumer: PENSTOCK_ADMIN_PORT {chosen.admin_port} on {chosen.admin_host}: "
            f"{error.strerror}",
            file=sys.stderr,
        )
        return 1
    fact(log, logging.INFO, "admin port", port=admin.port)
    try:
        findings = _findings(chosen, table, runner)
        for finding in findings:
            level = logging.ERROR if finding.refuses else logging.WARNING
            fact(log, level, finding.what, mend=finding.mend)
        if any(finding.refuses for finding in findings):
            return 3
        # Thousands of records live for a moment and hold no cycles: looking through them at each
        # 700th cost a twentieth of an unpacked event.
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        _keep_memory()
        runner.run()
    finally:
        dead_letters.close()
        admin.close()
    return 0


def _keep_memory() -> None:
    """Batches come and go by the megabyte. glibc gives such memory back to the kernel each time,
    which clears every page of it again: up to a quarter of all CPU. Other C libraries are left as
    they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 8)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _findings(
    chosen: ConsumerSettings, table: ClickHouseTable, runner: Runner
) -> list[preflight.Finding]:
    """The preflight's findings, waiting for servers that are away; none once we are stopped."""
    said = ""
    while not runner.stopping:
        runner.heartbeat()
        try:
            return preflight.look(chosen, table)
        except preflight.Away as error:
            if str(error) != said:
                said = str(error)
                fact(log, logging.WARNING, "waiting before the start", why=said)
            time.sleep(0.5)
    return []


def _abort(why: str) -> NoReturn:
    """End at once, without giving anything up: the group finds out by the session timeout."""
    fact(log, logging.ERROR, "ending at once", why=why)
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
