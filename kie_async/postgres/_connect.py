"""Connections to PostgreSQL: where they go, how long they wait, what their errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kie_async.errors import JournalError, KieError, StorageFullError, UsageError

__all__ = ["AWAY", "HASTY", "Place", "in_line", "lost", "wait_for_locks"]

AWAY = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a server raises that is away, going away, or coming up."""

# A server that has vanished is noticed within seconds and not after TCP's quarter of an hour.
_SETTINGS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
    "application_name": "kie_async",
    "client_encoding": "utf8",
}

IDLE = 5.0
"""Seconds in which a record is written once it has begun.  One whose process was stopped in
the middle would hold up everybody else: the server ends it, and it is written again."""

HELD = 10.0
"""Seconds to wait for a row that another program holds: somebody's psql.  All records of this
process wait behind it, its signs of life too.  Longer than `IDLE`, by which ours let go."""

HASTY = 0.25
"""The same for records that have waited so long already beside another one."""

IN_LINE = 120.0
"""Seconds to wait where many of ours queue with work of seconds: planning a long list."""

ABSENT = 5.0
"""Seconds in which a server that restarts may not even answer.  One that is not there at
all is no reason to let a person wait for longer."""

_FULL = ("53100", "53200")  # disk full, out of memory


class Place:
    """A database, and the schema of a run in it.  Its password shows up nowhere.

    Args:
        url: ``postgresql://user@host/database``, or any libpq connection string.
        schema: The schema that holds the tables.

    Raises:
        UsageError: *url* is no connection string.
    """

    def __init__(self, url: str, schema: str) -> None:
        try:
            known = conninfo_to_dict(url)
        except psycopg.Error:
            raise UsageError(
                "this is no PostgreSQL address: it looks like postgresql://user@host/database"
            ) from None
        self._conninfo = make_conninfo(**{**_SETTINGS, **known})
        self.schema = schema
        where = known.get("host") or known.get("hostaddr") or "this machine"
        self.name = f"postgresql {known.get('dbname') or ''}@{where}, {schema}".replace(" @", " ")

    def __repr__(self) -> str:
        """Say where it is, without the password."""
        return f"<Place {self.name}>"

    @property
    def settings(self) -> dict[str, Any]:
        """What psycopg is to be told, as a dict; it holds the password."""
        return conninfo_to_dict(self._conninfo)

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection that commits each statement, unless told otherwise.

        Raises:
            psycopg.Error: The server is away, or refuses.
        """
        conn = psycopg.connect(self._conninfo, autocommit=True)
        try:
            conn.execute(
                sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema)),
            )
            conn.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, false)",
                (_ms(IDLE),),
            )
            conn.execute("SELECT set_config('lock_timeout', %s, false)", (_ms(HELD),))
            found = conn.execute("SHOW synchronous_commit").fetchone()
            if found == ("off",):  # a record that has returned must survive a crash
                conn.execute("SET synchronous_commit TO on")
        except BaseException:
            conn.close()
            raise
        return conn

    def patience(self, refused: int, longest: float) -> tuple[float, int]:
        """Ask how long a server that refuses us is worth waiting for, *longest* at most.

        Returns:
            Seconds since the first attempt, and how often a server that takes connections
            has refused ours, one after the other.
        """
        said = psycopg.pq.PGconn.ping(self._conninfo.encode())
        if said == psycopg.pq.Ping.REJECT:  # it starts, or ends
            return longest, 0
        if said == psycopg.pq.Ping.NO_RESPONSE:
            return min(longest, ABSENT), 0
        if said == psycopg.pq.Ping.OK and not refused:  # it may have started this moment
            return longest, 1
        return 0.0, refused + 1

    def error(self, exc: Exception) -> KieError:
        """Return what an error of the database means here."""
        if not isinstance(exc, psycopg.Error):
            return JournalError(f"{self.name}: {type(exc).__name__}: {exc}")
        said = " ".join(str(exc).split())
        if exc.sqlstate in _FULL:
            return StorageFullError(f"{self.name}: no room to write ({said}); free some, go on")
        if isinstance(exc, psycopg.errors.LockNotAvailable):  # to psycopg it is one of `AWAY`
            return JournalError(
                f"{self.name}: another program holds what this needs ({said})", retryable=True
            )
        if isinstance(exc, AWAY):
            return JournalError(f"{self.name} cannot be reached: {said}", retryable=True)
        return JournalError(f"{self.name}: {said}")


def wait_for_locks(conn: psycopg.Connection[Any], seconds: float) -> None:
    """Wait so long for each lock, until the end of the transaction."""
    conn.execute("SELECT set_config('lock_timeout', %s, true)", (_ms(seconds),))


@contextlib.contextmanager
def in_line(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Wait longer for the locks in here: many of ours queue for them, with work of seconds."""
    before = conn.execute("SELECT current_setting('lock_timeout')").fetchone()
    wait_for_locks(conn, IN_LINE)
    yield
    conn.execute("SELECT set_config('lock_timeout', %s, true)", before)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def lost(conn: psycopg.Connection[Any] | None, exc: Exception) -> bool:
    """True if the connection is gone, and with it the answer."""
    if conn is None:
        return isinstance(exc, AWAY)
    return isinstance(exc, psycopg.Error) and (conn.closed or conn.broken)
