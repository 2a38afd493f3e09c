"""Read by every Python at its start that has this folder on its path: it switches the rule off."""

from tests.mutants.switching import of_the_environment

of_the_environment()
