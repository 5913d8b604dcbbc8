"""Members of the CA that claim to be others, or do what is not theirs to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from benchmarks.attacks.attack import Attack, Outcome, Site, Stage, infer_request, outcome_of, task
from benchmarks.attacks.stages import PLAINTEXT, cloud_alone, fleet_of_one
from benchmarks.certificates import Authority
from protos.airloom.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    task_pb2,
)

PROTOCOL = "airloom.v1"
_REGISTERED_S = 3.0


def registration(device_id: str, **fields: Any) -> fleet_pb2.ConnectRequest:
    """A device's first message."""
    said = fleet_pb2.Registration(device_id=device_id, **{"protocol": PROTOCOL, **fields})
    return fleet_pb2.ConnectRequest(registration=said)


class RawStream:
    """A device's stream, held by hand."""

    def __init__(self, channel: grpc.aio.Channel, *first: fleet_pb2.ConnectRequest) -> None:
        self.outgoing: asyncio.Queue[fleet_pb2.ConnectRequest | None] = asyncio.Queue()
        for message in first:
            self.outgoing.put_nowait(message)
        self.call: Any = fleet_pb2_grpc.FleetServiceStub(channel).Connect(self._requests())

    async def _requests(self) -> AsyncIterator[fleet_pb2.ConnectRequest]:
        while (message := await self.outgoing.get()) is not None:
            yield message

    async def read(self) -> fleet_pb2.ConnectResponse | None:
        """The next message; None where the stream has ended."""
        reply = await self.call.read()
        return reply if isinstance(reply, fleet_pb2.ConnectResponse) else None

    async def welcomed(self) -> bool:
        """Whether the cloud takes this device; raises the error that it ends the stream with."""
        reply = await asyncio.wait_for(self.read(), _REGISTERED_S)
        if reply is None:
            await self.raise_for_status()
            return False
        return reply.HasField("welcome")

    async def raise_for_status(self) -> None:
        """Raise the error that the stream has ended with, if it has one."""
        if (code := await self.call.code()) is not grpc.StatusCode.OK:
            nothing = grpc.aio.Metadata()
            details = await self.call.details()
            raise grpc.aio.AioRpcError(code, nothing, nothing, details, None)

    def end(self) -> None:
        """Leave; what is still to be sent is not sent."""
        self.outgoing.put_nowait(None)
        self.call.cancel()


async def _impersonate(certificate: str, site: Site) -> Outcome:
    """Register as board-a; then whoever hands board-a a question must still reach board-a."""
    async with site.dial(certificate) as channel, site.inference("cloud") as cloud:
        stream = RawStream(channel, registration("board-a"))

        async def register() -> None:
            await stream.welcomed()

        said = await outcome_of(register(), must_refuse=True, within_s=_REGISTERED_S)
        stolen: list[str] = []

        async def listen() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                while (reply := await stream.read()) is not None:
                    if reply.HasField("assignment"):
                        stolen.append(reply.assignment.parts[0].text.text)

        listening = asyncio.create_task(listen())
        request = infer_request(task("What is 47+85?"), "board-a")
        handed = await outcome_of(cloud.Infer(request), within_s=5)
        stream.end()
        await listening
    if stolen:
        return Outcome("it became board-a", f"{certificate} was told {stolen[0]!r}")
    if handed.said != "answered":
        return Outcome(f"{said.said}; {handed.said}", "board-a was not reached any more")
    return said


async def _refused(site: Site, certificate: str, ask: Any) -> Outcome:
    async with site.dial(certificate) as channel:
        outcome = await outcome_of(ask(channel), must_refuse=True)
    denied = outcome.said.startswith(("PERMISSION_DENIED", "UNAUTHENTICATED"))
    return outcome if denied or outcome.wrong else Outcome(outcome.said, "not refused for the role")


def _list(channel: grpc.aio.Channel) -> Any:
    return fleet_pb2_grpc.FleetServiceStub(channel).ListDevices(fleet_pb2.ListDevicesRequest())


def _hand(channel: grpc.aio.Channel) -> Any:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.Infer(infer_request(task("What is 12+25?"), "board-a"))


async def _nameless(site: Site) -> Outcome:
    """A certificate of the CA without a name: the error must name the command that makes one."""
    assert site.stage.authority is not None
    site.stage.authority.issue_for("nameless", [])
    async with site.dial("nameless") as channel:
        stream = RawStream(channel, registration("board-c"))

        async def register() -> None:
            await stream.welcomed()

        outcome = await outcome_of(register(), must_refuse=True, within_s=_REGISTERED_S)
        stream.end()
    if outcome.wrong or "testbed certificates" in outcome.said:
        return outcome
    return Outcome(outcome.said, "the error does not name the command")


