"""Which journal a command means: a file, or a run in PostgreSQL."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from kie_async.cli._escape import clean
from kie_async.errors import UsageError

if TYPE_CHECKING:
    from kie_async.journal import Journal
    from kie_async.worker import QueuedJournal

__all__ = ["JOURNAL", "NEW_JOURNAL", "Where", "typed"]

RUN = "run"
_URL = re.compile(r"postgres(ql)?://")


def typed() -> str:
    """Return the command line that is at work, to be typed again; a password is left out."""
    words = click.get_current_context().find_root().obj or ()
    return shlex.join(["kie", *(clean(_without_password(word), 2000) for word in words)])


def _without_password(text: str) -> str:
    shown = re.sub(r"(//[^/@]*?):[^/@]*@", r"\1@", text)
    return re.sub(r"(?<=password=)[^&\s]*", "...", shown)


@frozen
class Where:
    """A journal as it was named; its text is for people and has no password.

    Attributes:
        path: The file, if it is one.
        url: The database, if it is in one, and
        run: the name of the run there.
    """

    path: Path | None = None
    url: str = ""
    run: str = RUN

    @property
    def shared(self) -> bool:
        """True for a run that several machines work on."""
        return self.path is None

    @property
    def again(self) -> str:
        """The command that goes on with it."""
        return f"kie {'worker' if self.shared else 'bulk'} --journal {self.typed}"

    @property
    def typed(self) -> str:
        """Its text as a shell takes it, whatever is in the name."""
        return shlex.quote(clean(self, 2000))

    def __str__(self) -> str:
        """Return it as it may be typed again; a password is for ~/.pgpass or PGPASSWORD."""
        if self.path is not None:
            return str(self.path)
        return f"{_without_password(self.url)}#{self.run}"

    def look(self) -> Journal | QueuedJournal:
        """Return it, not open yet, for looking only."""
        return self._made(read_only=True)

    def change(self) -> Journal | QueuedJournal:
        """Return it, not open yet, for changing what is there."""
        return self._made(create=False)

    def shared_journal(self, **options: Any) -> QueuedJournal:
        """Return a run in PostgreSQL, not open yet.

        Raises:
            UsageError: It is a file, or the extra is missing.
        """
        if self.path is not None:
            raise UsageError(
                f"{self} is a file, which one process works on: several share a journal like "
                "postgresql://user@host/database#run"
            )
        try:
            from kie_async.worker import QueuedJournal
        except ModuleNotFoundError as error:
            raise UsageError(
                f"a journal in PostgreSQL needs the extra: pip install 'kie_async[postgres]' "
                f"({error.name} is missing)"
            ) from None
        return QueuedJournal(self.url, self.run, **options)

    def _made(self, **options: Any) -> Journal | QueuedJournal:
        if self.path is None:
            return self.shared_journal(**options)
        from kie_async.journal import Journal

        return Journal(self.path, **options)


if TYPE_CHECKING:
    _Base = click.ParamType[Where]
else:
    _Base = click.ParamType  # before click 8.2 it takes no argument


class _Type(_Base):
    """A path, or a PostgreSQL URL with the name of the run behind a #."""

    name = "journal"

    def __init__(self, *, exists: bool) -> None:
        self._path = click.Path(path_type=Path, exists=exists, dir_okay=False)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Where:
        """Return where it is."""
        if isinstance(value, Where):
            return value
        if not _URL.match(str(value)):
            return Where(path=self._path.convert(value, param, ctx))
        url, _, run = str(value).partition("#")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", run or RUN):
            self.fail(f"{run!r} names no run: small letters, digits and _", param, ctx)
        return Where(url=url, run=run or RUN)


JOURNAL = _Type(exists=True)
"""A journal that must be there, if it is a file."""
NEW_JOURNAL = _Type(exists=False)
"""A journal that may be made."""
