"""Several choices of one completion in one stream: what goes wrong in one of them ends it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from device_agent.engine import Delta
from device_agent.http.answers import _merged


async def told(*texts: str, then: Exception | None = None) -> AsyncIterator[Delta]:
    for text in texts:
        yield Delta(text, ())
    if then is not None:
        raise then


async def merged(*generations: Any) -> list[tuple[int, str]]:
    return [(index, delta.text) async for index, delta in _merged(generations)]


async def test_all_that_is_told_is_passed_on() -> None:
    found = await merged(told("a", "b"), told("c"), told())
    assert sorted(found) == [(0, "a"), (0, "b"), (1, "c")]


@pytest.mark.parametrize("others", [0, 1])
async def test_something_unexpected_in_one_of_them_is_raised(others: int) -> None:
    broken = told("a", then=ValueError("injected"))
    with pytest.raises(ValueError, match="injected"):
        await merged(broken, *(told("b") for _ in range(others)))
