"""Feast's definitions, and the offline and online stores for sequences.

Stages, commands and the service all import Feast, so two slow parts of its import are skipped, each slower than the
rest of it together: typeguard's instrumentation of its classes (which typeguard's documentation advises against in
production; pyright checks our calls), and the import of torch, which happens when tensors are first asked for.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def _unless_of_feast(*target: Any, **options: Any) -> Any:
    """`typechecked`, except for Feast's own classes and functions."""
    if target and getattr(target[0], "__module__", "").partition(".")[0] == "feast":
        return target[0]
    return _typechecked(*target, **options)


def _get_torch() -> ModuleType:
    """Torch, imported at the first call."""
    return importlib.import_module("torch")


typeguard.typechecked = _unless_of_feast
_torch_wrapper = ModuleType("feast.torch_wrapper", "What Feast's module of this name gives others, without its import.")
vars(_torch_wrapper)["get_torch"] = _get_torch
sys.modules.setdefault("feast.torch_wrapper", _torch_wrapper)
