from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TelemetrySample(_message.Message):
    __slots__ = ("device_id", "sampled_unix_ns", "sequence", "cpu_percent", "agent_cpu_percent", "memory_used_bytes", "memory_total_bytes", "agent_memory_bytes", "temperatures", "interfaces")
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
    def __init__(self, device_id: _Optional[str] = ..., sampled_unix_ns: _Optional[int] = ..., sequence: _Optional[int] = ..., cpu_percent: _Optional[float] = ..., agent_cpu_percent: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., agent_memory_bytes: _Optional[int] = ..., temperatures: _Optional[_Iterable[_Union[Temperature, _Mapping]]] = ..., interfaces: _Optional[_Iterable[_Union[InterfaceCounters, _Mapping]]] = ...) -> None: ...

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
