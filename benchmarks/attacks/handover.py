"""Sequence states that no engine made, and callers who vanish in the middle of a handover."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from benchmarks.attacks.attack import Attack, Outcome, Site, each_of, outcome_of, task, together
from benchmarks.attacks.stages import lone_board
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 10
_LENGTH, _DIGEST_BYTES = struct.Struct("<Q"), 32
Stub = inference_pb2_grpc.InferenceServiceStub


class LongRun:
    """A generation of 300 digits, followed."""

    label = "long"

    def __init__(self, stub: Stub) -> None:
        sampling = task_pb2.Sampling(grammar="root ::= [0-9]{300}", max_tokens=300)
        asked = task("What is 12+25?", task_id=self.label, sampling=sampling)
        self._stub = stub
        self._call = stub.InferStream(inference_pb2.InferStreamRequest(task=asked))
        self._begun = asyncio.Event()
        self.run_id, self.text, self.ended = "", "", ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for event in self._call:
                self.run_id = event.started.run_id or self.run_id
                if event.text:
                    self._begun.set()
                if event.HasField("result"):
                    self.text = event.result.answer.text
            self.ended = "answered"
        except grpc.aio.AioRpcError as error:
            self.ended = error.code().name
        finally:
            self._begun.set()

    async def begun(self) -> None:
        await asyncio.wait_for(self._begun.wait(), 10)

    async def end(self) -> str:
        """How it ended; empty where it did not within 15 s."""
        await asyncio.wait({self._reading}, timeout=15)
        return self.ended

    def suspend(self) -> Any:
        named = {"run_id": self.run_id} if self.run_id else {"task_id": self.label}
        return self._stub.Suspend(inference_pb2.SuspendRequest(**named), timeout=10)

    async def state(self) -> bytes:
        return b"".join([part.chunk async for part in self.suspend()])


def _resume(stub: Stub, data: bytes) -> Any:
    async def requests() -> AsyncIterator[inference_pb2.ResumeRequest]:
        for start in range(0, max(1, len(data)), _CHUNK_BYTES):
            yield inference_pb2.ResumeRequest(chunk=data[start : start + _CHUNK_BYTES])

    async def read() -> None:
        async for _ in stub.Resume(requests()):
            pass

    return read()


@dataclass
class _Opened:
    """A state's parts, to be changed and sealed again with a checksum that fits."""

    magic: bytes
    header: dict[str, Any]
    memory: bytes

    @staticmethod
    def of(data: bytes) -> _Opened:
        start = data.index(b"\n") + 1
        (size,) = _LENGTH.unpack_from(data, start)
        begin = start + _LENGTH.size
        header = json.loads(data[begin : begin + size])
        return _Opened(data[:start], header, data[begin + size : -_DIGEST_BYTES])

    def sealed(self) -> bytes:
        text = json.dumps(self.header).encode()
        body = self.magic + _LENGTH.pack(len(text)) + text + self.memory
        return body + hashlib.sha256(body).digest()


Forge = Callable[[_Opened], None]


def _header(**fields: Any) -> Forge:
    return lambda state: state.header.update(fields)


def _request(**fields: Any) -> Forge:
    return lambda state: state.header["request"].update(fields)


def _sampling(**fields: Any) -> Forge:
    return lambda state: state.header["request"]["sampling"].update(fields)


def _last_token(token: Any) -> Forge:
    return lambda state: state.header["tokens"].__setitem__(-1, token)


def _memory(change: Callable[[bytes], bytes]) -> Forge:
    def forge(state: _Opened) -> None:
        state.memory = change(state.memory)

    return forge


def _all_tokens(token: Any) -> Forge:
    return lambda state: state.header.update(tokens=[token] * len(state.header["tokens"]))


