"""Events as OpenTelemetry spans and metrics (extra ``[otel]``).

A task has three spans: its create, the wait for its end, the saving of its files.  Wait
and save are linked to the create, not its children: they may be hours apart and in other
processes.  Metrics go to Prometheus through OpenTelemetry's own exporter.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from opentelemetry import metrics, trace
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TracerProvider

from kie_async.instrumentation import (
    CreateInDoubt,
    DoubleSpend,
    Event,
    FileSaved,
    RequestRefused,
    RequestRetried,
    RequestSent,
    TaskChanged,
    TaskCreated,
    TaskOrphaned,
    TurnTaken,
)
from kie_async.models import TaskState

__all__ = ["OpenTelemetryHook"]

NAME = "kie_async"
REMEMBERED = 10_000
"""Tasks whose create is remembered for the links; the oldest are forgotten first."""

# Buckets that fit: the defaults are for milliseconds.
QUICK = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SLOW = (0.1, 1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
COUNTS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0)


class OpenTelemetryHook:
    """Turns a session's events into spans and metrics.

    Args:
        tracer_provider: By default the global one.
        meter_provider: By default the global one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Make the instruments."""
        self._tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(NAME, meter_provider=meter_provider)

        def histogram(name: str, unit: str, about: str, bounds: Sequence[float]) -> Histogram:
            return meter.create_histogram(
                name, unit, about, explicit_bucket_boundaries_advisory=bounds
            )

        self._requests = histogram("kie.request.duration", "s", "one request", QUICK)
        self._turns = histogram("kie.turn.wait", "s", "waiting for the rate limit", SLOW)
        self._durations = histogram("kie.task.duration", "s", "a task, at Kie's", SLOW)
        self._lateness = histogram("kie.task.lateness", "s", "until it was noticed", QUICK)
        self._polls = histogram("kie.task.polls", "{poll}", "polls of one task", COUNTS)
        self._events = meter.create_counter("kie.events", "{event}", "by kind")
        self._created: OrderedDict[str, tuple[SpanContext, int]] = OrderedDict()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, RequestSent):
            facts: dict[str, str | int] = {
                "route": event.route,
                "http.response.status_code": event.http_status or 0,
            }
            self._requests.record(event.seconds, facts)
        elif isinstance(event, TurnTaken):
            self._turns.record(event.waited, {"lane": event.lane})
        elif isinstance(event, TaskCreated):
            self._task_created(event)
        elif isinstance(event, TaskChanged):
            self._task_changed(event)
        elif isinstance(event, FileSaved):
            size: dict[str, str | int] = {"kie.file.size": event.size}
            self._span("kie.save", event.task_id, size, start=_ago(event.seconds))
        elif isinstance(event, CreateInDoubt):
            self._span(
                "kie.create",
                None,
                {"kie.model": event.model},
                failure=event.reason,
                start=_ago(event.seconds),
            )
        self._count(event)

    def _count(self, event: Event) -> None:
        counted = (
            CreateInDoubt
            | DoubleSpend
            | FileSaved
            | RequestRefused
            | RequestRetried
            | TaskCreated
            | TaskOrphaned
        )
        if isinstance(event, counted):
            self._events.add(1, {"kind": type(event).__name__})

    def _task_created(self, event: TaskCreated) -> None:
        context = self._span(
            "kie.create",
            event.task_id,
            {"kie.model": event.model},
            start=_ago(event.seconds),
            link=False,
        )
        self._created[event.task_id or ""] = (context, time.time_ns())
        if len(self._created) > REMEMBERED:
            self._created.popitem(last=False)

    def _task_changed(self, event: TaskChanged) -> None:
        if event.state not in (TaskState.SUCCESS, TaskState.FAIL):
            return
        self._polls.record(event.polls, {"state": event.state.value})
        if event.duration is not None:
            self._durations.record(event.duration, {"state": event.state.value})
        if event.lateness is not None:
            self._lateness.record(event.lateness)
        failure = "the task failed" if event.state is TaskState.FAIL else None
        began = self._created.get(event.task_id or "")
        taken = None if event.duration is None else event.duration + (event.lateness or 0.0)
        self._span(
            "kie.wait",
            event.task_id,
            {"kie.polls": event.polls, "kie.state": event.state.value},
            failure=failure,
            # Created by an earlier process, or too long ago: as far back as Kie's record says.
            start=began[1] if began is not None else _ago(taken),
        )

    def _span(
        self,
        name: str,
        task_id: str | None,
        facts: dict[str, str | int],
        *,
        failure: str | None = None,
        start: int | None = None,
        link: bool = True,
    ) -> SpanContext:
        """Write a span that ends now; it is linked to the create of its task."""
        began = self._created.get(task_id or "") if link else None
        links = [Link(began[0])] if began is not None else []
        span = self._tracer.start_span(name, links=links, start_time=start, attributes=facts)
        if task_id is not None:
            span.set_attribute("kie.task_id", task_id)
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end()
        return span.get_span_context()


def _ago(seconds: float | None) -> int | None:
    """Return when something began that ends now, in nanoseconds; None is now."""
    return None if seconds is None else time.time_ns() - int(seconds * 1e9)
