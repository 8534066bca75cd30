"""Large blocks of memory that a step frees are kept for the next one, where the C library can be told so."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
LARGEST = 2**31 - 1
NEVER_KEPT_BYTES = 32 * 2**20
"""glibc learns to keep blocks that were freed, up to this size (DEFAULT_MMAP_THRESHOLD_MAX of malloc.c)."""


def keep_freed_memory(largest_bytes: int) -> bool:
    """Tell glibc to reuse blocks of any size; True where it did so.

    largest_bytes: of the largest tensor of a step. Beyond 32 MiB each is mapped anew, and the kernel clears its pages
    at first touch; below, glibc keeps it by itself, and telling it costs more than it saves (docs/benchmarks.md).
    Memory that was used stays with the process until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if largest_bytes <= NEVER_KEPT_BYTES or mallopt is None:  # None: another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
