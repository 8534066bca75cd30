"""The sections of params.yaml that belong to the model, its training and its evaluation."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from contracts.section import Section, Several
from features.terms.params import LONGEST_S

MIN_BOOTSTRAP = 20
"""The 2.5 % end of an interval lies within so many draws."""


class ModelParams(Section):
    """The Mixture of Sequence and its DIN baseline. MODEL.md has the formulas."""

    history_length: PositiveInt  # L
    width: PositiveInt  # D
    router_width: PositiveInt
    num_themes: PositiveInt  # T
    theme_capacity: PositiveInt  # C
    num_candidate_themes: Literal[1, 2]  # top themes of a candidate that are read
    short_length: PositiveInt
    router: Literal["decoupled", "tied", "random"]  # random: the control, routing as drawn
    route: Literal["item", "blend", "session"]
    backbone: Literal["din", "twin", "sdim", "sasrec", "hstu", "stca"]  # what the mixture wraps
    global_expert: Literal["mean", "backbone"]  # of the whole history: the mean of its tokens, or the backbone's read
    temperature: PositiveFloat
    hidden: Several[PositiveInt]
    dropout: Annotated[float, Field(ge=0, lt=1)]  # of the head's hidden layers, while training

    @model_validator(mode="after")
    def _enough_themes(self) -> "ModelParams":
        if self.num_candidate_themes > self.num_themes:
            raise ValueError(
                f"num_candidate_themes ({self.num_candidate_themes}) exceeds num_themes ({self.num_themes})"
            )
        return self


class TrainParams(Section):
    """How the weights are fitted."""

    epochs: PositiveInt
    max_requests: PositiveInt  # sampled from the latest 2 x this before the split
    min_history: NonNegativeInt  # requests with fewer events of history are not trained on
    batch_requests: PositiveInt
    learning_rate: PositiveFloat
    schedule: Literal["constant", "linear"]  # of the learning rate; linear: falls to 0 over all epochs
    loss: Literal["pointwise", "listwise", "both"]  # of clicks: each alone, within its request, or the sum
    mutual_information: NonNegativeFloat  # weight of L_MI
    router_steps: NonNegativeInt  # L_MI-only steps before the first epoch
    router_starts: PositiveInt  # draws of the router that take these steps; the best by L_MI is kept
    min_item_events: PositiveInt  # items with fewer train events share the unknown row
    min_category_events: PositiveInt  # categories whose items have fewer train events are left out
    num_threads: PositiveInt
    optimizer: Literal["dense", "sparse", "auto"]  # of the tables; auto: sparse for those of 200,000 rows and more
    gradient_clip: PositiveFloat | None  # largest norm of all gradients together
    validations_per_epoch: PositiveInt
    choose_by: Literal["gauc", "iauc", "logloss"]  # of the validation part: whose weights are kept
    calibrate: bool  # stretch and move the logits so that on the validation part they are probabilities
    patience: PositiveInt | None  # validations without a better one, after which training ends; None: never early
    checkpoint_s: NonNegativeFloat  # between two checkpoints that a killed run goes on from
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveInt | Literal["auto"]  # one process each, of batch_requests requests a step each
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    strategy: str  # Lightning's name; auto, ddp: processes started here, one a device
    num_nodes: PositiveInt

    @model_validator(mode="after")
    def _chosen_by_what_the_loss_gives(self) -> "TrainParams":
        if self.loss == "listwise" and self.choose_by == "logloss":
            raise ValueError("choose_by is logloss, but a listwise loss gives no probabilities: take gauc or iauc")
        return self


class EvaluateParams(Section):
    """Baselines, the absolute rules, and which of the fitted models is served."""

    serve: Literal["candidate", "best"]  # candidate: MoS | best: whichever of MoS and DIN the validation part chose
    popularity_window_s: Annotated[int, Field(gt=0, le=LONGEST_S)] | None  # null: all time
    min_requests: PositiveInt  # of the test requests, those that can be ranked; fewer are not judged
    min_auc_over_popularity: Annotated[float, Field(ge=-1, le=1)]  # for the lower bound of the difference's interval
    max_calibration_error: Annotated[
        float, Field(ge=0, le=1)
    ]  # beyond what chance gives; 1: probabilities are not judged
    ndcg_at: PositiveInt  # places of a ranking that NDCG reads
    num_bootstrap: Annotated[int, Field(ge=MIN_BOOTSTRAP)]  # draws of the users behind each interval
