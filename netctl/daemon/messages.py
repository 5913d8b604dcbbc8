"""Conditions as gRPC messages, and back.

The messages' fields have the names of the dataclasses' fields; only unions differ.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from netctl.conditions.link import DirectionConditions
from netctl.conditions.loss import FourState, GilbertElliott
from netctl.json_data import from_python
from protos.airloom.v1 import link_pb2


def to_message(conditions: DirectionConditions) -> link_pb2.DirectionConditions:
    """Write conditions, all of them."""
    fields: dict[str, Any] = {
        name: value for name, value in asdict(conditions).items() if value is not None
    }
    if isinstance(fields["distribution"], dict):
        fields["delay_table"] = fields.pop("distribution")
    model = fields.pop("loss_model", None)
    if isinstance(conditions.loss_model, GilbertElliott):
        fields["gilbert_elliott"] = model
    elif isinstance(conditions.loss_model, FourState):
        fields["four_state"] = model
    return ParseDict(fields, link_pb2.DirectionConditions())


def from_message(message: link_pb2.DirectionConditions) -> DirectionConditions:
    """Read conditions; ConfigurationError names the field that no link can have."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    table = fields.pop("delay_table", None)
    if table is not None:
        fields["distribution"] = table
    for kind, name in ((GilbertElliott, "gilbert_elliott"), (FourState, "four_state")):
        if message.HasField(name):
            # What is zero is left out by proto3, and has no default in the dataclass.
            given = {key: getattr(getattr(message, name), key) for key in _REQUIRED[kind]}
            fields["loss_model"] = from_python(kind, {**given, **fields.pop(name)})
    if message.HasField("slots"):
        fields["slots"] = {"shortest_ms": 0.0, "longest_ms": 0.0, **fields["slots"]}
    return from_python(DirectionConditions, fields)


_REQUIRED: dict[type[Any], tuple[str, ...]] = {
    GilbertElliott: ("p", "r"),
    FourState: ("p13", "p31"),
}
