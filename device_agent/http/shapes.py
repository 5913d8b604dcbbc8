"""How OpenAI's endpoints write their answers, whole and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from device_agent.engine import Completion, Delta, Engine, Token
from device_agent.http import schemas, translate


class Shape(ABC):
    """How an endpoint writes its answers."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, engine: Engine, model: str, logprobs: bool) -> None:
        self.engine = engine
        self.logprobs = logprobs
        self.head: dict[str, Any] = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self.made_by(engine.description.sha256)

    def made_by(self, model_sha256: str) -> None:
        """Whose answer it is, for OpenAI's fingerprint of a system."""
        self.head["system_fingerprint"] = f"airloom-{model_sha256[:12]}"

    def whole(self, completions: Sequence[Completion], usage: schemas.Usage) -> dict[str, Any]:
        return {
            **self.head,
            "object": self.kind,
            "choices": [self.choice(i, one) for i, one in enumerate(completions)],
            "usage": usage.model_dump(),
        }

    def chunk(self, choice: dict[str, Any] | None, usage: object = None) -> bytes:
        """One server-sent event."""
        body = {
            **self.head,
            "object": self.chunk_kind,
            "choices": [] if choice is None else [choice],
            "usage": usage,
        }
        return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()

    @abstractmethod
    def choice(self, index: int, completion: Completion) -> dict[str, Any]: ...

    @abstractmethod
    def opening(self, index: int) -> dict[str, Any] | None: ...

    @abstractmethod
    def piece(self, index: int, delta: Delta) -> dict[str, Any]: ...

    @abstractmethod
    def closing(self, index: int, completion: Completion) -> dict[str, Any]: ...


class ChatShape(Shape):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return translate.chat_logprobs(self.engine, tokens).model_dump()

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": self._logprobs(completion.tokens),
            "finish_reason": translate.finish_reason(completion),
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": delta.text},
            "logprobs": self._logprobs(delta.tokens),
            "finish_reason": None,
        }

    def closing(self, index: int, completion: Completion) -> dict[str, Any]:
        reason = translate.finish_reason(completion)
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}


class TextShape(Shape):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, engine: Engine, model: str, logprobs: bool) -> None:
        super().__init__(engine, model, logprobs)
        self._offsets: dict[int, int] = {}

    def _logprobs(self, tokens: Sequence[Token], offset: int = 0) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return translate.text_logprobs(self.engine, tokens, offset).model_dump()

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        return {
            "index": index,
            "text": completion.text,
            "logprobs": self._logprobs(completion.tokens),
            "finish_reason": translate.finish_reason(completion),
        }

    def opening(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002
        return None

    def piece(self, index: int, delta: Delta) -> dict[str, Any]:
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(delta.text)
        return {
            "index": index,
            "text": delta.text,
            "logprobs": self._logprobs(delta.tokens, offset),
            "finish_reason": None,
        }

    def closing(self, index: int, completion: Completion) -> dict[str, Any]:
        reason = translate.finish_reason(completion)
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}
