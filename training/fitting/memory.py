"""Makes glibc keep the large blocks of memory that a step frees, so that the next step reuses them."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
LARGEST = 2**31 - 1
NEVER_KEPT_BYTES = 32 * 2**20
"""glibc by itself keeps freed blocks up to this size (DEFAULT_MMAP_THRESHOLD_MAX in malloc.c)."""


def keep_freed_memory(largest_bytes: int) -> bool:
    """Set glibc to reuse blocks of any size. Returns whether it was set.

    largest_bytes: size of a step's largest tensor. Blocks beyond 32 MiB are mapped for each use, and the kernel zeroes
    their pages; smaller ones glibc keeps by default, and the setting would cost more than it saves
    (docs/benchmarks.md). The process keeps the memory until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if largest_bytes <= NEVER_KEPT_BYTES or mallopt is None:  # None: another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
