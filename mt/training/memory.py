"""How the process deals with memory that tensors give back."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # names in malloc.h


def keep_freed_memory() -> bool:
    """Lets the process keep what tensors give back, where the C library is glibc; whether it is.

    By default glibc maps every large tensor anew and unmaps it when it is freed; on a processor the page faults of
    a training step then cost about as much as its arithmetic on the vocabulary.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 28)):
        library.mallopt(option, value)
    return True
