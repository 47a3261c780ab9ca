"""How a process keeps the memory that it frees, where it will need as much again in the next moment.

A training step allocates and frees a few hundred intermediates of some megabytes. By default, glibc gives such memory
back to the system and asks for it anew: thousands of page faults per step, each page zeroed by the kernel. Figures:
`Docs/PERFORMANCE.md`.

Source: mallopt(3) and malloc_trim(3) of the Linux manual pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_USUAL = {_M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 128 << 10}
_KEEPING = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed in the block for what is allocated next, and give it back to the system afterwards.

    Does nothing where the C library is another than glibc.
    """
    library = _glibc()
    if library is None:
        yield
        return
    for option, value in _KEEPING.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
