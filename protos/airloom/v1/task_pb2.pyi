from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Residency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCY_UNSPECIFIED: _ClassVar[Residency]
    RESIDENCY_DEVICE_ONLY: _ClassVar[Residency]
    RESIDENCY_ANYWHERE: _ClassVar[Residency]

class Place(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACE_UNSPECIFIED: _ClassVar[Place]
    PLACE_DEVICE: _ClassVar[Place]
    PLACE_CLOUD: _ClassVar[Place]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_END: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
RESIDENCY_UNSPECIFIED: Residency
RESIDENCY_DEVICE_ONLY: Residency
RESIDENCY_ANYWHERE: Residency
PLACE_UNSPECIFIED: Place
PLACE_DEVICE: Place
PLACE_CLOUD: Place
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_END: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class Task(_message.Message):
    __slots__ = ("task_id", "parts", "budget", "sampling", "adapters", "trace_context", "idempotency_key", "messages")
    class TraceContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    budget: Budget
    sampling: Sampling
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterUse]
    trace_context: _containers.ScalarMap[str, str]
    idempotency_key: str
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, task_id: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[AdapterUse, _Mapping]]] = ..., trace_context: _Optional[_Mapping[str, str]] = ..., idempotency_key: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "parts")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    role: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, role: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class AdapterUse(_message.Message):
    __slots__ = ("name", "scale")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    name: str
    scale: float
    def __init__(self, name: _Optional[str] = ..., scale: _Optional[float] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("text", "tokens", "image", "evidence", "candidate", "vote")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    text: TextPart
    tokens: TokensPart
    image: ImagePart
    evidence: EvidencePart
    candidate: CandidateAnswer
    vote: Vote
    def __init__(self, text: _Optional[_Union[TextPart, _Mapping]] = ..., tokens: _Optional[_Union[TokensPart, _Mapping]] = ..., image: _Optional[_Union[ImagePart, _Mapping]] = ..., evidence: _Optional[_Union[EvidencePart, _Mapping]] = ..., candidate: _Optional[_Union[CandidateAnswer, _Mapping]] = ..., vote: _Optional[_Union[Vote, _Mapping]] = ...) -> None: ...

class TextPart(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class TokensPart(_message.Message):
    __slots__ = ("token_ids", "logprobs", "model_sha256")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    model_sha256: str
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., model_sha256: _Optional[str] = ...) -> None: ...

class ImagePart(_message.Message):
    __slots__ = ("media_type", "data")
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    media_type: str
    data: bytes
    def __init__(self, media_type: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class EvidencePart(_message.Message):
    __slots__ = ("source", "text", "relevance")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RELEVANCE_FIELD_NUMBER: _ClassVar[int]
    source: str
    text: str
    relevance: float
    def __init__(self, source: _Optional[str] = ..., text: _Optional[str] = ..., relevance: _Optional[float] = ...) -> None: ...

class CandidateAnswer(_message.Message):
    __slots__ = ("peer", "answer", "confidence", "provenance")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    answer: str
    confidence: Confidence
    provenance: Provenance
    def __init__(self, peer: _Optional[str] = ..., answer: _Optional[str] = ..., confidence: _Optional[_Union[Confidence, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("voter", "choice", "weight")
    VOTER_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    voter: str
    choice: str
    weight: float
    def __init__(self, voter: _Optional[str] = ..., choice: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class Confidence(_message.Message):
    __slots__ = ("value", "sequence_probability", "mean_logprob", "min_margin", "mean_entropy_nats")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    MEAN_LOGPROB_FIELD_NUMBER: _ClassVar[int]
    MIN_MARGIN_FIELD_NUMBER: _ClassVar[int]
    MEAN_ENTROPY_NATS_FIELD_NUMBER: _ClassVar[int]
    value: float
    sequence_probability: float
    mean_logprob: float
    min_margin: float
    mean_entropy_nats: float
    def __init__(self, value: _Optional[float] = ..., sequence_probability: _Optional[float] = ..., mean_logprob: _Optional[float] = ..., min_margin: _Optional[float] = ..., mean_entropy_nats: _Optional[float] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("deadline_ms", "cost_micros", "energy_joules", "residency")
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_JOULES_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    deadline_ms: float
    cost_micros: int
    energy_joules: float
    residency: Residency
    def __init__(self, deadline_ms: _Optional[float] = ..., cost_micros: _Optional[int] = ..., energy_joules: _Optional[float] = ..., residency: _Optional[_Union[Residency, str]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("max_tokens", "temperature", "seed", "stop", "top_k", "top_p", "min_p", "json_schema", "grammar", "json_object", "frequency_penalty", "presence_penalty")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    JSON_OBJECT_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    temperature: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    top_p: float
    min_p: float
    json_schema: str
    grammar: str
    json_object: bool
    frequency_penalty: float
    presence_penalty: float
    def __init__(self, max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., json_schema: _Optional[str] = ..., grammar: _Optional[str] = ..., json_object: _Optional[bool] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("agent_id", "place", "model_name", "model_sha256", "quantisation", "adapter", "link_epoch")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    QUANTISATION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    LINK_EPOCH_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    place: Place
    model_name: str
    model_sha256: str
    quantisation: str
    adapter: str
    link_epoch: int
    def __init__(self, agent_id: _Optional[str] = ..., place: _Optional[_Union[Place, str]] = ..., model_name: _Optional[str] = ..., model_sha256: _Optional[str] = ..., quantisation: _Optional[str] = ..., adapter: _Optional[str] = ..., link_epoch: _Optional[int] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_ms", "uplink_ms", "prefill_ms", "decode_ms", "downlink_ms", "total_ms", "uplink_bytes", "downlink_bytes", "one_way_estimated")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    UPLINK_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    DOWNLINK_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    UPLINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DOWNLINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    ONE_WAY_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    uplink_ms: float
    prefill_ms: float
    decode_ms: float
    downlink_ms: float
    total_ms: float
    uplink_bytes: int
    downlink_bytes: int
    one_way_estimated: bool
    def __init__(self, queue_ms: _Optional[float] = ..., uplink_ms: _Optional[float] = ..., prefill_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., downlink_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., uplink_bytes: _Optional[int] = ..., downlink_bytes: _Optional[int] = ..., one_way_estimated: _Optional[bool] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task_id", "answer", "error", "timing")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    answer: Answer
    error: TaskError
    timing: Timing
    def __init__(self, task_id: _Optional[str] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., error: _Optional[_Union[TaskError, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("text", "final_answer", "tokens", "confidence", "provenance", "usage", "set_aside", "fallback_reason", "escalation_reason", "finish_reason")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINAL_ANSWER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SET_ASIDE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    ESCALATION_REASON_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    text: str
    final_answer: str
    tokens: TokensPart
    confidence: Confidence
    provenance: Provenance
    usage: Usage
    set_aside: CandidateAnswer
    fallback_reason: str
    escalation_reason: str
    finish_reason: FinishReason
    def __init__(self, text: _Optional[str] = ..., final_answer: _Optional[str] = ..., tokens: _Optional[_Union[TokensPart, _Mapping]] = ..., confidence: _Optional[_Union[Confidence, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., set_aside: _Optional[_Union[CandidateAnswer, _Mapping]] = ..., fallback_reason: _Optional[str] = ..., escalation_reason: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class TaskError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
