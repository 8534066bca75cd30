"""Inputs of arrays -> the arrays, cached on disk, so that a stopped run can be resumed."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.publish import write_json

log = logging.getLogger("leitmotif")

Arrays = Mapping[str, npt.NDArray[Any]]


def kept(folder: Path, name: str, made_from: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """folder/<name>-<hash of made_from>.npz if it is there; else make it, write it and, beside it, made_from.

    made_from: JSON values that decide the arrays. It must name all that they depend on: digests of data and code too.
    """
    path = place_of(folder, name, made_from)
    if path.exists():
        log.info("%s: kept in %s", name, path)
        with np.load(path) as arrays:
            return dict(arrays)
    arrays = dict(make())
    write_json(path.with_suffix(".json"), made_from)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)
    os.replace(temporary, path)
    return arrays


def place_of(folder: Path, name: str, made_from: Mapping[str, Any]) -> Path:
    """The file of the cached arrays."""
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{name}-{key}.npz"


def digest_arrays(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """One hash of their types, shapes and bytes, in this order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """One hash of the contents of these files, in order of their paths."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
