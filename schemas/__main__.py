"""`penstock-schemas`: bring a ClickHouse database to the layout, compare it, rebuild its views.

Exit codes: 0 done, 1 failed (or, for `check`, something differs), 2 wrong usage or settings.
Results go to standard output; a trouble is one line on standard error, and so is each step of a
rebuild.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas import by_hand, settings
from schemas.apply import apply, pending, steps
from schemas.check import differences
from schemas.connection import Address, SchemaError, connect, explained, parse
from schemas.layout import LAYOUTS
from schemas.rebuild import HOLD_SECONDS, check_names, rebuild
from schemas.rebuilds import cut_off
from schemas.tables import REBUILDABLE, REBUILDS, SUMMED

DONE, FAILED, USAGE = 0, 1, 2
_BY_HAND = """\
-- With every consumer stopped by SIGTERM, and ended by itself, so that no batch is open; on one
-- replica of a shard, one after another. Until the last has run, sums are missing."""
_REBUILD = "make one month of the views again from events, while inserts go on"


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
    if flags.command == "rebuild":
        try:
            check_names(flags.partition, flags.table)
        except ValueError as error:
            return _complain(USAGE, str(error))
    try:
        if flags.command == "rebuild":
            return _rebuild(address, flags)
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
    client = connect(address)
    found = differences(client, address.database, layout)
    for difference in found:
        print(f"{difference.what}\n    {difference.mend};")
    recorded = not any(f"{REBUILDS} is missing" in difference.what for difference in found)
    again = cut_off(client, address.database) if recorded else {}
    for month, tables in again.items():
        print(
            f"the rebuild of {' and '.join(tables)} in {month} was cut off, and they may be wrong\n"
            f"    penstock-schemas rebuild --partition {month} --table {' --table '.join(tables)}"
        )
    if not found and not again:
        print(f"{address.database} is as the layout {layout} has it")
    return FAILED if found or again else DONE


def _rebuild(address: Address, flags: argparse.Namespace) -> int:
    tables = flags.table or SUMMED
    if flags.by_hand:
        print(_BY_HAND)
        for statement in by_hand.statements(
            connect(address), address.database, flags.partition, tables, expired=flags.expired
        ):
            print(f"{statement};")
        return DONE
    try:
        done = rebuild(
            connect(address),
            address.database,
            flags.partition,
            tables,
            seconds=flags.seconds,
            hold_seconds=flags.hold_seconds,
            expired=flags.expired,
            whole_days=flags.whole_days,
            progress=lambda line: print(f"{flags.partition}: {line}", file=sys.stderr, flush=True),
        )
    except KeyboardInterrupt:
        return _complain(FAILED, f"{flags.partition}: stopped; run it again to finish")
    kept = ""
    if done.kept:
        kept = f"the sums of {len(done.kept)} days, {done.kept[0]} to {done.kept[-1]}, are kept: "
        kept += "events of these may have expired"
    if not done.holds and kept:
        return _complain(FAILED, f"{flags.partition}: nothing was rebuilt: {kept}")
    if not done.holds:
        return _complain(FAILED, f"there is nothing in {flags.partition}, and nothing to rebuild")
    print(
        f"{flags.partition}: {', '.join(done.tables)} made again from {done.rows} rows in "
        f"{done.seconds:.1f} s; inserts were held for {done.held_seconds:.2f} s"
        + (f"; {kept}" if kept else "")
    )
    return DONE


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
    command = commands.add_parser("rebuild", help=_REBUILD, description=_REBUILD + ".")
    command.add_argument(
        "--partition", required=True, metavar="MONTH", help="ClickHouse partition, like 202611"
    )
    command.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="NAME",
        help=f"one of {', '.join(REBUILDABLE)}; may be given again; by default the sums, "
        f"{' and '.join(SUMMED)}",
    )
    command.add_argument(
        "--seconds", type=_positive, default=3600.0, help="give up after this long (3600)"
    )
    command.add_argument(
        "--hold-seconds",
        type=_positive,
        default=HOLD_SECONDS,
        help=f"hold inserts for no longer than this, even if this command dies ({HOLD_SECONDS:g})",
    )
    command.add_argument(
        "--expired",
        action="store_true",
        help="also where the TTL of events may have taken rows: the sums lose them too",
    )
    command.add_argument(
        "--whole-days",
        action="store_true",
        help="where the TTL of events may have taken rows of some days: count the other days, and "
        "keep the sums of these as they are (as a mend of the consumer does); not for sessions",
    )
    command.add_argument(
        "--by-hand",
        action="store_true",
        help="change nothing: print the statements to run instead, on replicated tables, with "
        "every consumer stopped",
    )
    settings.add_flags(command, "schemas")
    return parser


def _positive(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
