"""The version that logs, metrics and the record of migrations name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def penstock_version() -> str:
    """The installed package's version; "unknown" in a tree that was never installed."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "unknown"
