r"""Text from outside, made safe for a terminal.

Ids and messages come from a server.  A control character in them could clear the screen,
retitle the window or forge a line, so each becomes visible: ``\x1b``.
"""

from __future__ import annotations

__all__ = ["clean", "short"]


def clean(text: object, limit: int = 500) -> str:
    """Return *text* on one line, every hidden character escaped, at most *limit* long."""
    whole = str(text)
    shown = "".join(_visible(char) for char in whole[:limit])
    return shown + ("..." if len(whole) > limit else "")


def short(task_id: str | None, length: int = 8) -> str:
    """Return the beginning of an id, enough to tell tasks apart on one screen."""
    if not task_id:
        return "-"
    shown = clean(task_id)
    return shown if len(shown) <= length + 2 else f"{shown[:length]}.."


def _visible(char: str) -> str:
    """Return a character that draws something, whatever comes in."""
    if char.isprintable():  # not so: controls, turns of direction, surrogates, separators
        return char
    if char.isspace():
        return " "
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
