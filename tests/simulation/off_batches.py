"""The rules of a batch's way, switched off one by one: patches of the core that exist only here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from consumer import ledger as ledger_module
from consumer import partition as partition_module
from consumer import recovery as recovery_module
from consumer.assignment import Assignment
from consumer.batch import Filling
from consumer.commands import (
    Answer,
    Command,
    CommitAnswered,
    InsertAnswered,
    Isolate,
    Outcome,
    SendCommit,
    StampsRead,
    WriteLetters,
)
from consumer.flight import Now, Phase
from consumer.ledger import Intent, decode
from consumer.partition import Partition
from consumer.recovery import Commit
from consumer.share import BadShare


def insert_before_the_answer(patch: pytest.MonkeyPatch) -> None:
    """A batch is inserted as soon as its prepare is sent."""
    prepare = Partition._prepare

    def impatient(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        return [*prepare(self, batch, replay, now), *self._insert(now)]

    patch.setattr(Partition, "_prepare", impatient)


def replay_without_a_prepare(patch: pytest.MonkeyPatch) -> None:
    """What another owner announced is inserted at once: it was announced, after all."""
    prepare = Partition._prepare

    def trusting(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        commands = prepare(self, batch, replay, now)
        if replay is None:
            return commands
        self._sent = None
        return self._insert(now)

    patch.setattr(Partition, "_prepare", trusting)


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    insert = Partition._insert

    def late(self: Partition, now: Now) -> list[Command]:
        assert self._flight is not None
        self._flight.deadline = float("inf")
        return insert(self, now)

    patch.setattr(Partition, "_insert", late)


def deadline_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """The deadline counts from when the answer was taken, however long that lay around."""
    answered = Partition._answered

    def generous(self: Partition, event: CommitAnswered, now: Now) -> list[Command]:
        if self._flight is not None:
            self._flight.deadline = now.seconds + self._limits.insert_deadline_seconds
        return answered(self, event, now)

    patch.setattr(Partition, "_answered", generous)


def offset_outside_the_checksum(patch: pytest.MonkeyPatch) -> None:
    """A commit that a tool moved, metadata and all, is taken for one of ours."""
    checksum = ledger_module._checksum
    patch.setattr(ledger_module, "_checksum", lambda offset, text: checksum(0, text))


def forget_the_unanswered_commit(patch: pytest.MonkeyPatch) -> None:
    """A partition is given up while its commit is on the way."""
    patch.setattr(Partition, "outstanding", None)


def an_unknown_commit_counts_as_answered(patch: pytest.MonkeyPatch) -> None:
    """ "Nobody knows" is taken for "it was not applied" when the partition is given up."""
    settle = Partition._settle

    def sure(self: Partition, event: CommitAnswered) -> Any:
        sent = settle(self, event)
        if sent is not None:
            sent.answered = True
        return sent

    patch.setattr(Partition, "_settle", sure)


def a_replay_repeats_the_commit_word_for_word(patch: pytest.MonkeyPatch) -> None:
    """What an owner finds committed may then be its own commit, or the one that this repeats."""
    encode = ledger_module.encode

    def same(offset: int, note: Any) -> str:
        return encode(offset, replace(note, sent_ms=0) if isinstance(note, Intent) else note)

    patch.setattr(partition_module, "encode", same)


def guess_an_unknown_commit(patch: pytest.MonkeyPatch) -> None:
    """A commit whose outcome is unknown is sent again, and the member stays."""
    answered = Partition._answered

    def guessing(self: Partition, event: CommitAnswered, now: Now) -> list[Command]:
        if event.answer is Answer.LOST:
            event = CommitAnswered(event.metadata, Answer.TRY_AGAIN, event.why)
        return answered(self, event, now)

    patch.setattr(Partition, "_answered", guessing)


def believe_an_unclean_answer(patch: pytest.MonkeyPatch) -> None:
    """What is acknowledged after a failed attempt counts as landed, whatever the stamps say."""
    checked = Partition._checked

    def trusting(self: Partition, event: StampsRead, now: Now) -> list[Command]:
        return checked(self, replace(event, missing=frozenset()), now)

    patch.setattr(Partition, "_checked", trusting)


def believe_a_replay(patch: pytest.MonkeyPatch) -> None:
    """A replay that is acknowledged at its first try counts as landed."""
    prepare = Partition._prepare

    def trusting(self: Partition, batch: Any, replay: Any, now: Now) -> list[Command]:
        commands = prepare(self, batch, replay, now)
        if self._flight is not None:
            self._flight.unclean = False
            self._flight.first_attempt_ms = None
        return commands

    patch.setattr(Partition, "_prepare", trusting)


def take_a_failure_for_landed(patch: pytest.MonkeyPatch) -> None:
    inserted = Partition._inserted

    def hopeful(self: Partition, event: InsertAnswered, now: Now) -> list[Command]:
        if event.outcome is Outcome.FAILED:
            return self._landed(now)
        return inserted(self, event, now)

    patch.setattr(Partition, "_inserted", hopeful)


def commit_before_landing(patch: pytest.MonkeyPatch) -> None:
    """The end of a batch is committed along with its insert."""
    insert = Partition._insert

    def early(self: Partition, now: Now) -> list[Command]:
        commands = insert(self, now)
        if self.phase is not Phase.INSERTING:
            return commands
        assert self._flight is not None
        assert isinstance(self._flight.note, Intent)
        end = self._flight.note.end
        note = ledger_module.Open(0, 1, self.source.topic_id, now.ms)
        return [*commands, SendCommit(end, ledger_module.encode(end, note))]

    patch.setattr(Partition, "_insert", early)


def insert_without_the_topics_id(patch: pytest.MonkeyPatch) -> None:
    announce = Partition._announce

    def trusting(self: Partition, flight: Any, now: Now) -> list[Command]:
        flight.identified = True
        return announce(self, flight, now)

    patch.setattr(Partition, "_announce", trusting)


def any_topics_id_will_do(patch: pytest.MonkeyPatch) -> None:
    identified = Partition._identified

    def careless(self: Partition, topic_id: str, asked: str, now: Now) -> list[Command]:
        return identified(self, self.source.topic_id, asked, now)

    patch.setattr(Partition, "_identified", careless)


def a_commit_of_another_topic_is_ours(patch: pytest.MonkeyPatch) -> None:
    judge = recovery_module.judge

    def forgiving(commit: Commit, topic_id: str) -> Any:
        note = None if commit.offset is None else decode(commit.offset, commit.metadata)
        return judge(commit, topic_id if note is None else note.topic_id)

    patch.setattr(partition_module, "judge", forgiving)


def no_letters(patch: pytest.MonkeyPatch) -> None:
    """Bad lines are taken out, and told to nobody."""
    isolated = Partition._isolated

    def silent(self: Partition, letters: Any, now: Now) -> list[Command]:
        commands = isolated(self, letters, now)
        return self._set_aside(now) if self.phase is Phase.SETTING_ASIDE else commands

    patch.setattr(Partition, "_isolated", silent)


def letters_after_the_insert(patch: pytest.MonkeyPatch) -> None:
    """The rest of the batch is inserted first, and the letters are written along with its end."""
    no_letters(patch)
    landed = Partition._landed

    def late(self: Partition, now: Now) -> list[Command]:
        assert self._flight is not None
        letters = self._flight.letters
        return [*([WriteLetters(letters)] if letters else []), *landed(self, now)]

    patch.setattr(Partition, "_landed", late)


def a_bad_row_changes_the_token(patch: pytest.MonkeyPatch) -> None:
    """What is left of the batch is inserted as a batch of its own."""
    set_aside = Partition._set_aside

    def renamed(self: Partition, now: Now) -> list[Command]:
        flight = self._flight
        assert flight is not None
        assert flight.batch is not None
        assert self._writing is not None
        flight.batch = flight.batch.without(self._writing.letters)
        return set_aside(self, now)

    patch.setattr(Partition, "_set_aside", renamed)


def a_letter_is_not_looked_for_in_the_table(patch: pytest.MonkeyPatch) -> None:
    isolate = Partition._isolate

    def unaware(self: Partition, refusal: str, now: Now) -> list[Command]:
        return [
            replace(command, landed_epoch=None) if isinstance(command, Isolate) else command
            for command in isolate(self, refusal, now)
        ]

    patch.setattr(Partition, "_isolate", unaware)


def restore_beside_an_older_attempt(patch: pytest.MonkeyPatch) -> None:
    """A view threw, and another attempt under the same token may still be on its way."""
    set_aside = Partition._set_aside

    def at_once(self: Partition, now: Now) -> list[Command]:
        assert self._flight is not None
        self._flight.replayed = self._flight.unheard = False
        return set_aside(self, now)

    patch.setattr(Partition, "_set_aside", at_once)


def a_range_ends_at_its_last_record(patch: pytest.MonkeyPatch) -> None:
    """Not where the position is: behind it are only a transaction's markers."""
    add = Filling.add

    def short(self: Filling, records: Any, now: float) -> None:
        before = self.position
        add(self, records, now)
        self.position = records.offsets[-1] + 1 if records.offsets else before

    patch.setattr(Filling, "add", short)


