"""Reads Prometheus text: what a part says about itself on its admin port."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


def parse(text: str) -> Iterator[Sample]:
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match:
            labels = dict(_LABEL.findall(match[2] or ""))
            yield Sample(match[1], labels, float(match[3]))


def read(url: str, timeout_seconds: float = 1) -> list[Sample]:
    """All samples of a metrics page; OSError when it does not answer."""
    with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:  # noqa: S310
        return list(parse(reply.read().decode("utf-8", "replace")))


def total(url: str, name: str) -> float | None:
    """The sum of a metric over its labels; None when nobody answers."""
    try:
        return sum(sample.value for sample in read(url) if sample.name == name)
    except (OSError, ValueError):
        return None
