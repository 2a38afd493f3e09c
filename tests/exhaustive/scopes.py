"""The scopes that a full run searches. Together: each fault once and in pairs, and more where it is
cheap.

Where a pair is missing in one scope because another makes it too wide, it is in a smaller one: what
a reset or a pause adds to a world is much, and most of it is the same for any log.
"""

from __future__ import annotations

from tests.exhaustive.scope import FAULTS, Scope

_PASSING = tuple(f for f in FAULTS if f not in ("reset", "pause", "window", "trim", "rebuild"))
_GROUP = ("rebalance", "kick", "crash", "commit unknown", "leave lost", "insert unanswered")
_WINDOW = ("window", "crash", "insert unanswered", "restart")
_SERVER = ("insert unanswered", "insert throws", "server crash", "restart")

SCOPES = (
    Scope("everyday", faults=_PASSING),
    Scope("a reset", log="aba", faults=(*_PASSING, "trim", "window", "reset")),
    Scope("pauses", log="aba", faults=(*_PASSING, "pause")),
    Scope("three consumers", consumers=3, faults=_GROUP),
    Scope("six records", log="ababab", faults=("rebalance", "crash", "commit unknown", *_SERVER)),
    Scope("three faults of the group", log="ab", faults=_GROUP, together=3),
    Scope("a reset and a pause", log="aba", faults=("reset", "pause")),
    Scope("kinds of foreign commits", faults=("reset",), together=1, foreign_alike=False),
    Scope("two resets", log="ab", faults=("reset",), resets_again=True),
    Scope("the log lies", log="aba", faults=("rebalance", "crash", *_SERVER), mends_log=False),
    Scope("window of entries", log="ab", faults=_WINDOW, together=3),
    Scope("window of time", log="ab", faults=_WINDOW, together=3, window_seconds=600.0),
    Scope(
        "part of a window", log="a", consumers=1, faults=("window", "crash"), together=6,
        window_part=0.4,
    ),
    Scope("two versions", log="aba", versions=(1, 2), faults=("kick", "crash", *_SERVER)),
    Scope("a group that is new", fresh=True, faults=_GROUP),
    Scope("tombstones", log="a.b.", faults=("rebalance", "crash", "commit refused", "trim")),
    Scope("rebuilds", log="aba", faults=("rebuild", "crash", "kick", *_SERVER)),
)  # fmt: skip

# What fits into a test of some seconds.
QUICK = (
    Scope("quick: the group", log="ab", faults=_GROUP),
    Scope("quick: the servers", log="aba", faults=("crash", "commit refused", *_SERVER)),
    Scope("quick: a reset", log="ab", faults=("reset", "insert unanswered", "pause"), together=1),
    Scope("quick: a lying log", log="ab", faults=("crash", *_SERVER), mends_log=False),
    Scope("quick: a window", log="ab", faults=("window", "crash")),
    Scope("quick: a rebuild", log="ab", faults=("rebuild", "crash", "insert throws")),
    Scope("quick: bad rows", log="avx", faults=("crash", "letters fail", "insert unanswered")),
    Scope("quick: made again", log="a", remade="b", faults=("recreate", "crash"), together=2),
)
