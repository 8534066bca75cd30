"""A small simulated log, params that train on it within seconds, and the stage run on them."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from contracts.params import PARAMS, load_params
from contracts.schema import QUARANTINE
from features.stages import histories, ingest, statistics
from features.terms.params import SimulatorParams
from training import train

SMALL_MODEL = {"history_length": 30, "theme_capacity": 10, "num_themes": 6, "short_length": 5}
SMALL_TRAIN = {
    "max_requests": 300,
    "router_steps": 10,
    "router_starts": 1,
    "batch_requests": 32,
    "num_threads": 1,
    "validations_per_epoch": 2,
    "patience": None,
}


def changed(section, **changes):
    """The section with other values, checked."""
    return type(section).model_validate(section.model_dump() | changes)


def small_sections():
    """All sections of params.yaml, made small."""
    found = load_params(Path(__file__).parents[2] / PARAMS)
    found["model"] = changed(found["model"], **SMALL_MODEL)
    found["train"] = changed(found["train"], **SMALL_TRAIN)
    found["evaluate"] = changed(found["evaluate"], num_bootstrap=20, min_requests=50, min_auc_over_popularity=-1.0)
    return found


def make_log(data, sections):
    """data/simulator before the stage train."""
    simulator = SimulatorParams(
        preference="item", num_days=4, num_users=60, num_items=60, num_themes=6, num_sessions=12, item_life_days=20.0
    )
    ingest.run(data, 1, simulator, changed(sections["source"], name="simulator"))
    shutil.copytree(data / "interactions", data / "validated_interactions")
    (data / "quarantine").mkdir()
    pq.write_table(QUARANTINE.empty_table(), data / "quarantine" / "quarantine.parquet")
    histories.run(data, sections["request"], sections["history"])
    statistics.run(data, sections["statistics"])
    return data


def run_train(data, sections, **changes):
    """The stage, in this process."""
    names = ("history", "labels", "model", "seed", "split", "statistics", "train")
    return train.run(data, **{name: changes.get(name, sections[name]) for name in names})


def contents(data, *outs):
    """Every file of these outs: its path -> its bytes."""
    return {str(path.relative_to(data)): path.read_bytes() for out in outs for path in sorted((data / out).iterdir())}
