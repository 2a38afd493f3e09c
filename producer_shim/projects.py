"""Who may send: the projects of the keys file, and the key that a request carries.

    [shop]
    public_keys = ["pk_live_1"]                 # for browsers: origins are checked
    secret_keys = ["sk_live_1", "sk_live_2"]    # for servers; several, so that one can be changed
    origins     = ["https://shop.example", "https://*.shop.example"]

`origins` names what the browser says in `Origin`: scheme, host and port, exactly; `*.` for any
subdomain; `"*"` for any origin, and for senders that name none. Where `Origin` is missing (an
`<img>` sends none), the origin of `Referer` counts.

Keys are held as SHA-256 digests and looked up by digest: what a lookup's time shows is about the
digest, not about the key. A key is never logged; a problem names its project and position.

The file is looked at every second, and read again when it changed. One that cannot be used changes
nothing: the projects before it stay, and that is logged and counted.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from schemas.event import NAME_CHARACTERS
from schemas.logs import fact

from .metrics import Board

_log = logging.getLogger(__name__)
_MEMBERS = {"public_keys", "secret_keys", "origins"}


class ProjectsError(Exception):
    """A keys file that cannot be used. `problems`: one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Grant:
    """What a key allows: to send for one project, as a browser or as a server."""

    project_id: str
    public: bool
    any_origin: bool = True
    origins: frozenset[str] = frozenset()
    suffixes: tuple[tuple[str, str], ...] = ()

    def allows(self, origin: str | None) -> bool:
        """Whether a request that names this origin (None: names none) may use the key."""
        if not self.public or self.any_origin:
            return True
        if origin is None:
            return False
        origin = origin.lower()
        if origin in self.origins:
            return True
        scheme, _, host = origin.partition("://")
        return any(scheme == s and host.endswith(suffix) for s, suffix in self.suffixes)


@dataclass(frozen=True)
class Projects:
    """One reading of the keys file."""

    grants: Mapping[bytes, Grant] = field(repr=False)
    count: int

    def grant(self, key: bytes) -> Grant | None:
        return self.grants.get(sha256(key).digest())


def parse(text: str) -> Projects:
    """Raises ProjectsError with every problem found."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectsError([f"is not TOML: {error}"]) from None
    grants: dict[bytes, Grant] = {}
    problems: list[str] = []
    for project_id, table in tables.items():
        if not isinstance(table, dict):
            problems.append(f"{project_id!r} must be a table: [{project_id}]")
        elif not 0 < len(project_id) <= NAME_CHARACTERS or "\0" in project_id:
            problems.append(f"a project's name has 1 to {NAME_CHARACTERS} characters")
        else:
            _add(project_id, table, grants, problems)
    if problems:
        raise ProjectsError(problems)
    return Projects(grants, len(tables))


def _add(
    project_id: str, table: dict[str, object], grants: dict[bytes, Grant], problems: list[str]
) -> None:
    for unknown in sorted(table.keys() - _MEMBERS):
        problems.append(f"[{project_id}] has an unknown member {unknown!r}")
    public = _texts(project_id, table, "public_keys", problems)
    secret = _texts(project_id, table, "secret_keys", problems)
    origins = _texts(project_id, table, "origins", problems)
    if public and not origins:
        problems.append(
            f'[{project_id}] has public_keys and no origins: name them, or "*" for any origin'
        )
    exact, suffixes = set(), []
    for origin in origins:
        scheme, _, host = origin.lower().partition("://")
        if origin == "*":
            continue
        if not scheme or not host or "/" in host:
            problems.append(f"[{project_id}] origin {origin!r} must look like https://shop.example")
        elif host.startswith("*."):
            suffixes.append((scheme, host[1:]))
        else:
            exact.add(origin.lower())
    for keys, is_public in ((public, True), (secret, False)):
        grant = Grant(
            project_id,
            is_public,
            not is_public or "*" in origins,
            frozenset(exact),
            tuple(suffixes),
        )
        for position, key in enumerate(keys):
            digest = sha256(key.encode()).digest()
            if digest in grants:
                name = "public_keys" if is_public else "secret_keys"
                problems.append(f"[{project_id}] {name}[{position}] is used twice in the file")
            grants[digest] = grant


def _texts(
    project_id: str, table: dict[str, object], member: str, problems: list[str]
) -> list[str]:
    given = table.get(member, [])
    if isinstance(given, list) and all(isinstance(item, str) and item for item in given):
        return given
    problems.append(f"[{project_id}] {member} must be an array of texts")
    return []


def origin_of(origin: bytes | None, referer: bytes | None) -> str | None:
    """The origin that a request names: its `Origin`, else that of its `Referer`."""
    if origin is not None:
        return origin.decode("latin-1")
    if referer is None:
        return None
    try:
        parts = urlsplit(referer.decode("latin-1"))
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else None


class ProjectsFile:
    """The keys file as it was last usable."""

    def __init__(self, path: Path, board: Board) -> None:
        self._path = path
        self._board = board
        self._seen: tuple[int, int, int] | None = None
        self.current = Projects({}, 0)

    def open(self) -> None:
        """The first reading. Raises ProjectsError or OSError: nothing may start without keys."""
        self._seen = self._stamp()
        self.current = parse(self._text())
        self._board.put("projects", self.current.count)

    def look(self) -> bool:
        """Read the file again if it changed; True when there are new projects."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            self._seen = stamp
            self.current = parse(self._text())
        except (OSError, ProjectsError) as error:
            problem = str(error)
            if self._seen is None and isinstance(error, OSError):
                return False  # still missing: said once
            if isinstance(error, OSError):
                self._seen = None
            self._board.count("projects_file_errors")
            fact(_log, logging.ERROR, "keys file refused, the old one stays", problem=problem)
            return False
        self._board.put("projects", self.current.count)
        fact(_log, logging.INFO, "keys file read again", projects=self.current.count)
        return True

    def _stamp(self) -> tuple[int, int, int]:
        seen = self._path.stat()
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino)

    def _text(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ProjectsError(["is not UTF-8"]) from None
