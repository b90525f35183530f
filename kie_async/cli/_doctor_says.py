"""One finding of ``kie doctor``."""

from __future__ import annotations

from attrs import frozen

__all__ = ["Finding", "fail", "ok", "skip", "warn"]


@frozen
class Finding:
    """What was looked at, how it is, what was found, and what to do about it."""

    name: str
    state: str
    found: str
    next: str | None = None


def ok(name: str, found: str) -> Finding:
    """It is in order."""
    return Finding(name, "ok", found)


def skip(name: str, found: str) -> Finding:
    """It does not apply, or cannot be looked at."""
    return Finding(name, "skip", found)


def warn(name: str, found: str, step: str) -> Finding:
    """It works, and may not always."""
    return Finding(name, "warn", found, step)


def fail(name: str, found: str, step: str) -> Finding:
    """It does not work."""
    return Finding(name, "fail", found, step)
