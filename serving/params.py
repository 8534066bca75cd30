"""The sections of params.yaml that belong to the service, its bundle and its champion."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from contracts.section import Section
from features.terms.params import LONGEST_S
from training.model.params import MIN_BOOTSTRAP


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


Tolerance = Annotated[float, Field(ge=0, le=1)]


class ToleranceParams(Section):
    """By slice: how far below the champion's iAUC the newest may significantly fall. Slices as evaluate names them."""

    first_after_shift: Tolerance
    second_and_third_after_shift: Tolerance
    later_after_shift: Tolerance
    history_0: Tolerance
    history_1_19: Tolerance
    history_20_99: Tolerance
    history_100_499: Tolerance
    history_500_up: Tolerance
    cold_items: Tolerance
    cold_users: Tolerance


class PromoteParams(Section):
    """When the newest bundle takes the champion's place, and how many former ones are kept."""

    max_requests: PositiveInt  # the newest that neither model was trained or chosen on
    min_requests: PositiveInt  # of them, those that can be ranked; fewer are not compared
    num_bootstrap: Annotated[int, Field(ge=MIN_BOOTSTRAP)]  # draws of the users behind each interval
    num_former: NonNegativeInt  # champions that are kept for a rollback
    tolerance: ToleranceParams
