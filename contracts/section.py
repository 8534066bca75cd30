"""The base of every section of params.yaml: typed, frozen, finite numbers, no defaults, no unknown keys."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StrictInt

Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]
"""params.yaml's seed, in the range that both numpy and torch accept."""
MIN_BOOTSTRAP = 20
"""Fewest draws of a bootstrap: with fewer the 2.5 % quantile is not defined."""

Item = TypeVar("Item")


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} stands there more than once; name each once")
    return values


Several = Annotated[tuple[Item, ...], Strict(False)]
"""A list in the file; its items are validated as strictly as the rest."""
Distinct = Annotated[tuple[Item, ...], Strict(False), AfterValidator(_distinct)]
"""The same without repeated items."""


class Section(BaseModel):
    """One section of params.yaml. Values live in params.yaml alone; a key that no field names is an error.

    Strict: true is not 1, "3" is not 3, and 2.0 is not 2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), strict=True)
