"""Do the same with many tasks: run them, save their results, tell how each ended."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from attrs import frozen

from kie_async.cli._advice import advise
from kie_async.cli._board import Board, Row, SavedFile, status_of
from kie_async.cli._escape import clean
from kie_async.cli._exits import worst
from kie_async.cli._output import Output
from kie_async.cli._running import Stop
from kie_async.cli._table import Column
from kie_async.cli._views import QuietView, View, view_for
from kie_async.errors import (
    CreateInDoubtError,
    DownloadError,
    KieError,
    TaskFailedError,
    WaitTimeoutError,
)
from kie_async.instrumentation import Hook
from kie_async.models import Task
from kie_async.session import KieSession

__all__ = ["Job", "report", "work_off"]

IN_FLIGHT = 100
"""Tasks under way at once: enough for the account's rate, and each deadline starts late."""
STOPPING = (
    "Stopping: creates under way get some seconds to bring their ids. Ctrl-C again leaves at once."
)


@frozen(kw_only=True)
class Job:
    """What to do with each row.

    Attributes:
        call: Brings the row's task.
        timeout: Seconds for each row, all together.
        out: Where to save its results, or None.
        allow_private: Save from loopback too: only an emulator's results are there.
        quiet: Show nothing while it works.
        name: Returns the template of a row's file names.
        keep: Told of the files of a row; returns where they are now.
    """

    call: Callable[[KieSession, Row], Awaitable[Task]]
    timeout: float
    out: Path | None = None
    allow_private: bool = False
    quiet: bool = False
    name: Callable[[Row], str] = lambda _row: "{task_id}"
    keep: Callable[[Row, Sequence[Path]], Sequence[Path]] | None = None


async def work_off(
    job: Job,
    rows: Sequence[Row],
    connect: Callable[[Hook], KieSession],
    output: Output,
    stop: Stop,
) -> None:
    """Work on all rows at once; each tells how it ended, and no failure stops another."""
    view = QuietView() if job.quiet else view_for(output, job.out)
    board = Board(rows, view.show)
    crew = _Crew(job, board, stop)
    stop.last_words = lambda: crew.last_words(view)
    view.start(board.rows)
    try:
        async with connect(board) as kie:
            stopper = asyncio.create_task(crew.stop_when_asked(kie, view))
            await asyncio.gather(*(crew.handle(kie, row) for row in board.rows))
            if not stop.asked:
                stopper.cancel()
            await asyncio.wait([stopper])
    finally:
        view.stop()
        board.settle()


def _bug(bug: Exception) -> KieError:
    """Make the error for what should not happen: with its place, so that it can be found."""
    *_, last = traceback.extract_tb(bug.__traceback__)
    place = f"{Path(last.filename).name}:{last.lineno}"
    return KieError(f"{type(bug).__name__} at {place}: {bug} - please report this as a bug")


class _Crew:
    """The workers of one command."""

    def __init__(self, job: Job, board: Board, stop: Stop) -> None:
        self._job = job
        self._board = board
        self._stop = stop
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def handle(self, kie: KieSession, row: Row) -> None:
        """Take one row from its begin to its end."""
        async with self._slots:
            if self._stop.asked:
                return
            self._board.begin(row)
            deadline = asyncio.get_running_loop().time() + self._job.timeout
            try:
                row.task = await self._job.call(kie, row)
                if row.resumes:
                    row.task_id = row.task.task_id
                if self._job.out is not None and row.task.succeeded:
                    await self._save(kie, row, row.task, deadline)
            except KieError as error:
                row.error = error
                if isinstance(error, TaskFailedError):
                    row.task = error.task
            except asyncio.CancelledError:
                own = asyncio.current_task()
                if own is None or own.cancelling():
                    raise
                # The session gave the create up when its grace was over.
                row.error = CreateInDoubtError("stopped before the answer to the create came")
            except OSError as error:
                row.error = DownloadError(f"a file could not be put in place: {error}")
            except Exception as bug:  # noqa: BLE001 - a paid id must be told, whatever happens
                row.error = _bug(bug)
            finally:
                self._board.end(row)

    async def _save(self, kie: KieSession, row: Row, task: Task, deadline: float) -> None:
        """Save the results within what is left of the deadline."""
        assert self._job.out is not None  # noqa: S101 - the caller has looked
        self._board.phase(row, "saving")
        left = max(0.001, deadline - asyncio.get_running_loop().time())
        try:
            paths = await kie.download(
                task,
                self._job.out,
                name=self._job.name(row),
                timeout=left,
                allow_private=self._job.allow_private,
            )
        except WaitTimeoutError:
            raise WaitTimeoutError(
                "the task is done; there was no time left to save its result",
                task=task,
                task_id=task.task_id,
            ) from None
        except DownloadError as error:
            row.files = tuple(SavedFile.at(path) for path in error.saved)
            raise
        if self._job.keep is not None:
            paths = list(self._job.keep(row, paths))
        row.files = tuple(SavedFile.at(path) for path in paths)
        for file in row.files:
            self._board.saved(row, file)

    async def stop_when_asked(self, kie: KieSession, view: View) -> None:
        """End everything in good order when somebody asks to stop."""
        await self._stop.wait()
        view.note(STOPPING)
        await kie.close()

    def last_words(self, view: View) -> str:
        """Return what must be said before leaving at once."""
        view.stop()
        ids = [row.task_id for row in self._board.rows if row.task_id and status_of(row) != "done"]
        creating = sum(row.phase == "creating" for row in self._board.rows)
        told = f"\n{_under_way(creating)}; see https://kie.ai/logs\n" if creating else ""
        return told + (f"\nNext: kie wait {' '.join(map(clean, ids))}\n" if ids else "")


