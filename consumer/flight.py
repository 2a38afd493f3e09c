"""What `partition` is told, and what it keeps of the batch and the commit that are in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from consumer.batch import Batch, Letter
from consumer.ledger import Intent, Mark
from consumer.retry import Backoff


class Phase(Enum):
    """Values are what health and logs say."""

    PLANNING = "planning"
    WAITING = "waiting"
    READING = "reading"
    PREPARING = "preparing"
    INSERTING = "inserting"
    ISOLATING = "isolating"
    SETTING_ASIDE = "setting aside"
    BACKING_OFF = "backing off"
    CHECKING = "checking"
    COMMITTING = "committing"
    SIFTING = "sifting"
    RESTORING = "restoring"
    HALTED = "halted"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Limits:
    """What closes a batch, the deadlines, and how many bad events are too many. Seconds, bytes."""

    batch_rows: int
    batch_bytes: int
    insert_deadline_seconds: float
    insert_max_seconds: float
    commit_timeout_seconds: float
    bad_share: float = 0.1
    bad_window_rows: int = 1000
    retry: Backoff = field(default_factory=Backoff)
    refusal: Backoff = field(default_factory=lambda: Backoff(1.0, 60.0))


@dataclass(frozen=True, slots=True)
class Now:
    """`seconds`: a clock that runs through suspend. `ms`: epoch milliseconds. `chance`: [0, 1)."""

    seconds: float
    ms: int
    chance: float = 0.0


@dataclass(slots=True)
class Flight:
    """What is in flight, and what has been tried of it.

    `batch` is what was announced (None: only a commit, or a restore), `body` what is sent of it:
    without `letters`, the lines that were set aside. `read_rows`: the lines that it was taken from,
    more than its own where a mend left out what is in the table. `note` is what Kafka's commit says
    of it now, `named` what its token is made of: the intent also where a view threw on rows of it
    that are in the table, and its commit is a mark since.
    `identified`: the topic was seen to be the same since the batch was read. `unheard`: an attempt
    of it may be running that nobody will tell us the end of.
    """

    batch: Batch | None
    note: Intent | Mark | None
    body: Batch | None = None
    read_rows: int = 0
    replayed: bool = False
    identified: bool = False
    deadline: float = 0.0
    attempts: int = 0
    first_attempt_ms: int | None = None
    unclean: bool = False
    unheard: bool = False
    looked_through: bool = False
    refusal: str = ""
    letters: tuple[Letter, ...] = ()
    rebuilt: frozenset[str] = frozenset()
    intent: Intent | None = None

    @property
    def named(self) -> Intent | Mark:
        named = self.intent or self.note
        assert named is not None
        return named


@dataclass(slots=True)
class Sent:
    """The commit in flight. `first_at`: when it was first sent, tries included."""

    offset: int
    metadata: str
    first_at: float
    answered: bool = False
