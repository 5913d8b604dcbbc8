"""Grammars and JSON schemas that take too much of a parser's stack or of a sampler's time."""

from __future__ import annotations

import json
from functools import partial

from benchmarks.attacks.attack import Attack, Outcome, Site, infer_request, outcome_of, task
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


ATTACKS = (
    *(
        Attack(f"grammar/{name}", sent, lone_board,
               partial(_send, task_pb2.Sampling(grammar=grammar)))
        for name, (sent, grammar) in _GRAMMARS.items()
    ),
    *(
        Attack(f"json-schema/{name}", sent, lone_board,
               partial(_send, task_pb2.Sampling(json_schema=schema)), limit_s=80)
        for name, (sent, schema) in _SCHEMAS.items()
    ),
)  # fmt: skip
