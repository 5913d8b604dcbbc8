from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TelemetrySample(_message.Message):
    __slots__ = ("device_id", "sampled_unix_ns", "sequence", "cpu_percent", "agent_cpu_percent", "memory_used_bytes", "memory_total_bytes", "agent_memory_bytes", "temperatures", "interfaces", "rails", "power_watts", "throttling", "gpu_percent")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGENT_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    RAILS_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    THROTTLING_FIELD_NUMBER: _ClassVar[int]
    GPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    sampled_unix_ns: int
    sequence: int
    cpu_percent: float
    agent_cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    agent_memory_bytes: int
    temperatures: _containers.RepeatedCompositeFieldContainer[Temperature]
    interfaces: _containers.RepeatedCompositeFieldContainer[InterfaceCounters]
    rails: _containers.RepeatedCompositeFieldContainer[PowerRail]
    power_watts: float
    throttling: Throttling
    gpu_percent: float
    def __init__(self, device_id: _Optional[str] = ..., sampled_unix_ns: _Optional[int] = ..., sequence: _Optional[int] = ..., cpu_percent: _Optional[float] = ..., agent_cpu_percent: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., agent_memory_bytes: _Optional[int] = ..., temperatures: _Optional[_Iterable[_Union[Temperature, _Mapping]]] = ..., interfaces: _Optional[_Iterable[_Union[InterfaceCounters, _Mapping]]] = ..., rails: _Optional[_Iterable[_Union[PowerRail, _Mapping]]] = ..., power_watts: _Optional[float] = ..., throttling: _Optional[_Union[Throttling, _Mapping]] = ..., gpu_percent: _Optional[float] = ...) -> None: ...

class PowerRail(_message.Message):
    __slots__ = ("name", "volts", "amperes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VOLTS_FIELD_NUMBER: _ClassVar[int]
    AMPERES_FIELD_NUMBER: _ClassVar[int]
    name: str
    volts: float
    amperes: float
    def __init__(self, name: _Optional[str] = ..., volts: _Optional[float] = ..., amperes: _Optional[float] = ...) -> None: ...

class Throttling(_message.Message):
    __slots__ = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit", "under_voltage_occurred", "frequency_capped_occurred", "throttled_occurred", "soft_temperature_limit_occurred")
    UNDER_VOLTAGE_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_CAPPED_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    SOFT_TEMPERATURE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    UNDER_VOLTAGE_OCCURRED_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_CAPPED_OCCURRED_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_OCCURRED_FIELD_NUMBER: _ClassVar[int]
    SOFT_TEMPERATURE_LIMIT_OCCURRED_FIELD_NUMBER: _ClassVar[int]
    under_voltage: bool
    frequency_capped: bool
    throttled: bool
    soft_temperature_limit: bool
    under_voltage_occurred: bool
    frequency_capped_occurred: bool
    throttled_occurred: bool
    soft_temperature_limit_occurred: bool
    def __init__(self, under_voltage: _Optional[bool] = ..., frequency_capped: _Optional[bool] = ..., throttled: _Optional[bool] = ..., soft_temperature_limit: _Optional[bool] = ..., under_voltage_occurred: _Optional[bool] = ..., frequency_capped_occurred: _Optional[bool] = ..., throttled_occurred: _Optional[bool] = ..., soft_temperature_limit_occurred: _Optional[bool] = ...) -> None: ...

class Temperature(_message.Message):
    __slots__ = ("sensor", "celsius")
    SENSOR_FIELD_NUMBER: _ClassVar[int]
    CELSIUS_FIELD_NUMBER: _ClassVar[int]
    sensor: str
    celsius: float
    def __init__(self, sensor: _Optional[str] = ..., celsius: _Optional[float] = ...) -> None: ...

class InterfaceCounters(_message.Message):
    __slots__ = ("name", "sent_bytes", "received_bytes", "sent_packets", "received_packets", "dropped_packets")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_PACKETS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_PACKETS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_PACKETS_FIELD_NUMBER: _ClassVar[int]
    name: str
    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    dropped_packets: int
    def __init__(self, name: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_packets: _Optional[int] = ..., received_packets: _Optional[int] = ..., dropped_packets: _Optional[int] = ...) -> None: ...
