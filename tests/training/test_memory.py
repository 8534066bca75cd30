"""Large blocks are kept for the next step: the kernel clears no page twice."""

import subprocess
import sys

import pytest

from training.fitting.memory import keep_freed_memory

SCRIPT = """
import resource, sys
import torch
from training.fitting.memory import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory(64 * 2**20):
    sys.exit(77)

def faults(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(number):
        torch.ones(16 * 2**20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
print(faults(20))
"""


def test_a_freed_block_is_reused_instead_of_mapped_again() -> None:
    counts = {}
    for how in ("mapped", "kept"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False)
        if done.returncode == 77:
            pytest.skip("this C library has no mallopt")
        assert done.returncode == 0, done.stderr
        counts[how] = int(done.stdout)
    assert counts["kept"] * 2 < counts["mapped"]  # a busy kernel takes some pages back meanwhile


def test_small_steps_leave_the_allocator_alone() -> None:
    assert not keep_freed_memory(32 * 2**20)
