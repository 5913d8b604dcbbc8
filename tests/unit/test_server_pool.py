"""Which server a request goes to."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import (
    AirloomError,
    InvalidTaskError,
    OverloadedError,
    UnreachableError,
)
from cloud_agent.config import ServerSettings
from cloud_agent.engines.pool import ServerPool
from device_agent.chat import ChatRequest, Message
from device_agent.engine import Completion, OnText

REQUEST = ChatRequest((Message("user", "?"),), max_tokens=8)


class InMemory:
    """A server in this process: answers with its name, or fails as it is told."""

    def __init__(self, name: str, weight: float = 1.0) -> None:
        self.settings = ServerSettings(url=f"http://{name}/v1", model="m", weight=weight)
        self.failure: AirloomError | None = None
        self.text_before_failure = ""
        self.asked = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def check(self, timeout_s: float) -> None:
        del timeout_s
        if self.failure is not None:
            raise self.failure

    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        del request
        self.asked += 1
        if on_text is not None and self.text_before_failure:
            await on_text(self.text_before_failure)
        if self.failure is not None:
            raise self.failure
        await self.may_end.wait()
        return Completion(self.settings.url, (), None, "end", 1, 0, 0.0, 0.0, 0.0, 1)

    async def close(self) -> None: ...


def pool_of(*servers: InMemory) -> ServerPool:
    return ServerPool(servers, check_interval_s=0.01)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 40))
def test_concurrent_requests_spread_by_weight(weights: list[int], requests: int) -> None:
    async def run() -> Counter[str]:
        servers = [InMemory(f"s{i}", weight) for i, weight in enumerate(weights)]
        for server in servers:
            server.may_end.clear()
        pool = pool_of(*servers)
        asking = [asyncio.ensure_future(pool.chat(REQUEST)) for _ in range(requests)]
        await asyncio.sleep(0)
        for server in servers:
            server.may_end.set()
        return Counter(one.text for one in await asyncio.gather(*asking))

    counts = asyncio.run(run())
    for i, weight in enumerate(weights):
        share = requests * weight / sum(weights)
        assert abs(counts[f"http://s{i}/v1"] - share) <= len(weights)


@pytest.mark.parametrize("failure", [UnreachableError("gone"), OverloadedError("busy")])
async def test_another_server_takes_over(failure: AirloomError) -> None:
    broken, sound = InMemory("broken", weight=100), InMemory("sound")
    broken.failure = failure
    pool = pool_of(broken, sound)
    assert (await pool.chat(REQUEST)).text == "http://sound/v1"
    assert broken.asked == 1
    await pool.chat(REQUEST)
    # A busy server is asked again, one that is gone is not.
    assert broken.asked == (2 if isinstance(failure, OverloadedError) else 1)


async def test_a_server_that_answers_its_check_is_used_again() -> None:
    flaky, other = InMemory("flaky", weight=100), InMemory("other")
    flaky.failure = UnreachableError("gone")
    pool = pool_of(flaky, other)
    watching = asyncio.ensure_future(pool.watch())

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(until(lambda: not pool.health["http://flaky/v1"]), 5)
    flaky.failure = None
    await asyncio.wait_for(until(lambda: pool.health["http://flaky/v1"]), 5)
    assert (await pool.chat(REQUEST)).text == "http://flaky/v1"
    watching.cancel()


async def test_a_wrong_request_is_not_tried_elsewhere() -> None:
    one, two = InMemory("one"), InMemory("two")
    one.failure = two.failure = InvalidTaskError("wrong")
    with pytest.raises(InvalidTaskError):
        await pool_of(one, two).chat(REQUEST)
    assert one.asked + two.asked == 1


async def test_what_was_begun_is_not_begun_again() -> None:
    broken, sound = InMemory("broken", weight=100), InMemory("sound")
    broken.failure, broken.text_before_failure = UnreachableError("gone"), "The ans"
    texts: list[str] = []

    async def tell(text: str) -> None:
        texts.append(text)

    with pytest.raises(UnreachableError):
        await pool_of(broken, sound).chat(REQUEST, tell)
    assert texts == ["The ans"]
    assert sound.asked == 0


async def test_when_all_fail_the_last_reason_is_told() -> None:
    one, two = InMemory("one"), InMemory("two")
    one.failure, two.failure = UnreachableError("gone"), OverloadedError("busy")
    with pytest.raises(OverloadedError, match="busy"):
        await pool_of(one, two).chat(REQUEST)
