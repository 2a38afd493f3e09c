"""How long to wait before trying again: doubled each time, capped, and spread by a random part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits of `least_seconds`, twice that, ... up to `most_seconds`, each shortened by up to half.

    The random part keeps consumers that failed together from coming back together.
    """

    least_seconds: float = 0.1
    most_seconds: float = 10.0

    def seconds(self, attempt: int, chance: float) -> float:
        """The wait after failed attempt number `attempt` (from 1). `chance` is in [0, 1)."""
        whole = min(self.most_seconds, self.least_seconds * 2.0 ** min(attempt - 1, 60))
        return whole * (1 - chance / 2)
