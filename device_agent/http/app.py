"""The HTTP application: OpenAI's endpoints, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np
import prometheus_client
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry

from airloom.errors import AirloomError, CancelledTaskError, InvalidTaskError
from airloom.tracing import describe_usage
from device_agent.chat import EngineChat
from device_agent.engine import Delta, Engine, GenerateRequest, Generation
from device_agent.http import errors, schemas, translate
from device_agent.http.shapes import ChatShape, Shape, TextShape

T = TypeVar("T")

_EVENT = {
    "type": "object",
    "description": "A server-sent event: a chunk as JSON, an error, or [DONE] as the last",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


def create_app(chat: EngineChat, registry: CollectorRegistry, api_key: str = "") -> FastAPI:
    """Build the application on an engine; with an `api_key` all but /health needs it."""
    app = FastAPI(
        title="airloom",
        summary="OpenAI's API on a device's own model",
        version="1",
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    engine = chat.engine
    started = int(time.time())
    guarded = [Depends(_key_check(api_key))] if api_key else []
    common: dict[str, Any] = {"responses": errors.RESPONSES, "dependencies": guarded}

    streamed = {
        **common,
        "responses": {
            **errors.RESPONSES,
            200: {
                "description": "The whole answer, or with `stream` its pieces as they come",
                "content": {"text/event-stream": {"schema": _EVENT}},
            },
        },
    }

    @app.post("/v1/chat/completions", response_model=schemas.ChatCompletion, **streamed)
    async def chat_completions(body: schemas.ChatCompletionRequest, request: Request) -> Response:
        wanted = translate.chat_requests(chat, body)
        shape = ChatShape(engine, body.model, bool(body.logprobs))
        return await _answer(engine, wanted, body, shape, request)

    @app.post("/v1/completions", response_model=schemas.TextCompletion, **streamed)
    async def completions(body: schemas.CompletionRequest, request: Request) -> Response:
        wanted = translate.text_requests(engine, body)
        shape = TextShape(engine, body.model, body.logprobs is not None)
        return await _answer(engine, wanted, body, shape, request)

    @app.post("/v1/embeddings", response_model=schemas.Embeddings, **common)
    async def embeddings(body: schemas.EmbeddingsRequest, request: Request) -> schemas.Embeddings:
        if translate.resolve_model(engine, body.model):
            raise InvalidTaskError("embeddings come from the model alone, not from an adapter")
        width = engine.model.embedding_width
        if body.dimensions not in (None, width):
            raise InvalidTaskError(f"this model's embeddings have {width} dimensions")
        texts = [body.input] if isinstance(body.input, str) else body.input
        embedded = await _unless_gone(request, engine.embed(texts))
        tokens = sum(count for _, count in embedded)

        def encode(vector: np.ndarray[Any, np.dtype[np.float32]]) -> list[float] | str:
            if body.encoding_format == "base64":
                return base64.b64encode(vector.astype("<f4").tobytes()).decode()
            return [float(value) for value in vector]

        return schemas.Embeddings(
            model=body.model,
            data=[
                schemas.EmbeddingItem(index=index, embedding=encode(vector))
                for index, (vector, _) in enumerate(embedded)
            ],
            usage=schemas.EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens),
        )

    @app.get("/v1/models", response_model=schemas.ModelList, **common)
    async def models() -> schemas.ModelList:
        return schemas.ModelList(data=_cards(engine, started))

    @app.get("/v1/models/{model:path}", response_model=schemas.ModelCard, **common)
    async def model(model: str) -> schemas.ModelCard:
        translate.resolve_model(engine, model)
        return next(card for card in _cards(engine, started) if card.id == model)

    @app.get("/health", response_model=schemas.Health)
    async def health() -> schemas.Health:
        return schemas.Health()

    @app.get("/metrics", include_in_schema=False, dependencies=guarded)
    async def metrics() -> Response:
        text = prometheus_client.generate_latest(registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


def _key_check(api_key: str) -> Callable[..., Awaitable[None]]:
    bearer = HTTPBearer(auto_error=False)

    async def check(
        credentials: HTTPAuthorizationCredentials | None = Depends(bearer),  # noqa: B008
    ) -> None:
        shown = credentials.credentials if credentials is not None else ""
        if not hmac.compare_digest(shown.encode(), api_key.encode()):
            raise errors.WrongKeyError("no valid API key: send Authorization: Bearer KEY")

    return check


def _cards(engine: Engine, created: int) -> list[schemas.ModelCard]:
    name = engine.description.name
    return [
        schemas.ModelCard(id=name, created=created, owned_by="airloom"),
        *(
            schemas.ModelCard(id=adapter.name, created=created, owned_by="airloom", parent=name)
            for adapter in engine.adapters
        ),
    ]


async def _answer(
    engine: Engine,
    wanted: Sequence[GenerateRequest],
    body: schemas.GenerationOptions,
    shape: Shape,
    request: Request,
) -> Response:
    generations: list[Generation] = []
    try:
        for each in wanted:
            generations.append(await engine.start(each, stream=bool(body.stream)))
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            events = _events(generations, shape, with_usage=with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        completions = await _unless_gone(
            request, asyncio.gather(*(generation.completion() for generation in generations))
        )
    except BaseException:
        for generation in generations:
            generation.cancel()
        raise
    usage = translate.usage(completions)
    describe_usage(usage.prompt_tokens, usage.completion_tokens)
    return JSONResponse(shape.whole(completions, usage))


async def _events(
    generations: Sequence[Generation], shape: Shape, *, with_usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events of all choices; a client that leaves stops the generations."""
    try:
        for index in range(len(generations)):
            if (opening := shape.opening(index)) is not None:
                yield shape.chunk(opening)
        async with aclosing(_merged(generations)) as merged:
            async for index, delta in merged:
                yield shape.chunk(shape.piece(index, delta))
        completions = [await generation.completion() for generation in generations]
        for index, completion in enumerate(completions):
            yield shape.chunk(shape.closing(index, completion))
        usage = translate.usage(completions)
        describe_usage(usage.prompt_tokens, usage.completion_tokens)
        if with_usage:
            yield shape.chunk(None, usage.model_dump())
        yield b"data: [DONE]\n\n"
    except AirloomError as error:
        _, described = errors.describe(error)
        yield f"data: {described.model_dump_json()}\n\n".encode()
    finally:
        for generation in generations:
            generation.cancel()


async def _merged(
    generations: Sequence[Generation],
) -> AsyncGenerator[tuple[int, Delta], None]:
    if len(generations) == 1:
        async for delta in generations[0]:
            yield 0, delta
        return
    arrived: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue()

    async def follow(index: int, generation: Generation) -> None:
        async for delta in generation:
            arrived.put_nowait((index, delta))
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
    finally:
        for task in following:
            task.cancel()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
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
