"""Machine code of a model's two halves, as `make export ARGS=--compile` wrote it -> what a scorer calls in their place.

It was made for one bundle, one torch and one kind of processor. Where any of them is another, the scorer computes by
PyTorch as it always can, and the log says why: as a warning where it was made for this bundle.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

DESCRIPTION = "exported.json"
CPU_INFO = Path("/proc/cpuinfo")

Half = Callable[..., Any]

log = logging.getLogger("leitmotif")


class Programs(NamedTuple):
    """Both halves: the history's tensors -> those of the state; these and the candidates' -> logits."""

    user_side: Half
    score: Half


def open_programs(folder: Path, bundle_hash: str, device: torch.device) -> Programs | None:
    """None where there is no machine code for this bundle on this machine."""
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
        # whoever made it for this bundle counts on it
        level = logging.WARNING if described.get("compiled") and "bundle_hash" not in others else logging.INFO
        log.log(
            level, "%s is %s: the model computes by PyTorch. `make export ARGS=--compile` makes it anew", folder, why
        )
        return None
    try:
        return Programs(*(load_half(folder / f"{name}.pt2", compiled=True) for name in Programs._fields))
    except Exception as error:  # a damaged file: zip, dlopen and torch have errors of their own
        log.warning("%s cannot be loaded (%s: %s): the model computes by PyTorch", folder, type(error).__name__, error)
        return None


def is_machine_code_of(folder: Path, bundle_hash: str) -> bool:
    """Whether a folder holds machine code of a bundle, for whatever machine."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(described.get("compiled")) and described.get("bundle_hash") == bundle_hash


def load_half(path: Path, *, compiled: bool) -> Half:
    """A half as a function of tensors."""
    return torch._inductor.aoti_load_package(str(path)) if compiled else torch.export.load(path).module()


def processor() -> str:
    """What machine code may use here: a digest of the instruction sets that this processor has."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux names none
        lines = []
    found = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    sets = " ".join(sorted(found.partition(":")[2].split())) or found
    return f"{platform.machine()}-{hashlib.sha256(sets.encode()).hexdigest()[:12]}"
