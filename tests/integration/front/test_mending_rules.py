"""What the mending of deduplication logs keeps and drops, on folders written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.local.front.mending import Mending, Part, ProvenEntries, parse_part

TABLE = "store/abc/abc00000-0000-0000-0000-000000000000"


class Folder:
    """An engine's folder with one table: its parts, and its logs by number."""

    def __init__(self, root: Path) -> None:
        self.engine, self.record = root / "clickhouse", root / "proven.json"
        self.table = self.engine / TABLE
        (self.table / "deduplication_logs").mkdir(parents=True)
        (self.table / "detached").mkdir()

    def parts(self, *names: str) -> None:
        for name in names:
            (self.table / name).mkdir(parents=True)

    def file(self, number: int = 1) -> Path:
        return self.table / "deduplication_logs" / f"deduplication_log_{number}.txt"

    def log(self, text: str, number: int = 1) -> None:
        self.file(number).write_text(text)

    def entries(self) -> ProvenEntries:
        return ProvenEntries(self.engine, self.record)

    def mend(self) -> Mending:
        return self.entries().mend()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def add(part: str, block: str = "") -> str:
    return f"1\t{part}\t{block or part}_hash\n"


def drop(part: str, block: str = "") -> str:
    return f"2\t{part}\t{block or part}_hash\n"


@pytest.mark.parametrize(
    "on_disk",
    [
        "202610_5_5_0",  # itself
        "202610_3_9_1",  # merged
        "202610_5_5_0_12",  # mutated
        "202610_3_9_2_12",  # both
    ],
)
def test_an_entry_stands_by_its_part_or_one_that_covers_it(folder: Folder, on_disk: str) -> None:
    folder.parts(on_disk)
    folder.log(add("202610_5_5_0"))
    assert folder.mend() == Mending(1, 0, 0, 0)
    assert folder.file().read_text() == add("202610_5_5_0")


@pytest.mark.parametrize(
    "on_disk",
    [
        "202611_5_5_0",  # another partition
        "202610_6_9_1",  # other blocks
        "tmp_insert_202610_5_5_0",  # never renamed
        "detached/202610_5_5_0",  # not the table's
        "delete_tmp_202610_5_5_0",
    ],
)
def test_an_entry_without_its_part_goes(folder: Folder, on_disk: str) -> None:
    folder.parts(on_disk, "202610_1_1_0")
    folder.log(add("202610_1_1_0") + add("202610_5_5_0"))
    assert folder.mend() == Mending(1, 1, 0, 0)
    assert folder.file().read_text() == add("202610_1_1_0")


def test_drops_and_what_they_undo_stay(folder: Folder) -> None:
    folder.parts("202610_7_7_0")
    text = add("202610_5_5_0", "b") + drop("202610_5_5_0", "b") + add("202610_7_7_0", "b")
    folder.log(text)
    assert folder.mend() == Mending(1, 0, 0, 0)
    assert folder.file().read_text() == text


def test_a_drop_undoes_an_entry_of_an_older_file(folder: Folder) -> None:
    folder.log(add("202610_5_5_0"), 9)
    folder.log(drop("202610_5_5_0") + add("202610_6_6_0"), 10)
    assert folder.mend() == Mending(2, 1, 0, 0)
    assert folder.file(9).read_text() == add("202610_5_5_0")
    assert folder.file(10).read_text() == drop("202610_5_5_0")


@pytest.mark.parametrize("torn", ["1", "1\t202610_6", "1\t202610_6_6_0\t202610_ha"])
def test_a_torn_last_line_goes(folder: Folder, torn: str) -> None:
    """Left there, the next line would be glued to it, and the engine would stop reading."""
    folder.parts("202610_5_5_0", "202610_6_6_0")
    folder.log(add("202610_5_5_0") + torn)
    assert folder.mend() == Mending(1, 0, 1, 0)
    assert folder.file().read_text() == add("202610_5_5_0")


@pytest.mark.parametrize("strange", ["3\t202610_5_5_0\tb\n", "1\tnopart\tb\n", "\n", "1\ta\n"])
def test_a_log_in_another_form_is_left_alone(folder: Folder, strange: str) -> None:
    text = add("202610_5_5_0") + strange
    folder.log(text)
    assert folder.mend() == Mending(1, 0, 0, 1)
    assert folder.file().read_text() == text


def test_a_proven_entry_stands_when_its_part_is_gone_for_good_reason(folder: Folder) -> None:
    """REPLACE PARTITION and MOVE PARTITION leave no drop line; their tokens must stay taken."""
    folder.parts("202610_5_5_0")
    folder.log(add("202610_5_5_0"))
    folder.entries().look()
    (folder.table / "202610_5_5_0").rmdir()
    folder.log(add("202610_5_5_0") + add("202610_6_6_0"))
    assert folder.mend() == Mending(1, 1, 0, 0)
    assert folder.file().read_text() == add("202610_5_5_0")
    assert folder.mend() == Mending(1, 0, 0, 0), "what was kept once is kept for ever"


def test_an_entry_whose_part_was_not_seen_yet_is_not_proven(folder: Folder) -> None:
    folder.parts("202610_6_6_0")
    folder.log(add("202610_5_5_0") + add("202610_6_6_0"))
    folder.entries().look()
    assert folder.mend() == Mending(1, 1, 0, 0)
    assert folder.file().read_text() == add("202610_6_6_0")


def test_an_entry_is_proven_by_a_later_look(folder: Folder) -> None:
    folder.log(add("202610_5_5_0"))
    entries = folder.entries()
    entries.look()
    folder.parts("202610_5_5_0")
    entries.look()
    (folder.table / "202610_5_5_0").rmdir()
    assert folder.mend().dropped_entries == 0


@pytest.mark.parametrize("record", ["", "[]", "{", '{"x": 1}', '{"x": {"bytes": "y"}}'])
def test_a_damaged_record_proves_nothing(folder: Folder, record: str) -> None:
    folder.log(add("202610_5_5_0"))
    folder.record.write_text(record)
    assert folder.mend().dropped_entries == 1


def test_a_record_longer_than_the_log_proves_nothing(folder: Folder) -> None:
    folder.log(add("202610_5_5_0"))
    name = f"{TABLE}/deduplication_logs/deduplication_log_1.txt"
    folder.record.write_text(json.dumps({name: {"bytes": 9999, "unproven": []}}))
    assert folder.mend().dropped_entries == 1


def test_part_names() -> None:
    assert parse_part("202610_1_3_2") == Part("202610", 1, 3, 2, 0)
    assert parse_part("all_1_3_2_7") == Part("all", 1, 3, 2, 7)
    for name in ("tmp_insert_202610_1_1_0", "detached", "202610_1_1", "_1_1_0", "a_1_x_0"):
        assert parse_part(name) is None
