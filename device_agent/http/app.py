"""The HTTP application: OpenAI's endpoints, health and metrics."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any, Literal

import numpy as np
import prometheus_client
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from airloom.errors import InvalidTaskError
from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.engine import Engine, GenerateRequest
from device_agent.http import errors, escalation, schemas, translate
from device_agent.http.answer_counts import AnswerCounts
from device_agent.http.answers import Answers, Wanted, unless_gone
from device_agent.http.auth import Authentication, KeyRing
from device_agent.http.json_body import strict_route
from device_agent.http.limits import BodyLimit, Faults, RequestsAtOnce
from device_agent.http.settings import HttpSettings, Place
from device_agent.http.shapes import ChatShape, Shape, TextShape
from protos.airloom.v1 import task_pb2

Residency = Annotated[
    Literal["device-only", "anywhere"],
    Header(alias="airloom-residency", description="device-only: the cloud is not asked"),
]

_EVENT = {
    "type": "object",
    "description": "A server-sent event: a chunk as JSON, an error, or [DONE] as the last",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}
_STREAMED: dict[int | str, dict[str, Any]] = {
    **errors.RESPONSES,
    200: {
        "description": "The whole answer, or with `stream` its pieces as they come",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
}


def create_app(
    chat: EngineChat,
    registry: CollectorRegistry,
    settings: HttpSettings,
    cascade: Cascade | None = None,
    *,
    place: Place = "device",
) -> ASGIApp:
    """Build the application on an engine at a place, and on a cascade where there is one.

    Raises:
        ConfigurationError: a file of keys cannot be read.
    """
    keys = KeyRing(settings)
    app = FastAPI(
        title="airloom",
        summary="OpenAI's API on a device's own model",
        version="1",
        docs_url=None,
        redoc_url=None,
        # `Authentication` has checked the key by then; here it is only described.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if keys else [],
    )
    app.router.route_class = strict_route(settings.limits.body_values)
    errors.install(app)
    _add_generation(app, chat, Answers(chat.engine, cascade, place))
    _add_embeddings(app, chat.engine)
    _add_models(app, chat.engine)
    _add_watching(app, chat.engine, registry)
    limited = RequestsAtOnce(BodyLimit(app, settings.limits), settings.limits)
    return AnswerCounts(Faults(Authentication(limited, keys)), registry)


def _add_generation(app: FastAPI, chat: EngineChat, answers: Answers) -> None:
    engine = chat.engine

    async def answer(
        body: escalation.Body,
        generations: list[GenerateRequest],
        shape: Shape,
        residency: str,
        request: Request,
    ) -> Response:
        task = escalation.task_of(body, generations)
        if residency == "device-only" and answers.place == "cloud":
            raise InvalidTaskError(
                "airloom-residency: device-only, but this is a cloud's server: ask a device's"
            )
        if task is not None and residency == "device-only":
            task.budget.residency = task_pb2.RESIDENCY_DEVICE_ONLY
        options = body.stream_options
        wanted = Wanted(
            generations,
            task,
            shape,
            stream=bool(body.stream),
            with_usage=options is not None and bool(options.include_usage),
        )
        response = await answers.answer(wanted, request)
        response.headers.update(translate.ignored_header(body))
        return response

    @app.post("/v1/chat/completions", response_model=schemas.ChatCompletion, responses=_STREAMED)
    async def chat_completions(
        body: schemas.ChatCompletionRequest, request: Request, residency: Residency = "anywhere"
    ) -> Response:
        shape = ChatShape(engine, body.model, bool(body.logprobs))
        wanted = translate.chat_requests(chat, body)
        return await answer(body, wanted, shape, residency, request)

    @app.post("/v1/completions", response_model=schemas.TextCompletion, responses=_STREAMED)
    async def completions(
        body: schemas.CompletionRequest, request: Request, residency: Residency = "anywhere"
    ) -> Response:
        shape = TextShape(engine, body.model, body.logprobs is not None)
        wanted = translate.text_requests(engine, body)
        return await answer(body, wanted, shape, residency, request)


def _add_embeddings(app: FastAPI, engine: Engine) -> None:
    @app.post("/v1/embeddings", response_model=schemas.Embeddings, responses=errors.RESPONSES)
    async def embeddings(
        body: schemas.EmbeddingsRequest, request: Request, response: Response
    ) -> schemas.Embeddings:
        if translate.resolve_model(engine, body.model):
            raise InvalidTaskError("embeddings come from the model alone, not from an adapter")
        width = engine.model.embedding_width
        if body.dimensions not in (None, width):
            raise InvalidTaskError(f"this model's embeddings have {width} dimensions")
        texts = [body.input] if isinstance(body.input, str) else body.input
        embedded = await unless_gone(request, engine.embed(texts))
        tokens = sum(count for _, count in embedded)
        response.headers.update(translate.ignored_header(body))

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


def _add_models(app: FastAPI, engine: Engine) -> None:
    created = int(time.time())

    def cards() -> list[schemas.ModelCard]:
        name = engine.description.name
        return [
            schemas.ModelCard(id=name, created=created, owned_by="airloom"),
            *(
                schemas.ModelCard(id=adapter.name, created=created, owned_by="airloom", parent=name)
                for adapter in engine.adapters
            ),
        ]

    @app.get("/v1/models", response_model=schemas.ModelList, responses=errors.RESPONSES)
    async def models() -> schemas.ModelList:
        return schemas.ModelList(data=cards())

    @app.get(
        "/v1/models/{model:path}", response_model=schemas.ModelCard, responses=errors.RESPONSES
    )
    async def model(model: str) -> schemas.ModelCard:
        translate.resolve_model(engine, model)
        return next(card for card in cards() if card.id == model)


def _add_watching(app: FastAPI, engine: Engine, registry: CollectorRegistry) -> None:
    failed = {"model": schemas.Health, "description": "The engine has failed: the agent is ending"}

    @app.get("/health", response_model=schemas.Health, responses={503: failed})
    async def health(response: Response) -> schemas.Health:
        if engine.failed is None:
            return schemas.Health()
        response.status_code = 503
        return schemas.Health(status="failed", reason=str(engine.failed))

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        text = prometheus_client.generate_latest(registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)
