import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.engine.trial import Trial

sys.path.insert(0, str(Path(__file__).parent))
from engines import MakeEngine


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Engines that are closed when the test is over."""
    make = MakeEngine()
    yield make
    make.close()


@pytest.fixture
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts and padding are used in every pass, whatever they were found to cost."""
    monkeypatch.setattr(Trial, "pays", lambda *_: True)
