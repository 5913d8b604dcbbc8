"""However a handler fails, its call ends with a status: in one place for every RPC of a server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from airloom.errors import explained
from airloom.grpc_status import end_call

Context = grpc.aio.ServicerContext[Any, Any]
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not at run time
    """Ends calls whose handlers raise: one of airloom's errors with its status, others INTERNAL."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        behaviour = _explaining(getattr(handler, kind))
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            behaviour, handler.request_deserializer, handler.response_serializer
        )


def _explaining(behaviour: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
    """A handler that does as this one, and explains what it raises."""
    if inspect.isasyncgenfunction(behaviour):

        async def responses(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                async with aclosing(behaviour(request, context)) as answers:
                    async for answer in answers:
                        yield answer
            except Exception as error:
                await _end(context, error)

        return responses
    if inspect.iscoroutinefunction(behaviour):

        async def response(request: Any, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except Exception as error:
                await _end(context, error)

        return response
    return behaviour


async def _end(context: Context, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    await end_call(context, explained(error))
