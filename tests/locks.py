"""How this process has opened a file that it holds locked: NFS locks only what may be read and written."""

import os
from pathlib import Path


def modes_of_locks(path: Path) -> list[int]:
    """The access mode (os.O_RDWR and so on) of each descriptor that has a file locked."""
    found = []
    for each in Path("/proc/self/fdinfo").iterdir():
        try:
            told, is_of_it = each.read_text(), (Path("/proc/self/fd") / each.name).samefile(path)
        except FileNotFoundError:  # of the listing itself
            continue
        if is_of_it and "lock:" in told:
            (flags,) = (line.split()[1] for line in told.splitlines() if line.startswith("flags:"))
            found.append(int(flags, 8) & os.O_ACCMODE)
    return found
