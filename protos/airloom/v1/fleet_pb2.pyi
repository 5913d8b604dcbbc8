from protos.airloom.v1 import inference_pb2 as _inference_pb2
from protos.airloom.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConnectRequest(_message.Message):
    __slots__ = ("sent_unix_ns", "registration", "heartbeat", "ask", "cancel", "result", "chunk", "correlation_id", "stream_text")
    SENT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_TEXT_FIELD_NUMBER: _ClassVar[int]
    sent_unix_ns: int
    registration: Registration
    heartbeat: Heartbeat
    ask: _task_pb2.Task
    cancel: CancelTask
    result: _task_pb2.TaskResult
    chunk: Chunk
    correlation_id: int
    stream_text: bool
    def __init__(self, sent_unix_ns: _Optional[int] = ..., registration: _Optional[_Union[Registration, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., ask: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., cancel: _Optional[_Union[CancelTask, _Mapping]] = ..., result: _Optional[_Union[_task_pb2.TaskResult, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., correlation_id: _Optional[int] = ..., stream_text: _Optional[bool] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("sent_unix_ns", "welcome", "heartbeat", "result", "cancel", "assignment", "chunk", "text", "correlation_id")
    SENT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    sent_unix_ns: int
    welcome: Welcome
    heartbeat: Heartbeat
    result: _task_pb2.TaskResult
    cancel: CancelTask
    assignment: _task_pb2.Task
    chunk: Chunk
    text: Text
    correlation_id: int
    def __init__(self, sent_unix_ns: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., result: _Optional[_Union[_task_pb2.TaskResult, _Mapping]] = ..., cancel: _Optional[_Union[CancelTask, _Mapping]] = ..., assignment: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., text: _Optional[_Union[Text, _Mapping]] = ..., correlation_id: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "last", "withdrawn")
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    last: bool
    withdrawn: bool
    def __init__(self, data: _Optional[bytes] = ..., last: _Optional[bool] = ..., withdrawn: _Optional[bool] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Registration(_message.Message):
    __slots__ = ("device_id", "protocol", "model")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    protocol: str
    model: _inference_pb2.ModelInfo
    def __init__(self, device_id: _Optional[str] = ..., protocol: _Optional[str] = ..., model: _Optional[_Union[_inference_pb2.ModelInfo, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("cloud_id", "heartbeat_interval_ms", "model")
    CLOUD_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    cloud_id: str
    heartbeat_interval_ms: float
    model: _inference_pb2.ModelInfo
    def __init__(self, cloud_id: _Optional[str] = ..., heartbeat_interval_ms: _Optional[float] = ..., model: _Optional[_Union[_inference_pb2.ModelInfo, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence", "rtt_ms")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RTT_MS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    rtt_ms: float
    def __init__(self, sequence: _Optional[int] = ..., rtt_ms: _Optional[float] = ...) -> None: ...

class CancelTask(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "model", "peer_address", "rtt_ms", "tasks_in_flight")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RTT_MS_FIELD_NUMBER: _ClassVar[int]
    TASKS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    model: _inference_pb2.ModelInfo
    peer_address: str
    rtt_ms: float
    tasks_in_flight: int
    def __init__(self, device_id: _Optional[str] = ..., model: _Optional[_Union[_inference_pb2.ModelInfo, _Mapping]] = ..., peer_address: _Optional[str] = ..., rtt_ms: _Optional[float] = ..., tasks_in_flight: _Optional[int] = ...) -> None: ...
