"""The newest bundle and the champion, scored on the newest requests -> the better one in champions/<source>.

Writes reports/<source>/promotion.json. `make rollback` (serving.rollback) restores the former champion.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from contracts.errors import InputError
from contracts.params import load_params
from contracts.publish import write_json
from contracts.running import begun
from features.terms.params import LabelParams
from serving.bundle.loaded import METRICS, model_of, read_json, reading
from serving.bundle.manifest import AGAIN, Manifest, read_manifest
from serving.locations import champion_path, newest_path
from serving.params import PromoteParams
from serving.promoting.compare import METRIC, Comparison, compare
from serving.promoting.places import crown, damage_of, other_format, version_of, withdrawn_of
from serving.promoting.rescore import ANYWAY

WAIT_S = 60.0
"""How long to wait for a running stage, run or DVC command, since the compared files must not change meanwhile."""

log = logging.getLogger("leitmotif")


def decide(
    candidate: Path,
    champion: Path | None,
    data: Path,
    labels: LabelParams,
    rules: PromoteParams,
    force: bool = False,
) -> dict[str, Any]:
    """Compare two bundles. Returns promotion.json: `promoted`, `forced`, `reason`, `verdict` and both sides' figures.

    Both score the newest requests of data that neither was trained or chosen on. The newest wins if the 95 % interval
    of the difference, bootstrapped over users, is above 0 and it falls behind in no slice. force: promote it even if
    the comparison refuses it or is impossible.
    """
    new = _side(candidate)
    old = _champion(champion, new) if champion else None
    found = None
    if champion is None or old is None:
        promoted, reason = True, "there was no champion"
        if new["verdict"] == "not judged":
            reason += f"; the newest was not judged ({'; '.join(new['verdict_reasons'])})"
    elif why := _refused_unseen(new, old, champion):
        promoted, reason = False, why
    else:
        found = compare(candidate, champion, data, labels, rules)
        promoted, reason = found.promoted, found.reason
    forced = force and not promoted and (old is None or new["model_version"] != old["model_version"])
    return {
        "promoted": promoted or forced,
        "forced": forced,
        "reason": f"by force, although {reason.partition(';')[0]}" if forced else reason,
        "metric": METRIC,
        **_figures(found),
        "candidate": new | _rescored(found, "candidate"),
        "champion": None if old is None else old | _rescored(found, "champion"),
    }


def promote(source: str, labels: LabelParams, rules: PromoteParams, force: bool = False) -> dict[str, Any]:
    """Decide, make the newest bundle the champion if it wins, write the report. Returns the report.

    If DVC fails, the old champion is restored.
    """
    candidate, champion = newest_path(source), champion_path(source)
    if not candidate.exists():
        raise InputError(f"{candidate} does not exist: there is nothing to promote. `make run` makes it.")
    report = decide(candidate, champion if champion.exists() else None, candidate.parent, labels, rules, force)
    if report["promoted"]:
        crown(champion.parent, candidate, rules.num_former)
    write_json(Path("reports") / source / "promotion.json", report)
    return report


def main() -> None:
    """`make promote`, `python -m serving.promote --help`: for the source that params.yaml names."""
    parser = argparse.ArgumentParser(prog="python -m serving.promote", description=__doc__)
    parser.add_argument("--force", action="store_true", help="promote the newest bundle regardless of the comparison")
    options = parser.parse_args()
    try:
        sections = load_params()
        source = sections["source"].id
        with begun(Path(), "make promote", WAIT_S, print):
            report = promote(source, sections["labels"], sections["promote"], options.force)
    except InputError as error:
        print(f"Not promoted: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    for sentence in report["verdict"]:
        print(sentence)
    verb = "Promoted" if report["promoted"] else "Not promoted"
    print(f"{verb} for {source}: {report['reason']}. See {Path('reports') / source / 'promotion.json'}.")
    if report["promoted"]:
        print(
            f"Commit champions/{source}.dvc and `make push` to share it; `make serve` serves it from now on; "
            "`make rollback` undoes it."
        )


def _refused_unseen(new: dict[str, Any], old: dict[str, Any], champion: Path) -> str | None:
    """Why the two are not compared; None if they are."""
    if why := other_format(champion):
        return f"the champion is not compared: {why}; {ANYWAY}"
    if why := damage_of(champion):
        restore = f"`dvc checkout --force {champion.parent}.dvc` restores it"
        return f"the champion is damaged and not compared: {why.removesuffix(AGAIN).rstrip('. ')}; {restore}; {ANYWAY}"
    if new["model_version"] == old["model_version"]:
        return "the newest bundle is the champion already"
    if new["model_version"] in withdrawn_of(champion.parent):
        return "the newest bundle was champion and `make rollback` withdrew it; `make promote ARGS=--force` restores it"
    if None not in (new["log"], old["log"]) and new["log"] != old["log"]:
        return (
            f"the champion is of another log (identity {old['log']}; the newest bundle's is {new['log']}); "
            '`make promote ARGS=--force` replaces it, `make set ARGS="source.id=..."` and `make run` keep both'
        )
    if new["verdict"] == "not judged":
        return f"the newest bundle was not judged: {'; '.join(new['verdict_reasons'])}"
    return None


def _figures(found: Comparison | None) -> dict[str, Any]:
    """The fields of promotion.json about the comparison; null if there was none."""
    of = found.found if found else {}
    gain = of.get("difference", {})
    return {
        "gain": gain.get(METRIC),
        "gain_low": gain.get(f"{METRIC}_low"),
        "gain_high": gain.get(f"{METRIC}_high"),
        "difference": gain or None,
        "requests": of.get("requests"),
        "slices": of.get("slices"),
        "verdict": found.words if found else [],
    }


def _rescored(found: Comparison | None, side: str) -> dict[str, Any]:
    """A side's figures on the compared requests, which replace those of its own evaluation."""
    return found.found["figures"][side] if found and found.found else {}


def _champion(bundle: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The champion's side of the report; only its version if it is damaged or of another format."""
    if damage_of(bundle) or other_format(bundle):
        return dict.fromkeys(new) | {"model_version": version_of(bundle)}
    return _side(bundle)


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
            METRIC: figures.get(METRIC),
            "auc": figures.get("auc"),
        }


if __name__ == "__main__":
    main()
