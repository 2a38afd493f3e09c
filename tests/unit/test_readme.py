"""The README's settings table is what the code has. UPDATE_README=1 writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from schemas.settings import PREFIX, SETTINGS, Setting

_README = Path(__file__).parents[2] / "README.md"
_BEGIN = "<!-- settings: made by tests/unit/test_readme.py -->\n"
_END = "<!-- /settings -->"


def _row(setting: Setting) -> str:
    default = setting.default
    for program, other in setting.other_defaults:
        default += f" ({program}: {other})"
    meaning = setting.meaning
    if setting.choices:
        meaning += f" ({', '.join(setting.choices)})"
    readers = ", ".join(setting.programs)
    return f"| `{PREFIX}{setting.name}` | {readers} | `{default}` | {meaning} |\n"


def _table() -> str:
    head = "| name | read by | default | what |\n|---|---|---|---|\n"
    return head + "".join(map(_row, SETTINGS))


def test_settings_table_is_what_the_code_has() -> None:
    text = _README.read_text(encoding="utf-8")
    before, found, after = re.split(f"({_BEGIN})", text)
    table, end, rest = after.partition(_END)
    assert end, "the table's end mark is missing"
    if os.environ.get("UPDATE_README"):
        _README.write_text(before + found + _table() + end + rest, encoding="utf-8")
        return
    assert table == _table(), "UPDATE_README=1 pytest tests/unit/test_readme.py writes it anew"
