"""The link tests against the kernel's own sch_netem.

Where this kernel has netem they ran already; else they run in a user-mode kernel that has, in that
kernel's own time.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import user_mode_kernel
from netctl.backends.capabilities import probe

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1500)
@pytest.mark.skipif(probe().netem is None, reason="this kernel has netem: tests/links ran on it")
def test_the_link_tests_pass_on_netem(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    outcome = user_mode_kernel.run(
        f"{sys.executable} -m pytest -q -p no:cacheprovider tests/links -k 'netem' "
        f"--junitxml={report}",
        cwd=ROOT,
        scratch=tmp_path,
        timeout_s=1450,
    )
    assert outcome.status == 0, outcome.output
    (suite,) = ET.parse(report).getroot()
    assert int(suite.get("tests", 0)) >= 25
    assert int(suite.get("skipped", 0)) == 0
