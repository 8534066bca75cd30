"""What every section of params.yaml is made of: typed, frozen, finite, no defaults, no unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt

Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]
"""params.yaml's seed: what numpy and torch both take."""


class Section(BaseModel):
    """One section of params.yaml. Values live in params.yaml alone; a key that no field names is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
