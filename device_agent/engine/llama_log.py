"""llama.cpp's own log: silent, but for errors, which are kept for whoever must explain a failure."""

from __future__ import annotations

import ctypes

import llama_cpp

_LEVEL_ERROR = 4
_errors: list[str] = []


def _collect(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level == _LEVEL_ERROR:
        _errors.append(text.decode(errors="replace").strip())


# Kept for good: llama.cpp calls it as long as the process lives.
_callback = llama_cpp.llama_log_callback(_collect)


def collect_errors() -> list[str]:
    """Start afresh; the list fills with what llama.cpp reports from now on."""
    _errors.clear()
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    return _errors
