"""Arbitrary protobuf messages, drawn from their descriptors."""

from __future__ import annotations

import math
import struct
import sys
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)

_DEPTH = 4
"""Of messages in messages: deeper ones stay empty."""

_FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_TEXTS = (
    "", " ", "\0", "\n\r\t", "a\u0000b", "\u202e\ufeff", "𝕬✓é", "%s%n{0}", "../../etc/passwd",
    "system", "user", "assistant", "image/png", "airloom.v1", "board",
    "What is 12+25?", "<s></s><unk>", "7" * 3_000, "x " * 20_000, "(" * 5_000,
    'root ::= "a" | root "b"', "root ::= [0-9]{1,3}", "root = [", "(" * 2_000 + "a" + ")" * 2_000,
    '{"type": "object"}', '{"type": "string", "pattern": "^(a?){50}$"}', "[1,", "null", "NaN",
)  # fmt: skip


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that is no message: ordinary ones, and those at the ends of what it can hold."""
    kind = field.cpp_type
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        edges = [0, 1, 2, 7, low, low + 1, high - 1, high]
        return st.sampled_from([edge for edge in edges if low <= edge]) | st.integers(low, high)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        single = kind == FieldDescriptor.CPPTYPE_FLOAT
        most = _FLOAT32_MAX if single else sys.float_info.max
        edges = [0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 1e-30, most, -most, math.nan, math.inf, -math.inf]
        return st.sampled_from(edges) | st.floats(width=32 if single else 64)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enumerated(field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from([b"", b"\0", b"\xff" * 100, b"\x89PNG\r\n\x1a\n"]) | st.binary()
    assert kind == FieldDescriptor.CPPTYPE_STRING
    return st.sampled_from(_TEXTS) | st.text()


def _enumerated(described: EnumDescriptor) -> st.SearchStrategy[int]:
    known = [value.number for value in described.values]
    return st.sampled_from([*known, max(known) + 1, (1 << 31) - 1, -1])


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = _DEPTH, density: int = 3) -> Message:
    """Any message of a type; each of its fields is set in one of `density` cases."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if draw(st.integers(1, density)) == 1:
            _fill(draw, message, field, depth, density)
    return message


def _fill(
    draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int, density: int
) -> None:
    name = field.name
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        keys, values = field.message_type.fields
        assert values.message_type is None, "no map here has messages as its values"
        entries = draw(st.dictionaries(scalars(keys), scalars(values), max_size=3))
        getattr(message, name).update(entries)
        return
    if field.message_type is None:
        one = scalars(field)
    elif depth == 0:
        one = st.just(GetMessageClass(field.message_type)())
    else:
        one = messages(field.message_type, depth - 1, density)
    if field.is_repeated:
        getattr(message, name).extend(draw(st.lists(one, max_size=4)))
    elif field.message_type is None:
        setattr(message, name, draw(one))
    else:
        getattr(message, name).CopyFrom(draw(one))


@st.composite
def near(draw: st.DrawFn, valid: M) -> M:
    """A valid message in which one part, at any depth, was filled with anything.

    It comes further than any message does: most of what is wrong is looked at last.
    """
    message = type(valid)()
    message.CopyFrom(valid)
    part: Message = message
    for name in draw(st.sampled_from(_paths(valid.DESCRIPTOR))):
        field = part.DESCRIPTOR.fields_by_name[name]
        value = getattr(part, name)
        part = value if not field.is_repeated else value[0] if value else value.add()
        part.SetInParent()
    part.MergeFrom(draw(messages(part.DESCRIPTOR, density=2)))
    return message


def _paths(kind: Descriptor, depth: int = _DEPTH) -> list[tuple[str, ...]]:
    """To every message within messages of a type, as often as it has fields of its own."""
    found: list[tuple[str, ...]] = []
    for field in kind.fields:
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry:
            found.append(())
        elif depth:
            found += [(field.name, *path) for path in _paths(inner, depth - 1)]
    return found or [()]


def requests(valid: M) -> st.SearchStrategy[M]:
    """What a caller may send instead of this message."""
    anything: st.SearchStrategy[Any] = messages(valid.DESCRIPTOR)
    return anything | near(valid) | near(valid)
