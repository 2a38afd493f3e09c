"""`penstock-shim`: read the settings, then serve.

Exit codes: 0 stopped cleanly, 1 failed (a taken port, events left unanswered), 2 wrong settings.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

import uvloop

from schemas import logs, settings

from .config import Config, from_values
from .metrics import Board
from .produce import problems as kafka_problems
from .projects import ProjectsError, ProjectsFile
from .server import Worker, listening_socket
from .workers import Supervisor


def main(argv: Sequence[str] | None = None) -> NoReturn:
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """The whole program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="penstock-shim", description="Takes events over HTTP and puts them into Kafka."
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    settings.add_flags(parser, "shim")
    arguments = parser.parse_args(argv)
    try:
        values = settings.load("shim", arguments, os.environ)
        config = from_values(values)
    except settings.SettingsError as error:
        return _complain(error.problems)
    logs.configure("shim", values.text("LOG_LEVEL"), values.text("LOG_FORMAT"))
    if arguments.worker:
        return _worker(config, arguments.worker)
    problems = [*_projects_problems(config), *kafka_problems(config)]
    if problems:
        return _complain(problems)
    if config.workers > 1:
        return _supervise(config, argv)
    return _alone(config)


def _alone(config: Config) -> int:
    try:
        sock = _bound("HTTP", config.http_host, config.http_port)
        admin_sock = _bound("ADMIN", config.admin_host, config.admin_port)
    except _Taken as error:
        return _fail(str(error))
    return _serve(config, Board(), sock, admin_sock, None)


def _supervise(config: Config, argv: Sequence[str]) -> int:
    try:
        # First alone, so that a port which another program shares is seen to be taken.
        alone = _bound("HTTP", config.http_host, config.http_port)
        port = alone.getsockname()[1]
        alone.close()
        reserved = _bound("HTTP", config.http_host, port, share=True)
        admin_sock = _bound("ADMIN", config.admin_host, config.admin_port)
    except _Taken as error:
        return _fail(str(error))

    async def supervised() -> int:
        return await Supervisor(config, argv, port, admin_sock).run()

    with reserved:
        return uvloop.run(supervised())


def _worker(config: Config, told: str) -> int:
    number, fileno, port, parent = (int(part) for part in told.split(":"))
    try:
        sock = _bound("HTTP", config.http_host, port, share=True)
    except _Taken as error:
        return _fail(str(error))
    board = Board(config.workers, number, fileno)
    return _serve(config, board, sock, None, parent)


def _serve(
    config: Config,
    board: Board,
    sock: socket.socket,
    admin_sock: socket.socket | None,
    parent: int | None,
) -> int:
    projects = ProjectsFile(config.projects_file, board)
    try:
        projects.open()
    except (OSError, ProjectsError) as error:
        return _complain([f"PENSTOCK_PROJECTS_FILE {config.projects_file}: {error}"])

    async def serving() -> int:
        return await Worker(config, board, projects, sock, admin_sock, parent).run()

    return uvloop.run(serving())


def _projects_problems(config: Config) -> list[str]:
    name = f"PENSTOCK_PROJECTS_FILE {config.projects_file}"
    try:
        ProjectsFile(config.projects_file, Board()).open()
    except OSError as error:
        return [f"{name}: cannot be read: {error.strerror}"]
    except ProjectsError as error:
        return [f"{name}: {problem}" for problem in error.problems]
    return []


class _Taken(Exception):
    pass


def _bound(which: str, host: str, port: int, share: bool = False) -> socket.socket:
    try:
        return listening_socket(host, port, share)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _Taken(f"PENSTOCK_{which}_PORT {port} on {host}: {reason}") from None


def _complain(problems: Sequence[str]) -> int:
    for problem in problems:
        print(f"penstock-shim: {problem}", file=sys.stderr)
    return 2


def _fail(problem: str) -> int:
    print(f"penstock-shim: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
