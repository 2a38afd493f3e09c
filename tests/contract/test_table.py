"""The table's contract: what the modelled ClickHouses assume, and the real one does.

Each test runs on all, through what the core asks for (`consumer.ports.Table`), and says once what
comes of it: on the simulation's model with its views in either order, on the exhaustive search's,
and on the engine behind the consumer's own adapter. So no model can drift from what it stands for.
(A window of seconds is left out: only replicated tables have one.)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consumer.commands import Isolated, Outcome, ReadFailed, Restored, Sifted, StampsRead
from consumer.ledger import ROWS_VERSION, Source
from schemas.apply import apply
from tests.contract.table_model import ModelServer
from tests.contract.table_port import (
    ANNOUNCED_MS,
    BAD,
    THROWN_ON,
    StoppedServer,
    TableServer,
    batch,
    coverage,
    covered,
    insert,
    months,
    named,
    once,
    stamps,
)
from tests.contract.table_real import RealServer, StoppableServer
from tests.contract.table_search import SearchServer
from tests.fixtures.clickhouse import ClickHouse, OwnClickHouse

SERVERS = ["model", "model-ledger-last", pytest.param("real", marks=pytest.mark.clickhouse)]
MINUTE_MS = 60_000  # more than what clocks are allowed to differ


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    clickhouse = ClickHouse(request.getfixturevalue("clickhouse_server"))
    apply(clickhouse.client("default"), clickhouse.database)
    yield RealServer(clickhouse)
    clickhouse.drop_database()
    clickhouse.close()


@pytest.fixture(params=["search", *SERVERS])
def server(request: pytest.FixtureRequest) -> TableServer:
    if request.param == "search":
        return SearchServer()
    if request.param != "real":
        return ModelServer(ledger_first=request.param == "model")
    found: RealServer = request.getfixturevalue("real")
    return found.fresh()


# The search's server has no batches of other Kafka partitions.
among_others = pytest.mark.parametrize("server", SERVERS, indirect=True)


@pytest.fixture(params=SERVERS)
def stopped(request: pytest.FixtureRequest) -> StoppedServer:
    """A server that may be stopped."""
    if request.param != "real":
        return ModelServer(ledger_first=request.param == "model")
    own: OwnClickHouse = request.getfixturevalue("own_clickhouse")
    apply(own.client("default"), own.database)
    found = StoppableServer(own)
    found.fresh()
    return found


# --- an insert, and its token --------------------------------------------------------------------


def test_an_insert_lands_once_and_its_token_changes_nothing_after_that(server: TableServer) -> None:
    made = batch(server, 0, "abab")
    assert insert(server, made).outcome is Outcome.LANDED
    before = covered(server)
    assert server.rows() == server.counted() == once(range(4))
    for _ in range(2):
        assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once(range(4))
    assert covered(server) == before


def test_a_token_is_known_by_its_text_and_not_by_its_rows(server: TableServer) -> None:
    made = batch(server, 0, "ab")
    insert(server, made)
    insert(server, batch(server, 5, "aa"), named(server, made))
    assert server.rows() == server.counted() == once((0, 1)), "other rows under a known token"
    insert(server, made, epoch=1)
    assert server.rows() == server.counted() == once((0, 1, 0, 1)), "the same rows under another"


def test_the_same_token_fills_only_the_clickhouse_partition_that_is_missing(
    server: TableServer,
) -> None:
    made = batch(server, 0, "abb")
    insert(server, made)
    server.lose_part("b")
    assert stamps(server, made).missing == months(server, "b")
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once(range(3))
    assert stamps(server, made).missing == frozenset()


def test_the_same_token_brings_up_a_view_that_lacks_it(server: TableServer) -> None:
    made = batch(server, 0, "abb")
    insert(server, made)
    server.lose_view()
    assert server.counted() == once(())
    insert(server, made)
    assert server.rows() == server.counted() == once(range(3))


def test_a_log_that_knows_what_is_not_there_answers_as_if_it_had_landed(
    server: TableServer,
) -> None:
    made = batch(server, 0, "ab")
    insert(server, made)
    server.lose_rows("b")
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == once((0,))
    assert stamps(server, made).missing == months(server, "b"), "only the stamps tell"


@among_others
@pytest.mark.parametrize(("later", "times"), [(29, 1), (30, 2)])
def test_a_window_of_30_knows_its_newest_30_entries(
    server: TableServer, later: int, times: int
) -> None:
    server.set_window(30)
    made = batch(server, 0, "aa")
    insert(server, made)
    server.others(later)
    assert coverage(server).window_entries == 30
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1) * times)


def test_an_insert_past_its_deadline_is_not_sent(server: TableServer) -> None:
    made = batch(server, 0, "ab")
    answer = server.table.insert(made, named(server, made), server.clock(), None)
    assert answer.outcome is Outcome.UNSENT
    assert server.rows() == once(())


def test_while_a_rebuild_holds_nothing_lands_and_after_it_the_same_does(
    server: TableServer,
) -> None:
    made = batch(server, 0, "ab")
    with server.holding():
        assert insert(server, made).outcome is Outcome.FAILED
        assert server.rows() == once(())
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1))


# --- inserts that arrive late --------------------------------------------------------------------


def test_a_late_insert_lands_when_nobody_expects_it(server: TableServer) -> None:
    made = batch(server, 0, "ab")
    late = server.begin(made, named(server, made))
    assert covered(server) == ()
    assert stamps(server, made).missing == months(server, "ab")
    assert late.arrive().outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1))


def test_a_late_insert_behind_its_replay_changes_nothing(server: TableServer) -> None:
    made = batch(server, 0, "ab")
    late = server.begin(made, named(server, made))
    assert insert(server, made).outcome is Outcome.LANDED
    assert late.arrive().outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1))


def test_a_late_insert_behind_another_epoch_doubles(server: TableServer) -> None:
    """What the wait is for."""
    made = batch(server, 0, "ab")
    late = server.begin(made, named(server, made))
    insert(server, made, epoch=1)
    assert late.arrive().outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1, 0, 1))


# --- what a table or a view cannot take ----------------------------------------------------------


def test_one_line_that_cannot_be_read_refuses_all_and_the_rest_lands_under_the_same_token(
    server: TableServer,
) -> None:
    made = batch(server, 10, "abab", "", BAD)
    refused = insert(server, made)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, True)
    assert server.rows() == server.counted() == once(())
    found = server.table.isolate(server.source, made, refused.why, None)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.line, each.value, each.in_table) for each in found.letters] == [
        (11, 0, server.line(11, "b", BAD), False)
    ]
    rest = made.without(found.letters)
    assert insert(server, rest, named(server, made)).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((10, 12, 13))
    assert stamps(server, rest).missing == frozenset()
    (batch_of_four,) = covered(server)
    assert (batch_of_four.expected_rows, batch_of_four.listed_rows) == (4, 3)
    assert not batch_of_four.complete


def test_before_any_attempt_only_what_cannot_be_read_is_isolated(server: TableServer) -> None:
    made = batch(server, 0, "abab", "", THROWN_ON, BAD)
    found = server.table.isolate(server.source, made, "", None)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.in_table) for each in found.letters] == [(2, False)]


def test_a_view_throws_when_the_table_has_landed(server: TableServer) -> None:
    server.throwing()
    made = batch(server, 0, "aabb", "", THROWN_ON)
    refused = insert(server, made)
    assert (refused.outcome, refused.untouched) == (Outcome.REFUSED, False)
    assert server.rows() == once(range(4))
    assert server.counted() == once(())
    (landed,) = covered(server)
    assert landed.stamped == months(server, "ab")
    # The ledger is a view too, and views come in any order.
    assert landed.listed in (frozenset(), months(server, "ab"))
    listed_first = bool(landed.listed)
    assert stamps(server, made).missing == frozenset()

    found = server.table.isolate(server.source, made, refused.why, 0)
    assert isinstance(found, Isolated)
    assert [(each.offset, each.in_table, each.clickhouse_partition) for each in found.letters] == [
        (1, True, server.names["a"])
    ]
    rest = made.without(found.letters)
    assert insert(server, rest, named(server, made)).outcome is Outcome.LANDED
    assert server.rows() == once(range(4)), "it stays in the table"
    assert server.counted() == once((0, 2, 3))
    (landed,) = covered(server)
    assert landed.listed == months(server, "ab")
    assert (landed.expected_rows, landed.listed_rows) == (4, 4 if listed_first else 3)

    server.takes_all()
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.counted() == once((0, 2, 3)), "the view knows the token: a replay brings nothing"


def test_a_view_that_takes_it_after_all_is_brought_up_by_the_replay(server: TableServer) -> None:
    server.throwing()
    made = batch(server, 0, "ab", THROWN_ON)
    assert insert(server, made).outcome is Outcome.REFUSED
    server.takes_all()
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1))
    (landed,) = covered(server)
    assert landed.complete


def test_a_row_that_the_view_refused_is_not_isolated_where_another_attempt_brought_it(
    server: TableServer,
) -> None:
    """Its letter would say that it is in the table by this attempt."""
    server.throwing()
    made = batch(server, 0, "ab", THROWN_ON)
    refused = insert(server, made)
    assert server.table.isolate(server.source, made, refused.why, 1) == Isolated(())
    assert server.table.isolate(server.source, made, refused.why, None) == Isolated(())


# --- coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["from the rows", "from the ledger"])
def test_coverage_is_what_ends_past_the_offset(server: TableServer, whole: bool) -> None:
    insert(server, batch(server, 0, "a"))
    insert(server, batch(server, 1, "aab"))
    insert(server, batch(server, 4, "b"), epoch=2)
    found = covered(server, 1, whole=whole)
    assert [
        (c.first, c.end, c.epoch, c.expected_rows, c.listed_rows, c.version, c.announced_ms)
        for c in found
    ] == [
        (1, 4, 0, 3, 3, ROWS_VERSION, ANNOUNCED_MS),
        (4, 5, 2, 1, 1, ROWS_VERSION, ANNOUNCED_MS),
    ]
    assert [c.listed for c in found] == [months(server, "ab"), months(server, "b")]
    assert [c.stamped for c in found] == [c.listed if whole else frozenset() for c in found]
    assert [c.complete for c in found] == [whole, whole]
    landed = [c.landed_ms for c in coverage(server, whole=whole).batches]
    assert all(abs(at_ms - server.now_ms()) < MINUTE_MS for at_ms in landed)
    assert covered(server, 4, whole=whole) == found[1:]
    assert covered(server, 5, whole=whole) == ()


@among_others
def test_another_partition_has_a_coverage_of_its_own(server: TableServer) -> None:
    insert(server, batch(server, 0, "ab"))
    ours = server.source
    other = Source(ours.cluster, ours.topic, ours.topic_id, ours.partition + 1)
    for whole in (True, False):
        read = server.table.coverage(other, 0, None, whole=whole)
        assert not isinstance(read, ReadFailed)
        assert read.coverage.batches == ()


def test_rows_that_the_ledger_lacks_are_seen_in_the_table_alone(server: TableServer) -> None:
    insert(server, batch(server, 0, "ab"))
    server.lose_ledger()
    assert covered(server, whole=False) == ()
    (found,) = covered(server)
    assert (found.first, found.end, found.epoch) == (0, 2, 0)
    assert found.stamped == months(server, "ab")
    assert (found.listed, found.listed_rows) == (frozenset(), 0)
    assert (found.expected_rows, found.version, found.announced_ms) == (None, None, None)
    assert not found.complete


def test_a_line_of_the_ledger_without_a_row_is_no_landing(server: TableServer) -> None:
    insert(server, batch(server, 0, "ab"))
    server.lose_rows("b")
    (found,) = covered(server)
    assert (found.stamped, found.listed) == (months(server, "a"), months(server, "ab"))
    assert not found.complete


@among_others
def test_entries_are_counted_of_all_partitions(server: TableServer) -> None:
    """One a batch and ClickHouse partition, since then or since the oldest batch."""
    before = coverage(server, 0, 0).entries_since
    server.others(7)
    insert(server, batch(server, 0, "aab"))
    insert(server, batch(server, 3, "b"))
    assert coverage(server, 0, 0).entries_since == before + 10
    assert coverage(server, 0, server.now_ms() + MINUTE_MS).entries_since == 0
    insert(server, batch(server, 4, "a"))
    assert coverage(server, 0, 0, whole=False).entries_since == before + 11
    assert coverage(server, 0, None).entries_since >= 4


def test_a_server_says_when_it_started_and_whether_its_log_can_lie(server: TableServer) -> None:
    said = coverage(server)
    assert said.server_started_ms < server.now_ms()
    assert said.window_seconds is None
    assert said.restart_keeps_log
    server.forget_log()
    assert not coverage(server).restart_keeps_log


# --- stamps --------------------------------------------------------------------------------------


def test_a_stamp_is_missing_where_the_batch_has_no_row(server: TableServer) -> None:
    made = batch(server, 0, "aab")
    assert stamps(server, made) == StampsRead(months(server, "ab"))
    insert(server, made)
    assert stamps(server, made) == StampsRead(frozenset())
    server.lose_rows("a")
    assert stamps(server, made) == StampsRead(months(server, "a"))


def test_ids_that_are_all_there_need_no_stamp(server: TableServer) -> None:
    """Whoever brought them: a batch of resends can lose its stamps to the rows before it."""
    insert(server, batch(server, 0, "ab"))
    assert stamps(server, batch(server, 0, "ab"), epoch=1) == StampsRead(frozenset())
    assert stamps(server, batch(server, 0, "abb"), epoch=1) == StampsRead(months(server, "b"))


def test_a_line_that_cannot_be_read_is_in_no_clickhouse_partition(server: TableServer) -> None:
    made = batch(server, 0, "ab", "", BAD)
    assert stamps(server, made) == StampsRead(months(server, "a"))


# --- a mend --------------------------------------------------------------------------------------


def test_sifted_by_clickhouse_partition(server: TableServer) -> None:
    made = batch(server, 3, "abab", "", "", BAD)
    some = server.table.sift(made, months(server, "b"), by_ids=False)
    assert isinstance(some, Sifted)
    assert some.missing is not None
    assert [offset for offset, _, _ in some.missing.origins()] == [3, 5]
    assert (some.missing.first, some.missing.end) == (3, 7)
    assert some.partitions == months(server, "ab")
    good = batch(server, 3, "abab")
    assert server.table.sift(good, months(server, "ab"), by_ids=False) == Sifted(
        None, months(server, "ab")
    )


def test_sifted_by_the_ids_that_are_in_the_table(server: TableServer) -> None:
    insert(server, batch(server, 0, "ab"))
    made = batch(server, 0, "abab", "", "", BAD)
    some = server.table.sift(made, months(server, "ab"), by_ids=True)
    assert isinstance(some, Sifted)
    assert some.missing is not None
    assert [offset for offset, _, _ in some.missing.origins()] == [2, 3]
    there = batch(server, 0, "ab")
    assert server.table.sift(there, frozenset(), by_ids=True) == Sifted(None, months(server, "ab"))


def restore(server: TableServer, first: int, end: int, parts: str) -> None:
    done = server.table.restore(server.source, first, end, months(server, parts), server.now_ms())
    assert done == Restored()


def test_a_restore_writes_the_lines_of_its_range_and_counts_the_rows_of_its_partitions(
    server: TableServer,
) -> None:
    insert(server, batch(server, 0, "aab"))
    insert(server, batch(server, 3, "ab"))
    server.lose_ledger()
    server.lose_view()
    restore(server, 3, 4, "b")
    assert [(c.first, c.listed) for c in covered(server)] == [
        (0, frozenset()),
        (3, months(server, "ab")),
    ]
    restored = covered(server)[1]
    # What its token said is gone with the lines: what is there may be a part of it.
    assert (restored.expected_rows, restored.listed_rows) == (None, 2)
    assert (restored.version, restored.announced_ms) == (None, None)
    assert not restored.complete
    assert server.counted() == once((2, 4))
    assert server.rows() == once(range(5))


def test_a_restore_goes_by_the_rows_that_are_there(server: TableServer) -> None:
    """Not by what was announced, nor by what a view had counted."""
    insert(server, batch(server, 0, "aab"))
    server.lose_rows("b")
    server.lose_ledger()
    restore(server, 0, 3, "ab")
    (found,) = covered(server)
    assert (found.stamped, found.listed) == (months(server, "a"), months(server, "a"))
    assert (found.listed_rows, found.expected_rows) == (2, None)
    assert server.rows() == server.counted() == once((0, 1))


def test_where_nothing_is_wrong_a_restore_changes_nothing(server: TableServer) -> None:
    made = batch(server, 0, "ab")
    insert(server, made)
    before = covered(server)
    restore(server, 0, 2, "ab")
    assert covered(server) == before
    assert server.rows() == server.counted() == once((0, 1))
    insert(server, made)
    assert server.rows() == server.counted() == once((0, 1)), "the view knows its tokens still"


def test_a_rebuild_counts_what_a_replay_then_counts_again_and_is_told(server: TableServer) -> None:
    made = batch(server, 0, "aab")
    insert(server, made)
    server.lose_view()
    began_ms = server.now_ms()
    restore(server, 0, 3, "a")
    assert server.counted() == once((0, 1))
    assert insert(server, made).outcome is Outcome.LANDED
    assert server.rows() == once(range(3))
    assert server.counted() == once((0, 0, 1, 1, 2)), "the view's log did not know it"
    assert stamps(server, made, 0, began_ms).rebuilt == months(server, "a")
    assert stamps(server, batch(server, 7, "b"), 0, began_ms).rebuilt == frozenset()
    assert stamps(server, made, 0, server.now_ms() + MINUTE_MS).rebuilt == frozenset()
    restore(server, 0, 3, "a")
    assert server.counted() == once(range(3))


# --- a server that goes away ---------------------------------------------------------------------


def test_a_server_that_is_away_and_comes_back(stopped: StoppedServer) -> None:
    server = stopped
    made = batch(server, 0, "ab")
    assert insert(server, made).outcome is Outcome.LANDED
    first_ms = server.now_ms()
    server.stop()
    assert insert(server, made).outcome is Outcome.UNSENT
    table, source = server.table, server.source
    away = [
        table.coverage(source, 0, None, whole=False),
        table.coverage(source, 0, None, whole=True),
        table.stamps(source, made, 0, 0),
        table.sift(made, frozenset(), by_ids=True),
        table.restore(source, 0, 2, months(server, "ab"), server.now_ms()),
    ]
    assert [type(answer) for answer in away] == [ReadFailed] * len(away)

    server.start()
    assert server.rows() == server.counted() == once((0, 1))
    said = coverage(server)
    assert said.restart_keeps_log
    assert said.server_started_ms >= first_ms - 1_000
    assert insert(server, made, since=first_ms).outcome is Outcome.LANDED
    assert server.rows() == server.counted() == once((0, 1)), "its log knows the token still"


def test_a_server_that_may_have_lost_some_of_its_log_says_so_of_attempts_before_its_start(
    server: TableServer,
) -> None:
    made = batch(server, 0, "ab")
    server.forget_log()
    started_ms = coverage(server).server_started_ms
    assert insert(server, made, since=started_ms - MINUTE_MS).outcome is Outcome.RESTARTED
    assert server.rows() == once(())
    assert insert(server, made, since=started_ms + MINUTE_MS).outcome is Outcome.LANDED
    assert server.rows() == once((0, 1))
