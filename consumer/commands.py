"""What the core is told, and what it asks for: frozen values, nothing that acts.

Events are answers to commands. The runner carries commands out and brings the answers back; the
simulator does the same with modelled servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from consumer.batch import Batch
from consumer.recovery import Commit, Coverage

# --- events ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommitRead:
    commit: Commit


@dataclass(frozen=True, slots=True)
class CoverageRead:
    coverage: Coverage


class Answer(Enum):
    APPLIED = "applied"
    TRY_AGAIN = "try again"  # refused, or applied just now: never later; worth another try
    FENCED = "fenced"  # refused, certainly not applied: we are not a member any more
    LOST = "lost"  # nobody knows: it may still be applied, as long as we are a member


@dataclass(frozen=True, slots=True)
class CommitAnswered:
    metadata: str
    answer: Answer
    why: str = ""


class Outcome(Enum):
    LANDED = "landed"
    UNSENT = "unsent"  # nothing reached the server
    FAILED = "failed"  # an error, or no answer: it may have landed, in part or whole
    REFUSED = "refused"  # for its content
    RESTARTED = "restarted"  # the server was restarted and can no longer vouch for the token


@dataclass(frozen=True, slots=True)
class InsertAnswered:
    """`heard`: the server said this itself, so it is there, whatever it thinks of the insert."""

    outcome: Outcome
    why: str = ""
    heard: bool = False


@dataclass(frozen=True, slots=True)
class StampsRead:
    """`missing`: ClickHouse partitions that the batch maps to and that have no row of it."""

    missing: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """A read of commit, table or stamps gave no answer."""

    why: str


Event = CommitRead | CoverageRead | CommitAnswered | InsertAnswered | StampsRead | ReadFailed


# --- commands -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadCommit:
    pass


@dataclass(frozen=True, slots=True)
class ReadCoverage:
    """What is stamped with an end past `offset`. `whole`: from the rows, not from their index.
    `since_ms` (epoch milliseconds): count the ledger rows landed since, None: since the oldest."""

    offset: int
    since_ms: int | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read on from this offset."""

    offset: int


@dataclass(frozen=True, slots=True)
class SendCommit:
    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class SendInsert:
    """`deadline`: on the clock of `Now.seconds`, to be looked at right before the send.
    `first_attempt_ms`: no attempt was made before it, None on the batch's first attempt."""

    batch: Batch
    token: str
    deadline: float
    first_attempt_ms: int | None


@dataclass(frozen=True, slots=True)
class ReadStamps:
    batch: Batch
    epoch: int


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Leave the group and join it again as a new member."""

    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """A fact for metrics and logs; nothing to carry out."""

    what: str
    why: str = ""
    batch: Batch | None = None


Command = ReadCommit | ReadCoverage | Fetch | SendCommit | SendInsert | ReadStamps | Rejoin | Report
