"""The bundle to serve -> exported/<source>: both halves of its model as programs that need torch only.

    python -m serving.export             # user_side.pt2 and score.pt2, for torch.export.load
    python -m serving.export --compile   # machine code by AOTInductor, which the service then uses; takes half the time

The programs must reproduce every golden request of the bundle before they are put in place.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from contracts.errors import InputError
from contracts.publish import write_json
from serving.bundle.golden import TOLERANCE, GoldenRequest
from serving.bundle.loaded import MODEL, Bundle, open_weights
from serving.bundle.programs import DESCRIPTION, TABLES, Half, Programs, load_half, processor
from serving.bundle.scorer import Scorer
from serving.locations import find_bundle, find_programs
from training.model.batch import History, to_candidates, to_history
from training.model.exported import check_compiler, compile_half, export_halves
from training.model.shape import ModelShape

log = logging.getLogger("leitmotif")


def export(bundle: Bundle, out: Path, compiled: bool) -> dict[str, Any]:
    """Write the programs and exported.json into `out`, atomically. Returns the content of exported.json."""
    if compiled:
        check_compiler()
    described = json.loads((bundle.path / MODEL).read_text(encoding="utf-8"))
    programs = export_halves(bundle.scorer.model, ModelShape(**described["shape"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out.parent) as temporary:
        staging = Path(temporary) / "made"
        staging.mkdir()
        for name, program in programs.items():
            path = staging / f"{name}.pt2"
            compile_half(program, path) if compiled else torch.export.save(program, path)
        halves = {name: load_half(staging / f"{name}.pt2", compiled=compiled) for name in Programs._fields}
        worst = max(_difference(bundle.scorer, halves, golden) for golden in bundle.golden)
        if not worst <= TOLERANCE:
            raise InputError(f"The programs' scores of a golden request differ by {worst:.1e}. Nothing was written.")
        scorer = bundle.scorer
        kept = {"item_NX": scorer.tables.item_NX, "routing_NT": scorer.tables.routing_NT}
        save_file({**kept, "cold_N": torch.from_numpy(scorer.cold_N)}, staging / TABLES)
        description = {
            "model_version": bundle.manifest.model_version,
            "bundle_hash": bundle.manifest.bundle_hash,
            "compiled": compiled,
            "device": str(bundle.scorer.device),
            "torch": torch.__version__,
            "processor": processor(),
            "num_golden_requests": len(bundle.golden),
            "largest_difference": worst,
            "has_router": scorer.model.has_router,
            "columns": [name.rpartition("_")[0] for name in History._fields],  # of an encoded history
            "state": list(scorer.state_type._fields),
            "files": {name: f"{name}.pt2" for name in Programs._fields},
        }
        write_json(staging / DESCRIPTION, description)
        shutil.rmtree(out, ignore_errors=True)
        staging.rename(out)
    return description


def _difference(scorer: Scorer, halves: dict[str, Half], golden: GoldenRequest) -> float:
    """The largest difference of a logit from that of the bundle's model, relative to 1 + its size."""
    history = to_history(vars(scorer.encode(golden.events, golden.at)))
    index = scorer.item_index(golden.candidates)
    scalars = np.array(golden.scalars, np.float32).reshape(len(index), -1)
    candidates = to_candidates(index, np.zeros(len(index), np.int64), scalars)
    with torch.no_grad():  # no inference_mode: guards of a loaded program cannot read the sizes of its tensors
        state = halves["user_side"](*(each.to(scorer.device) for each in history))
        logits: Tensor = halves["score"](*state, *(each.to(scorer.device) for each in candidates))
    wanted = np.array(golden.rescore(scorer))
    return float((np.abs(logits.cpu().numpy() - wanted) / (1 + np.abs(wanted))).max())


def main() -> None:
    """Export and print what was written; exit 2 if it fails."""
    parser = argparse.ArgumentParser(
        prog="serving.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compile", action="store_true", help="machine code; needs a C++ compiler")
    parser.add_argument("--out", type=Path, help="the folder to write; default exported/<source>")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        bundle = open_weights(find_bundle())
        out = arguments.out or find_programs(bundle.manifest.source)
        made = export(bundle, out, arguments.compile)
    except InputError as error:
        print(f"export failed: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    kind = "machine code" if made["compiled"] else "programs"
    print(
        f"{out}: {' and '.join(made['files'].values())}, {kind} of model {made['model_version']} for {made['device']}. "
        f"{made['num_golden_requests']} golden requests differ by at most {made['largest_difference']:.1e}."
    )


if __name__ == "__main__":
    main()
