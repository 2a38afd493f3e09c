"""How far a mend has come: which segments are still to be read, and what their views need.

A segment of which nothing landed may be long: it is read and inserted in pieces of a batch's size.
One that landed in part is no longer than the batches that cut it, and is always taken whole, so
that its stamp covers all of it.
"""

from __future__ import annotations

from collections import deque

from consumer.recovery import Mend, Segment


class Mending:
    """`touched`: ClickHouse partitions whose summed tables must be rebuilt at the end."""

    def __init__(self, mend: Mend) -> None:
        self.mend = mend
        self.touched: set[str] = set(mend.rebuild)
        self._segments = deque(mend.segments)
        self._position = self._segments[0].first if self._segments else mend.end

    @property
    def segment(self) -> Segment | None:
        """The one that is being read, None when all have been."""
        return self._segments[0] if self._segments else None

    @property
    def position(self) -> int:
        """Where the next piece begins."""
        return self._position

    def read_to(self, position: int) -> None:
        """All before `position` has been seen to."""
        self._position = position
        while self._segments and self._segments[0].end <= position:
            self._segments.popleft()
            if self._segments:
                self._position = self._segments[0].first
