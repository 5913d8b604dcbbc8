"""The gRPC service that applications call on a board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol, TypeAlias

import grpc

from airloom.errors import AirloomError
from airloom.grpc_status import grpc_status
from device_agent.answering import Answerer, AnswerStream, deadline_of, failure
from device_agent.chat import EngineChat
from device_agent.engine import SequenceState
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_CHUNK_BYTES = 1 << 20
"""Of a state; gRPC takes messages of up to 4 MiB unless told otherwise."""


class Infer(Protocol):
    """Answers a task by a deadline (seconds of time.monotonic), telling a stream of it."""

    def __call__(
        self, task: task_pb2.Task, deadline_s: float | None, stream: AnswerStream | None = None
    ) -> Awaitable[task_pb2.TaskResult]: ...


class _InferStream:
    """Writes what an answer's stream is told to the caller."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def text(self, text: str) -> None:
        await self._context.write(inference_pb2.InferStreamResponse(text=text))

    async def set_aside(self, reason: str) -> None:
        event = inference_pb2.InferStreamResponse(set_aside=inference_pb2.SetAside(reason=reason))
        await self._context.write(event)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Thin: reads the deadline, calls the model, and writes errors as gRPC statuses."""

    def __init__(self, infer: Infer, answerer: Answerer, chat: EngineChat | None) -> None:
        """`chat` is this process's own engine; None where other servers do the work."""
        self._infer = infer
        self._answerer = answerer
        self._chat = chat

    async def Infer(  # noqa: N802
        self, request: inference_pb2.InferRequest, context: Context
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
            await context.abort(grpc_status(error), str(error))
        return inference_pb2.InferResponse(result=result)

    async def InferStream(  # noqa: N802
        self, request: inference_pb2.InferStreamRequest, context: Context
    ) -> None:
        deadline_s = deadline_of(request.task, time.monotonic(), context.time_remaining())
        try:
            result = await self._infer(request.task, deadline_s, _InferStream(context))
        except AirloomError as error:
            await context.abort(grpc_status(error), str(error))
        await context.write(inference_pb2.InferStreamResponse(result=result))

    async def InferBatch(  # noqa: N802
        self, request: inference_pb2.InferBatchRequest, context: Context
    ) -> AsyncIterator[inference_pb2.InferBatchResponse]:
        received_s, remaining_s = time.monotonic(), context.time_remaining()

        async def answer(task: task_pb2.Task) -> task_pb2.TaskResult:
            try:
                return await self._infer(task, deadline_of(task, received_s, remaining_s))
            except AirloomError as error:
                return failure(task.task_id, error)

        answering = [asyncio.ensure_future(answer(task)) for task in request.tasks]
        try:
            for done in asyncio.as_completed(answering):
                yield inference_pb2.InferBatchResponse(result=await done)
        finally:
            for one in answering:
                one.cancel()

    async def Suspend(  # noqa: N802
        self, request: inference_pb2.SuspendRequest, context: Context
    ) -> AsyncIterator[inference_pb2.SuspendResponse]:
        chat = await self._own_engine(context)
        try:
            state = (await chat.suspend(request.task_id)).to_bytes()
        except AirloomError as error:
            await context.abort(grpc_status(error), str(error))
        for start in range(0, len(state), _CHUNK_BYTES):
            yield inference_pb2.SuspendResponse(chunk=state[start : start + _CHUNK_BYTES])

    async def Resume(  # noqa: N802
        self, request_iterator: AsyncIterator[inference_pb2.ResumeRequest], context: Context
    ) -> None:
        started_s = time.monotonic()
        chat = await self._own_engine(context)
        task_id, parts = "", []
        async for request in request_iterator:
            task_id = task_id or request.task_id
            parts.append(request.chunk)

        async def tell(text: str) -> None:
            await context.write(inference_pb2.ResumeResponse(text=text))

        try:
            state = SequenceState.from_bytes(b"".join(parts))
            completion = await chat.resume(task_id, state, tell)
        except AirloomError as error:
            await context.abort(grpc_status(error), str(error))
        result = self._answerer.result(task_id, completion, started_s)
        await context.write(inference_pb2.ResumeResponse(result=result))

    async def Embed(  # noqa: N802
        self, request: inference_pb2.EmbedRequest, context: Context
    ) -> inference_pb2.EmbedResponse:
        chat = await self._own_engine(context)
        try:
            embedded = await chat.engine.embed(request.texts)
        except AirloomError as error:
            await context.abort(grpc_status(error), str(error))
        return inference_pb2.EmbedResponse(
            embeddings=[
                inference_pb2.Embedding(values=vector.tolist(), tokens=tokens)
                for vector, tokens in embedded
            ]
        )

    async def Tokenize(  # noqa: N802
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        engine = (await self._own_engine(context)).engine
        try:
            tokens = await engine.tokenize(request.text)
        except AirloomError as error:
            await context.abort(grpc_status(error), str(error))
        return inference_pb2.TokenizeResponse(
            token_ids=tokens, pieces=[engine.model.pieces[token] for token in tokens]
        )

    async def DescribeModel(  # noqa: N802
        self, request: inference_pb2.DescribeModelRequest, context: Context
    ) -> inference_pb2.DescribeModelResponse:
        del request, context
        return inference_pb2.DescribeModelResponse(model=self._answerer.model_info)

    async def ListModels(  # noqa: N802
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        del request, context
        return inference_pb2.ListModelsResponse(models=[self._answerer.model_info])

    async def ListAdapters(  # noqa: N802
        self, request: inference_pb2.ListAdaptersRequest, context: Context
    ) -> inference_pb2.ListAdaptersResponse:
        del request, context
        adapters = () if self._chat is None else self._chat.engine.adapters
        return inference_pb2.ListAdaptersResponse(
            adapters=[
                inference_pb2.AdapterInfo(
                    name=adapter.name,
                    size_bytes=adapter.size_bytes,
                    sha256=adapter.sha256,
                    invocation_token_ids=adapter.invocation,
                )
                for adapter in adapters
            ]
        )

    async def _own_engine(self, context: Context) -> EngineChat:
        if self._chat is None:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "this agent's answers come from other servers: ask those",
            )
        return self._chat
