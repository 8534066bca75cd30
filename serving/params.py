"""The sections of params.yaml for the service, its bundle and its champion."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from contracts.section import MIN_BOOTSTRAP, Section
from features.terms.params import LONGEST_S

Share = Annotated[float, Field(ge=0, le=1)]


class RetrievalParams(Section):
    """How POST /recommend retrieves candidates for the model and mixes its list."""

    num_candidates: PositiveInt  # ranked by the model
    num_themes: PositiveInt  # number of the user's current themes, by share, that are searched
    num_recent: PositiveInt  # newest events of a theme whose mean is its query vector
    theme_weight: NonNegativeFloat  # weight of an item's share of the theme, added to the product of the vectors
    popular_share: Share  # share of candidates that are popular in those themes
    new_share: Share  # share of candidates that are new in those themes
    popular_s: Annotated[float, Field(gt=0, le=LONGEST_S)]  # the window in which clicks make an item popular
    new_s: Annotated[float, Field(gt=0, le=LONGEST_S)]  # how long an item is new
    idle_s: (
        Annotated[PositiveFloat, Field(le=LONGEST_S)] | None
    )  # an item that was not shown for so long is no longer on offer; null: no limit
    diversity: Share  # default for requests

    @model_validator(mode="after")
    def _leave_room(self) -> "RetrievalParams":
        if self.popular_share + self.new_share > 1:
            raise ValueError(
                f"popular_share {self.popular_share:g} and new_share {self.new_share:g} are more than all candidates; "
                "together they may be 1 at most"
            )
        return self


class ServeParams(Section):
    """The bundle and the limits of a request."""

    clock: Literal["now", "log_end"]  # default of a request's `at`
    num_golden_requests: PositiveInt
    max_candidates: PositiveInt
    max_id_length: PositiveInt
    max_events: PositiveInt  # per POST /events
    max_future_s: Annotated[float, Field(ge=0, le=LONGEST_S)]  # how far ahead of the clock an event may be
    log_exposures: bool  # store the shows of rankings without `at`
    allowed_hosts: list[str]  # host names that the service answers to, besides addresses
    max_exposed: PositiveInt  # number of first items of a ranking that are stored as shown
    max_live_rows: PositiveInt  # live rows in a worker's memory, beyond which no shows are stored
    num_threads: PositiveInt
    retrieval: RetrievalParams

    @model_validator(mode="after")
    def _rank_what_is_found(self) -> "ServeParams":
        if self.retrieval.num_candidates > self.max_candidates:
            raise ValueError(
                f"retrieval.num_candidates is {self.retrieval.num_candidates:,}, but at most max_candidates "
                f"({self.max_candidates:,}) are ranked at once; lower the first or raise the second"
            )
        return self


Tolerance = Annotated[float, Field(ge=0, le=1)]


class ToleranceParams(Section):
    """Slice of evaluate -> how far the newest bundle's iAUC may significantly fall below the champion's."""

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
    """When the newest bundle becomes the champion, and how many former champions are kept."""

    max_requests: PositiveInt  # number of newest requests, on which neither model was trained or chosen
    min_requests: PositiveInt  # minimum of rankable ones among them for a comparison
    num_bootstrap: Annotated[int, Field(ge=MIN_BOOTSTRAP)]  # bootstrap draws of users for each interval
    num_former: NonNegativeInt  # champions that are kept for a rollback
    tolerance: ToleranceParams
