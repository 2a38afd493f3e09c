"""How many of a partition's newest events are bad: a bad row is set aside, a broken deploy is not.

The window is the newest batches that together have at least so many rows. Before it is full nothing
is too much: the first row of a new topic may well be a bad one.
"""

from __future__ import annotations

from collections import deque


class BadShare:
    """`most`: the share (0 to 1) that may be bad. `window_rows`: of at least so many rows."""

    def __init__(self, most: float, window_rows: int) -> None:
        self._most = most
        self._window_rows = window_rows
        self._batches: deque[tuple[int, int]] = deque()
        self._rows = 0

    def add(self, rows: int, bad: int) -> None:
        """A batch is done: so many rows, bad ones among them."""
        self._batches.append((rows, bad))
        self._rows += rows
        while self._batches and self._rows - self._batches[0][0] >= self._window_rows:
            self._rows -= self._batches.popleft()[0]

    def exceeded(self, rows: int, bad: int) -> str:
        """Why it would be too much with this batch; empty if it would not."""
        for earlier_rows, earlier_bad in reversed(self._batches):
            if rows >= self._window_rows:  # older ones would hide what has begun since
                break
            rows, bad = rows + earlier_rows, bad + earlier_bad
        if rows < self._window_rows or bad <= rows * self._most:
            return ""
        return f"{bad} of the last {rows} events cannot be inserted, more than {self._most:.0%}"
