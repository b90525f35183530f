"""When to look at a task, and which of many to look at next.  Without a clock.

Learns how long the tasks of each model take, and spends few polls where they find most.
It sends nothing, sleeps never and reads no clock: the time is an argument.
"""

from __future__ import annotations

from kie_async.polling._durations import Durations, Law
from kie_async.polling._entries import EntryQueue
from kie_async.polling._entry import Entry
from kie_async.polling._queue import PollQueue
from kie_async.polling._schedule import PollSchedule

__all__ = ["Durations", "Entry", "EntryQueue", "Law", "PollQueue", "PollSchedule"]
