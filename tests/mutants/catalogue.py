"""All mutants but the simulation's, which are found where they are used (see `seeds`)."""

from __future__ import annotations

from tests.mutants import of_a_batch, of_the_core, of_the_servers
from tests.mutants.mutant import Mutant

HOLES = range(1, 25)

MUTANTS: tuple[Mutant, ...] = (
    *of_the_core.MUTANTS,
    *of_a_batch.MUTANTS,
    *of_the_servers.MUTANTS,
)
