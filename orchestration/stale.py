"""Remove from DVC's locks those of processes that have ended, or whose id belongs to another program by now.

DVC checks only whether a process with that id exists: after a hard kill it would report the stage as busy for as long
as another program has the id.
"""

import json
from pathlib import Path
from typing import Any

from contracts.running import RWLOCK, is_living


def clear_stale(root: Path) -> int:
    """Take them out of .dvc/tmp/rwlock, under DVC's own guard; how many there were."""
    path = root / RWLOCK
    if not path.exists() or not _stale(path):
        return 0
    from dvc.rwlock import _edit_rwlock
    from dvc_objects.fs.local import LocalFileSystem  # half a second that a run without a stale lock should not cost

    with _edit_rwlock(str(path.parent), LocalFileSystem(), False) as edited:
        lock: Any = edited
        dead = _stale(path)
        for where in [where for where, info in lock["write"].items() if info in dead]:
            del lock["write"][where]
        for where, infos in list(lock["read"].items()):
            lock["read"][where] = [info for info in infos if info not in dead]
            if not lock["read"][where]:
                del lock["read"][where]
    return len(dead)


def _stale(path: Path) -> list[dict[str, Any]]:
    try:
        noted, written_at = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
    except (OSError, ValueError):
        return []
    if not isinstance(noted, dict):
        return []
    infos = [*noted.get("write", {}).values(), *(each for infos in noted.get("read", {}).values() for each in infos)]
    unique = {(info["pid"], info["cmd"]): info for info in infos if info}
    return [info for info in unique.values() if not is_living(info, written_at)]
