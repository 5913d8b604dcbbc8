"""The same tests find the same, each time; `HYPOTHESIS_PROFILE=explore make test` looks further."""

import os
import signal
import sys
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
