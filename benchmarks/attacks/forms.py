"""Grammars and JSON schemas that take too much of a parser's stack or of a sampler's time."""

from __future__ import annotations

import json
from functools import partial

from benchmarks.attacks.attack import (
    Attack,
    Outcome,
    Send,
    Site,
    each_of,
    infer_request,
    outcome_of,
    task,
)
from benchmarks.attacks.stages import lone_board
from protos.airloom.v1 import task_pb2

_GRAMMARS = {
    "nested-parentheses": ("60,000 nested parentheses",
                           "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000),
    "left-recursion": ("a rule that begins with itself", 'root ::= root "a" | "a"'),
    "repetitions-of-repetitions": ("(((a?){900}){900}){900}",
                                   'root ::= ((("a"?){900}){900}){900}'),
    "nul": ("a NUL in a grammar", 'root ::= "a\0b"'),
    "not-a-grammar": ("a grammar without a root", "x ::= y"),
}  # fmt: skip

_DEEP = 20_000
_SCHEMAS = {
    "pattern": ('"pattern": "^((a?b?c?){200}){10}$"',
                json.dumps({"type": "string", "pattern": "^((a?b?c?){200}){10}$"})),
    "nested-arrays": (f"arrays of arrays, {_DEEP:,} deep",
                      '{"items":' * _DEEP + "{}" + "}" * _DEEP),
    "refers-to-itself": ("a $ref to itself",
                         json.dumps({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
    "wide-enum": ("an enum of 100,000", json.dumps({"enum": [f"v{i}" for i in range(100_000)]})),
    "not-json": ("no JSON", "{"),
}  # fmt: skip


async def _send(sampling: task_pb2.Sampling, site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        return await outcome_of(
            stub.Infer(infer_request(task("What is 12+25?", sampling=sampling)))
        )


def _grammars(*names: str) -> tuple[str, Send]:
    """What is sent, and the sending of it."""
    sent = ", ".join(_GRAMMARS[name][0] for name in names)
    samplings = {name: task_pb2.Sampling(grammar=_GRAMMARS[name][1]) for name in names}
    return sent, each_of({name: partial(_send, one) for name, one in samplings.items()})


def _schemas(*names: str) -> tuple[str, Send]:
    """As with grammars."""
    sent = ", ".join(_SCHEMAS[name][0] for name in names)
    samplings = {name: task_pb2.Sampling(json_schema=_SCHEMAS[name][1]) for name in names}
    return sent, each_of({name: partial(_send, one) for name, one in samplings.items()})


_SENT: dict[str, tuple[str, Send]] = {
    "grammar/nested": _grammars("nested-parentheses"),
    "grammar/large": _grammars("left-recursion", "repetitions-of-repetitions"),
    "grammar/broken": _grammars("nul", "not-a-grammar"),
    "json-schema/pattern": _schemas("pattern"),
    "json-schema/deep": _schemas("nested-arrays", "refers-to-itself"),
    "json-schema/wide": _schemas("wide-enum", "not-json"),
}

ATTACKS = tuple(
    Attack(name, sent, lone_board, send, limit_s=80) for name, (sent, send) in _SENT.items()
)
