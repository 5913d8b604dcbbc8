"""What is logged stays on its line: names, addresses and errors come from outside too."""

from __future__ import annotations

import logging

_LIMIT = 2000


def one_line(text: object, limit: int = 200) -> str:
    """Write text from outside on one line of at most `limit` characters, control codes escaped."""
    raw = str(text)
    shown = raw[:limit]
    if not shown.isprintable():
        shown = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown
        )
    left_out = len(raw) - limit
    return shown if left_out <= 0 else f"{shown}… ({left_out} more characters)"


class OneLineFormatter(logging.Formatter):
    """Escapes and bounds every message, so that nobody outside can write lines of this log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = one_line(record.message, _LIMIT)
        return super().formatMessage(record)

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802
        # Indented: an exception's own text may hold whole lines.
        return "\n".join(
            f"  | {one_line(line, _LIMIT)}" for line in super().formatException(ei).splitlines()
        )
