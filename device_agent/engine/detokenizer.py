"""From tokens' bytes to text that can be shown: whole characters, and nothing of a stop string."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Collects a generation's text.

    A character is given out when its last byte has come, and never before it is sure that the text
    so far does not begin a stop string.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._given: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._given)

    def push(self, piece: bytes) -> str:
        """Take a token's bytes; return the text that has become certain."""
        fresh = self._decoder.decode(piece)
        if self._stop and fresh:
            fresh = self._without_stop(self._held + fresh)
        if fresh:
            self._given.append(fresh)
        return fresh

    def _without_stop(self, text: str) -> str:
        at = min((found for mark in self._stop if (found := text.find(mark)) >= 0), default=-1)
        if at >= 0:
            self.stopped, self._held = True, ""
            return text[:at]
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(mark.startswith(text[-length:]) for mark in self._stop):
                self._held = text[-length:]
                return text[:-length]
        self._held = ""
        return text

    def finish(self) -> str:
        """Give out what was held back for a stop string that did not come.

        An incomplete character at the end is left out: its remaining bytes never came.
        """
        rest, self._held = self._held, ""
        if rest:
            self._given.append(rest)
        return rest
