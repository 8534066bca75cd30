"""A model's two halves, as `make export` wrote them -> functions for the scorer.

Machine code (ARGS=--compile) is for one bundle, one torch version and one kind of processor. If any of them differs,
the scorer uses PyTorch instead, and logs why, as a warning if the code is for this bundle.
"""

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

DESCRIPTION = "exported.json"
TABLES = "tables.safetensors"
"""What a service reads of the catalogue beside the programs, which hold it too."""
CPU_INFO = Path("/proc/cpuinfo")
MAPPED = Path("/proc/self/maps")
UNPACKED = "aotinductor_??????/*/data/aotinductor/model/*.so"
"""Where torch unpacks machine code among temporary files. The first part is removed, so nothing else may match."""

Half = Callable[..., Any]

log = logging.getLogger("leitmotif")


class Programs(NamedTuple):
    """Both halves: tensors of the history -> tensors of the state; these and tensors of candidates -> logits."""

    user_side: Half
    score: Half


def open_programs(folder: Path, bundle_hash: str, device: torch.device) -> Programs | None:
    """Load the code; None if there is none for this bundle and this machine."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s): the model computes by PyTorch", folder / DESCRIPTION, error)
        return None
    made_for = {name: described.get(name) for name in ("bundle_hash", "torch", "device", "processor")}
    here = {"bundle_hash": bundle_hash, "torch": torch.__version__, "device": str(device), "processor": processor()}
    others = [name for name, value in here.items() if made_for[name] != value]
    if not described.get("compiled") or others:
        why = f"made for another {', '.join(others)}" if others else "no machine code"
        # a warning if it was compiled for this bundle, since it is then expected to be used
        level = logging.WARNING if described.get("compiled") and "bundle_hash" not in others else logging.INFO
        log.log(
            level, "%s is %s: the model computes by PyTorch. `make export ARGS=--compile` makes it again", folder, why
        )
        return None
    try:
        return Programs(*(load_half(folder / f"{name}.pt2", compiled=True) for name in Programs._fields))
    except Exception as error:  # a damaged file: zip, dlopen and torch raise different errors
        log.warning("%s cannot be loaded (%s: %s): the model computes by PyTorch", folder, type(error).__name__, error)
        return None


def are_programs_of(folder: Path, bundle_hash: str) -> bool:
    """Whether a folder has a bundle's model as programs, of either kind and for any machine."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return described.get("bundle_hash") == bundle_hash


def load_half(path: Path, *, compiled: bool) -> Half:
    """Load a half as a function of tensors."""
    if not compiled:
        return torch.export.load(path).module()
    before = _unpacked()
    half = torch._inductor.aoti_load_package(str(path))
    for folder in _unpacked() - before:
        shutil.rmtree(folder, ignore_errors=True)
    return half


def _unpacked() -> set[Path]:
    """The temporary folders whose machine code for CPUs this process has mapped.

    torch 2.13.0 unpacks a package there and leaves it when the process ends, some 2 MB a half each time; what is mapped
    does not need its file. A package for a GPU is not among them if it reads further files later.
    """
    try:
        lines = MAPPED.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return set()
    libraries = [Path(line.split(maxsplit=5)[-1]) for line in lines if ".so" in line]
    folders = {path.parents[4] for path in libraries if path.match(UNPACKED)}
    return {folder for folder in folders if not any(folder.rglob("*.cubin"))}


def processor() -> str:
    """The architecture and a digest of this processor's instruction sets, on which machine code depends."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    found = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    sets = " ".join(sorted(found.partition(":")[2].split())) or found
    return f"{platform.machine()}-{hashlib.sha256(sets.encode()).hexdigest()[:12]}"
