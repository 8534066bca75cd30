"""A log in LongCTR's files -> impressions a CPU second of FuxiCTR's own DIN, its loader included. The peer's side.

Run by benchmarks.peer with an interpreter that has fuxictr==2.3.10 and nothing of this project. One thread.
"""

# pyright: reportMissingImports=false

import argparse
import json
import time
from itertools import cycle, islice
from pathlib import Path

import torch
from fuxictr.features import FeatureMap
from fuxictr.version import __version__
from model_zoo.LongCTR.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

IMPRESSIONS = 256  # a batch
WIDTH = 16  # of the item's embedding and of its category's: 32 together
WARM = 2


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with train.parquet, users.parquet, items.parquet")
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--categories", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of CPU, at least")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = feature_map(options.folder, options.items, options.categories)
    paths = (str(options.folder / f"{name}.parquet") for name in ("train", "users", "items"))
    batches = LongCTRDataLoader(
        features, *paths, batch_size=IMPRESSIONS, shuffle=True, num_workers=0, max_len=options.length
    )
    model = DIN(
        features,
        embedding_dim=WIDTH,
        attention_hidden_units=[64],
        attention_hidden_activations="ReLU",
        dnn_hidden_units=[64, 32],
        optimizer="adam",
        loss="binary_crossentropy",
        learning_rate=1e-3,
        verbose=0,
        model_root=str(options.folder),
        metrics=["AUC"],
    )
    model._max_gradient_norm, model._batch_index = 10.0, 0  # what its fit() sets
    model.train()
    print(json.dumps({"version": __version__, "torch": torch.__version__, **speed(model, batches, options.seconds)}))


def feature_map(folder: Path, num_items: int, num_categories: int) -> FeatureMap:
    """Items and their categories are embedded; the other columns refer to the history."""
    features = FeatureMap("peer", str(folder))
    kinds = {"item_id": num_items, "cate_id": num_categories}
    features.features.update(
        {name: {"type": "categorical", "source": "item", "vocab_size": size} for name, size in kinds.items()}
    )
    features.features.update({name: {"type": "meta"} for name in ("user_index", "item_index", "seq_len")})
    features.labels = ["label"]
    features.default_emb_dim = WIDTH
    features.num_fields = len(kinds)
    return features


def speed(model: DIN, batches: LongCTRDataLoader, seconds: float) -> dict[str, float]:
    """Whole steps of its own train_step, until `seconds` of CPU have gone by."""
    passes = (batch for _ in cycle([0]) for batch in batches)
    for batch in islice(passes, WARM):
        model.train_step(batch)
    number, in_loader, began = 0, 0.0, time.process_time()
    while (now := time.process_time()) - began < seconds:
        batch = next(passes)
        in_loader += time.process_time() - now
        model.train_step(batch)
        number += len(batch[0]["label"])
    spent = time.process_time() - began
    return {"impressions_per_cpu_s": number / spent, "share_in_loader": in_loader / spent}


if __name__ == "__main__":
    main()
