"""What the core is told, and what it asks for: frozen values, nothing that acts.

Events are answers to commands. The runner carries commands out and brings the answers back; the
simulator does the same with modelled servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from consumer.batch import Batch, Letter
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
    """`heard`: the server said this itself, so it is there, whatever it thinks of the insert.
    `rows`: how many it parsed, None where it does not say. `untouched`: it refused the text before
    anything of it was written."""

    outcome: Outcome
    why: str = ""
    heard: bool = False
    rows: int | None = None
    untouched: bool = False


@dataclass(frozen=True, slots=True)
class StampsRead:
    """`missing`: ClickHouse partitions that the batch maps to and that have no row of it.
    `rebuilt`: those of which summed tables were rebuilt since the batch was announced: rows of it
    may have been counted there from the table, and once more by a view that landed after it."""

    missing: frozenset[str]
    rebuilt: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TopicRead:
    """The topic's id, heard after `asked` was prepared."""

    topic_id: str
    asked: str


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is missing of a range that was read again; None where nothing is. `partitions`: the
    ClickHouse partitions that its lines fall into."""

    missing: Batch | None
    partitions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Isolated:
    """The lines of the batch that cannot be inserted."""

    letters: tuple[Letter, ...]


@dataclass(frozen=True, slots=True)
class LettersWritten:
    """Kafka has acknowledged every dead letter of the batch."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Ledger, sessions and summed tables are again what the table says."""


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """Something that was asked for (but an insert or a commit) was not done. It may be tried
    again. `spent`: it was tried for as long as it may, and the servers were there."""

    why: str
    spent: bool = False


Event = (
    CommitRead
    | CoverageRead
    | CommitAnswered
    | InsertAnswered
    | StampsRead
    | TopicRead
    | Sifted
    | Isolated
    | LettersWritten
    | Restored
    | ReadFailed
)


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
    """`batch` is what is sent, without bad rows; the token names what was announced.
    `deadline`: on the clock of `Now.seconds`, to be looked at right before the send.
    `first_attempt_ms`: no attempt was made before it, None on the batch's first attempt."""

    batch: Batch
    token: str
    deadline: float
    first_attempt_ms: int | None


@dataclass(frozen=True, slots=True)
class ReadStamps:
    """`since_ms`: when the batch was announced first, epoch milliseconds."""

    batch: Batch
    epoch: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class ReadTopic:
    """Ask for the topic's id until there is an answer: only records that were read before it are
    surely its own. `asked`: the metadata of the prepare that it goes with."""

    asked: str


@dataclass(frozen=True, slots=True)
class Sift:
    """Leave of a range that was read again what is missing: the lines that do not fall into the
    ClickHouse partitions `landed`; with `by_ids` those whose id is not in the table."""

    batch: Batch
    landed: frozenset[str]
    by_ids: bool


@dataclass(frozen=True, slots=True)
class Isolate:
    """Find the lines that cannot be inserted. `refusal`: what ClickHouse said, empty before any
    attempt; `landed_epoch`: the stamp under which they may be in the table, None where they
    cannot."""

    batch: Batch
    refusal: str
    landed_epoch: int | None


@dataclass(frozen=True, slots=True)
class WriteLetters:
    letters: tuple[Letter, ...]


@dataclass(frozen=True, slots=True)
class Restore:
    """From the table's rows of `[first, end)`: write what lines the ledger lacks, add their part of
    the sessions once more, and rebuild the summed tables of these ClickHouse partitions."""

    first: int
    end: int
    partitions: frozenset[str]


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


Command = (
    ReadCommit
    | ReadCoverage
    | ReadStamps
    | ReadTopic
    | Fetch
    | SendCommit
    | SendInsert
    | Sift
    | Isolate
    | WriteLetters
    | Restore
    | Rejoin
    | Report
)
