"""Spans of a task on its way through device and cloud (OpenTelemetry).

A task carries its trace with it (W3C trace context), so that the cloud's spans are the children of
the device's. Without settings nothing is recorded, and nothing but the API is needed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from opentelemetry import propagate, trace
from opentelemetry.trace import (
    INVALID_SPAN,
    ProxyTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
)
from pydantic import Field

from airloom.errors import AirloomError, ConfigurationError
from airloom.settings_file import Settings
from protos.airloom.v1 import task_pb2

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("airloom")


class TracingSettings(Settings):
    """Where spans are sent: a collector that takes OTLP over gRPC."""

    endpoint: str = Field("localhost:4317", description="host:port")
    plaintext: bool = Field(False, description="send without TLS")


@contextlib.contextmanager
def recording(settings: TracingSettings | None, service: str) -> Iterator[None]:
    """Send the spans that are made in this block to a collector; what is left goes out at its end.

    Raises:
        ConfigurationError: the packages for it are not installed.
    """
    if settings is None:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"spans are sent with the package {error.name!r}: install airloom[tracing]",
            field="tracing",
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    try:
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, insecure=settings.plaintext)
    except Exception as error:
        raise ConfigurationError(
            f"spans cannot be sent to {settings.endpoint!r}: {error}", field="tracing"
        ) from error
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        try:
            provider.shutdown()
        except Exception:
            # Spans are a side job: they must not take the agent's own ending.
            log.exception("the last spans were not sent")


@contextlib.contextmanager
def task_span(name: str, task: task_pb2.Task, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """A span of work on a task: a child of the present one, else of the one the task came with."""
    if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        # Nobody records, and the task keeps the context that it came with.
        yield INVALID_SPAN
        return
    parent = None
    if not trace.get_current_span().get_span_context().is_valid:
        parent = propagate.extract(dict(task.trace_context))
    with _tracer.start_as_current_span(
        name, parent, kind, {"airloom.task_id": task.task_id}, record_exception=False
    ) as span:
        try:
            yield span
        except AirloomError as error:
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise


def send_along(task: task_pb2.Task) -> None:
    """Write the present span into a task that is about to leave this process."""
    propagate.inject(task.trace_context)


def describe_usage(read_tokens: int, written_tokens: int) -> None:
    """Note on the present span, which the web framework has begun, how many tokens there were."""
    trace.get_current_span().set_attributes(
        {"gen_ai.usage.input_tokens": read_tokens, "gen_ai.usage.output_tokens": written_tokens}
    )


def describe_result(span: Span, result: task_pb2.TaskResult) -> None:
    """Note on a span what came out (names: OpenTelemetry's conventions for generative AI)."""
    if not span.is_recording():
        return
    answer = result.answer
    span.set_attributes(
        {
            "gen_ai.response.model": answer.provenance.model_name,
            "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": answer.usage.completion_tokens,
            "airloom.agent_id": answer.provenance.agent_id,
            "airloom.confidence": answer.confidence.value,
            "airloom.queue_ms": result.timing.queue_ms,
            "airloom.prefill_ms": result.timing.prefill_ms,
            "airloom.decode_ms": result.timing.decode_ms,
        }
    )
