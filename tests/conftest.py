"""The same tests find the same, each time; `HYPOTHESIS_PROFILE=explore make test` looks further."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
from gates import Clock, Gate

# A shell ignores SIGINT for what it runs in the background, and whatever is started inherits that: tests
# that interrupt a program would wait in vain. Programs do not inherit a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Holds the engines of this process; ask for it after them, so that it is open when they close."""
    one = Gate()
    one.install(monkeypatch)
    yield one
    one.open()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Puts this process's time forward."""
    one = Clock()
    one.install(monkeypatch)
    return one


TESTS = Path(__file__).parent
FIRST = ("links", "netem")
"""The longest, which mostly wait or compute on one processor: what else there is fits beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests for several workers: a file's tests stay together, and all of links do."""

    def folder(item: pytest.Item) -> str:
        return item.path.relative_to(TESTS).parts[0]

    items.sort(key=lambda item: FIRST.index(folder(item)) if folder(item) in FIRST else len(FIRST))
    for item in items:
        group = folder(item) if folder(item) in FIRST else str(item.path.relative_to(TESTS))
        item.add_marker(pytest.mark.xdist_group(group))


_forks: list[str] = []
os.register_at_fork(before=lambda: _forks.append("".join(traceback.format_stack(limit=6))))


@pytest.fixture(autouse=True)
def no_fork() -> Iterator[None]:
    """A fork inherits the locks of gRPC's threads, of engines and servers, but not who would free them."""
    _forks.clear()
    yield
    assert not _forks, f"forked: {_forks[0]}"
