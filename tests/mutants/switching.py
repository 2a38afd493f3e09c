"""Switches a rule off in this process and in every Python process that it starts.

The name of the mutant stands in the environment. Its modules are compiled from the edited text when
they are imported, and nothing is written: neither to the sources nor to a bytecode cache. Children
get the same through a `sitecustomize` on their PYTHONPATH. A file that is no module (SQL) is edited
as it is read.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.mutants.mutant import Edit, Mutant

ROOT = Path(__file__).parents[2]
NAME = "SWITCHED_OFF"
REACHED = "SWITCHED_OFF_REACHED"  # a file that gets the path of each edited file that is loaded
_INTO_CHILDREN = Path(__file__).parent / "into_children"


class NotThere(Exception):
    """The text that a mutant would edit is not in the file, or is there more than once."""


def edited(path: str, text: str, edits: Sequence[Edit]) -> str:
    """The text with those of the edits that are of this file."""
    for edit in edits:
        if edit.path != path:
            continue
        if text.count(edit.old) != 1:
            raise NotThere(f"{path} has {text.count(edit.old)} times: {edit.old!r}")
        text = text.replace(edit.old, edit.new)
    return text


def switch_off(mutant: Mutant) -> None:
    """From here on what is imported, or read, is without the rule."""
    modules = {}
    texts = set()
    for edit in mutant.edits:
        if edit.path.endswith(".py"):
            name = edit.path.removesuffix(".py").replace("/", ".")
            if name in sys.modules:
                raise NotThere(f"{name} was imported before it could be edited")
            modules[name] = edit.path
        else:
            texts.add(ROOT / edit.path)
    sys.meta_path.insert(0, _Finder(modules, mutant.edits))
    if texts:
        _edit_reading(texts, mutant.edits)


def of_the_environment() -> None:
    """Switch off what the environment names, here and in the children."""
    name = os.environ.get(NAME)
    if not name:
        return
    from tests.mutants.catalogue import MUTANTS

    switch_off(next(mutant for mutant in MUTANTS if mutant.name == name))
    os.environ.update(environment_without(name))


def environment_without(name: str) -> dict[str, str]:
    """What a Python process has to find in its environment to run without that rule."""
    path = [str(_INTO_CHILDREN), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {NAME: name, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, path)))}


def _reached(path: str) -> None:
    if REACHED in os.environ:
        with Path(os.environ[REACHED]).open("a") as file:
            file.write(f"{path}\n")


class _Finder(MetaPathFinder):
    def __init__(self, modules: dict[str, str], edits: Sequence[Edit]) -> None:
        self._modules = modules
        self._edits = edits

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._modules[fullname], self._edits)
            spec.cached = None
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, origin: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(fullname, origin)
        self._path = path
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        text = edited(self._path, Path(self.path).read_text(encoding="utf-8"), self._edits)
        code: CodeType = compile(text, self.path, "exec", dont_inherit=True)
        _reached(self._path)
        return code


def _edit_reading(texts: set[Path], edits: Sequence[Edit]) -> None:
    read_text = Path.read_text

    def read(self: Path, *args: Any, **kind: Any) -> str:
        text = read_text(self, *args, **kind)
        if self in texts:
            path = str(self.relative_to(ROOT))
            text = edited(path, text, edits)
            _reached(path)
        return text

    setattr(Path, "read_text", read)  # noqa: B010 - mypy minds a method that is assigned
