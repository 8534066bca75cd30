"""Arrays <-> files that are mapped, not read: a process holds in memory what it looks at, and shares it. numpy only."""

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
    """What save wrote, not to be written to; empty where there is nothing. Raises OSError or ValueError where damaged.

    A file that is replaced stays as it was for who has mapped it; none is ever written to again.
    """
    paths = sorted(folder.glob(f"{name}.*.npy"))
    return {path.name.removeprefix(f"{name}.").removesuffix(".npy"): _map(path) for path in paths}


def _map(path: Path) -> npt.NDArray[Any]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray)
