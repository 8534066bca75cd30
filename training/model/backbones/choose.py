"""model.backbone -> the module of that name."""

from training.model.backbones.backbone import Backbone
from training.model.backbones.din import DinAttention
from training.model.backbones.hstu import HstuEncoder
from training.model.backbones.sasrec import SasrecEncoder
from training.model.backbones.sdim import SdimAttention
from training.model.backbones.stca import StackedAttention
from training.model.backbones.twin import TwinAttention
from training.model.shape import ATTENTION_RATIO, ModelShape


def make_backbone(name: str, width: int, shape: ModelShape) -> Backbone:
    """A backbone with random weights."""
    hidden = ATTENTION_RATIO * width
    match name:
        case "din":
            return DinAttention(width, hidden)
        case "twin":
            return TwinAttention(width, hidden, shape.num_contexts)
        case "sdim":
            return SdimAttention(width)
        case "sasrec":
            return SasrecEncoder(width)
        case "hstu":
            return HstuEncoder(width, hidden)
        case "stca":
            return StackedAttention(width, hidden)
    raise ValueError(f"no backbone is called {name!r}")
