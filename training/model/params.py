"""The typed sections of params.yaml for the model, training and evaluation."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from contracts.section import MIN_BOOTSTRAP, Section, Several
from features.terms.params import LONGEST_S


class ModelParams(Section):
    """The Mixture of Sequence and its DIN baseline. See docs/model.md."""

    history_length: PositiveInt  # L
    width: PositiveInt  # D
    router_width: PositiveInt
    num_themes: PositiveInt  # T
    theme_capacity: PositiveInt  # C
    num_candidate_themes: Literal[1, 2]  # top themes of a candidate that are read
    short_length: PositiveInt
    router: Literal["decoupled", "tied", "random"]  # random: a control whose routing is not trained
    route: Literal["item", "blend", "session"]
    backbone: Literal["din", "twin", "sdim", "sasrec", "hstu", "stca"]  # what the mixture wraps
    global_expert: Literal["mean", "backbone"]  # reads the whole history: the mean of its tokens, or with the backbone
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
    """How the models are fitted."""

    epochs: PositiveInt
    max_requests: PositiveInt  # sampled from twice as many, the latest before the split
    min_history: NonNegativeInt  # requests with fewer events of history are not trained on
    batch_requests: PositiveInt
    learning_rate: PositiveFloat
    schedule: Literal["auto", "constant", "linear"]  # of the learning rate; linear: decays to 0 over all epochs
    start: Literal["random", "backbone"]  # of MoS; backbone: the weights of the trained DIN
    loss: Literal["pointwise", "listwise", "both"]  # per click, within its request, or the sum of both
    mutual_information: NonNegativeFloat  # weight of L_MI
    router_steps: NonNegativeInt  # L_MI-only steps before the first epoch
    router_starts: PositiveInt  # random routers that take these steps; the best by L_MI is kept
    min_item_events: PositiveInt  # items with fewer train events share the unknown row
    min_category_events: PositiveInt  # categories whose items have fewer train events are left out
    num_threads: PositiveInt
    optimizer: Literal["dense", "sparse", "auto"]  # of embedding tables; auto: sparse from 200,000 rows on
    gradient_clip: PositiveFloat | None  # largest norm of all gradients together
    validations_per_epoch: PositiveInt
    choose_by: Literal["gauc", "iauc", "logloss"]  # validation figure by which the best weights are chosen
    calibrate: bool  # Platt scaling on the validation part
    patience: PositiveInt | None  # early stopping: validations without improvement; None: all epochs
    checkpoint_s: NonNegativeFloat  # between two checkpoints from which a killed run resumes
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveInt | Literal["auto"]  # one process per device, batch_requests per process and step
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    strategy: str  # Lightning's name; auto, ddp: spawned processes, one per device
    num_nodes: PositiveInt

    @model_validator(mode="after")
    def _chosen_by_what_the_loss_gives(self) -> "TrainParams":
        if self.loss == "listwise" and self.choose_by == "logloss":
            raise ValueError("choose_by is logloss, but a listwise loss gives no probabilities: use gauc or iauc")
        return self


class EvaluateParams(Section):
    """Baselines, the limits of the verdict, and which of the fitted models is served."""

    serve: Literal["candidate", "best"]  # candidate: MoS | best: whichever of MoS and DIN the validation part chose
    popularity_window_s: Annotated[int, Field(gt=0, le=LONGEST_S)] | None  # null: all time
    min_requests: PositiveInt  # test requests that can be ranked; with fewer the verdict is "not judged"
    min_auc_over_popularity: Annotated[float, Field(ge=-1, le=1)]  # for the lower bound of the interval
    max_calibration_error: Annotated[
        float, Field(ge=0, le=1)
    ]  # beyond the expected error by chance; 1: calibration is not judged
    ndcg_at: PositiveInt  # k of NDCG@k
    num_bootstrap: Annotated[int, Field(ge=MIN_BOOTSTRAP)]  # draws of the users behind each interval
