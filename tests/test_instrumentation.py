"""Events and the hooks that see them."""

from __future__ import annotations

import logging

import attrs
import pytest

from kie_async import instrumentation
from kie_async.instrumentation import Event, Hooks, TaskOrphaned


def test_hooks_see_events_in_order():
    """Each hook gets each event, the first hook first."""
    seen = []
    hooks = Hooks([lambda e: seen.append((1, e)), lambda e: seen.append((2, e))])
    event = TaskOrphaned(task_id="t1", model="m", reason="gone")

    hooks.emit(event)

    assert seen == [(1, event), (2, event)]


@pytest.mark.parametrize("trouble", [ValueError, BaseException])
def test_a_failing_hook_stops_nobody(trouble, caplog):
    """What watches must not break what it watches; the failure is logged."""

    def bad(_event):
        raise trouble("hook")

    seen = []
    hooks = Hooks([bad, seen.append])

    with caplog.at_level(logging.ERROR, logger="kie_async"):
        hooks.emit(Event())

    assert len(seen) == 1
    assert "a hook failed on Event" in caplog.text


def test_an_interrupt_is_no_failure_of_a_hook():
    """Ctrl-C inside a hook still ends the program."""

    def interrupted(_event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hooks([interrupted]).emit(Event())


def test_no_hooks_are_false():
    """So that nobody builds an event for nobody."""
    assert not Hooks()
    assert Hooks([print])


def test_events_are_frozen():
    """A hook cannot change what the next one sees."""
    for name in instrumentation.__all__:
        cls = getattr(instrumentation, name)
        if isinstance(cls, type) and issubclass(cls, Event):
            assert attrs.has(cls)
            assert cls.__setattr__ is not object.__setattr__
