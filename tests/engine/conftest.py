import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engines import MakeEngine


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Engines that are closed when the test is over."""
    make = MakeEngine()
    yield make
    make.close()
