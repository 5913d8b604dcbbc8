"""A generation taken out of one engine, to go on in another as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from airloom.errors import AirloomError, InvalidTaskError
from collaboration.confidence import TokenScore
from device_agent.engine import limits
from device_agent.engine.limits import check_integer, check_number, check_text
from device_agent.engine.requests import (
    AdapterUse,
    Alternative,
    Conversation,
    GenerateRequest,
    JsonSchema,
    Sampling,
    Token,
)

_MAGIC = b"airloom sequence 2\n"
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32
HEADER_BYTES_PER_TOKEN = 4096
"""More than a token takes with its score and the most alternatives."""
HEADER_BYTES = 1 << 20
"""More than all else in a header takes, but for the prompt's text."""


@dataclass(frozen=True, slots=True)
class SequenceState:
    """All that another engine with the same model needs.

    `memory` holds the keys and values of the first `position` tokens in llama.cpp's own layout; the
    sampler's state is the seed with the number of draws taken from it.

    Raises:
        InvalidTaskError: the fields contradict each other, or are out of their ranges.
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

    def __post_init__(self) -> None:
        for name, text in (("model_sha256", self.model_sha256), ("layout", self.layout)):
            check_text(f"the state's {name}", text, 1, limits.MAX_NAME_CHARACTERS)
        request = self.request
        if isinstance(request.prompt, Conversation) or isinstance(request.grammar, JsonSchema):
            raise InvalidTaskError("the state's request has not begun yet")
        for token in self.tokens:
            check_integer("a token of the state", token, 0)
        count = len(self.tokens)
        check_integer("the state's prompt_tokens", self.prompt_tokens, 1, count)
        check_integer("the state's draws", self.draws, 0, limits.MAX_SEED)
        numbers = tuple(token.token for token in self.generated)
        if numbers != self.tokens[self.prompt_tokens :]:
            raise InvalidTaskError(
                f"the state has {count} tokens, of which {self.prompt_tokens} are the prompt's, but "
                f"{len(numbers)} generated ones, or others"
            )
        if len(self.scores) != (len(numbers) if request.scores else 0):
            raise InvalidTaskError(
                f"the state has {len(self.scores)} scores for {len(numbers)} tokens"
            )
        # All but the last token are in memory, once the prompt has been read.
        least = count - 1 if numbers else 0
        check_integer("the state's position", self.position, least, count - 1)
        if len(numbers) > request.max_tokens:
            raise InvalidTaskError(
                f"the state has {len(numbers)} generated tokens of {request.max_tokens}"
            )
        _check_numbers(self.generated, self.scores)

    def to_bytes(self) -> bytes:
        """Serialise, with a SHA-256 over everything at the end.

        The deadline goes as the time that is left: clocks of two machines differ.
        """
        request = asdict(self.request)
        deadline_s = request.pop("deadline_s")
        request["time_left_s"] = None if deadline_s is None else deadline_s - time.monotonic()
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
        if len(body) < start:
            raise InvalidTaskError("the sequence state was cut short")
        (size,) = _LENGTH.unpack(body[len(_MAGIC) : start])
        if size > len(body) - start:
            raise InvalidTaskError(
                f"the sequence state's header has {size:,} bytes, but is shorter"
            )
        try:
            return _read(json.loads(body[start : start + size]), body[start + size :])
        except AirloomError:
            raise
        # Whoever wrote it may have written anything, in any shape.
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidTaskError(
                f"the sequence state's header is none: {type(error).__name__}: {error}"
            ) from None

    def due(self, deadline_s: float | None) -> SequenceState:
        """The state with this deadline where it is earlier than its own."""
        if deadline_s is None:
            return self
        own_s = self.request.deadline_s
        earlier_s = deadline_s if own_s is None else min(own_s, deadline_s)
        return replace(self, request=replace(self.request, deadline_s=earlier_s))


def _read(header: dict[str, Any], memory: bytes) -> SequenceState:
    adapters = dict(header["adapter_sha256"])
    limits.check_count("the state's adapters", len(adapters), limits.MAX_ADAPTERS)
    for name, sha256 in adapters.items():
        check_text("an adapter's SHA-256 in the state", sha256, 1, limits.MAX_NAME_CHARACTERS)
        check_text("an adapter's name in the state", name, 1, limits.MAX_NAME_CHARACTERS)
    return SequenceState(
        model_sha256=header["model_sha256"],
        layout=header["layout"],
        adapter_sha256=adapters,
        request=_request(header["request"]),
        tokens=tuple(header["tokens"]),
        prompt_tokens=header["prompt_tokens"],
        position=header["position"],
        draws=header["draws"],
        generated=tuple(_token(token) for token in header["generated"]),
        scores=tuple(TokenScore(**score) for score in header["scores"]),
        memory=memory,
    )


def _request(fields: dict[str, Any]) -> GenerateRequest:
    sampling = fields.pop("sampling")
    sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"]}
    prompt = fields.pop("prompt")
    time_left_s = fields.pop("time_left_s")
    if time_left_s is not None:
        check_number("the state's time left", time_left_s)
    for name in ("scores", "ignore_end"):
        if not isinstance(fields[name], bool):
            raise limits.refuse(f"the state's {name}", fields[name], "true or false")
    grammar = fields["grammar"]
    if grammar is not None and not isinstance(grammar, str):
        raise limits.refuse("the state's grammar", grammar, "a text")
    return GenerateRequest(
        **{
            **fields,
            "prompt": prompt if isinstance(prompt, str) else tuple(prompt),
            "sampling": Sampling(**sampling),
            "images": (),
            "stop": tuple(fields["stop"]),
            "adapters": tuple(AdapterUse(**use) for use in fields["adapters"]),
            "deadline_s": None if time_left_s is None else time.monotonic() + time_left_s,
        }
    )


def _token(fields: dict[str, Any]) -> Token:
    alternatives = tuple(Alternative(**one) for one in fields["alternatives"])
    return Token(fields["token"], fields["logprob"], alternatives)


def _check_numbers(generated: tuple[Token, ...], scores: tuple[TokenScore, ...]) -> None:
    """Raise InvalidTaskError unless all that was measured of tokens are finite numbers."""
    for token in generated:
        if token.logprob is not None:
            check_number("a token's logprob in the state", token.logprob)
        limits.check_count(
            "a token's alternatives", len(token.alternatives), limits.MAX_TOP_LOGPROBS
        )
        for alternative in token.alternatives:
            check_integer("an alternative's token in the state", alternative.token, 0)
            check_number("an alternative's logprob in the state", alternative.logprob)
    for score in scores:
        for value in (score.logprob, score.margin, score.entropy):
            check_number("a score in the state", value)