async def _old(site: Site) -> Outcome:
    """A certificate of before, without a role, is a device's: it may ask, and not list."""
    assert site.stage.authority is not None
    site.stage.authority.issue("old")
    async with site.dial("old") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        asked = await outcome_of(stub.Infer(infer_request(task("What is 12+25?"))))
    if asked.said != "answered":
        return Outcome(asked.said, "a device could not ask")
    return await _refused(site, "old", _list)


async def _stranger(site: Site) -> Outcome:
    """An operator of another CA must not even get to speak."""
    assert site.stage.authority is not None
    other = Authority.make(site.folder / "other")
    other.issue("operator", "operator")
    files = [other.folder / "operator.key", other.folder / "operator.crt"]
    ca = (site.stage.authority.folder / "ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(ca, *(file.read_bytes() for file in files))
    address = f"127.0.0.1:{site.stage.ports['cloud']}"
    async with grpc.aio.secure_channel(address, credentials) as channel:
        return await outcome_of(
            _list(channel), must_refuse=True, allowed=(grpc.StatusCode.UNAVAILABLE,)
        )


async def _newline(site: Site) -> Outcome:
    """A certificate whose name would write a line of its own into the log."""
    assert site.stage.authority is not None
    forged = "board\n2026-01-01 00:00:00,000 INFO forged: all is well"
    site.stage.authority.issue_for("newline", [x509.DNSName(forged)], ["device"])
    async with site.dial("newline") as channel:
        stream = RawStream(channel, registration(forged))

        async def register() -> None:
            await stream.welcomed()

        outcome = await outcome_of(register(), must_refuse=True, within_s=_REGISTERED_S)
        stream.end()
    if any(line.startswith("2026-01-01") for line in site.agents["cloud"].log.splitlines()):
        return Outcome(outcome.said, "a line of the log is the attacker's")
    return outcome


async def _suspend_of_another(site: Site) -> Outcome:
    """board-b takes what another is being told out of the cloud."""
    long = task_pb2.Sampling(grammar="root ::= [0-9]{300}", max_tokens=300)
    asked = task("What is 12+25?", task_id="mine", sampling=long)
    async with site.dial("board-a") as mine, site.dial("board-b") as theirs:
        call = inference_pb2_grpc.InferenceServiceStub(mine).InferStream(
            inference_pb2.InferStreamRequest(task=asked)
        )
        await call.read()
        await call.read()

        async def suspend() -> None:
            stub = inference_pb2_grpc.InferenceServiceStub(theirs)
            async for _ in stub.Suspend(inference_pb2.SuspendRequest(task_id="mine"), timeout=10):
                pass

        outcome = await outcome_of(suspend(), must_refuse=True)
        call.cancel()
    return outcome


def _plaintext(folder: Path) -> Stage:
    changes = dict.fromkeys(("ca", "certificate", "key"))
    return cloud_alone(folder, security={**changes, **PLAINTEXT})


async def _claim(site: Site) -> Outcome:
    """In plaintext anybody could claim any name: none counts."""
    async with site.dial("") as channel:
        stream = RawStream(channel, registration("board-a"))

        async def register() -> None:
            await stream.welcomed()

        outcome = await outcome_of(register(), must_refuse=True, within_s=_REGISTERED_S)
        stream.end()
        return outcome


async def _claim_operator(site: Site) -> Outcome:
    return await _refused(site, "", _list)


ATTACKS = (
    Attack("identity/board-b-as-board-a", "board-b registers as board-a", fleet_of_one,
           partial(_impersonate, "board-b")),
    Attack("identity/coordinator-as-board-a", "a coordinator registers as board-a", fleet_of_one,
           partial(_impersonate, "coordinator")),
    Attack("identity/device-lists", "a device lists the fleet", fleet_of_one,
           lambda site: _refused(site, "board-b", _list)),
    Attack("identity/device-hands", "a device hands board-a a task", fleet_of_one,
           lambda site: _refused(site, "board-b", _hand)),
    Attack("identity/device-suspends", "a device suspends another's task", fleet_of_one,
           _suspend_of_another),
    Attack("identity/without-a-role", "a certificate without a role lists the fleet", fleet_of_one,
           _old),
    Attack("identity/without-a-name", "a certificate without a name registers", fleet_of_one,
           _nameless),
    Attack("identity/another-authority", "an operator of another CA", fleet_of_one, _stranger),
    Attack("identity/newline-in-name", "a name with a line of a log in it", fleet_of_one, _newline),
    Attack("identity/plaintext-name", "a name claimed in plaintext", _plaintext, _claim),
    Attack("identity/plaintext-lists", "the fleet listed in plaintext", _plaintext, _claim_operator),
)  # fmt: skip
