"""Great Expectations, imported when it is needed, in two thirds of the time."""

import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType

NOT_NEEDED = ("pyspark", "sqlalchemy", "boto3")
"""Engines and stores that Great Expectations imports where they are installed: a third of its start. Pandas judges."""


@cache
def great_expectations() -> ModuleType:
    """Import Great Expectations late: analytics must be switched off before, and it imports deprecated modules."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings(), _without(NOT_NEEDED), _uncollected():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations
        import great_expectations.execution_engine.pandas_execution_engine as engine
        import great_expectations.expectations

    engine.HASH_THRESHOLD = 0  # of frames above this size GX takes no fingerprint: unused, and a third of the time
    return great_expectations


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Within the block these modules, unless something has imported them, count as not installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: Python's own mark for it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within the block no garbage is collected: of half a million objects of modules, none is garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
