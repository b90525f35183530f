"""The session's calls for many items: a run of one process, and work beside others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kie_async.errors import UsageError
from kie_async.retry import CreateRetry
from kie_async.session._bulk import BulkCaller, callback_maker, saver
from kie_async.session._engine import Engine

if TYPE_CHECKING:
    from kie_async.bulk import BulkRun, Save, Source
    from kie_async.callbacks import CallbackReceiver
    from kie_async.journal import JournalStore
    from kie_async.worker import QueuedJournal, Worker

__all__ = ["ManyCalls"]


class ManyCalls:
    """The part of `KieSession` that works through lists."""

    _engine: Engine
    _create_retry: CreateRetry
    _callbacks: CallbackReceiver | None
    _local: bool

    def upscale_many(
        self,
        task_ids: Source,
        *,
        journal: JournalStore | None = None,
        resolution: str | None = None,
        directory: Path | str | None = None,
        name: str = "{source_id}",
        in_flight: int = 100,
        task_timeout: float = 3600.0,
        callback_url: str | None = None,
        max_credits: float | None = None,
        allow_private: bool | None = None,
    ) -> BulkRun:
        """Upscale many, each exactly once; iterate over the outcomes as they come.

        Use it with ``async with``, if the loop over it may be left early: a bare ``break``
        ends nothing, see :class:`~kie_async.bulk.BulkRun`.

        Args:
            task_ids: Ids or :class:`~kie_async.bulk.BulkItem`, from an iterable or an
                async iterable; read lazily, duplicates are one task.  What an async one
                brings is begun within a second, so it may be a queue that waits.  A run
                that ends early reads no further, and closes an async iterable: pass the
                same again to resume.  Only of what has a length the rest is planned after
                a stop, and the journal goes on without it (``task_ids=()``).
            journal: An open :class:`~kie_async.journal.Journal`; the same one resumes the
                run after any crash.  Without one, a temporary journal serves this run: if
                it is left early, ids of paid tasks go to the hooks (``TaskOrphaned``) and
                to the log, and nowhere else.
            resolution: As :meth:`upscale`, for items without one of their own.
            directory: Where to save the results; without it nothing is saved.
            name: How files are named: ``{source_id}``, ``{task_id}``, ``{index}``.
            in_flight: Tasks created and not ended, at most.
            task_timeout: Seconds to wait for each; later it is collected by a resume.
            callback_url: Each create gets its own reference as the last path part of it,
                which settles doubts later even if nobody answers there.
            max_credits: Create nothing more when this would be exceeded by this run.  A
                create in doubt may have been paid for, and counts.
            allow_private: As :meth:`download`.

        Raises:
            KieError: What stopped the run, after the outcomes of all tasks under way.
            UsageError: An item that cannot work.
        """
        from kie_async.bulk import BulkRun, Plan  # loads the journal, and with it sqlite3

        self._check_retry()
        plan = Plan(
            source=task_ids,
            resolution=resolution,
            in_flight=in_flight,
            task_timeout=task_timeout,
            new_callback=callback_maker(callback_url, self._callbacks),
            receiver=self._callbacks,
            max_credits=max_credits,
            save=self._save(directory, name, allow_private),
        )
        return BulkRun(BulkCaller(self._engine), journal, plan)

    def work(
        self,
        journal: QueuedJournal,
        *,
        directory: Path | str | None = None,
        name: str = "{source_id}",
        in_flight: int = 100,
        task_timeout: float = 3600.0,
        callback_url: str | None = None,
        allow_private: bool | None = None,
        forever: bool = False,
    ) -> Worker:
        """Work on a run in PostgreSQL beside any number of others; iterate over outcomes.

        It takes items that were planned in the journal, each exactly once among all
        workers, and ends when all have ended.  The work of one that dies goes to the
        others.  Give the session a limiter that is shared by all of them.

        Args:
            journal: An open :class:`~kie_async.worker.QueuedJournal`.
            directory: Where to save the results of what this worker ends.
            name: As :meth:`upscale_many`.
            in_flight: Items under way in this process, at most.
            task_timeout: Seconds to wait for a task; later another start collects it.
            callback_url: As :meth:`upscale_many`.
            allow_private: As :meth:`download`.
            forever: Wait for more when all have ended.

        Raises:
            KieError: What stopped the work, after the outcomes of all tasks under way.
        """
        from kie_async.worker import Plan, Worker  # an extra: psycopg and Procrastinate

        self._check_retry()
        plan = Plan(
            in_flight=in_flight,
            task_timeout=task_timeout,
            new_callback=callback_maker(callback_url, self._callbacks),
            save=self._save(directory, name, allow_private),
            forever=forever,
        )
        return Worker(BulkCaller(self._engine), journal, plan)

    def _check_retry(self) -> None:
        if self._create_retry is CreateRetry.ALWAYS:
            raise UsageError(
                "a bulk run keeps doubts for you to settle: see kie reconcile --recreate"
            )

    def _save(
        self, directory: Path | str | None, name: str, allow_private: bool | None
    ) -> Save | None:
        """Return what saves results, if they are to be saved."""
        from kie_async.files import check_template

        if directory is None:
            return None
        private = self._private(allow_private)
        return saver(self._engine, Path(directory), check_template(name), allow_private=private)

    def _private(self, given: bool | None) -> bool:
        return self._local if given is None else given
