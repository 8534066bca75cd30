"""The section of params.yaml that belongs to the service and its bundle."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from contracts.section import Section
from features.terms.params import LONGEST_S


class ServeParams(Section):
    """The bundle and the limits of a request."""

    clock: Literal["now", "log_end"]  # what `at` is where a request does not say
    num_golden_requests: PositiveInt
    max_candidates: PositiveInt
    max_id_length: PositiveInt
    max_events: PositiveInt  # of one POST /events
    max_future_s: Annotated[float, Field(ge=0, le=LONGEST_S)]  # how far ahead of the clock an event may be
    log_exposures: bool  # remember what a ranking without `at` showed
    allowed_hosts: list[str]  # names by which the service is asked; an address always is
    max_exposed: PositiveInt  # of one ranking, the first so many are remembered
    max_live_rows: PositiveInt  # live rows in a worker's memory, beyond which no ranking is remembered
    num_threads: PositiveInt
