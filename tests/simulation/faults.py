"""Faults as data: what may go wrong in a run, how often, and what the servers are like.

A run is a seed and a `Profile`. A profile's weights say how often each fault is drawn; a weight of
zero means that the fault does not exist there, and then its excuses do not either.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# The protocol's times, in seconds of the modelled clock.
DEADLINE_SECONDS = 30.0
MAX_SECONDS = 30.0
COMMIT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Profile:
    """What one family of runs is made of. `steps`: how many actions before the faults stop."""

    name: str
    faults: dict[str, float] = field(default_factory=dict)
    steps: int = 300
    consumers: int = 2
    partitions: int = 1
    records: int = 10
    window_entries: int = 400
    window_seconds: float | None = None
    mends_log: bool = True
    versions: tuple[int, ...] = (1,)
    shows: tuple[str, ...] = ()  # what the core must have reported in enough of the runs
    buffer_bytes: int = 270  # the limit on what a consumer holds, of lines of some 20 bytes
    bad_lines: float = 0.0  # the share of lines that the table, or only the view, cannot take

    def weight(self, name: str, usual: float = 0.0) -> float:
        """How often it is drawn. What is no fault has its usual weight, which a profile may set."""
        return self.faults.get(name, usual)


_EVERYDAY = {
    "rebalance": 4.0,
    "kick": 1.5,
    "crash": 1.0,
    "commit unknown": 1.5,  # the client is told that nobody knows, and the request lives on
    "commit reply lost": 1.0,
    "commit try again": 1.5,
    "commit applied, try again": 0.7,
    "stray commit applied": 3.0,
    "insert reply lost": 2.0,
    "insert given up": 1.5,  # the client stops waiting, the server goes on
    "insert throws": 1.5,
    "server crash": 1.0,
    "read fails": 1.0,
    "leave lost": 0.5,
    "stop": 0.4,
    "long pause": 0.8,
}

EVERYDAY = Profile("everyday", _EVERYDAY)
CROWD = Profile(
    "crowd",
    {**_EVERYDAY, "rebalance": 8.0, "kick": 3.0},
    consumers=3,
    partitions=2,
    records=7,
    steps=450,
)
HANDOVER = Profile("handover", {**_EVERYDAY, "kick": 4.0, "crash": 3.0, "long pause": 0.2})
UNKNOWN_COMMITS = Profile(
    "unknown commits",
    {
        "rebalance": 10.0,
        "commit unknown": 8.0,
        "stray commit applied": 8.0,
        "commit reply lost": 2.0,
        "commit applied, try again": 2.0,
        "leave lost": 2.0,
        "crash": 0.5,
    },
)
LYING_LOG = Profile(
    "lying log",
    {
        "rebalance": 2.0,
        "crash": 0.5,
        "server crash": 0.5,
        "server restart": 2.0,
        "insert given up": 8.0,
        "commit try again": 1.0,
        "server step": 12.0,
    },
    mends_log=False,
    records=6,
    steps=250,
)
LYING_AT_REPLAY = Profile(
    "lying at a replay",
    {"kick": 9.0, "server restart": 2.0, "server step": 4.0, "run job": 25.0, "learn": 4.0},
    mends_log=False,
    records=4,
    steps=250,
)
OLD_BY_ENTRIES = Profile(
    "old by entries",
    {**_EVERYDAY, "crash": 2.0, "other inserts": 12.0, "long pause": 6.0},
    window_entries=60,
    records=8,
)
OLD_BY_TIME = Profile(
    "old by time",
    {**_EVERYDAY, "crash": 2.0, "window passes": 1.0},
    window_seconds=600.0,
)
RESET = Profile(
    "reset",
    {**_EVERYDAY, "kick": 0.5, "crash": 1.0, "reset": 1.5, "trim": 1.0, "long pause": 3.0},
    records=8,
    steps=400,
)
RESET_WHILE_INSERTING = Profile(
    "reset while inserting",
    {
        "rebalance": 1.0,
        "reset": 2.5,
        "insert given up": 2.0,
        "server step": 5.0,
        "start consumer": 40.0,
        "assign": 40.0,
        "time passes": 5.0,
        "long pause": 0.7,
    },
    records=5,
    steps=350,
)
VERSIONS = Profile("versions", {**_EVERYDAY, "crash": 3.0}, versions=(1, 2), shows=("mended",))
BAD_LINES = Profile(
    "bad lines", {**_EVERYDAY, "mend the view": 0.5}, bad_lines=0.15, shows=("set aside",)
)
TRIMMED = Profile(
    "trimmed",
    {**_EVERYDAY, "trim the unread": 1.0, "reset": 0.3},
    shows=("lost", "mended"),
)
RECREATED = Profile(
    "recreated", {**_EVERYDAY, "recreate": 0.7, "kick": 0.5}, consumers=2, partitions=2, records=7
)
LITTLE_MEMORY = Profile(
    "little memory",
    {**_EVERYDAY, "produce": 30.0, "crash": 2.0, "insert given up": 3.0, "server crash": 2.0},
    partitions=3,
    records=9,
    steps=450,
    versions=(1, 2),
    buffer_bytes=70,
    bad_lines=0.05,
    shows=("memory full", "mended", "set aside"),
)
EVERYTHING = Profile(
    "everything",
    {
        **_EVERYDAY,
        "reset": 0.5,
        "trim the unread": 0.3,
        "recreate": 0.1,
        "other inserts": 3.0,
        "window passes": 0.5,
        "server restart": 0.7,
        "mend the view": 0.2,
    },
    partitions=2,
    records=7,
    steps=450,
    window_seconds=600.0,
    mends_log=False,
    versions=(1, 2),
    bad_lines=0.05,
    shows=("mended", "set aside"),
)

PROFILES = (
    EVERYDAY,
    CROWD,
    HANDOVER,
    UNKNOWN_COMMITS,
    LYING_LOG,
    LYING_AT_REPLAY,
    OLD_BY_ENTRIES,
    OLD_BY_TIME,
    RESET,
    RESET_WHILE_INSERTING,
    VERSIONS,
    BAD_LINES,
    TRIMMED,
    RECREATED,
    LITTLE_MEMORY,
    EVERYTHING,
)
