"""From a request for text to its HTTP answer, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from airloom.errors import CancelledTaskError, explained
from airloom.tracing import describe_usage
from device_agent.answering import AnswerStream
from device_agent.cascade import Cascade
from device_agent.engine import Completion, Delta, Engine, GenerateRequest, Generation
from device_agent.http import errors, translate
from device_agent.http.escalation import completion_of
from device_agent.http.settings import Place
from device_agent.http.shapes import Shape
from protos.airloom.v1 import task_pb2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for text, translated."""

    generations: Sequence[GenerateRequest]
    task: task_pb2.Task | None
    """The same for the cloud; None where only this board can do it, or may."""
    shape: Shape
    stream: bool
    with_usage: bool


class Answers:
    """Answers with the board's engine, and with the cascade where there is one and it may be asked."""

    def __init__(self, engine: Engine, cascade: Cascade | None, place: Place) -> None:
        """`place` is where the engine runs."""
        self._engine, self._cascade, self.place = engine, cascade, place

    async def answer(self, wanted: Wanted, request: Request) -> Response:
        """The whole answer, or its events as they come; a client that leaves ends the work."""
        cascade, task = self._cascade, wanted.task
        if cascade is not None and task is not None and cascade.may_ask_cloud(task):
            asked = _Asked(self._engine, cascade, task, wanted)
            return await (asked.streamed(request) if wanted.stream else asked.whole(request))
        return await self._alone(wanted, request)

    async def _alone(self, wanted: Wanted, request: Request) -> Response:
        generations: list[Generation] = []
        headers = _headers(self.place, self._engine.description.name)
        try:
            for each in wanted.generations:
                generations.append(await self._engine.start(each, stream=wanted.stream))
            if wanted.stream:
                return _Events(_events(generations, wanted), headers, generations)
            completions = await unless_gone(
                request, asyncio.gather(*(generation.completion() for generation in generations))
            )
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise
        return _whole(wanted.shape, completions, headers)


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class _Events(StreamingResponse):
    """Server-sent events; a client that leaves, however early, stops the work behind them."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        headers: dict[str, str],
        work: Sequence[_Cancellable],
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for each in self._work:
                each.cancel()


class _HeldText:
    """A stream that cannot take back what it has said: it holds the board's text until that counts.

    Where the board's answer is kept whatever its confidence, its text passes at once.
    """

    def __init__(self, *, hold: bool) -> None:
        self._hold = hold
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        """What may be sent; None ends it."""
        self.said = False
        self.from_cloud = False

    async def text(self, text: str) -> None:
        if not self._hold:
            self.said = True
            self.pieces.put_nowait(text)

    async def set_aside(self, reason: str) -> None:
        if self.said:
            raise CancelledTaskError(f"the text that was streamed does not count: {reason}")
        # A second time it is the board's own answer after all, which is known to count then.
        self._hold, self.from_cloud = False, not self.from_cloud


class _Asked:
    """One request that the board answers, or the cloud."""

    def __init__(
        self, engine: Engine, cascade: Cascade, task: task_pb2.Task, wanted: Wanted
    ) -> None:
        self._engine, self._cascade, self._task, self._wanted = engine, cascade, task, wanted
        self._own: Completion | None = None

    async def _attempt(
        self, deadline_s: float | None, stream: AnswerStream | None
    ) -> task_pb2.TaskResult:
        started_s = time.monotonic()
        # The confidence decides, and comes with the scores.
        request = replace(self._wanted.generations[0], scores=True, deadline_s=deadline_s)
        generation = await self._engine.start(request, stream=stream is not None)
        self._own = await generation.follow(None if stream is None else stream.text)
        return self._cascade.answerer.result("", self._own, started_s)

    async def _work(self, stream: AnswerStream | None) -> task_pb2.TaskResult:
        return await self._cascade.answer_or_ask(self._task, self._attempt, None, stream)

    def _completion(self, result: task_pb2.TaskResult) -> Completion:
        if _from_cloud(result):
            self._wanted.shape.made_by(result.answer.provenance.model_sha256 or "cloud")
            return completion_of(result.answer)
        assert self._own is not None
        return self._own

    async def whole(self, request: Request) -> Response:
        result = await unless_gone(request, self._work(None))
        headers = _headers(_place(result), result.answer.provenance.model_name)
        return _whole(self._wanted.shape, [self._completion(result)], headers)

    async def streamed(self, request: Request) -> Response:
        """Begin to answer when it is known who does, so that headers and refusals can say it."""
        held = _HeldText(hold=self._cascade.routing.threshold > 0)
        working = asyncio.ensure_future(self._work(held))
        working.add_done_callback(lambda _: held.pieces.put_nowait(None))
        try:
            first = await unless_gone(request, held.pieces.get())
            if first is None:
                result = working.result()
                place, model = _place(result), result.answer.provenance.model_name
            elif held.from_cloud:
                place, model = "cloud", ""
                self._wanted.shape.made_by("cloud")
            else:
                place, model = "device", self._engine.description.name
        except BaseException:
            working.cancel()
            raise
        events = self._events(working, held, first)
        return _Events(events, _headers(place, model), [working])

    async def _events(
        self, working: asyncio.Future[task_pb2.TaskResult], held: _HeldText, first: str | None
    ) -> AsyncIterator[bytes]:
        shape = self._wanted.shape
        try:
            if (opening := shape.opening(0)) is not None:
                yield shape.chunk(opening)
            piece = first
            while piece is not None:
                yield shape.chunk(shape.piece(0, Delta(piece, ())))
                piece = await held.pieces.get()
            result = await working
            completion = self._completion(result)
            if not held.said and completion.text:
                yield shape.chunk(shape.piece(0, Delta(completion.text, ())))
            for event in _closing(shape, [completion], with_usage=self._wanted.with_usage):
                yield event
        except Exception as error:
            yield _failure(error)


def _from_cloud(result: task_pb2.TaskResult) -> bool:
    return bool(result.answer.escalation_reason)


def _place(result: task_pb2.TaskResult) -> str:
    return "cloud" if _from_cloud(result) else "device"


def _headers(place: str, model: str) -> dict[str, str]:
    headers = {"airloom-place": place}
    if model:
        headers["airloom-model"] = translate.header_value(model)
    return headers


def _whole(shape: Shape, completions: Sequence[Completion], headers: dict[str, str]) -> Response:
    usage = translate.usage(completions)
    describe_usage(usage.prompt_tokens, usage.completion_tokens)
    return JSONResponse(shape.whole(completions, usage), headers=headers)


async def _events(generations: Sequence[Generation], wanted: Wanted) -> AsyncIterator[bytes]:
    """Server-sent events of all choices."""
    shape = wanted.shape
    try:
        for index in range(len(generations)):
            if (opening := shape.opening(index)) is not None:
                yield shape.chunk(opening)
        async with aclosing(_merged(generations)) as merged:
            async for index, delta in merged:
                yield shape.chunk(shape.piece(index, delta))
        completions = [await generation.completion() for generation in generations]
        for event in _closing(shape, completions, with_usage=wanted.with_usage):
            yield event
    except Exception as error:
        yield _failure(error)


def _closing(
    shape: Shape, completions: Sequence[Completion], *, with_usage: bool
) -> Iterator[bytes]:
    for index, completion in enumerate(completions):
        yield shape.chunk(shape.closing(index, completion))
    usage = translate.usage(completions)
    describe_usage(usage.prompt_tokens, usage.completion_tokens)
    if with_usage:
        yield shape.chunk(None, usage.model_dump())
    yield b"data: [DONE]\n\n"


def _failure(error: Exception) -> bytes:
    _, described = errors.describe(explained(error))
    return f"data: {described.model_dump_json()}\n\n".encode()


async def _merged(
    generations: Sequence[Generation],
) -> AsyncGenerator[tuple[int, Delta], None]:
    if len(generations) == 1:
        async for delta in generations[0]:
            yield 0, delta
        return
    arrived: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue()

    async def follow(index: int, generation: Generation) -> None:
        try:
            async for delta in generation:
                arrived.put_nowait((index, delta))
        finally:
            arrived.put_nowait(None)

    following = [asyncio.ensure_future(follow(i, g)) for i, g in enumerate(generations)]
    try:
        ended = 0
        while ended < len(generations):
            item = await arrived.get()
            if item is None:
                ended += 1
            else:
                yield item
        await asyncio.gather(*following)
    finally:
        for task in following:
            task.cancel()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Wait for the work unless the client leaves first, which stops it."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CancelledTaskError("the client left before the answer was done")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
