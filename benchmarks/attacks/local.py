"""What is done on the machine itself: log lines of one's own, sockets of others."""

from __future__ import annotations

import asyncio
from functools import partial

import grpc

from benchmarks.agents import start
from benchmarks.attacks.attack import (
    Attack,
    Outcome,
    Site,
    infer_request,
    outcome_of,
    task,
    together,
)
from benchmarks.attacks.identity import RawStream, registration
from benchmarks.attacks.stages import board_settings, fleet_of_one, lone_board
from protos.airloom.v1 import fleet_pb2, inference_pb2, task_pb2

_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_FORGED = "2026-01-01 00:00:00,000 INFO forged: all is well"
_LINE = f"x\n{_FORGED}\r\x1b[2J"


async def _write_log(site: Site) -> Outcome:
    """A line of a log in every text that an agent might tell of."""
    async with site.dial("board-b") as channel:
        for first in (
            registration(_LINE),
            registration("board-b", protocol=_LINE),
            registration("board-b", model=inference_pb2.ModelInfo(name=_LINE)),
        ):
            stream = RawStream(channel, first)
            unknown = fleet_pb2.CancelTask(task_id=_LINE)
            stream.outgoing.put_nowait(fleet_pb2.ConnectRequest(cancel=unknown))
            stream.outgoing.put_nowait(fleet_pb2.ConnectRequest(ask=task_pb2.Task(task_id=_LINE)))
            await asyncio.sleep(0.2)
            stream.end()
    asked = task("What is 12+25?", task_id=_LINE, adapters=[task_pb2.AdapterUse(name=_LINE)])
    asked.trace_context["traceparent"] = _LINE
    async with site.inference("cloud") as cloud, site.inference("board-a") as board:
        outcomes = [await outcome_of(stub.Infer(infer_request(asked))) for stub in (cloud, board)]
        outcomes.append(await outcome_of(cloud.Infer(infer_request(asked, _LINE)),
                                         allowed=(_UNAVAILABLE,)))  # fmt: skip
    for name, agent in site.agents.items():
        log = agent.log
        if "\x1b" in log or any(line.startswith(_FORGED) for line in log.splitlines()):
            return Outcome("written", f"a line of {name}'s log is the attacker's")
    return together(*outcomes)


async def _take_socket(site: Site) -> Outcome:
    """A second agent on the socket of one that lives."""
    settings = board_settings(site.folder)
    second = await start("device", "second", settings, site.folder)
    try:
        await asyncio.wait_for(second.process.wait(), 8)
    except asyncio.TimeoutError:
        return Outcome("it serves", "a second agent took the socket of a living one")
    finally:
        await second.stop()
    async with site.inference("board-a") as stub:
        reply = await outcome_of(stub.Infer(infer_request(task("What is 12+25?"))))
    if reply.said != "answered":
        return Outcome(reply.said, "the first agent is not reached any more")
    last = second.log.strip().splitlines()[-1] if second.log.strip() else "without a word"
    return Outcome(f"the second ended: {last}")


ATTACKS = (
    Attack("log/forged-lines", "a line of a log in every text", fleet_of_one, _write_log),
    Attack("socket/taken", "a second agent on a living one's socket", lone_board,
           partial(_take_socket), pause_s=1.0, repeated=False),
)  # fmt: skip
