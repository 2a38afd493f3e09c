"""A mutant: one rule of the protocol switched off, and the tests that must turn red for it.

Most are edits of a source text, which take place while a module is imported (see `switching`): what
is switched off is then seen in the very words of the code. An edit whose text is not there exactly
once is an error, so that a mutant cannot quietly come to nothing when the code moves on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """In the file `path` of the project, `old` (which is there once) gives way to `new`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """`hole`: its number in the protocol's table of holes, 0 for another rule of it. `off`: what is
    switched off. `tests`: pytest's names of tests, each of which must pass as it is and fail
    without the rule. `fails_with`: error types that count as a failure of the test, besides an
    assertion that does not hold and an error that was expected and did not come."""

    name: str
    hole: int
    off: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    fails_with: tuple[str, ...] = ()

    @property
    def holes(self) -> tuple[int, ...]:
        return (self.hole,) if self.hole else ()
