"""The gRPC service that applications call on a board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc

from device_agent.answering import Answerer, deadline_of
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2
from protos.errors import AirloomError

OnText = Callable[[str], None]


class Infer(Protocol):
    """Answers a task by a deadline (seconds of time.monotonic), telling text as it comes."""

    def __call__(
        self, task: task_pb2.Task, deadline_s: float | None, on_text: OnText | None = None
    ) -> Awaitable[task_pb2.TaskResult]: ...


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Thin: reads the deadline, calls `infer`, and writes errors as gRPC statuses."""

    def __init__(self, infer: Infer, answerer: Answerer) -> None:
        self._infer = infer
        self._answerer = answerer

    async def Infer(  # noqa: N802
        self, request: inference_pb2.InferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> inference_pb2.InferResponse:
        if request.device_id:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "device_id is for the cloud agent; a device answers only for itself",
            )
        deadline_s = deadline_of(request.task, time.monotonic(), context.time_remaining())
        try:
            result = await self._infer(request.task, deadline_s)
        except AirloomError as error:
            await context.abort(error.status, str(error))
        return inference_pb2.InferResponse(result=result)

    async def InferStream(  # noqa: N802
        self, request: inference_pb2.InferStreamRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[inference_pb2.InferStreamResponse]:
        deadline_s = deadline_of(request.task, time.monotonic(), context.time_remaining())
        texts: asyncio.Queue[str | None] = asyncio.Queue()
        answering = asyncio.ensure_future(self._infer(request.task, deadline_s, texts.put_nowait))
        answering.add_done_callback(lambda _: texts.put_nowait(None))
        try:
            while (text := await texts.get()) is not None:
                yield inference_pb2.InferStreamResponse(text=text)
            yield inference_pb2.InferStreamResponse(result=await answering)
        except AirloomError as error:
            await context.abort(error.status, str(error))
        finally:
            answering.cancel()

    async def DescribeModel(  # noqa: N802
        self,
        request: inference_pb2.DescribeModelRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> inference_pb2.DescribeModelResponse:
        del request, context
        return inference_pb2.DescribeModelResponse(model=self._answerer.model_info)
