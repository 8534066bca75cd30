"""source.name, path and columns of params.yaml -> the identity of a log: a name for its folders, and a fingerprint."""

import hashlib
import json
import os
import re
from collections.abc import Mapping

TABLE = "table"
IDENTIFYING = ("user_id", "item_id", "occurred_at", "event_id", "impression_id")
"""The columns that identify an event (user, item, time) and its request. Mapping a further column does not make it
another log."""
LONGEST_STEM = 32
_SUFFIXES = re.compile(r"(\.(csv|tsv|txt|dat|inter|json|jsonl|parquet|gz|gzip|zst|bz2))+$")


def fingerprint(name: str, path: str, columns: Mapping[str, str | None]) -> str:
    """A fingerprint of 12 hexadecimal digits, equal for the same log.

    It depends on the path as written: a log that is moved has another one.
    """
    said: dict[str, object] = {"name": name}
    if name != "simulator":
        said["path"] = os.path.normpath(path)
    if name == TABLE:
        said["columns"] = {ours: columns.get(ours) for ours in IDENTIFYING}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def default_id(name: str, path: str, columns: Mapping[str, str | None]) -> str:
    """The default id of a log: the source's name; for a table, the file's name and 6 digits."""
    if name != TABLE:
        return name
    base = _SUFFIXES.sub("", os.path.basename(os.path.normpath(path)).lower())
    stem = re.sub(r"[^a-z0-9]+", "-", base).strip("-")[:LONGEST_STEM].rstrip("-") or "log"
    return f"{stem}-{fingerprint(name, path, columns)[:6]}"