def _under_way(creates: int) -> str:
    return "1 create was under way" if creates == 1 else f"{creates} creates were under way"


def report(
    rows: Sequence[Row],
    output: Output,
    out: Path | None,
    *,
    upscaled: bool,
    advice: bool = True,
) -> int:
    """Write the table of results and what to do about the rest; return the exit code."""
    if output.plain_terminal:
        output.note()  # sets the table apart from the lines of progress
    output.table(*_table_of(rows, upscaled=upscaled))
    if len(rows) > 1 and not output.as_json:
        output.note(f"\n{_sum(rows)}")
    if advice and not output.as_json:
        output.advice(advise(rows, out))
    code = worst(row.exit for row in rows)
    if output.as_json:
        count = Counter(status_of(row) for row in rows)
        output.event("summary", {**count, "exit_code": int(code)})
    return code


def _sum(rows: Sequence[Row]) -> str:
    """Say in one line how it went: something to paste into a chat."""
    count = Counter(status_of(row).replace("_", " ") for row in rows)
    credits = sum(row.task.credits_consumed or 0 for row in rows if row.task is not None)
    starts = [row.started for row in rows if row.started is not None]
    ends = [row.ended for row in rows if row.ended is not None]
    seconds = max(ends) - min(starts) if starts and ends else 0.0
    told = ", ".join(f"{number} {status}" for status, number in count.most_common())
    return f"{told}; {credits:,.10g} credits; {seconds:.1f} s."


def _table_of(rows: Sequence[Row], *, upscaled: bool) -> tuple[list[Column], list[list[str]]]:
    columns = [
        Column("Source"),
        Column("New task", below=True),
        Column("State"),
        Column("Seconds", right=True),
        Column("Polls", right=True),
        Column("Credits", right=True),
        Column("File" if any(row.files for row in rows) else "Result", below=True),
    ]
    cells = [_cells(row) for row in rows]
    if not upscaled:  # then there is a task, and no source of it
        columns = [Column("Task"), *columns[2:]]
        cells = [row[1:] for row in cells]
    if len(rows) > 1 and all(row.label for row in rows):
        columns = [Column("Step"), *columns]
        cells = [[str(row.label), *cell] for row, cell in zip(rows, cells, strict=True)]
    return columns, cells


def _cells(row: Row) -> list[str]:
    results: Sequence[object] = row.files
    if not results and row.task is not None:
        results = row.task.result_urls
    credits = row.task.credits_consumed if row.task is not None else None
    told = row.task is not None and row.resumes
    state = str(row.task.state) if row.task and told else status_of(row).replace("_", " ")
    return [
        clean(row.source_id or "-"),
        clean(row.task_id or "-") if row.resumes else clean(row.name, 2000),
        clean(state),
        "-" if row.seconds is None else f"{row.seconds:.1f}",
        str(row.polls),
        "-" if credits is None else f"{credits:,.10g}",
        "\n".join(clean(result, 2000) for result in results) or "-",
    ]
