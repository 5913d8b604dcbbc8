"""Side jobs that fail are told and started again; what is raised becomes an error to tell."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref

import pytest

from airloom.concurrency import by_deadline, keep_going, within
from airloom.errors import ConfigurationError, InvalidTaskError, Status, explained


async def test_a_side_job_that_fails_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    starts, fourth = 0, asyncio.Event()

    async def job() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise ValueError("injected")
        if starts == 2:
            raise ConfigurationError("a port became busy")
        if starts == 4:
            fourth.set()
            await asyncio.Event().wait()

    keeping = asyncio.ensure_future(
        keep_going("telemetry", job, retry_initial_s=0.001, retry_max_s=0.002)
    )
    await asyncio.wait_for(fourth.wait(), 20)
    assert "telemetry failed" in caplog.text
    assert "injected" in caplog.text
    assert "telemetry failed: a port became busy" in caplog.text
    assert "telemetry ended" in caplog.text
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_wrong_settings_end_a_side_job_at_its_start() -> None:
    async def job() -> None:
        raise ConfigurationError("a busy port")

    with pytest.raises(ConfigurationError, match="a busy port"):
        await keep_going("HTTP", job)


def test_an_unexpected_error_is_logged_and_told_by_its_type(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        told = explained(ValueError("a secret"))
    assert told.status == Status.INTERNAL
    assert "ValueError" in str(told)
    assert "secret" not in str(told)
    assert "secret" in caplog.text
    known = InvalidTaskError("no text")
    assert explained(known) is known


async def test_work_that_misses_its_deadline_is_cancelled() -> None:
    gate = asyncio.Event()
    with pytest.raises(asyncio.TimeoutError):
        await by_deadline(gate.wait(), 0.0)
    gate.set()
    assert await by_deadline(gate.wait(), None)


async def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(result, 60))
    await asyncio.sleep(0)
    result.set_result("here")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_failed_is_freed_without_a_garbage_collection(
    request: pytest.FixtureRequest,
) -> None:
    class Large:
        pass

    seen: list[weakref.ref[Large]] = []

    async def fail() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        raise InvalidTaskError("no")

    gc.disable()
    request.addfinalizer(gc.enable)
    with contextlib.suppress(InvalidTaskError):
        await within(fail(), 60)
    assert seen[0]() is None
