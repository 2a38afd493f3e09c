"""What ClickHouse's error codes say of the next try, and of what was sent."""

from __future__ import annotations

from clickhouse_connect.driver.exceptions import DatabaseError

TOO_MANY_PARTS = 252  # also "too many partitions for a single block", which no retry heals
# The server is overloaded, restarting or out of something.
_OVERLOADED = frozenset(
    {3, 74, 75, 76, 107, 159, 173, 198, 202, 203, 209, 210, 225, 236, 241, 242, 243, 279, 285,
     TOO_MANY_PARTS, 319, 373, 394, 425, 439, 473, 499, 999}
)  # fmt: skip
NO_DATABASE = 81
UNKNOWN_SETTING = 115  # of those that are pinned: the server was replaced by an older one
# Something is not as it should be, and a person has to mend that: a right, a table, a database.
_ASTRAY = frozenset({60, NO_DATABASE, 164, 497, 516, UNKNOWN_SETTING})
PASSING = _OVERLOADED | _ASTRAY

REFUSED_BY_A_CONSTRAINT = 469  # also by a rebuild's hold, for a moment
# A line could not be read, or breaks a rule of the landing table.
UNREADABLE = frozenset(
    {6, 25, 26, 27, 33, 38, 41, 53, 69, 72, 117, 130, 131, 376, 407, 467, 563, 675, 676, 691}
    | {REFUSED_BY_A_CONSTRAINT}
)


def unanswered(error: DatabaseError) -> bool:
    """It says nothing of the question: the server is away, or overloaded. What is only too long for
    something in between is the question's fault."""
    if error.code is None:
        return "status 413" not in str(error)
    return error.code in _OVERLOADED
