"""CoDel (RFC 8289): a queue that drops before it is full, when packets wait too long."""

from __future__ import annotations

import math

_TARGET_S = 0.005
_INTERVAL_S = 0.1


class CoDel:
    """Says of each packet in turn whether it is dropped where it leaves the queue."""

    def __init__(self, largest_frame_bytes: int) -> None:
        self._largest_frame_bytes = largest_frame_bytes
        self._first_above_s = 0.0
        self._dropping = False
        self._next_s = 0.0
        self._count = self._last_count = 0

    def drops(self, sojourn_s: float, behind_bytes: int, now_s: float) -> bool:
        """Of a packet that has queued for `sojourn_s` and would begin to be sent at `now_s`.

        `behind_bytes` of frames queue behind it: where they are one frame at most the link is not
        congested, however long each takes (section 4.4's dodequeue).
        """
        if sojourn_s < _TARGET_S or behind_bytes <= self._largest_frame_bytes:
            self._first_above_s = 0.0
            self._dropping = False
            return False
        if not self._first_above_s:
            self._first_above_s = now_s + _INTERVAL_S
            return False
        if now_s < self._first_above_s:
            return False
        if self._dropping:
            if now_s < self._next_s:
                return False
            self._count += 1
            self._next_s += _INTERVAL_S / math.sqrt(self._count)
            return True
        self._dropping = True
        # A queue that was bad a moment ago is taken up where it was left.
        recent = self._count - self._last_count
        again = recent > 1 and now_s - self._next_s < 16 * _INTERVAL_S
        self._count = recent if again else 1
        self._last_count = self._count
        self._next_s = now_s + _INTERVAL_S / math.sqrt(self._count)
        return True
