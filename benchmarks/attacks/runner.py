"""Runs one attack against agents of its own, with legitimate requests beside it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from benchmarks.agents import MEBIBYTE, AgentProcess, start, unix_channel, until_serving
from benchmarks.attacks.asker import Asked, Asker, Orders
from benchmarks.attacks.attack import Attack, Outcome, Site, Stage, together
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc

REQUESTS = 200
P50_RATIO = 2.0
_REGISTERED_S = 20.0
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Row:
    """What an attack did to the agents."""

    attack: Attack
    said: str
    before_mib: float
    peak_mib: float
    """Of the agent that grew most; its most while the attack lasted, not what it kept."""
    alone_ms: float
    beside_ms: float
    requests: int
    serving: bool
    wrong: tuple[str, ...]
    """What of it must not be, beside a p50 that is too long."""

    @property
    def only_slow(self) -> bool:
        return not self.wrong and self.beside_ms > P50_RATIO * self.alone_ms

    @property
    def withstood(self) -> bool:
        return not self.wrong and not self.only_slow


@contextlib.asynccontextmanager
async def standing(stage: Stage, folder: Path) -> AsyncIterator[Site]:
    """Run a stage's agents until the block ends."""
    agents: dict[str, AgentProcess] = {}
    async with contextlib.AsyncExitStack() as helpers:
        for helper in stage.helpers:
            await helpers.enter_async_context(helper)
        try:
            for name, spec in stage.agents.items():
                agents[name] = await start(spec.kind, name, spec.settings, folder)
            site = Site(stage, folder, agents)
            for name, agent in agents.items():
                async with unix_channel(site.socket(name)) as channel:
                    await until_serving(agent, channel)
            await _until_registered(site)
            yield site
        finally:
            await asyncio.gather(*(agent.stop() for agent in agents.values()))


async def _until_registered(site: Site) -> None:
    if not site.stage.registered:
        return
    deadline_s = time.monotonic() + _REGISTERED_S
    async with unix_channel(site.socket("cloud")) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        while time.monotonic() < deadline_s:
            reply = await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=5)
            if {device.device_id for device in reply.devices} >= set(site.stage.registered):
                return
            await asyncio.sleep(0.05)
    logs = "\n".join(agent.log[-1000:] for agent in site.agents.values())
    raise RuntimeError(f"the boards did not register:\n{logs}")


async def run(attack: Attack, asker: Asker) -> Row:
    """Send an attack, and say what came of it.

    Where nothing is wrong but the p50 it is done once more, with other agents: this machine may have
    had something else to do.
    """
    for _ in range(_TRIES):
        row = await _run_once(attack, asker)
        if not row.only_slow:
            break
    return row


async def _run_once(attack: Attack, asker: Asker) -> Row:
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        try:
            async with standing(attack.stage(folder), folder) as site:
                return await _observe(attack, site, asker)
        except Exception as error:  # the other attacks go on, whatever this one met
            told = f"could not be run: {type(error).__name__}: {error}"
            return Row(attack, "", 0, 0, 1, 1, 0, False, (told,))


async def _observe(attack: Attack, site: Site, asker: Asker) -> Row:
    stage = site.stage
    orders = Orders(site.socket(stage.asked), stage.question, REQUESTS, stage.rate_per_s)
    alone = await asker.ask(orders)
    before = {name: agent.resident_bytes for name, agent in site.agents.items()}
    for agent in site.agents.values():
        agent.forget_peak()
    sending = asyncio.create_task(_send_again_and_again(attack, site, alone.lasted_s))
    beside = await asker.ask_beside(
        replace(orders, open_ended=True, limit_s=attack.limit_s), sending
    )
    outcome = await sending
    peaks = {name: agent.peak_resident_bytes for name, agent in site.agents.items()}
    worst = max(before, key=lambda agent: peaks[agent] - before[agent])
    serving = not (await asker.ask(replace(orders, count=1))).unanswered
    grown_mib = (peaks[worst] - before[worst]) / MEBIBYTE
    wrong = [outcome.wrong] if outcome.wrong else []
    wrong += [f"{name} ended" for name, agent in site.agents.items() if not agent.alive]
    if not serving:
        wrong.append("a known question is not answered any more")
    if grown_mib > attack.growth_mib:
        wrong.append(f"{worst} grew by {grown_mib:.0f} MiB")
    wrong += _faults(alone, beside, attack.may_refuse)
    return Row(
        attack,
        outcome.said,
        before[worst] / MEBIBYTE,
        peaks[worst] / MEBIBYTE,
        alone.p50_ms,
        beside.p50_ms,
        len(beside.latencies_ms),
        serving,
        tuple(wrong),
    )


def _faults(alone: Asked, beside: Asked, may_refuse: tuple[str, ...]) -> list[str]:
    faults = []
    unanswered = [status for status in beside.unanswered if status not in may_refuse]
    if alone.unanswered or alone.crossed:
        faults.append("the legitimate requests failed before the attack")
    if unanswered:
        count, kinds = len(unanswered), ", ".join(sorted(set(unanswered)))
        faults.append(f"{count} legitimate requests were not answered ({kinds})")
    if beside.crossed:
        faults.append(f"{beside.crossed} legitimate requests got another answer")
    return faults


async def _send_again_and_again(attack: Attack, site: Site, for_s: float) -> Outcome:
    """Send it once, and again while the legitimate requests have not all been asked."""
    outcomes: list[Outcome] = []
    until_s = time.monotonic() + for_s
    while not outcomes or (attack.repeated and time.monotonic() < until_s):
        try:
            outcomes.append(await asyncio.wait_for(attack.send(site), attack.limit_s))
        except asyncio.TimeoutError:
            hung = f"it hangs: not over after {attack.limit_s:g} s"
            outcomes.append(Outcome("", hung))
        except grpc.aio.AioRpcError as error:
            # What an attack does beside its own point has failed: such as asking a crashed agent.
            code = error.code().name
            outcomes.append(Outcome(code, f"the agent did not answer: {code}"))
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            outcomes.append(Outcome(told, f"the agent did not answer: {told}"))
        if outcomes[-1].wrong:
            break
        await asyncio.sleep(attack.pause_s)
    return together(*outcomes)
