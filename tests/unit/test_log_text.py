"""Nobody outside writes lines of our log."""

import io
import logging

from hypothesis import given
from hypothesis import strategies as st

from airloom.log_text import OneLineFormatter, one_line


@given(st.text(), st.integers(1, 50))
def test_text_from_outside_stays_on_its_line_and_short(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit * len("\\U0001f600") + 40
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_a_forged_line_is_no_line_of_the_log() -> None:
    forged = "2026-01-01 00:00:00 INFO all is well"
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("forged")
    logger.propagate = False
    logger.addHandler(handler)
    logger.warning("%s left", f"board\n{forged}\x1b[2J")
    try:
        raise ValueError(f"bad\n{forged}")
    except ValueError:
        logger.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[0] == f"WARNING board\\n{forged}\\x1b[2J left"
    assert forged not in lines
