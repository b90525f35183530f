"""File names: from ids and templates, safe on every platform, never a path."""

from __future__ import annotations

import re
import string
from hashlib import blake2s

from kie_async.errors import UsageError

__all__ = ["check_template", "file_name", "other_stem", "safe_stem", "short_hash"]

LONGEST = 120
"""Characters of a stem: with a suffix it fits every file system in use."""

FIELDS = frozenset({"source_id", "task_id", "index"})

_PLAIN = frozenset(string.ascii_letters + string.digits + "-_. ")
_RESERVED = re.compile(r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$|clock\$")
_SPEC = re.compile(r"[<>^]?0?\d{0,2}(?:\.\d{1,3})?[ds]?")


def check_template(template: str) -> str:
    """Return *template* if it can name files.

    Raises:
        UsageError: It has an unknown field, a path in it, or no id at all.
    """
    if not isinstance(template, str):
        raise UsageError(f"a name template is text, not {type(template).__name__}")
    if not _usable(template):
        raise UsageError(
            f"a name template takes {{source_id}}, {{task_id}} and {{index}}, and needs one of the "
            f"ids; not {template!r}"
        )
    if "/" in template or "\\" in template or "\0" in template:
        raise UsageError(f"a name template holds no path, not {template!r}")
    return template


def _usable(template: str) -> bool:
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
        fields = {name for _, name, _, _ in parts}
        plain = all(_SPEC.fullmatch(spec or "") and kind is None for _, _, spec, kind in parts)
        if not plain or not fields <= FIELDS or not fields & {"source_id", "task_id"}:
            return False
        template.format(source_id="a", task_id="b", index=1)
    except (ValueError, KeyError, IndexError, AttributeError):
        return False
    return True


def short_hash(*parts: object) -> str:
    """Return eight hex digits that tell *parts* from others."""
    text = "\0".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return blake2s(text, digest_size=4).hexdigest()


def safe_stem(text: str) -> str:
    """Return *text* as a file's stem: no path, nothing hidden, nothing reserved.

    What had to be changed gets a hash of the original, so that two texts never meet in
    one name.  ``~`` appears in no other stem.
    """
    kept = "".join(char if char in _PLAIN else "_" for char in text).strip(" .") or "_"
    if _RESERVED.fullmatch(kept.partition(".")[0].rstrip()):
        kept = f"_{kept}"
    if kept == text and len(kept) <= LONGEST:
        return kept
    return other_stem(kept, text)


def other_stem(stem: str, *parts: object) -> str:
    """Return *stem* with a hash of *parts*, for when the plain one is taken."""
    return f"{stem[: LONGEST - 9].rstrip(' .')}~{short_hash(*parts)}"


def file_name(template: str, *, source_id: str, task_id: str, index: int, count: int) -> str:
    """Return the stem for one file of a task; several files of one are numbered."""
    named = template.format(source_id=source_id, task_id=task_id, index=index)
    if count > 1 and "{index" not in template:
        named = f"{named}-{index}"
    return safe_stem(named)
