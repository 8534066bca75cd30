"""Feast's definitions, and its stores that know sequences.

Feast's classes are imported without typeguard: its decorator compiles their source a second time, which is half of what
importing Feast costs, in every stage, command and service. Its documentation says that these checks are not meant for
production, and pyright checks how this package calls Feast.
"""

from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def _unless_of_feast(*target: Any, **options: Any) -> Any:
    """`typechecked` for everybody but Feast."""
    if target and getattr(target[0], "__module__", "").partition(".")[0] == "feast":
        return target[0]
    return _typechecked(*target, **options)


typeguard.typechecked = _unless_of_feast
