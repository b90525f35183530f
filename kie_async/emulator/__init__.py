"""An emulator of Kie's job API, for trying, for tests and for load: on 127.0.0.1 only.

It behaves as the captures of the real API do, keeps books of what was paid how often, and
plays faults by rule.  It shares no rule with the client: it is a second reading of the
same facts, so that a mistake of one shows in the other.

    async with Emulator() as emulator:
        source = await emulator.add_source_task()
        ...
        assert emulator.books.paid == {source: 1}
"""

from __future__ import annotations

from kie_async.emulator._core import Answer, Books, EmulatedAPI, EmulatedTask, Rule
from kie_async.emulator._server import Emulator

__all__ = ["Answer", "Books", "EmulatedAPI", "EmulatedTask", "Emulator", "Rule"]
