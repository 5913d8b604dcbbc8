from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DirectionConditions(_message.Message):
    __slots__ = ("rate_bps", "delay_ms", "jitter_ms", "loss", "queue_ms", "distribution", "delay_table", "jitter_correlation", "in_order", "gilbert_elliott", "four_state", "duplicate", "reorder", "corrupt", "slots", "queue_bytes", "queue_packets", "queue_discipline", "mtu_bytes", "up")
    RATE_BPS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    JITTER_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    DELAY_TABLE_FIELD_NUMBER: _ClassVar[int]
    JITTER_CORRELATION_FIELD_NUMBER: _ClassVar[int]
    IN_ORDER_FIELD_NUMBER: _ClassVar[int]
    GILBERT_ELLIOTT_FIELD_NUMBER: _ClassVar[int]
    FOUR_STATE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    REORDER_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_PACKETS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DISCIPLINE_FIELD_NUMBER: _ClassVar[int]
    MTU_BYTES_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    rate_bps: int
    delay_ms: float
    jitter_ms: float
    loss: float
    queue_ms: float
    distribution: str
    delay_table: DelayTable
    jitter_correlation: float
    in_order: bool
    gilbert_elliott: GilbertElliott
    four_state: FourState
    duplicate: float
    reorder: float
    corrupt: float
    slots: Slots
    queue_bytes: int
    queue_packets: int
    queue_discipline: str
    mtu_bytes: int
    up: bool
    def __init__(self, rate_bps: _Optional[int] = ..., delay_ms: _Optional[float] = ..., jitter_ms: _Optional[float] = ..., loss: _Optional[float] = ..., queue_ms: _Optional[float] = ..., distribution: _Optional[str] = ..., delay_table: _Optional[_Union[DelayTable, _Mapping]] = ..., jitter_correlation: _Optional[float] = ..., in_order: _Optional[bool] = ..., gilbert_elliott: _Optional[_Union[GilbertElliott, _Mapping]] = ..., four_state: _Optional[_Union[FourState, _Mapping]] = ..., duplicate: _Optional[float] = ..., reorder: _Optional[float] = ..., corrupt: _Optional[float] = ..., slots: _Optional[_Union[Slots, _Mapping]] = ..., queue_bytes: _Optional[int] = ..., queue_packets: _Optional[int] = ..., queue_discipline: _Optional[str] = ..., mtu_bytes: _Optional[int] = ..., up: _Optional[bool] = ...) -> None: ...

class DelayTable(_message.Message):
    __slots__ = ("quantiles",)
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, quantiles: _Optional[_Iterable[float]] = ...) -> None: ...

class GilbertElliott(_message.Message):
    __slots__ = ("p", "r", "loss_bad", "loss_good")
    P_FIELD_NUMBER: _ClassVar[int]
    R_FIELD_NUMBER: _ClassVar[int]
    LOSS_BAD_FIELD_NUMBER: _ClassVar[int]
    LOSS_GOOD_FIELD_NUMBER: _ClassVar[int]
    p: float
    r: float
    loss_bad: float
    loss_good: float
    def __init__(self, p: _Optional[float] = ..., r: _Optional[float] = ..., loss_bad: _Optional[float] = ..., loss_good: _Optional[float] = ...) -> None: ...

class FourState(_message.Message):
    __slots__ = ("p13", "p31", "p32", "p23", "p14")
    P13_FIELD_NUMBER: _ClassVar[int]
    P31_FIELD_NUMBER: _ClassVar[int]
    P32_FIELD_NUMBER: _ClassVar[int]
    P23_FIELD_NUMBER: _ClassVar[int]
    P14_FIELD_NUMBER: _ClassVar[int]
    p13: float
    p31: float
    p32: float
    p23: float
    p14: float
    def __init__(self, p13: _Optional[float] = ..., p31: _Optional[float] = ..., p32: _Optional[float] = ..., p23: _Optional[float] = ..., p14: _Optional[float] = ...) -> None: ...

class Slots(_message.Message):
    __slots__ = ("shortest_ms", "longest_ms", "packets", "payload_bytes")
    SHORTEST_MS_FIELD_NUMBER: _ClassVar[int]
    LONGEST_MS_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    shortest_ms: float
    longest_ms: float
    packets: int
    payload_bytes: int
    def __init__(self, shortest_ms: _Optional[float] = ..., longest_ms: _Optional[float] = ..., packets: _Optional[int] = ..., payload_bytes: _Optional[int] = ...) -> None: ...

class LinkConditions(_message.Message):
    __slots__ = ("link", "epoch", "uplink", "downlink")
    LINK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    UPLINK_FIELD_NUMBER: _ClassVar[int]
    DOWNLINK_FIELD_NUMBER: _ClassVar[int]
    link: str
    epoch: int
    uplink: DirectionConditions
    downlink: DirectionConditions
    def __init__(self, link: _Optional[str] = ..., epoch: _Optional[int] = ..., uplink: _Optional[_Union[DirectionConditions, _Mapping]] = ..., downlink: _Optional[_Union[DirectionConditions, _Mapping]] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("value", "low", "high", "samples")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    samples: int
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class DirectionMeasurement(_message.Message):
    __slots__ = ("rate_bps", "delay_ms", "loss")
    RATE_BPS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    rate_bps: Measurement
    delay_ms: Measurement
    loss: Measurement
    def __init__(self, rate_bps: _Optional[_Union[Measurement, _Mapping]] = ..., delay_ms: _Optional[_Union[Measurement, _Mapping]] = ..., loss: _Optional[_Union[Measurement, _Mapping]] = ...) -> None: ...
