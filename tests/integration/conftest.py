import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from agents import Agents


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[Agents]:
    """Agents that are gone when the test is over."""
    started = Agents(tmp_path)
    yield started
    await started.stop_all()
