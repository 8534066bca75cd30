"""The newest bundle and the champion -> the better one in champions/<source>, and reports/<source>/promotion.json."""

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.params import load_params
from contracts.publish import publish, write_json
from serving.bundle.loaded import METRICS, RANKED, model_of, read_json, reading
from serving.bundle.manifest import Manifest, read_manifest
from serving.locations import champion_path, newest_path
from training.judging.measure import with_interval
from training.metrics import draw_users

METRIC = "iauc"
"""Decides: mean AUC within a request, the order that a service is asked for."""
NUM_BOOTSTRAP = 1000
SEED = 1

log = logging.getLogger("leitmotif")


def decide(candidate: Path, champion: Path | None, force: bool = False) -> dict[str, Any]:
    """Compare two bundles. Returns promotion.json: `promoted`, `forced`, `reason` and both sides' figures.

    Two bundles are compared only where both were measured on the same test requests; the newest wins where the 95 %
    interval of the difference, bootstrapped over users, lies above 0. force: what would be refused for its figures, or
    for want of comparable ones, is promoted all the same.
    """
    new = _side(candidate)
    old = _side(champion) if champion else None
    gain: dict[str, Any] = {METRIC: None}
    if champion is None or old is None:
        promoted, reason = True, "there was no champion"
        if new["verdict"] == "not judged":
            reason += f"; the newest was not judged ({'; '.join(new['verdict_reasons'])})"
    elif new["model_version"] == old["model_version"]:
        promoted, reason = False, "the newest bundle is the champion already"
    elif None not in (new["log"], old["log"]) and new["log"] != old["log"]:
        promoted = False
        reason = (
            f"the champion is of another log (identity {old['log']}; the newest bundle's is {new['log']}); "
            '`make promote ARGS=--force` replaces it, `make set ARGS="source.id=..."` and `make run` keep both'
        )
    elif not (champion / RANKED).exists():
        promoted = False
        reason = (
            f"the champion was packaged by an older version, without {RANKED}, so the two cannot be compared; "
            "`python -m serving.promote --force` promotes the newest all the same"
        )
    elif new["test_data_hash"] != old["test_data_hash"]:
        promoted = False
        reason = (
            "the test requests changed since the champion was measured, so the two cannot be compared; "
            "`python -m serving.promote --force` promotes the newest all the same"
        )
    elif new["verdict"] == "not judged":
        promoted, reason = False, f"the newest bundle was not judged: {'; '.join(new['verdict_reasons'])}"
    elif new[METRIC] is None or old[METRIC] is None:
        promoted, reason = False, f"{METRIC} was not measured on both sides"
    else:
        gain = _gain(candidate, champion)
        low, high = gain[f"{METRIC}_low"], gain[f"{METRIC}_high"]
        promoted = low > 0
        word = "better than" if promoted else "worse than" if high < 0 else "not shown to be better than"
        reason = (
            f"the newest is {word} the champion: {METRIC} {new[METRIC]:.4f} against {old[METRIC]:.4f}, "
            f"{gain[METRIC]:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
        )
    forced = force and not promoted and (old is None or new["model_version"] != old["model_version"])
    return {
        "promoted": promoted or forced,
        "forced": forced,
        "reason": f"by force, although {reason.partition(';')[0]}" if forced else reason,
        "metric": METRIC,
        "gain": gain[METRIC],
        "gain_low": gain.get(f"{METRIC}_low"),
        "gain_high": gain.get(f"{METRIC}_high"),
        "candidate": new,
        "champion": old,
    }


def promote(source: str, force: bool = False) -> dict[str, Any]:
    """Decide, put the newest bundle in the champion's place where it wins, write the report. Returns the report.

    Where DVC does not take it, the old champion is in its place again.
    """
    candidate, champion = newest_path(source), champion_path(source)
    if not candidate.exists():
        raise InputError(f"{candidate} does not exist: there is nothing to promote. `make run` makes it.")
    report = decide(candidate, champion if champion.exists() else None, force)
    if report["promoted"]:
        _crown(candidate, champion)
    write_json(Path("reports") / source / "promotion.json", report)
    return report


def main() -> None:
    """`make promote`, `python -m serving.promote --help`: within the source that params.yaml names."""
    parser = argparse.ArgumentParser(prog="python -m serving.promote", description=__doc__)
    parser.add_argument("--force", action="store_true", help="promote the newest bundle whatever the comparison says")
    options = parser.parse_args()
    try:
        source = load_params()["source"].id
        report = promote(source, options.force)
    except InputError as error:
        print(f"Not promoted: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    verb = "Promoted" if report["promoted"] else "Not promoted"
    print(f"{verb} for {source}: {report['reason']}. See {Path('reports') / source / 'promotion.json'}.")
    if report["promoted"]:
        print(f"Commit champions/{source}.dvc and `make push` to share it; `make serve` serves it from now on.")


def _crown(candidate: Path, champion: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="leitmotif-champion-") as kept:
        previous = Path(kept) / champion.name
        if champion.exists():
            shutil.copytree(champion, previous, copy_function=shutil.copyfile)
        try:
            _place(candidate, champion)
            _dvc("add", "--quiet", str(champion.parent))
        except BaseException:
            if previous.exists():
                _place(previous, champion)
            else:
                shutil.rmtree(champion, ignore_errors=True)
            raise


def _place(bundle: Path, champion: Path) -> None:
    with publish(champion.parent, champion.name) as staging:
        shutil.copytree(bundle, staging / champion.name, dirs_exist_ok=True, copy_function=shutil.copyfile)


def _gain(candidate: Path, champion: Path) -> dict[str, Any]:
    """The difference of the two in METRIC with its interval: the same draws of users for both."""
    new, old = (_ranked(bundle / RANKED) for bundle in (candidate, champion))
    if not new["user_index"].equals(old["user_index"]):
        raise InputError(
            f"{candidate / RANKED} and {champion / RANKED} hold other requests, although both bundles name the same "
            "test data. `dvc repro evaluate package` measures the newest again; --force does without."
        )
    users, user = np.unique(new["user_index"].to_numpy(), return_inverse=True)
    difference = new["auc"].to_numpy() - old["auc"].to_numpy()
    weights_RU = draw_users(len(users), NUM_BOOTSTRAP, SEED)
    counts = weights_RU @ np.bincount(user, minlength=len(users))
    drawn = (weights_RU @ np.bincount(user, difference, minlength=len(users))) / counts
    return with_interval(METRIC, float(difference.mean()), drawn)


def _ranked(path: Path) -> pa.Table:
    with reading(path):
        return pq.read_table(path, columns=["user_index", "auc"])


def _side(bundle: Path) -> dict[str, Any]:
    manifest: Manifest = read_manifest(bundle)
    metrics = read_json(bundle / METRICS)
    model = model_of(bundle)
    with reading(bundle / METRICS):
        figures = metrics["models"][model]
        verdict = metrics["verdict"]
        return {
            "model": model,
            "verdict": verdict.get("state", "passed"),
            "verdict_reasons": verdict["reasons"],
            "model_version": manifest.model_version,
            "log": manifest.log,
            "test_data_hash": metrics["test_data_hash"],
            METRIC: figures.get(METRIC),
            "auc": figures.get("auc"),
        }


def _dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()}. `dvc doctor` shows DVC's state.")


if __name__ == "__main__":
    main()
