"""What OpenAI's API takes and gives, as far as a local model has a meaning for it.

Fields of other servers' clients that have no meaning here are kept apart (`model_extra`), to be
named in a header; those whose absence would change what an answer is are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from device_agent.engine import limits

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Text = Annotated[str, Field(max_length=1 << 20)]
Stop = Annotated[str, Field(max_length=limits.MAX_STOP_CHARACTERS)]
Name = Annotated[str, Field(max_length=256)]
Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
MaxTokens = Literal[-1] | Annotated[int, Field(ge=1, le=2**31 - 1)] | None
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=limits.MAX_LOGIT_BIASES),
]

_CANNOT = (
    "tools", "functions", "audio", "structured_outputs", "guided_json", "guided_regex",
    "guided_choice", "guided_grammar", "grammar", "json_schema",
)  # fmt: skip
"""An answer that passed over these would be another than was asked for."""


class Request(BaseModel):
    """Base of all requests."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def ignored_fields(request: BaseModel, most: int) -> list[str]:
    """The fields of a request that have no meaning here, up to so many: "user", "messages[].name"."""
    found: dict[str, None] = {}
    for name in _ignored(request, ""):
        found[name] = None
        if len(found) == most:
            break
    return list(found)


def _ignored(request: BaseModel, where: str) -> Iterator[str]:
    for name in request.model_extra or ():
        yield where + name
    for name in type(request).model_fields:
        value = getattr(request, name)
        if isinstance(value, BaseModel):
            yield from _ignored(value, f"{where}{name}.")
        elif isinstance(value, list):
            for element in value:
                if isinstance(element, BaseModel):
                    yield from _ignored(element, f"{where}{name}[].")


class StreamOptions(Request):
    include_usage: bool | None = False


class AdapterChoice(Request):
    """An extension: several adapters, each with its scale."""

    name: Name
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0


class GenerationOptions(Request):
    """What chat and text completions have in common."""

    model: Name
    max_tokens: MaxTokens = Field(None, description="-1 and null: the context is the limit")
    n: Annotated[int, Field(ge=1, le=16)] | None = 1
    seed: Literal[-1] | Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        None, description="-1 and null: another one each time"
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=limits.MAX_STOPS)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    logit_bias: LogitBias | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        0, description="extension, as in vLLM; 0 and -1 keep all"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        0.0, description="extension, as in vLLM"
    )
    ignore_eos: bool | None = Field(False, description="extension, as in vLLM")
    adapters: Annotated[list[AdapterChoice], Field(max_length=limits.MAX_ADAPTERS)] | None = Field(
        None, description="extension: LoRA adapters by name, with scales"
    )

    @model_validator(mode="after")
    def _nothing_that_cannot_be_done(self) -> GenerationOptions:
        for name in _CANNOT:
            if (self.model_extra or {}).get(name):
                raise ValueError(f"{name} cannot be followed by this server: leave it out")
        return self


class TextPart(Request):
    type: Literal["text"]
    text: Text


class ImageUrl(Request):
    url: Annotated[str, Field(description="data:image/…;base64,…; nothing is fetched")]


class ImagePart(Request):
    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Request):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[ContentPart], Field(min_length=1, max_length=256)] | None = None


class JsonSchemaFormat(Request):
    model_config = ConfigDict(
        extra="allow", strict=True, allow_inf_nan=False, populate_by_name=True
    )

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextFormat(Request):
    type: Literal["text"]


class JsonObject(Request):
    type: Literal["json_object"]


class JsonSchema(Request):
    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


class ChatCompletionRequest(GenerationOptions):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_TOP_LOGPROBS)] | None = None
    response_format: (
        Annotated[TextFormat | JsonObject | JsonSchema, Field(discriminator="type")] | None
    ) = None

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class CompletionRequest(GenerationOptions):
    prompt: (
        Text
        | Tokens
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=64)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = False
    best_of: Literal[1] | None = 1
    suffix: None = None


class EmbeddingsRequest(Request):
    model: Name
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    error: ErrorBody


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str


class EmbeddingItem(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingItem]
    usage: EmbeddingsUsage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""
    """Why nothing is answered any more."""
