"""How small the searched world is, and what may go wrong in it.

A scope is a log of a few records over two ClickHouse partitions, a number of consumers, what the
server is like, and the faults that may happen: in one schedule any of `faults`, `together` in all,
also one twice. So a search with two together has seen each fault once, and all pairs.

Times are seconds of a clock that only moves by `JUMP`: what passes without a jump takes no time at
all, so every order of events within one time is tried. Deadline and longest insert are one and a
half jumps: an insert can be sent after one jump, and outlive the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

JUMP = 2.0
DEADLINE_SECONDS = 3.0
MAX_SECONDS = 3.0
COMMIT_TIMEOUT_SECONDS = 1.0
JUMPS_PER_PAUSE = 3
WINDOW_ENTRIES = 20

GOOD, BAD, VIEW = "ab", "uxy", "vw"  # kinds of records

_BEFORE, _BEHIND = '{"at ', '"}'

FAULTS = {
    "rebalance": "the owner is asked to give the partition up, and does",
    "kick": "the owner's session times out while it lives on",
    "crash": "a consumer is killed; its membership lingers, and so does what it sent",
    "commit unknown": "a commit's connection breaks: it may be applied, later, or never",
    "commit unanswered": "a commit is applied and its answer never comes",
    "commit refused": "a commit is answered with 'try again', and applied or not",
    "leave lost": "the group does not hear that a member leaves",
    "insert unanswered": "the client gives up on an insert, the server goes on, as long as it may",
    "insert throws": "an insert stops where it is, with a passing error or a refusal",
    "server crash": "running inserts stop where they are, and the server is away",
    "restart": "the same, so quick that nobody sees it away",
    "read fails": "a read of the table gives no answer",
    "letters fail": "dead letters are not acknowledged, and written or not",
    "view mended": "the view takes what it could not",
    "reset": "the group is emptied, by crashes or by timeouts, and its offset moved",
    "trim": "the log loses records that have landed",
    "pause": f"{JUMPS_PER_PAUSE} times, time passes while nobody moves",
    "window": "time passes, and a part of the deduplication window: just more than its half",
    "stop": "a consumer is told to stop",
    "rebuild": "another rebuilds the view of a ClickHouse partition, and holds inserts for it",
    "recreate": "the topic is deleted and made again, with other records",
}  # fmt: skip


def line(record: str) -> bytes:
    """One object: another line would make its batch suspect."""
    return f"{_BEFORE}{record}{_BEHIND}".encode()


def record_of(text: bytes) -> str:
    return text.decode(errors="ignore")[len(_BEFORE) : -len(_BEHIND)]


@dataclass(frozen=True)
class Scope:
    """`log`: a letter a record. 'a', 'b': its ClickHouse partition; '.': a tombstone. Bad ones:
    'u' is not UTF-8; 'x' cannot be read, 'y' not be taken, by the table; 'v', 'w': the table takes
    it in 'a', in 'b', the view does not. `remade`: the log of a topic that is made again.
    `versions`: of each consumer's rows' rules. `fresh`: the group has never committed.
    `window_seconds` None: the deduplication window counts entries only; `window_part` of it passes
    in one fault. `foreign_alike`: commits that are not ours are one, whatever they say.
    """

    name: str
    log: str = "abab"
    remade: str = "ba"
    consumers: int = 2
    batch_rows: int = 2
    faults: tuple[str, ...] = ()
    together: int = 2
    mends_log: bool = True
    window_seconds: float | None = None
    versions: tuple[int, ...] = (1,)
    window_part: float = 0.51
    fresh: bool = False
    foreign_alike: bool = True
    resets_again: bool = False

    @property
    def logs(self) -> tuple[str, str]:
        return self.log, self.remade

    @property
    def has_bad(self) -> bool:
        return any(kind in BAD + VIEW for kind in self.log + self.remade)

    @property
    def window_part_entries(self) -> int:
        return ceil(WINDOW_ENTRIES * self.window_part)

    @property
    def oldest_ms(self) -> int:
        """How far back the wall's clock is looked at: not at all, where no attempt grows old."""
        if self.window_seconds is not None:
            return int(1200 * self.window_seconds)
        ages = not self.mends_log or "window" in self.faults or "rebuild" in self.faults
        return 1000 * (self.together + 1) if ages else 0
