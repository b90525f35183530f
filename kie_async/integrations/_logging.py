"""Events as log records, with their facts in ``extra`` for structured handlers."""

from __future__ import annotations

import logging

from attrs import asdict

from kie_async.instrumentation import (
    CreateInDoubt,
    DoubleSpend,
    Event,
    FileSaved,
    RequestRefused,
    RequestRetried,
    TaskChanged,
    TaskCreated,
    TaskOrphaned,
)

__all__ = ["LoggingHook"]

LEVELS: dict[type[Event], int] = {
    CreateInDoubt: logging.WARNING,
    DoubleSpend: logging.ERROR,
    FileSaved: logging.INFO,
    RequestRefused: logging.WARNING,
    RequestRetried: logging.INFO,
    TaskChanged: logging.INFO,
    TaskCreated: logging.INFO,
    TaskOrphaned: logging.WARNING,
}
"""What a person wants to see; everything else is DEBUG."""


class LoggingHook:
    """Writes each event to a logger: ``task_created task_id=… model=…``.

    The fields stand in the message and, as ``kie_event`` and ``kie_…``, in the record's
    ``extra``.  Nothing is formatted while the level is off.

    Args:
        logger: Where to; by default "kie_async.events".
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        """Write nothing yet."""
        self._logger = logger or logging.getLogger("kie_async.events")

    def __call__(self, event: Event) -> None:
        """Write one event."""
        level = LEVELS.get(type(event), logging.DEBUG)
        if not self._logger.isEnabledFor(level):
            return
        name = _snake(type(event).__name__)
        facts = {key: value for key, value in asdict(event).items() if value is not None}
        told = " ".join(f"{key}={_plain(value)}" for key, value in facts.items())
        extra = {f"kie_{key}": value for key, value in facts.items()}
        self._logger.log(level, "%s %s", name, told, extra={"kie_event": name, **extra})


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")


def _plain(value: object) -> str:
    """Write a value on one line: messages come from outside."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)
