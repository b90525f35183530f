"""An emulator of Kie's job API, for trying, for tests and for load: on 127.0.0.1 only.

It behaves as the captures of the real API do, keeps books of what was paid how often, and
plays faults by rule.  It shares no rule with the client: it is a second reading of the
same facts, so that a mistake of one shows in the other.

    async with Emulator() as emulator:
        source = await emulator.add_source_task()
        ...
        assert emulator.books.paid(source) == 1

`EmulatedAPI` is the same without a socket and without a clock, for tests in virtual time.
`ACTIONS` lists every fault that a `Rule` can play.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kie_async.emulator._books import Books, Create, Paid, Posted
    from kie_async.emulator._callbacks import Callback
    from kie_async.emulator._core import EmulatedAPI
    from kie_async.emulator._limits import KINDS
    from kie_async.emulator._messages import Answer, Request
    from kie_async.emulator._rules import ACTIONS, Rule
    from kie_async.emulator._server import Emulator
    from kie_async.emulator._tasks import EmulatedTask

__all__ = [
    "ACTIONS",
    "KINDS",
    "Answer",
    "Books",
    "Callback",
    "Create",
    "EmulatedAPI",
    "EmulatedTask",
    "Emulator",
    "Paid",
    "Posted",
    "Request",
    "Rule",
]

# Loaded when asked for: pytest loads this package at every start, for its fixture.
_HOMES = {
    "ACTIONS": "_rules",
    "KINDS": "_limits",
    "Answer": "_messages",
    "Books": "_books",
    "Callback": "_callbacks",
    "Create": "_books",
    "EmulatedAPI": "_core",
    "EmulatedTask": "_tasks",
    "Emulator": "_server",
    "Paid": "_books",
    "Posted": "_books",
    "Request": "_messages",
    "Rule": "_rules",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
