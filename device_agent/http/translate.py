"""From OpenAI's requests to the engine's, and from its answers to OpenAI's."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel

from airloom.errors import InvalidTaskError
from device_agent.chat import ChatRequest as ChatTask
from device_agent.chat import EngineChat, Message, OutputForm
from device_agent.engine import (
    IMAGE_MARK,
    AdapterUse,
    Completion,
    Engine,
    GenerateRequest,
    Image,
    Sampling,
    Token,
)
from device_agent.http import schemas
from device_agent.http.errors import ModelNotFoundError

_NO_LIMIT = 2**31 - 1
"""The context is the limit."""


def resolve_model(engine: Engine, wanted: str) -> tuple[AdapterUse, ...]:
    """What a model's name means: the model itself, or with one of its adapters.

    Raises:
        ModelNotFoundError: neither; names what is served.
    """
    if wanted == engine.description.name:
        return ()
    adapters = [adapter.name for adapter in engine.adapters]
    if wanted in adapters:
        return (AdapterUse(wanted),)
    served = ", ".join([engine.description.name, *adapters])
    raise ModelNotFoundError(f"the model {wanted!r} is not served here; served: {served}")


def _adapters(engine: Engine, request: schemas.GenerationOptions) -> tuple[AdapterUse, ...]:
    chosen = resolve_model(engine, request.model)
    return chosen + tuple(AdapterUse(each.name, each.scale) for each in request.adapters or ())


def _sampling(request: schemas.GenerationOptions) -> Sampling:
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(0, request.top_k or 0),
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
        seed=secrets.randbits(63) if request.seed in (None, -1) else request.seed,
    )


def _stop(request: schemas.GenerationOptions) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    marks = [request.stop] if isinstance(request.stop, str) else request.stop
    return tuple(mark for mark in marks if mark)


def _tokens(*wanted: int | None, otherwise: int) -> int:
    """The first limit that was given; -1 asks for the context's."""
    given = next((limit for limit in wanted if limit is not None), otherwise)
    return _NO_LIMIT if given == -1 else given


