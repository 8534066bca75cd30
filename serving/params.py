"""The sections of params.yaml that belong to the service, its bundle and its champion."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from contracts.section import Section
from features.terms.params import LONGEST_S
from training.model.params import MIN_BOOTSTRAP

Share = Annotated[float, Field(ge=0, le=1)]


class RetrievalParams(Section):
    """Which items POST /recommend lets the model rank, and how its list is mixed."""

    num_candidates: PositiveInt  # ranked by the model
    num_themes: PositiveInt  # the user's current themes that are searched, those of the largest shares
    num_recent: PositiveInt  # newest events of a theme that its vector is the mean of
    theme_weight: NonNegativeFloat  # of an item's belonging to the theme, beside the product of the vectors
    popular_share: Share  # of the candidates: what is clicked now in those themes
    new_share: Share  # of the candidates: what came lately in those themes
    popular_s: Annotated[float, Field(gt=0, le=LONGEST_S)]  # the window in which clicks make an item popular
    new_s: Annotated[float, Field(gt=0, le=LONGEST_S)]  # how long an item is new
    idle_s: (
        Annotated[PositiveFloat, Field(le=LONGEST_S)] | None
    )  # not shown so long: not on offer any more; null: never
    diversity: Share  # where a request does not say

    @model_validator(mode="after")
    def _leave_room(self) -> "RetrievalParams":
        if self.popular_share + self.new_share > 1:
            raise ValueError(
                f"popular_share {self.popular_share:g} and new_share {self.new_share:g} are more than all candidates; "
                "together they are 1 at most"
            )
        return self


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
    retrieval: RetrievalParams

    @model_validator(mode="after")
    def _rank_what_is_found(self) -> "ServeParams":
        if self.retrieval.num_candidates > self.max_candidates:
            raise ValueError(
                f"retrieval.num_candidates is {self.retrieval.num_candidates:,}, and at most max_candidates "
                f"({self.max_candidates:,}) are ranked at once; lower the one or raise the other"
            )
        return self


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
