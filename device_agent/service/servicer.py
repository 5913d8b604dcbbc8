"""The gRPC service that applications call on a board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol, TypeAlias

import grpc

from airloom.errors import (
    InvalidTaskError,
    ModelLoadError,
    NotFoundError,
    UnauthenticatedError,
    explained,
)
from airloom.grpc_status import write
from airloom.identity import Caller, caller_of, certificate_command
from device_agent.answering import Answerer, AnswerStream, failure
from device_agent.chat import EngineChat
from device_agent.engine import HandedOverError
from device_agent.service.handover import Handover, write_parts
from device_agent.service.idempotency import (
    IdempotentRuns,
    OnStarted,
    by_deadline_at_last,
    new_run_id,
)
from device_agent.service.running_tasks import RunningTasks
from device_agent.task_limits import check_batch, check_task, check_texts, check_tokenize
from device_agent.task_reading import deadline_of
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

RUN_ID_HEADER = "airloom-run-id"
"""In the initial metadata of Infer: the id of the run that answers."""


class Infer(Protocol):
    """Answers a task by a deadline (seconds of time.monotonic), telling a stream of it."""

    def __call__(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        stream: AnswerStream | None = None,
        run_id: str = "",
    ) -> Awaitable[task_pb2.TaskResult]: ...


class _InferStream:
    """Writes what an answer's stream is told to the caller."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def started(self, run_id: str) -> None:
        event = inference_pb2.InferStreamResponse(started=inference_pb2.Started(run_id=run_id))
        await write(self._context, event)

    async def text(self, text: str) -> None:
        await write(self._context, inference_pb2.InferStreamResponse(text=text))

    async def set_aside(self, reason: str) -> None:
        event = inference_pb2.InferStreamResponse(set_aside=inference_pb2.SetAside(reason=reason))
        await write(self._context, event)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Says who calls, checks what it sends, and has it answered; what is raised ends the call.

    Whoever reaches this service may ask. A caller finds its own runs only, an operator all.
    """

    def __init__(
        self, infer: Infer, answerer: Answerer, chat: EngineChat | None, *, trust_names: bool
    ) -> None:
        """`chat` is this process's own engine; None where other servers do the work."""
        self._infer = infer
        self._answerer = answerer
        self._chat = chat
        self._trust_names = trust_names
        self._runs = IdempotentRuns()
        self._running = RunningTasks()
        self._handover = None if chat is None else Handover(chat)

    def caller(self, context: Context) -> Caller:
        """Who calls; raises UnauthenticatedError."""
        return caller_of(context, trust_names=self._trust_names)

    def infer_on(self, caller: Caller, device_id: str) -> Infer:
        """What answers the caller's tasks for a device; raises AirloomError where it may not ask it."""
        del caller
        if device_id:
            raise InvalidTaskError(
                "device_id is for the cloud agent; a device answers only for itself"
            )
        return self._infer

    async def _answer(
        self,
        task: task_pb2.Task,
        caller: Caller,
        infer: Infer,
        deadline_s: float | None,
        *,
        stream: AnswerStream | None = None,
        on_started: OnStarted | None = None,
        target: str = "",
    ) -> task_pb2.TaskResult:
        """Answer a checked task in a run of its own, or in the one that its key joins."""

        async def work(
            run_id: str, deadline_s: float | None, stream: AnswerStream | None
        ) -> task_pb2.TaskResult:
            return await infer(task, deadline_s, stream, run_id)

        with self._running.follow(caller, task.task_id) as followed:

            async def started(run_id: str) -> None:
                followed.run_id = run_id
                if on_started is not None:
                    await on_started(run_id)

            return await self._runs.run(
                caller.owner,
                task,
                work,
                deadline_s=deadline_s,
                stream=stream,
                on_started=started,
                target=target,
            )

    async def Infer(  # noqa: N802
        self, request: inference_pb2.InferRequest, context: Context
    ) -> inference_pb2.InferResponse:
        caller = self.caller(context)
        check_task(request.task)
        deadline_s = deadline_of(request.task, time.monotonic(), context.time_remaining())
        infer = self.infer_on(caller, request.device_id)

        async def tell(run_id: str) -> None:
            await context.send_initial_metadata(((RUN_ID_HEADER, run_id),))

        result = await self._answer(
            request.task, caller, infer, deadline_s, on_started=tell, target=request.device_id
        )
        return inference_pb2.InferResponse(result=result)

    async def InferStream(  # noqa: N802
        self, request: inference_pb2.InferStreamRequest, context: Context
    ) -> None:
        caller = self.caller(context)
        check_task(request.task)
        deadline_s = deadline_of(request.task, time.monotonic(), context.time_remaining())
        stream = _InferStream(context)
        result = await self._answer(
            request.task,
            caller,
            self.infer_on(caller, ""),
            deadline_s,
            stream=stream,
            on_started=stream.started,
        )
        await write(context, inference_pb2.InferStreamResponse(result=result))

    async def InferBatch(  # noqa: N802
        self, request: inference_pb2.InferBatchRequest, context: Context
    ) -> AsyncIterator[inference_pb2.InferBatchResponse]:
        received_s, remaining_s = time.monotonic(), context.time_remaining()
        caller = self.caller(context)
        check_batch(request.tasks)
        infer = self.infer_on(caller, "")

        async def answer(index: int, task: task_pb2.Task) -> task_pb2.TaskResult:
            try:
                check_task(task, f"tasks[{index}]")
                deadline_s = deadline_of(task, received_s, remaining_s)
                return await self._answer(task, caller, infer, deadline_s)
            except Exception as error:
                return failure(task.task_id, explained(error))

        answering = [asyncio.ensure_future(answer(*each)) for each in enumerate(request.tasks)]
        try:
            for done in asyncio.as_completed(answering):
                yield inference_pb2.InferBatchResponse(result=await done)
        finally:
            for one in answering:
                one.cancel()

    async def Suspend(  # noqa: N802
        self, request: inference_pb2.SuspendRequest, context: Context
    ) -> None:
        _, handover = self._own_engine()
        caller = self.caller(context)
        sent_before = handover.sent(caller.owner, request.run_id)

        async def tell(chunk: bytes) -> None:
            await write(context, inference_pb2.SuspendResponse(chunk=chunk))

        try:
            run_id = self._running.find(caller, request.run_id, request.task_id)
            await handover.send(caller.owner, run_id, _deadline(context), tell)
        except (NotFoundError, InvalidTaskError, HandedOverError):
            # It is not here any more: the caller took it, and may not have got it.
            if sent_before is None:
                raise
            await write_parts(sent_before, tell)

    async def Resume(  # noqa: N802
        self, request_iterator: AsyncIterator[inference_pb2.ResumeRequest], context: Context
    ) -> None:
        started_s, deadline_s = time.monotonic(), _deadline(context)
        _, handover = self._own_engine()
        caller = self.caller(context)
        if not (caller.authenticated or caller.is_operator):
            raise UnauthenticatedError(
                f"to resume a state takes a certificate ({certificate_command()}), or a server "
                "whose security says trust_names: true"
            )
        arrived = await handover.receive(caller.owner, aiter(request_iterator), deadline_s)

        async def tell(text: str) -> None:
            await write(context, inference_pb2.ResumeResponse(text=text))

        with self._running.follow(caller, arrived.label) as followed:
            followed.run_id = new_run_id()
            started = inference_pb2.Started(run_id=followed.run_id)
            await write(context, inference_pb2.ResumeResponse(started=started))
            completion = await by_deadline_at_last(
                handover.resume(arrived, followed.run_id, tell, deadline_s), deadline_s
            )
        result = self._answerer.result(arrived.label, completion, started_s)
        await write(context, inference_pb2.ResumeResponse(result=result))

    async def Embed(  # noqa: N802
        self, request: inference_pb2.EmbedRequest, context: Context
    ) -> inference_pb2.EmbedResponse:
        self.caller(context)
        chat, _ = self._own_engine()
        check_texts(request.texts)
        embedded = await chat.engine.embed(request.texts)
        return inference_pb2.EmbedResponse(
            embeddings=[
                inference_pb2.Embedding(values=vector.tolist(), tokens=tokens)
                for vector, tokens in embedded
            ]
        )

    async def Tokenize(  # noqa: N802
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        self.caller(context)
        engine = self._own_engine()[0].engine
        check_tokenize(request.text)
        tokens = await engine.tokenize(request.text)
        return inference_pb2.TokenizeResponse(
            token_ids=tokens, pieces=[engine.model.pieces[token] for token in tokens]
        )

    async def DescribeModel(  # noqa: N802
        self, request: inference_pb2.DescribeModelRequest, context: Context
    ) -> inference_pb2.DescribeModelResponse:
        del request
        self.caller(context)
        return inference_pb2.DescribeModelResponse(model=self._answerer.model_info)

    async def ListModels(  # noqa: N802
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        del request
        self.caller(context)
        return inference_pb2.ListModelsResponse(models=[self._answerer.model_info])

    async def ListAdapters(  # noqa: N802
        self, request: inference_pb2.ListAdaptersRequest, context: Context
    ) -> inference_pb2.ListAdaptersResponse:
        del request
        self.caller(context)
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

    def _own_engine(self) -> tuple[EngineChat, Handover]:
        if self._chat is None or self._handover is None:
            raise ModelLoadError("this agent's answers come from other servers: ask those")
        return self._chat, self._handover


def _deadline(context: Context) -> float | None:
    """The call's own deadline, on time.monotonic()'s clock."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s
