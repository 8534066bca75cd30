"""End this process when its parent ends, however that ends, so that no program outlives the one that started it.

As a program (`parent.py <process id of the parent> <command>`) it sets this up and then executes the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None = None) -> None:
    """On Linux, request SIGTERM when the parent ends; elsewhere do nothing.

    parent: its process id as known earlier. If it has already ended, the signal is sent at once.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
