"""Large blocks of memory that a step frees are kept for the next one, where the C library can be told so."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks; True where it did so.

    By default each large tensor is mapped anew, and the kernel clears its pages at first touch: a third of a training
    step's CPU time on long histories. Memory that was used stays with the process until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
