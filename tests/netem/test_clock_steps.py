"""A board without a battery sets its clock while links are shaped: leases do not notice.

In the user-mode kernel, whose clock is nobody else's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks import user_mode_kernel

SCRIPT = Path(__file__).with_name("clock_steps.py")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the user-mode kernel is x86-64's")
def test_no_step_of_the_clock_ends_a_live_lease(tmp_path: Path) -> None:
    outcome = user_mode_kernel.run(
        f"{sys.executable} {SCRIPT}", cwd=Path(__file__).parents[2], scratch=tmp_path, timeout_s=250
    )
    assert outcome.status == 0, outcome.output
