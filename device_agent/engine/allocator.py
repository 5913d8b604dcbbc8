"""How this process keeps free memory: llama.cpp's buffers go back to the kernel."""

from __future__ import annotations

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 << 20


def give_back_large_buffers() -> None:
    """Keep buffers of 4 MiB and more out of the heap, for as long as the process lives.

    glibc learns from buffers that come and go to take them from the heap (up to 32 MiB), where they
    lie about: an agent whose adapters changed grew by what nobody used. Without glibc, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        # As glibc has it: otherwise what is smaller would be given back, and asked for, all the time.
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)
