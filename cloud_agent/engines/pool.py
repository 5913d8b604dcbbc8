"""Several servers as one: by weight, by health, and one for another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airloom.errors import AirloomError, OverloadedError, UnreachableError, explained
from cloud_agent.config import ServerSettings
from device_agent.chat import ChatRequest
from device_agent.engine import Completion, ModelDescription, OnText

log = logging.getLogger(__name__)


class Server(Protocol):
    """What the pool needs of a server."""

    settings: ServerSettings

    async def check(self, timeout_s: float) -> None: ...
    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion: ...
    async def close(self) -> None: ...


@dataclass(eq=False)
class _Member:
    server: Server
    healthy: bool = True
    in_flight: int = 0

    @property
    def load(self) -> float:
        """What it would carry with one more, relative to its weight."""
        return (self.in_flight + 1) / self.server.settings.weight


class ServerPool:
    """Continues conversations on the least loaded healthy server; on another when that one fails.

    A server that fails is left alone until it answers a health check. Once text has been given out
    a request stays where it is: another server would begin a different text.
    """

    def __init__(self, servers: Sequence[Server], *, check_interval_s: float) -> None:
        self._members = [_Member(server) for server in servers]
        self._check_interval_s = check_interval_s

    @property
    def description(self) -> ModelDescription:
        """What is known of a model behind a URL: its name."""
        names = sorted({member.server.settings.model for member in self._members})
        return ModelDescription(
            name=", ".join(names),
            architecture="",
            quantisation="",
            parameters=0,
            size_bytes=0,
            vocabulary_size=0,
            context_tokens=0,
            sha256="",
        )

    @property
    def health(self) -> dict[str, bool]:
        """Whether each server answered last, by URL."""
        return {member.server.settings.url: member.healthy for member in self._members}

    async def watch(self) -> None:
        """Check every server again and again, until cancelled."""
        while True:
            await asyncio.gather(*(self._check(member) for member in self._members))
            await asyncio.sleep(self._check_interval_s)

    async def _check(self, member: _Member) -> None:
        try:
            await member.server.check(self._check_interval_s)
        except Exception as error:
            self._mark(member, False, str(explained(error)))
        else:
            self._mark(member, True, "answers again")

    @staticmethod
    def _mark(member: _Member, healthy: bool, why: str) -> None:
        if member.healthy is not healthy:
            log.log(
                logging.INFO if healthy else logging.WARNING,
                "%s: %s",
                member.server.settings.url,
                why,
            )
        member.healthy = healthy

    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """Continue a conversation; raises the last server's error when none could."""
        told = False

        async def tell(text: str) -> None:
            nonlocal told
            told = True
            if on_text is not None:
                await on_text(text)

        untried = list(self._members)
        error: AirloomError = UnreachableError("no server is configured")
        while untried:
            # Unhealthy ones are the last resort: a check may be older than a repair.
            member = min(untried, key=lambda each: (not each.healthy, each.load))
            untried.remove(member)
            member.in_flight += 1
            try:
                return await member.server.chat(request, tell if on_text is not None else None)
            except UnreachableError as failure:
                self._mark(member, False, str(failure))
                error = failure
            except OverloadedError as failure:
                error = failure
            finally:
                member.in_flight -= 1
            if told:
                break
        raise error

    async def close(self) -> None:
        """Close all connections."""
        for member in self._members:
            await member.server.close()
