"""File names: from ids and templates, safe on every platform, never a path."""

from __future__ import annotations

import re
import string

from kie_async.errors import UsageError

__all__ = ["check_template", "file_name", "safe_stem"]

LONGEST = 120
"""Characters of a stem: with a suffix it fits every file system in use."""

FIELDS = frozenset({"source_id", "task_id", "index"})

_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$|clock\$)(\..*)?")


def check_template(template: str) -> str:
    """Return *template* if it can name files.

    Raises:
        UsageError: It has an unknown field, a path in it, or no id at all.
    """
    try:
        fields = {
            name for _, name, spec, _ in string.Formatter().parse(template) if name is not None
        }
    except ValueError:
        fields = {""}
    if not fields <= FIELDS or not fields & {"source_id", "task_id"}:
        raise UsageError(
            f"a name template takes {{source_id}}, {{task_id}} and {{index}}, and needs one of the "
            f"ids; not {template!r}"
        )
    if "/" in template or "\\" in template:
        raise UsageError(f"a name template holds no path, not {template!r}")
    return template


def safe_stem(text: str) -> str:
    """Return *text* as a file's stem: no path, nothing hidden, nothing reserved."""
    kept = "".join(
        char if char.isascii() and (char.isalnum() or char in "-_. ") else "_" for char in text
    )
    kept = kept[:LONGEST].strip(" .") or "_"
    return f"_{kept}" if _RESERVED.fullmatch(kept) else kept


def file_name(template: str, *, source_id: str, task_id: str, index: int, count: int) -> str:
    """Return the stem for one file of a task; several files of one are numbered."""
    named = template.format(source_id=source_id, task_id=task_id, index=index)
    if count > 1 and "{index" not in template:
        named = f"{named[: LONGEST - 5]}-{index}"
    return safe_stem(named)
