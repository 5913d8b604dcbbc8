"""How many requests were answered, by who asked and with which status."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device_agent.http.auth import caller_of


class AnswerCounts:
    """Counts what leaves here, refusals for want of a key and faults included."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._answers = Counter(
            "airloom_http_requests",
            "HTTP requests by who asked and what was answered.",
            ["caller", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Whoever asks is known by now, where it is: `Authentication` is within.
                self._answers.labels(caller_of(scope), str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)
