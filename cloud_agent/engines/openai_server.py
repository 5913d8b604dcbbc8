"""One server that speaks OpenAI's API: vLLM, Ray Serve, SGLang, llama-server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from airloom.concurrency import by_deadline
from airloom.errors import (
    AirloomError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
    UnreachableError,
)
from airloom.log_text import one_line
from cloud_agent.config import ServerSettings
from cloud_agent.engines.bounded_lines import bounded_client
from collaboration.confidence import TokenScore, summarise
from device_agent.chat import ChatRequest, Message
from device_agent.config import read_secret
from device_agent.engine import IMAGE_MARK, Completion, OnText, Sampling

_ALTERNATIVES = 5
"""Asked of the server at each token, for the margin and the entropy."""


_MOST_CHARACTERS = 4 << 20
"""Of one answer."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk of a streamed completion."""

    text: str
    scores: tuple[TokenScore, ...]
    finish_reason: str | None
    usage: tuple[int, int] | None
    """Tokens of the prompt and of the completion."""


class OpenAIServer:
    """Continues conversations by HTTP."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._client = openai.AsyncOpenAI(
            base_url=settings.url,
            api_key=read_secret(settings.api_key_file) or "none",
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=bounded_client(settings.timeout_s),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def check(self, timeout_s: float) -> None:
        """Ask the server what it serves.

        Raises:
            UnreachableError: it does not answer, or does not serve the model.
        """
        with self._explaining():
            models = self._client.with_options(timeout=timeout_s).models.list()
            served = [str(model.id) async for model in models]
        if self.settings.model not in served:
            raise UnreachableError(
                f"{self.settings.url} serves {one_line(', '.join(served) or 'nothing')}, "
                f"not {self.settings.model!r}"
            )

    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """Continue a conversation; raises AirloomError."""
        try:
            # The client's own timeout is for silence: a server that keeps talking never meets it.
            return await by_deadline(self._chat(request, on_text), request.deadline_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError(
                f"the deadline passed before {self.settings.url} had answered"
            ) from error

    async def _chat(self, request: ChatRequest, on_text: OnText | None) -> Completion:
        started_s = time.monotonic()
        first_s = 0.0
        texts: list[str] = []
        scores: list[TokenScore] = []
        reason: str | None = "stop"
        prompt_tokens, completion_tokens = 0, None
        async with contextlib.aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                scores += piece.scores
                if piece.text:
                    first_s = first_s or time.monotonic()
                    texts.append(piece.text)
                    if on_text is not None:
                        await on_text(piece.text)
                reason = piece.finish_reason or reason
                if piece.usage is not None:
                    prompt_tokens, completion_tokens = piece.usage
        ended_s = time.monotonic()
        return Completion(
            text="".join(texts),
            tokens=(),
            confidence=summarise(scores) if scores else None,
            finish_reason="length" if reason == "length" else "end",
            prompt_tokens=prompt_tokens,
            cached_tokens=0,
            queue_ms=0.0,
            prefill_ms=((first_s or ended_s) - started_s) * 1e3,
            decode_ms=(ended_s - (first_s or ended_s)) * 1e3,
            completion_tokens=len(scores) if completion_tokens is None else completion_tokens,
            adapters=request.adapters,
        )

    async def _pieces(self, request: ChatRequest) -> AsyncGenerator[_Piece, None]:
        """What the server says, read; whatever cannot be read is an UnreachableError."""
        arguments = self._arguments(request)
        characters = 0
        with self._explaining():
            stream = await self._client.chat.completions.create(**arguments)
        async with stream:
            chunks = aiter(stream)
            while True:
                with self._explaining():
                    chunk = await anext(chunks, None)
                    piece = None if chunk is None else _read(chunk)
                if piece is None:
                    return
                characters += len(piece.text)
                if characters > _MOST_CHARACTERS:
                    raise UnreachableError(
                        f"{self.settings.url} has said {_MOST_CHARACTERS} characters and does not end"
                    )
                yield piece

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Raise what goes wrong with the server in this block as an AirloomError."""
        try:
            yield
        except AirloomError:
            raise
        except openai.OpenAIError as error:
            raise self._explain(error) from error
        except httpx2.HTTPError as error:
            raise UnreachableError(
                f"{self.settings.url} does not answer: {type(error).__name__} {one_line(error)}"
            ) from error
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise UnreachableError(
                f"{self.settings.url} says what is no chat completion of OpenAI's API: "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "model": self._model_for(request),
            "messages": [_message(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "seed": sampling.seed,
            "stop": list(request.stop) or None,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": _beyond_openai(sampling),
        }
        if request.scores:
            arguments |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        form = request.form
        if form.grammar is not None:
            raise InvalidTaskError(
                "OpenAI's API takes JSON schemas, not grammars; use json_schema with this agent"
            )
        if form.json_schema is not None:
            schema = {"name": "answer", "schema": form.json_schema, "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form.json_object:
            arguments["response_format"] = {"type": "json_object"}
        return arguments

    def _model_for(self, request: ChatRequest) -> str:
        """Servers offer each LoRA adapter as a model of its own."""
        if not request.adapters:
            return self.settings.model
        if len(request.adapters) > 1 or request.adapters[0].scale != 1:
            raise InvalidTaskError("a server takes one adapter, at scale 1")
        return request.adapters[0].name

    def _explain(self, error: openai.OpenAIError) -> AirloomError:
        url = self.settings.url
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return UnreachableError(f"{url} refuses the API key: {one_line(error)}")
        if isinstance(error, openai.RateLimitError):
            return OverloadedError(f"{url} has too much to do: {one_line(error)}")
        if isinstance(error, openai.APIStatusError) and error.status_code < 500:
            return InvalidTaskError(f"{url} refuses the request: {one_line(error)}")
        # The library's own words for all that went wrong below it are "Connection error."
        why = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
        return UnreachableError(f"{url} does not answer: {one_line(why or error)}")


def _beyond_openai(sampling: Sampling) -> dict[str, Any]:
    """What vLLM, SGLang and llama-server take although OpenAI does not; sent only where used."""
    fields: dict[str, Any] = {}
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.min_p:
        fields["min_p"] = sampling.min_p
    return fields


def _message(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    parts: list[dict[str, Any]] = []
    for index, text in enumerate(message.text.split(IMAGE_MARK)):
        if index:
            data = base64.b64encode(message.images[index - 1].data).decode()
            url = f"data:application/octet-stream;base64,{data}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        if text.strip():
            parts.append({"type": "text", "text": text})
    return {"role": message.role, "content": parts}


def _read(chunk: Any) -> _Piece:
    """Read a chunk; raises whatever its form makes go wrong."""
    usage = None
    if chunk.usage is not None:
        usage = (int(chunk.usage.prompt_tokens), int(chunk.usage.completion_tokens))
    if not chunk.choices:
        return _Piece("", (), None, usage)
    choice = chunk.choices[0]
    text = choice.delta.content or ""
    if not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}, not text")
    tokens = () if choice.logprobs is None else choice.logprobs.content or ()
    return _Piece(text, tuple(map(_score, tokens)), choice.finish_reason, usage)


def _score(token: Any) -> TokenScore:
    """A token's score from the alternatives the server names.

    What they leave of the probability counts as a single token: the entropy is a lower bound.
    """
    logprob = float(token.logprob)
    others = [math.exp(one.logprob) for one in token.top_logprobs or () if one.token != token.token]
    named = [math.exp(logprob), *others]
    rest = max(0.0, 1.0 - math.fsum(named))
    entropy = -math.fsum(p * math.log(p) for p in [*named, rest] if p > 0)
    return TokenScore(logprob, math.exp(logprob) - max(others, default=0.0), entropy)
