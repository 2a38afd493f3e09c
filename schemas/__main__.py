"""`penstock-schemas`: bring a ClickHouse database to the layout, and compare it with the layout.

Exit codes: 0 done, 1 failed (or, for `check`, something differs), 2 wrong usage or settings.
Results go to standard output; a trouble is one line on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas import settings
from schemas.apply import apply, pending, steps
from schemas.check import differences
from schemas.connection import Address, SchemaError, connect, explained, parse
from schemas.layout import LAYOUTS

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    flags = _parser().parse_args(arguments)
    # what the client would log is in the error that it raises, and that is told in one line
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL + 1)
    try:
        values = settings.load("schemas", flags, environ)
        address = parse(values.text("CLICKHOUSE_URL"))
    except settings.SettingsError as error:
        return _complain(USAGE, *error.problems)
    except ValueError as error:
        return _complain(USAGE, f"PENSTOCK_CLICKHOUSE_URL {error}")
    try:
        if flags.command == "apply":
            return _apply(address, flags.layout, flags.cluster, flags.dry_run)
        return _check(address, flags.layout)
    except SchemaError as error:
        return _complain(FAILED, str(error))
    except ClickHouseError as error:
        return _complain(FAILED, str(explained(error, address)))


def _apply(address: Address, layout: str, cluster: str | None, dry_run: bool) -> int:
    client = connect(address)
    if dry_run:
        missing = {m.name for m in pending(client, address.database, layout)}
        for step in steps(address.database, layout, cluster):
            if step.migration is None or step.migration.name in missing:
                print(step.statement + ";\n")
        return DONE
    applied = apply(client, address.database, layout=layout, cluster=cluster)
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("nothing to apply")
    return DONE


def _check(address: Address, layout: str) -> int:
    found = differences(connect(address), address.database, layout)
    for difference in found:
        print(f"{difference.what}\n    {difference.mend};")
    if not found:
        print(f"{address.database} is as the layout {layout} has it")
    return FAILED if found else DONE


def _complain(code: int, *problems: str) -> int:
    for problem in problems:
        print(f"penstock-schemas: {problem}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-schemas", description=(__doc__ or "").split("\n\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, meaning in (
        ("apply", "create what is missing, and record it"),
        ("check", "compare the server with the layout; say what mends each difference"),
    ):
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.add_argument("--layout", choices=LAYOUTS, default="hybrid")
        if name == "apply":
            command.add_argument(
                "--cluster", metavar="NAME", help="replicated tables, ON CLUSTER NAME"
            )
            command.add_argument("--dry-run", action="store_true", help="print the statements only")
        settings.add_flags(command, "schemas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
