"""However a handler of a server here fails, its call ends with a status, at once and in few words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from airloom.errors import NotFoundError
from airloom.grpc_server import GrpcServer
from airloom.security import TransportSecurity

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Failing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Has a method for each kind of call and way of writing it; all fail alike, streams midway."""

    def __init__(self, fail: Callable[[Any], Any]) -> None:
        self._fail = fail

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        _, kind, how = details.method.split("/")
        if kind not in KINDS:
            return None
        behaviour = self._generate if how == "generate" else self._write
        if kind.endswith("_unary"):
            behaviour = self._return
        return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)

    async def _return(self, _: Any, context: Any) -> bytes:
        await self._fail(context)
        return b"never"

    async def _write(self, _: Any, context: Any) -> None:
        await context.write(b"first")
        await self._fail(context)

    async def _generate(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self._fail(context)


async def fault(_: Any) -> None:
    raise ValueError("secret" + "x" * 100_000)


async def explained(_: Any) -> None:
    raise NotFoundError("no such thing\n" + "x" * 100_000)


async def aborted(context: Any) -> None:
    await context.abort(grpc.StatusCode.DATA_LOSS, "as the handler says")


WAYS: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "fault": (fault, grpc.StatusCode.INTERNAL, "an unexpected ValueError"),
    "airloom's error": (explained, grpc.StatusCode.NOT_FOUND, r"no such thing\n"),
    "abort": (aborted, grpc.StatusCode.DATA_LOSS, "as the handler says"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("unary_unary", "return"),
        ("stream_unary", "return"),
        ("unary_stream", "write"),
        ("unary_stream", "generate"),
        ("stream_stream", "write"),
        ("stream_stream", "generate"),
    ],
)
async def test_a_call_ends_with_a_status(tmp_path: Path, kind: str, how: str, way: str) -> None:
    fail, code, says = WAYS[way]
    address = f"unix:{tmp_path}/server.sock"
    server = GrpcServer(address, TransportSecurity(plaintext=True), [])
    server.server.add_generic_rpc_handlers((Failing(fail),))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            method = getattr(channel, kind)(f"/{kind}/{how}")
            call = method(iter([b"x"]) if kind.startswith("stream") else b"x", timeout=20)
            heard = []
            with pytest.raises(grpc.aio.AioRpcError) as error:
                if kind.endswith("_unary"):
                    await call
                else:
                    async for message in call:
                        heard.append(message)
            assert error.value.code() is code
            details = error.value.details() or ""
            assert says in details
            assert "secret" not in details
            assert len(details) < 1100
            assert heard == ([] if kind.endswith("_unary") else [b"first"])
    finally:
        await server.stop()


async def test_a_method_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/server.sock"
    server = GrpcServer(address, TransportSecurity(plaintext=True), [])
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/airloom.v1.Nothing/Here")(b"", timeout=20)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop()
