"""Events for other systems: log records, spans, metrics."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from kie_async import instrumentation
from kie_async.errors import KieConnectionError
from kie_async.instrumentation import (
    CreateInDoubt,
    Event,
    FileSaved,
    RequestRefused,
    RequestSent,
    TaskChanged,
    TaskCreated,
    TurnTaken,
)
from kie_async.integrations import LoggingHook, OpenTelemetryHook
from kie_async.models import TaskState
from tests.clock import jumping
from tests.conftest import CANARY_KEY
from tests.fakes import FakeAPI, session_on

sdk_trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra [otel] is missing")
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402 - only with the extra
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402 - as above
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402 - as above
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402 - as above
    InMemorySpanExporter,
)


@jumping
async def test_events_are_log_records_with_their_facts(caplog):
    """At INFO a person can follow; the facts are there for structured handlers."""
    caplog.set_level(logging.INFO, logger="kie_async.events")
    async with session_on(FakeAPI(), hooks=[LoggingHook()]) as kie:
        await kie.upscale("source")

    records = [r for r in caplog.records if r.name == "kie_async.events"]
    created = next(r for r in records if r.kie_event == "task_created")
    assert created.kie_task_id == "0" * 32
    facts = f"task_id={'0' * 32} model=grok-imagine/upscale seconds=0.100"
    assert created.getMessage() == f"task_created {facts}"
    assert [r.kie_event for r in records][-1] == "task_changed"
    assert all(r.levelno >= logging.INFO for r in records)


def test_a_message_from_outside_stays_on_its_line(caplog):
    """No forged record by a newline in an answer."""
    caplog.set_level(logging.DEBUG, logger="kie_async.events")

    LoggingHook()(RequestRefused(route="createTask", error="bad\nERROR root: forged"))

    assert "\n" not in caplog.records[-1].getMessage()


def test_nothing_is_built_while_the_level_is_off():
    """An event costs a look-up then."""

    class Fails:
        def __str__(self):
            raise AssertionError("formatted")

    logger = logging.Logger("quiet", logging.ERROR)
    LoggingHook(logger)(TurnTaken(lane=Fails(), waited=0.0))  # type: ignore[arg-type]  # must not be read


def test_every_event_has_a_name(caplog):
    """Those of later versions too."""
    caplog.set_level(logging.DEBUG, logger="kie_async.events")
    LoggingHook()(Event(task_id="t"))
    LoggingHook()(FileSaved(task_id="t", path=Path("a b"), size=3))

    assert [r.kie_event for r in caplog.records] == ["event", "file_saved"]
    assert len(instrumentation.__all__) > 10


def otel():
    """Make a hook with exporters in memory."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = sdk_trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    hook = OpenTelemetryHook(
        tracer_provider=provider, meter_provider=MeterProvider(metric_readers=[reader])
    )
    return hook, spans, reader


def figures(reader) -> dict[str, object]:
    """Return the metrics by name."""
    data = reader.get_metrics_data()
    return {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


@jumping
async def test_a_task_has_its_spans_and_metrics():
    """Create and wait are linked; turns, polls, durations are measured."""
    hook, spans, reader = otel()
    async with session_on(FakeAPI(), hooks=[hook]) as kie:
        await kie.upscale("source")
    hook(FileSaved(task_id="0" * 32, path=Path("x.png"), size=5))

    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"kie.create", "kie.wait", "kie.save"}
    for name in ("kie.wait", "kie.save"):
        assert found[name].links[0].context == found["kie.create"].context
        assert found[name].attributes["kie.task_id"] == "0" * 32
    told = figures(reader)
    assert {"kie.request.duration", "kie.turn.wait", "kie.task.duration", "kie.task.polls"} <= set(
        told
    )
    assert told["kie.task.duration"][0].sum == pytest.approx(10.0)


def length(span) -> float:
    """Return the seconds of a span."""
    return (span.end_time - span.start_time) / 1e9


def test_spans_are_as_long_as_what_they_tell_of():
    """Also the wait for a task that another process has created."""
    hook, spans, _ = otel()
    hook(TaskCreated(task_id="t", model="m", seconds=5.0))
    hook(CreateInDoubt(model="m", reason="lost", seconds=30.0))
    hook(FileSaved(task_id="t", path=Path("x"), size=1, seconds=20.0))
    hook(TaskChanged(task_id="u", state=TaskState.SUCCESS, polls=2, duration=60.0, lateness=1.0))

    created, doubt, saved, waited = spans.get_finished_spans()
    assert length(created) == pytest.approx(5.0, abs=1.0)
    assert length(doubt) == pytest.approx(30.0, abs=1.0)
    assert length(saved) == pytest.approx(20.0, abs=1.0)
    assert length(waited) == pytest.approx(61.0, abs=1.0)


@jumping
async def test_events_tell_how_long_a_create_took():
    """The request alone: neither its turn nor the wait for the task."""
    seen = []
    async with session_on(FakeAPI(), hooks=[seen.append]) as kie:
        await kie.upscale("source")

    (sent,) = [e for e in seen if isinstance(e, RequestSent) and e.route == "createTask"]
    (created,) = [e for e in seen if isinstance(e, TaskCreated)]
    assert created.seconds == pytest.approx(sent.seconds, abs=0.01)


@jumping
async def test_a_doubt_is_a_failed_span_and_a_count():
    """With the reason, and without a secret."""
    hook, spans, reader = otel()
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset")
    async with session_on(api, hooks=[hook]) as kie:
        with pytest.raises(KieConnectionError):
            await kie.upscale("source")

    doubt = spans.get_finished_spans()[0]
    assert not doubt.status.is_ok
    counted = {p.attributes["kind"]: p.value for p in figures(reader)["kie.events"]}
    assert counted["CreateInDoubt"] == 1
    assert CANARY_KEY not in doubt.to_json()
    json.loads(doubt.to_json())


def test_the_memory_for_links_is_bounded():
    """A service runs for months."""
    hook, _, _ = otel()
    for number in range(10_050):
        hook(TaskCreated(task_id=f"t{number}", model="m"))

    assert len(hook._created) == 10_000


def test_the_buckets_of_durations_fit_seconds():
    """The default buckets, made for milliseconds, would show nothing."""
    reader = InMemoryMetricReader()
    OpenTelemetryHook(meter_provider=MeterProvider([reader]))(
        TurnTaken(lane="createTask", waited=7.0)
    )

    data = reader.get_metrics_data()
    points = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert points[0].explicit_bounds[-1] == 3600.0
    assert points[0].bucket_counts[3] == 1
