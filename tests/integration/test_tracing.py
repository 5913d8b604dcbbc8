"""One trace from the device's question to the cloud's answer, as a collector receives it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
from agents import PATIENCE_S, Agents, free_port, healthy
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from test_agents import (
    PLAINTEXT,
    TRUSTED,
    cloud_settings,
    device_settings,
    infer,
    question,
    until_registered,
)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that arrive, with the service that each is from."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        for resource in request.resource_spans:
            service = next(
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            )
            self.spans += [(service, s) for scope in resource.scope_spans for s in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, dict[str, Any]]]:
    """A collector, and the settings that send spans to it."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, {"endpoint": f"127.0.0.1:{port}", "plaintext": True}
    finally:
        await server.stop(None)


async def test_device_and_cloud_share_one_trace(agents: Agents) -> None:
    folder, cloud_port = agents.folder, free_port()
    async with collecting() as (collector, tracing):
        started = []
        for kind, name, settings in (
            ("cloud", "cloud", cloud_settings(folder, cloud_port, TRUSTED)),
            ("device", "board", device_settings(folder, cloud_port, PLAINTEXT)),
        ):
            started.append(await agents.start(kind, name, {**settings, "tracing": tracing}))
            await healthy(f"unix:{folder}/{name}.sock")
        await until_registered(folder, ["board"])
        await infer(folder, question())
        # An agent that stops sends what it still has.
        await asyncio.gather(*(agent.stop() for agent in started))
    spans = {f"{service} {span.name}": span for service, span in collector.spans}
    device = spans["device-agent board device"]
    assert not device.parent_span_id
    assert {span.trace_id for span in spans.values()} == {device.trace_id}
    assert spans["device-agent board generate"].parent_span_id == device.span_id
    uplink = spans["device-agent board uplink"]
    assert uplink.parent_span_id == device.span_id
    cloud = spans["cloud-agent cloud cloud"]
    assert cloud.parent_span_id == uplink.span_id
    generate = spans["cloud-agent cloud generate"]
    assert generate.parent_span_id == cloud.span_id
    attributes = {a.key: a.value for a in generate.attributes}
    assert attributes["gen_ai.response.model"].string_value == "airloom-cloud"
    assert attributes["gen_ai.usage.output_tokens"].int_value > 0


async def test_an_http_request_continues_its_callers_trace(agents: Agents) -> None:
    folder, port = agents.folder, free_port()
    settings = device_settings(folder, None, PLAINTEXT)
    settings["http"] = {"listen": f"127.0.0.1:{port}", "security": PLAINTEXT}
    trace_id, caller_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace_id}-{caller_id}-01"}
    body = {"model": "airloom-mathematics", "prompt": "What is 2+2?", "max_tokens": 4}
    async with collecting() as (collector, tracing):
        agent = await agents.start("device", "board", {**settings, "tracing": tracing})
        await healthy(f"unix:{folder}/board.sock")
        url = f"http://127.0.0.1:{port}/v1/completions"
        async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as client:
            whole = await client.post(url, json=body)
            streamed = await client.post(url, json={**body, "stream": True})
            await client.post(url, json={**body, "prompt": "x " * 5000})
        await agent.stop()
    assert whole.is_success
    assert streamed.text.endswith("data: [DONE]\n\n")
    spans = [span for _, span in collector.spans]
    requests = [span for span in spans if span.name == "POST /v1/completions"]
    assert len(requests) == 3
    assert {span.parent_span_id.hex() for span in requests} == {caller_id}
    assert {span.trace_id.hex() for span in spans} == {trace_id}
    written = [
        attribute.value.int_value
        for span in spans
        for attribute in span.attributes
        if attribute.key == "gen_ai.usage.output_tokens"
    ]
    assert written == [whole.json()["usage"]["completion_tokens"]] * 2