_NESTED = "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000
_FORGED: dict[str, Forge] = {
    "token-too-large": _last_token(2**31 - 1),
    "token-huge": _last_token(10**30),
    "token-negative": _last_token(-1),
    "token-text": _last_token("x"),
    "tokens-outside": _all_tokens(10**6),
    "tokens-lists": _all_tokens([1]),
    "no-tokens": _header(tokens=[]),
    "position-too-large": _header(position=10**6),
    "position-negative": _header(position=-5),
    "position-text": _header(position="x"),
    "prompt-negative": _header(prompt_tokens=-1),
    "draws-without-end": _header(draws=10**15),
    "memory-garbled": _memory(lambda m: b"\xff" * len(m)),
    "memory-cut": _memory(lambda m: m[: len(m) // 2]),
    "memory-empty": _memory(lambda m: m[:0]),
    "nan-temperature": _sampling(temperature=math.nan),
    "top_p-0": _sampling(temperature=1.0, top_p=0.0),
    "sampling-texts": _sampling(temperature="hot", top_k="many"),
    "unknown-field": _request(colour="red"),
    "generated-none": _header(generated=[], scores=[]),
    "generated-texts": _header(generated=["x"]),
    "max_tokens-text": _request(max_tokens="x"),
    "max_tokens-huge": _request(max_tokens=10**18),
    "grammar-nested": _request(grammar=_NESTED),
}
_MAY_GO_ON = (
    "memory-garbled", "generated-none", "draws-without-end", "max_tokens-huge", "memory-empty",
)  # fmt: skip
"""Nobody can tell, it ends by the context, or it harms only whoever sent it."""


async def _genuine(stub: Stub) -> bytes:
    for _ in range(_ATTEMPTS):
        running = LongRun(stub)
        await running.begun()
        with contextlib.suppress(grpc.aio.AioRpcError):
            # Where the machine is busy it may have ended before it could be suspended.
            return await running.state()
        await running.end()
    raise RuntimeError(f"none of {_ATTEMPTS} runs could be suspended before its end")


async def _forged(name: str, site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        state = _Opened.of(await _genuine(stub))
        _FORGED[name](state)
        call = _resume(stub, state.sealed())
        return await outcome_of(call, must_refuse=name not in _MAY_GO_ON)


async def _nonsense(site: Site) -> Outcome:
    """Beginnings of states: cut at the header, with lengths that are too long, with nothing."""
    async with site.inference("board-a") as stub:
        whole = await _genuine(stub)
        pieces = (b"", whole[:10], whole[:40], whole[:-1], whole[:20] + b"\xff" * 8 + whole[28:])
        return together(
            *[await outcome_of(_resume(stub, piece), must_refuse=True) for piece in pieces]
        )


async def _too_large(site: Site) -> Outcome:
    """A state of 512 MiB."""
    part = bytes(_CHUNK_BYTES)

    async def requests() -> AsyncIterator[inference_pb2.ResumeRequest]:
        for _ in range(512):
            yield inference_pb2.ResumeRequest(chunk=part)

    async with site.inference("board-a") as stub:

        async def read() -> None:
            async for _ in stub.Resume(requests(), timeout=20):
                pass

        return await outcome_of(read(), must_refuse=True)


async def _vanish(site: Site) -> Outcome:
    """Whoever suspends goes away before having the state: the task must go on, or still be there."""
    said = []
    async with site.inference("board-a") as stub:
        for wait_s in (0.0, 0.001, 0.003, 0.01):
            running = LongRun(stub)
            await running.begun()
            call = running.suspend()
            await asyncio.sleep(wait_s)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call.code()
            ended = await running.end()
            if not ended:
                return Outcome("hung", "the caller of the suspended task heard nothing any more")
            if ended != "answered":
                again = await outcome_of(running.state())
                if again.said != "answered":
                    return Outcome(
                        f"{ended}; {again.said}", "the task was lost with whoever suspended it"
                    )
                ended = "the state can be fetched again"
            said.append(Outcome(ended))
    return together(*said)


_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tokens": ("token ids outside the vocabulary, of other types, none", (
        "token-too-large", "token-huge", "token-negative", "token-text", "tokens-outside",
        "tokens-lists", "no-tokens")),
    "position": ("positions and counts that do not fit", (
        "position-too-large", "position-negative", "position-text", "prompt-negative",
        "draws-without-end")),
    "memory": ("keys and values that are cut, garbled, none", (
        "memory-garbled", "memory-cut", "memory-empty")),
    "sampling": ("sampling that no request could have", (
        "nan-temperature", "top_p-0", "sampling-texts")),
    "request": ("other fields of other types and sizes", (
        "unknown-field", "generated-none", "generated-texts", "max_tokens-text", "max_tokens-huge",
        "grammar-nested")),
}  # fmt: skip

ATTACKS = (
    *(
        Attack(f"resume/{group}", sent, lone_board,
               each_of({name: partial(_forged, name) for name in names}), limit_s=60, pause_s=1.0)
        for group, (sent, names) in _GROUPS.items()
    ),
    Attack("resume/nonsense", "states cut short, and lengths too long", lone_board, _nonsense,
           pause_s=1.0),
    Attack("resume/too-large", "a state of 512 MiB", lone_board, _too_large, repeated=False),
    Attack("suspend/vanish", "the caller of Suspend leaves", lone_board, _vanish, limit_s=60,
           pause_s=1.0),
)  # fmt: skip
