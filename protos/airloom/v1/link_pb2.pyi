from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DirectionConditions(_message.Message):
    __slots__ = ("rate_bps", "delay_ms", "jitter_ms", "loss")
    RATE_BPS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    JITTER_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    rate_bps: int
    delay_ms: float
    jitter_ms: float
    loss: float
    def __init__(self, rate_bps: _Optional[int] = ..., delay_ms: _Optional[float] = ..., jitter_ms: _Optional[float] = ..., loss: _Optional[float] = ...) -> None: ...

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
