"""The end of a bulk run: a summary that can be pasted, and what to type next."""

from __future__ import annotations

from kie_async.bulk import Audit, Progress
from kie_async.cli._bulk_view import duration, progress_fields
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.errors import KieError

__all__ = ["tell_end"]


def tell_end(
    journal: Where,
    progress: Progress,
    error: KieError | None,
    found: Audit | None,
    output: Output,
    *,
    seconds: float,
    again: str,
    saving: bool,
) -> int:
    """Print the summary and return the exit code.

    Args:
        journal: The run.
        progress: Where it stands.
        error: What stopped it.
        found: What the audit found.
        output: Where to.
        seconds: How long it took.
        again: The command that was typed.
        saving: True if the results were to be saved.
    """
    code = _code(progress, error)
    if not output.as_json:
        for line in summary_lines(journal, progress, error, found, seconds, again, saving):
            output.prose(line)
    output.event(
        "summary",
        {
            **progress_fields(progress),
            "unexplained_credits": found.unexplained if found is not None else None,
            "seconds": round(seconds, 3),
            "stopped_by": type(error).__name__ if error is not None else None,
            "exit_code": int(code),
        },
    )
    return int(code)


def _code(progress: Progress, error: KieError | None) -> Exit:
    if error is not None:
        return Exit.STOPPED
    if progress.in_doubt:
        return Exit.IN_DOUBT
    if progress.failed:
        return Exit.FAILED
    if progress.left or not progress.loaded:
        return Exit.STOPPED
    return Exit.OTHER if progress.failed_downloads else Exit.OK


def summary_lines(
    journal: Where,
    progress: Progress,
    error: KieError | None,
    found: Audit | None,
    seconds: float,
    again: str,
    saving: bool,
) -> list[str]:
    """Return the summary, line by line; what follows "Next:" can be typed as it stands."""
    name = clean(journal)
    lines = [
        (
            f"{name}: {progress.done:,} done, {progress.failed:,} failed, "
            f"{progress.in_doubt:,} in doubt, {progress.left:,} left of {progress.total:,}"
        ),
        (
            f"This run: {duration(seconds)}, {progress.created:,} created, "
            f"{progress.files:,} files saved, {progress.credits_spent:,.10g} credits"
        ),
    ]
    lines += _steps(journal, progress, error, again, saving)
    lines += [
        f"Paid twice: {clean(double['source_id'])} has another task, {clean(double['task_id'])}"
        for double in (found.double_spends if found is not None else ())
    ]
    lines += _audit_lines(found)
    return lines


def _steps(
    journal: Where, progress: Progress, error: KieError | None, again: str, saving: bool
) -> list[str]:
    """Return what is not at its end, and the command for each."""
    lines = []
    if error is not None:
        lines.append(f"Stopped: {clean(error)}")
    if progress.left or error is not None or not progress.loaded:
        lines.append("The same again goes on, and repeats nothing")
        lines.append(f"  Next: {again}")
    if progress.failed_downloads:
        lines.append(
            f"{progress.failed_downloads:,} downloads failed: the tasks are paid and done, and "
            "saving them again is free"
        )
        lines.append(f"  Next: {again}")
    if progress.in_doubt:
        lines.append(
            f"{progress.in_doubt:,} in doubt: they may have been paid for and are not sent again"
        )
        lines.append(f"  Next: kie journal {journal.typed} --doubts")
    if progress.failed:
        lines.append(f"{progress.failed:,} failed: documented as free, and not tried again")
        lines.append(f"  Next: kie journal {journal.typed} --state failed")
    if progress.done and not progress.left and not saving:
        lines.append("Nothing was saved, and the results' URLs expire; saving is free")
        lines.append(f"  Next: {journal.again} --out results/")
    elif progress.done and not progress.left:
        lines.append(f"To look at it: kie report {journal.typed} -o report.html")
    return lines


def _audit_lines(found: Audit | None) -> list[str]:
    if found is None or found.unexplained is None:
        return []
    if abs(found.unexplained) < 0.005:
        return ["Audit: every credit that left the account is explained by a task on record."]
    doubts = f"; doubts explain up to {found.doubts_at_most:,.10g}" if found.doubts else ""
    return [
        (
            f"Audit: {found.unexplained:,.10g} credits are not explained by this journal{doubts}. "
            "Another use of the account, or a refund that has not come yet, shows like that."
        )
    ]