def _copies(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """The same request with seeds of its own for each copy."""
    sampling = request.sampling
    return [
        replace(request, sampling=replace(sampling, seed=sampling.seed + copy))
        for copy in range(count)
    ]


def role_of(message: schemas.ChatMessage) -> str:
    """In the words that chat templates know."""
    return "system" if message.role == "developer" else message.role


def _message(message: schemas.ChatMessage) -> Message:
    role = role_of(message)
    if message.content is None or isinstance(message.content, str):
        return Message(role, message.content or "")
    texts, images = [], []
    for part in message.content:
        if isinstance(part, schemas.TextPart):
            texts.append(part.text)
        else:
            texts.append(IMAGE_MARK)
            images.append(image_of(part))
    return Message(role, "\n".join(texts), tuple(images))


def image_of(part: schemas.ImagePart) -> Image:
    """The image in a data URL; raises InvalidTaskError."""
    url = part.image_url.url
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise InvalidTaskError(
            "an image's url must be data:image/…;base64,…: this server fetches nothing"
        )
    try:
        return Image(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise InvalidTaskError(f"an image's data is not base64: {error}") from None


def _form(request: schemas.ChatCompletionRequest) -> OutputForm:
    wanted = request.response_format
    if isinstance(wanted, schemas.JsonSchema):
        return OutputForm(json_schema=wanted.json_schema.schema_)
    return OutputForm(json_object=isinstance(wanted, schemas.JsonObject))


def chat_requests(
    chat: EngineChat, request: schemas.ChatCompletionRequest
) -> list[GenerateRequest]:
    """One engine request for each choice; raises InvalidTaskError."""
    task = ChatTask(
        messages=tuple(_message(message) for message in request.messages),
        max_tokens=_tokens(request.max_completion_tokens, request.max_tokens, otherwise=_NO_LIMIT),
        sampling=_sampling(request),
        stop=_stop(request),
        form=_form(request),
        adapters=_adapters(chat.engine, request),
        scores=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
    )
    made = replace(chat.generate_request(task), ignore_end=bool(request.ignore_eos))
    return _copies(made, request.n or 1)


def text_requests(engine: Engine, request: schemas.CompletionRequest) -> list[GenerateRequest]:
    """One engine request for each prompt and choice, in OpenAI's order."""
    prompt = request.prompt
    prompts: Sequence[str | tuple[int, ...]]
    if isinstance(prompt, str):
        prompts = [prompt]
    elif all(isinstance(token, int) for token in prompt):
        prompts = [tuple(token for token in prompt if isinstance(token, int))]
    else:
        prompts = [
            each if isinstance(each, str) else tuple(each)
            for each in prompt
            if not isinstance(each, int)
        ]
    adapters = _adapters(engine, request)
    return [
        copy
        for each in prompts
        for copy in _copies(
            GenerateRequest(
                prompt=each,
                # OpenAI's default for text completions.
                max_tokens=_tokens(request.max_tokens, otherwise=16),
                sampling=_sampling(request),
                stop=_stop(request),
                adapters=adapters,
                scores=request.logprobs is not None,
                top_logprobs=request.logprobs or 0,
                ignore_end=bool(request.ignore_eos),
            ),
            request.n or 1,
        )
    ]


def finish_reason(completion: Completion) -> Literal["stop", "length"]:
    """OpenAI tells only whether tokens ran out."""
    return "length" if completion.finish_reason == "length" else "stop"


def usage(completions: Sequence[Completion]) -> schemas.Usage:
    """Tokens over all choices."""
    prompt = sum(one.prompt_tokens for one in completions)
    generated = sum(one.completion_tokens for one in completions)
    return schemas.Usage(
        prompt_tokens=prompt,
        completion_tokens=generated,
        total_tokens=prompt + generated,
        prompt_tokens_details=schemas.PromptTokensDetails(
            cached_tokens=sum(one.cached_tokens for one in completions)
        ),
    )


def _piece(engine: Engine, token: int) -> str:
    return engine.model.pieces[token].decode(errors="replace")


def chat_logprobs(engine: Engine, tokens: Sequence[Token]) -> schemas.ChatLogprobs:
    """Each token's log-probability and the likeliest in its place."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        piece = engine.model.pieces[token]
        return {"token": _piece(engine, token), "logprob": logprob, "bytes": list(piece)}

    return schemas.ChatLogprobs(
        content=[
            schemas.TokenLogprob.model_validate(
                {
                    **entry(token.token, token.logprob or 0.0),
                    "top_logprobs": [entry(a.token, a.logprob) for a in token.alternatives],
                }
            )
            for token in tokens
        ]
    )


def text_logprobs(engine: Engine, tokens: Sequence[Token], offset: int = 0) -> schemas.TextLogprobs:
    """The older form, by columns; `offset` is where the text of these tokens begins."""
    pieces = [_piece(engine, token.token) for token in tokens]
    offsets = []
    for piece in pieces:
        offsets.append(offset)
        offset += len(piece)
    return schemas.TextLogprobs(
        tokens=pieces,
        token_logprobs=[token.logprob or 0.0 for token in tokens],
        top_logprobs=[
            {_piece(engine, a.token): a.logprob for a in token.alternatives} for token in tokens
        ],
        text_offset=offsets,
    )


def header_value(name: str) -> str:
    """A name as a header can hold it: percent-encoded, at most 200 characters."""
    return quote(name[:200], safe=" []._-/:+@")[:200]


def ignored_header(request: BaseModel) -> dict[str, str]:
    """Names the fields of a request that had no meaning here, the first 20 of them."""
    names = schemas.ignored_fields(request, 20)
    if not names:
        return {}
    return {"airloom-ignored-fields": ", ".join(header_value(name)[:64] for name in names)}
