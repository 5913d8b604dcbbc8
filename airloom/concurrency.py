"""Run coroutines together until one of them ends, and side jobs again and again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from airloom.backoff import full_jitter
from airloom.errors import ConfigurationError

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_INITIAL_S = 0.5
_RETRY_MAX_S = 30.0


async def first_to_end(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until the first returns or raises; cancel the others and pass its error on."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def within(work: Awaitable[T], timeout_s: float | None) -> T:
    """Wait for work for so long, then cancel it; None waits for ever.

    As asyncio.wait_for, which before Python 3.12 loses a cancellation that comes with the result: a
    loop around it would then never end.

    Raises:
        asyncio.TimeoutError: the time ran out first.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            # Asking for the exception marks it as seen: the time has run out, whatever it was.
            task.cancelled() or task.exception()
        # An error keeps this frame, which would keep the task and so the error: until a garbage
        # collection nobody would free what failed, such as a response of megabytes.
        del task, work
    raise asyncio.TimeoutError


async def by_deadline(work: Awaitable[T], deadline_s: float | None) -> T:
    """Wait for work until a time on time.monotonic()'s clock; else as `within`."""
    left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
    return await within(work, left_s)


async def keep_going(
    name: str,
    job: Callable[[], Awaitable[None]],
    *,
    retry_initial_s: float = _RETRY_INITIAL_S,
    retry_max_s: float = _RETRY_MAX_S,
) -> None:
    """Run a side job until cancelled: when it ends, say so and start it again after back-off.

    Raises:
        ConfigurationError: the first start found its settings wrong (a busy port, say).
    """
    rng, first = random.Random(), True
    waits = full_jitter(retry_initial_s, retry_max_s, rng)
    while True:
        started_s = time.monotonic()
        try:
            await job()
            log.error("%s ended", name)
        except ConfigurationError as error:
            if first:
                raise
            log.error("%s failed: %s", name, error)
        except Exception:
            log.exception("%s failed", name)
        first = False
        if time.monotonic() - started_s > retry_max_s:
            waits = full_jitter(retry_initial_s, retry_max_s, rng)
        wait_s = next(waits)
        log.warning("%s starts again in %.1f s", name, wait_s)
        await asyncio.sleep(wait_s)
