"""A large buffer is the kernel's again as soon as it is freed, whatever came and went before."""

import ctypes
from pathlib import Path

from engines import MakeEngine

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def is_mapped(address: int) -> bool:
    """Whether this process has memory at an address."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    ranges = (line.split()[0].split("-") for line in lines)
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


def test_what_is_freed_is_gone(make_engine: MakeEngine) -> None:
    make_engine()
    for _ in range(3):
        buffer = libc.malloc(12 << 20)
        assert is_mapped(buffer)
        libc.free(buffer)
        assert not is_mapped(buffer)
