"""A generation taken out of one engine, to go on in another as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airloom.errors import InvalidTaskError
from collaboration.confidence import TokenScore
from device_agent.engine.requests import (
    AdapterUse,
    Alternative,
    GenerateRequest,
    Sampling,
    Token,
)

_MAGIC = b"airloom sequence 1\n"
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class SequenceState:
    """All that another engine with the same model needs.

    `memory` holds the keys and values of the first `position` tokens in llama.cpp's own layout; the
    sampler's state is the seed with the number of draws taken from it.
    """

    model_sha256: str
    layout: str
    """What must be equal for the memory to be readable: the cache's type."""
    adapter_sha256: Mapping[str, str]
    request: GenerateRequest
    tokens: tuple[int, ...]
    prompt_tokens: int
    position: int
    draws: int
    generated: tuple[Token, ...]
    scores: tuple[TokenScore, ...]
    memory: bytes

    def to_bytes(self) -> bytes:
        """Serialise, with a SHA-256 over everything at the end."""
        request = asdict(self.request)
        sampling = request["sampling"]
        sampling["logit_bias"] = list(sampling["logit_bias"].items())
        header = {
            "model_sha256": self.model_sha256,
            "layout": self.layout,
            "adapter_sha256": dict(self.adapter_sha256),
            "request": request,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "position": self.position,
            "draws": self.draws,
            "generated": [asdict(token) for token in self.generated],
            "scores": [asdict(score) for score in self.scores],
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        body = _MAGIC + _LENGTH.pack(len(text)) + text + self.memory
        return body + hashlib.sha256(body).digest()

    @staticmethod
    def from_bytes(data: bytes) -> SequenceState:
        """Read what `to_bytes` wrote.

        Raises:
            InvalidTaskError: it is something else, or was cut short or changed on its way.
        """
        if not data.startswith(_MAGIC):
            raise InvalidTaskError("not a sequence state of this version")
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise InvalidTaskError("the sequence state was cut short or changed: wrong checksum")
        start = len(_MAGIC) + _LENGTH.size
        (size,) = _LENGTH.unpack(body[len(_MAGIC) : start])
        header: dict[str, Any] = json.loads(body[start : start + size])
        return SequenceState(
            model_sha256=header["model_sha256"],
            layout=header["layout"],
            adapter_sha256=header["adapter_sha256"],
            request=_request(header["request"]),
            tokens=tuple(header["tokens"]),
            prompt_tokens=header["prompt_tokens"],
            position=header["position"],
            draws=header["draws"],
            generated=tuple(_token(token) for token in header["generated"]),
            scores=tuple(TokenScore(**score) for score in header["scores"]),
            memory=body[start + size :],
        )


def _request(fields: dict[str, Any]) -> GenerateRequest:
    sampling = fields.pop("sampling")
    sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"]}
    prompt = fields.pop("prompt")
    return GenerateRequest(
        **{
            **fields,
            "prompt": prompt if isinstance(prompt, str) else tuple(prompt),
            "sampling": Sampling(**sampling),
            "images": (),
            "stop": tuple(fields["stop"]),
            "adapters": tuple(AdapterUse(**use) for use in fields["adapters"]),
        }
    )


def _token(fields: dict[str, Any]) -> Token:
    alternatives = tuple(Alternative(**one) for one in fields["alternatives"])
    return Token(fields["token"], fields["logprob"], alternatives)