def no_share_is_too_much(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BadShare, "exceeded", lambda self, rows, bad: "")


def no_checksum(patch: pytest.MonkeyPatch) -> None:
    """Metadata that was cut, hit or moved is taken for ours."""
    patch.setattr(ledger_module, "_checksum", lambda offset, text: "00000000")


def never_pause(patch: pytest.MonkeyPatch) -> None:
    """However much is held, every partition that wants records is fetched."""

    def greedy(self: Assignment) -> frozenset[int]:
        return frozenset(p.source.partition for p in self if p.wants_records or p.replaying)

    patch.setattr(Assignment, "fetched", greedy)


def what_is_in_flight_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Partition) -> int:
        filling = 0 if self._filling is None else self._filling.size_bytes
        return filling + sum(batch.size_bytes for batch, _ in self._ready)

    patch.setattr(Partition, "buffered_bytes", property(forgetful))


def what_waits_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Partition) -> int:
        filling = 0 if self._filling is None else self._filling.size_bytes
        batch = None if self._flight is None else self._flight.batch
        return filling + (0 if batch is None else batch.size_bytes)

    patch.setattr(Partition, "buffered_bytes", property(forgetful))


def replays_are_read_ahead_without_end(patch: pytest.MonkeyPatch) -> None:
    """A partition is never paused before all that it has to replay was read."""
    one_range: Any = vars(Partition)["replaying"]
    all_ranges = property(lambda self: one_range.fget(self) or bool(self._replays))
    patch.setattr(Partition, "replaying", all_ranges)
