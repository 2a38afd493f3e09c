"""The dead letters' contract: what the simulation assumes, and a topic of Apache Kafka does.

Each test runs on both, on the real one through the consumer's own adapter and the reader of the
`dead-letters` command. (What a letter's record is, and what a failure says, is in
`tests/integration/consumer/test_dead_letters.py`.)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.local.waiting import wait_until
from tests.contract.letters_model import ModelLetters
from tests.contract.letters_port import LARGE, LetterServer, There, letter
from tests.contract.letters_real import RealLetters
from tests.fixtures.kafka import Kafka

_MODELS = {"model: none of what fails": 0.0, "model: some": 0.5, "model: all": 0.99}


@pytest.fixture(params=[*_MODELS, pytest.param("real", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest) -> Iterator[LetterServer]:
    if request.param != "real":
        yield ModelLetters(_MODELS[request.param])
        return
    kafka: Kafka = request.getfixturevalue("kafka")
    found = RealLetters(kafka)
    yield found
    found.close()


def test_what_is_acknowledged_is_there_in_its_order(server: LetterServer) -> None:
    source = server.source()
    assert server.there() == []
    assert server.write(source, [letter(3), letter(1), letter(1, line=2)]) is None
    assert server.write(source, [letter(2)]) is None
    assert server.there() == [
        There(0, 0, 3, 0), There(0, 0, 1, 0), There(0, 0, 1, 2), There(0, 0, 2, 0),
    ]  # fmt: skip


def test_a_repeat_is_the_same_letter(server: LetterServer) -> None:
    source = server.source()
    for _ in range(2):
        assert server.write(source, [letter(1), letter(2)]) is None
    assert server.there() == [There(0, 0, 1, 0), There(0, 0, 2, 0)]


def test_a_letter_is_told_by_its_topics_id_its_partition_its_offset_and_its_line(
    server: LetterServer,
) -> None:
    for topic in range(2):
        for partition in range(2):
            source = server.source(partition, topic)
            assert server.write(source, [letter(1), letter(1, line=1), letter(2)]) is None
    assert sorted(server.there()) == [
        There(topic, partition, *place)
        for topic in range(2)
        for partition in range(2)
        for place in ((1, 0), (1, 1), (2, 0))
    ]


@pytest.mark.parametrize("copies", [(False, True), (True, False)])
def test_a_letter_is_in_the_table_where_any_copy_says_so(
    server: LetterServer, copies: tuple[bool, bool]
) -> None:
    for in_table in copies:
        assert server.write(server.source(), [letter(1, in_table=in_table), letter(2)]) is None
    assert sorted(server.there()) == [There(0, 0, 1, 0, in_table=True), There(0, 0, 2, 0)]


def test_of_a_write_that_fails_some_may_be_there_and_a_repeat_brings_all(
    server: LetterServer,
) -> None:
    made = [letter(1), letter(2, value=LARGE), letter(3)]
    wanted = [There(0, 0, each.offset, 0) for each in made]
    assert server.write(server.source(), [letter(0)]) is None
    with server.refusing_large():
        assert server.write(server.source(), made) is not None, "never taken for done"
        first, *others = sorted(server.there())
        assert first == There(0, 0, 0, 0)
        assert set(others) <= set(wanted)
    assert server.write(server.source(), made) is None
    assert sorted(server.there()) == [first, *wanted]


def test_without_a_topic_nothing_is_written_unnoticed(server: LetterServer) -> None:
    """And a topic that is there again is found again, under the writer that knew the other."""
    made = [letter(1), letter(2)]
    with server.missing():
        assert server.write(server.source(), made) is not None
    wait_until(lambda: server.write(server.source(), made) is None, 60, "the topic is found again")
    assert sorted(server.there()) == [There(0, 0, 1, 0), There(0, 0, 2, 0)]
