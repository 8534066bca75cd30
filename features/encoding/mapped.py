"""Arrays <-> memory-mapped files, whose pages are loaded on access and shared between processes. numpy only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def save(arrays: Mapping[str, npt.NDArray[Any]], folder: Path, name: str) -> None:
    """Write <name>.<array>.npy each."""
    for key, array in arrays.items():
        np.save(folder / f"{name}.{key}.npy", np.ascontiguousarray(array), allow_pickle=False)


def load(folder: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """Memory-map what `save` wrote, read-only; {} if there are no files. Raises OSError or ValueError if damaged.

    Files are only ever replaced, never written again, so a reader keeps the version that it mapped.
    """
    paths = sorted(folder.glob(f"{name}.*.npy"))
    return {path.name.removeprefix(f"{name}.").removesuffix(".npy"): _map(path) for path in paths}


def _map(path: Path) -> npt.NDArray[Any]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray)
