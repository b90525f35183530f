"""Procrastinate's way to the server, through connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException

from kie_async.postgres import AWAY

__all__ = ["PatientConnector"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds: as long as the journal's records wait."""
LONGEST = 2.0

_ENTER = """
INSERT INTO procrastinate_workers (id) OVERRIDING SYSTEM VALUE VALUES (%(worker_id)s)
ON CONFLICT DO NOTHING
"""


class PatientConnector(procrastinate.PsycopgConnector):
    """Asks again when a connection has broken.

    Left to itself the engine would then take no further item before each one that it has
    in hand has ended, which may be an hour; and the end of an item would stay unwritten.
    The same happens to one that was asleep with its machine: others strike it off the list
    of workers, and then it may take nothing.
    """

    giving_up: Callable[[], bool] = staticmethod(lambda: False)
    """Returns True when nothing is worth waiting for any more."""

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        """Ask for nothing but an effect."""
        ask = super().execute_query_async
        await self._patiently(lambda: ask(query, **arguments), effect=True)

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        """Ask for a row."""
        row: dict[str, Any] | None = await self._patiently(
            lambda: self._as_living(query, arguments)
        )
        assert row is not None  # noqa: S101 - reason: for the type checker
        return row

    async def _as_living(self, query: Any, arguments: dict[str, Any]) -> Any:
        """Ask, and enter this worker again if it was taken for dead meanwhile."""
        ask, tell = super().execute_query_one_async, super().execute_query_async
        try:
            return await ask(query, **arguments)
        except ConnectorException as error:
            struck_off = isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation)
            if not struck_off or "worker_id" not in arguments:
                raise
        await tell(_ENTER, worker_id=arguments["worker_id"])
        return await ask(query, **arguments)

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
        """Ask for rows."""
        ask = super().execute_query_all_async
        return await self._patiently(lambda: ask(query, **arguments)) or []

    async def _patiently(
        self, ask: Callable[[], Awaitable[T]], *, effect: bool = False
    ) -> T | None:
        clock = asyncio.get_running_loop().time
        until, pause, lost = clock() + PATIENCE, 0.05, False
        while True:
            try:
                return await ask()
            except ConnectorException as error:
                if lost and effect and isinstance(error.__cause__, psycopg.errors.RaiseException):
                    return None  # it had its effect already: only the answer was lost
                if not isinstance(error.__cause__, AWAY) or self.giving_up() or clock() > until:
                    raise
            lost = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST)
