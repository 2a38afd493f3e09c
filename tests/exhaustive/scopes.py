"""The scopes that a full run searches. Together: each fault once, and in every pair, twice the same
too (`unpaired` says which pairs are in no scope), and more where it is cheap.

What a reset, a pause or a new topic adds to a world is much, and most of it is the same for any
log: so wide sets of faults have a short log, and long logs have few faults.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

from tests.exhaustive.scope import FAULTS, Scope

_PASSING = (
    "rebalance", "kick", "crash", "commit unknown", "commit unanswered", "commit refused",
    "leave lost", "insert unanswered", "insert throws", "server crash", "restart", "read fails",
    "stop",
)  # fmt: skip
_GROUP = ("rebalance", "kick", "crash", "commit unknown", "leave lost", "insert unanswered")
_WINDOW = ("window", "crash", "insert unanswered", "restart")
_SERVER = ("insert unanswered", "insert throws", "server crash", "restart")
_RARE = ("reset", "trim", "pause", "window", "rebuild")
_BAD = ("letters fail", "view mended")

SCOPES = (
    Scope("everyday", faults=_PASSING),
    Scope("bad rows", log="avx", faults=(*_PASSING, *_BAD)),
    Scope("a reset", log="aba", faults=(*_PASSING, "trim", "window", "reset")),
    Scope("pauses", log="aba", faults=(*_PASSING, "pause")),
    Scope("made again", log="a", remade="b", faults=(*_PASSING, "recreate")),
    Scope("rebuilds", log="ab", faults=(*_PASSING, "rebuild")),
    Scope("rare faults", log="ab", faults=_RARE),
    Scope("bad rows and rare faults", log="v", faults=(*_BAD, *_RARE)),
    Scope(
        "made again and rare faults", log="v", remade="w",
        faults=("recreate", *_BAD, "reset", "trim", "window", "rebuild"),
    ),
    Scope("made again, and a pause", log="a", remade="b", faults=("recreate", "pause")),
    Scope("three consumers", log="aba", consumers=3, faults=_GROUP),
    Scope("six records", log="ababab", faults=("rebalance", "crash", "commit unknown", *_SERVER)),
    Scope("three faults of the group", log="ab", faults=_GROUP, together=3),
    Scope("kinds of bad rows", log="xvuwy.", faults=("crash", "letters fail"), together=1),
    Scope("kinds of foreign commits", faults=("reset",), together=1, foreign_alike=False),
    Scope("two resets", log="ab", faults=("reset",), resets_again=True),
    Scope("a longer topic made again", log="aba", remade="bab", faults=("recreate",), together=1),
    Scope("the log lies", log="aba", faults=("rebalance", "crash", *_SERVER), mends_log=False),
    Scope(
        "bad rows, and the log lies", log="vy", faults=("crash", *_SERVER, *_BAD), mends_log=False
    ),
    Scope("window of entries", log="ab", faults=_WINDOW, together=3),
    Scope("window of time", log="ab", faults=_WINDOW, together=3, window_seconds=600.0),
    Scope(
        "part of a window", log="a", consumers=1, faults=("window", "crash"), together=6,
        window_part=0.4,
    ),
    Scope("two versions", log="aba", versions=(1, 2), faults=("kick", "crash", *_SERVER)),
    Scope("a group that is new", fresh=True, faults=_GROUP),
    Scope("tombstones", log="a.b.", faults=("rebalance", "crash", "commit refused", "trim")),
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
    Scope("quick: a late insert", log="v", faults=("rebalance", "view mended")),
    Scope("quick: made again", log="a", remade="b", faults=("recreate", "crash")),
)


def unpaired(scopes: tuple[Scope, ...]) -> list[tuple[str, str]]:
    """The pairs of faults, and faults twice, that none of the scopes has together."""
    together = {
        frozenset(pair)
        for scope in scopes
        if scope.together >= 2
        for pair in combinations_with_replacement(scope.faults, 2)
    }
    return [
        pair for pair in combinations_with_replacement(FAULTS, 2) if frozenset(pair) not in together
    ]
