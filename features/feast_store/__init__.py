"""Feast's definitions, and its stores that know sequences.

Feast is imported in every stage that stores, in every command and in the service, so two things that it does then are
left out: compiling its classes a second time for typeguard, and importing torch for those who ask it for tensors. Each
cost more than all the rest of Feast. Typeguard's documentation says that its checks are not meant for production, and
pyright checks how this package calls Feast; torch is imported when tensors are asked for.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def _unless_of_feast(*target: Any, **options: Any) -> Any:
    """`typechecked` for everybody but Feast."""
    if target and getattr(target[0], "__module__", "").partition(".")[0] == "feast":
        return target[0]
    return _typechecked(*target, **options)


def _get_torch() -> ModuleType:
    """Torch, imported by the first who asks Feast for tensors."""
    return importlib.import_module("torch")


typeguard.typechecked = _unless_of_feast
_torch_wrapper = ModuleType("feast.torch_wrapper", "What Feast's module of this name gives others, without its import.")
vars(_torch_wrapper)["get_torch"] = _get_torch
sys.modules.setdefault("feast.torch_wrapper", _torch_wrapper)
