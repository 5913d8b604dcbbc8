from protos.airloom.v1 import link_pb2 as _link_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeBoardRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeBoardResponse(_message.Message):
    __slots__ = ("kernel", "missing", "interfaces")
    class MissingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    kernel: str
    missing: _containers.ScalarMap[str, str]
    interfaces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kernel: _Optional[str] = ..., missing: _Optional[_Mapping[str, str]] = ..., interfaces: _Optional[_Iterable[str]] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ("take", "change", "renewal")
    TAKE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_FIELD_NUMBER: _ClassVar[int]
    take: TakeInterface
    change: ChangeConditions
    renewal: Renewal
    def __init__(self, take: _Optional[_Union[TakeInterface, _Mapping]] = ..., change: _Optional[_Union[ChangeConditions, _Mapping]] = ..., renewal: _Optional[_Union[Renewal, _Mapping]] = ...) -> None: ...

class TakeInterface(_message.Message):
    __slots__ = ("interface", "lease_s", "exempt", "incoming")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    EXEMPT_FIELD_NUMBER: _ClassVar[int]
    INCOMING_FIELD_NUMBER: _ClassVar[int]
    interface: str
    lease_s: float
    exempt: _containers.RepeatedScalarFieldContainer[str]
    incoming: bool
    def __init__(self, interface: _Optional[str] = ..., lease_s: _Optional[float] = ..., exempt: _Optional[_Iterable[str]] = ..., incoming: _Optional[bool] = ...) -> None: ...

class ChangeConditions(_message.Message):
    __slots__ = ("conditions", "at_unix_ns")
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    conditions: _link_pb2.DirectionConditions
    at_unix_ns: int
    def __init__(self, conditions: _Optional[_Union[_link_pb2.DirectionConditions, _Mapping]] = ..., at_unix_ns: _Optional[int] = ...) -> None: ...

class Renewal(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HoldResponse(_message.Message):
    __slots__ = ("error", "late_ms", "differences")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LATE_MS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    error: str
    late_ms: float
    differences: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, error: _Optional[str] = ..., late_ms: _Optional[float] = ..., differences: _Optional[_Iterable[str]] = ...) -> None: ...

class ShowInterfaceRequest(_message.Message):
    __slots__ = ("interface",)
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    interface: str
    def __init__(self, interface: _Optional[str] = ...) -> None: ...

class ShowInterfaceResponse(_message.Message):
    __slots__ = ("tree", "foreign", "held")
    TREE_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    tree: str
    foreign: str
    held: bool
    def __init__(self, tree: _Optional[str] = ..., foreign: _Optional[str] = ..., held: _Optional[bool] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("interfaces",)
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    interfaces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, interfaces: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadClockRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadClockResponse(_message.Message):
    __slots__ = ("unix_ns",)
    UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    unix_ns: int
    def __init__(self, unix_ns: _Optional[int] = ...) -> None: ...
