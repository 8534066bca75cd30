"""`make promote` and `make rollback` as Dagster jobs, and promotion as the last asset: the champion that is served."""

import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.assets import POOL
from orchestration.commands import build_job, run_command
from orchestration.crowned import BUNDLE, CHAMPION, CROWNING
from orchestration.figures import figures, read_report
from orchestration.graph import Stage, read_graph
from orchestration.labels import owners_of

PROMOTE = (sys.executable, "-m", "serving.promote")
ROLLBACK = (sys.executable, "-m", "serving.rollback")
ABOUT = """The bundle that `make serve` serves. To materialize it compares the newest bundle with it on the newest
requests; the better one is champion from then on. Not to promote is no failure: the reason is in `reason`. What
`make promote` and `make rollback` crown is shown within 15 s."""


def build_promote(root: Path, command: Sequence[str] = PROMOTE) -> dg.JobDefinition:
    """The job for the repository at root. Not to promote is no failure: the log says why."""
    return build_job(
        root,
        "promote",
        command,
        op_name="compare_with_champion",
        does="Scores the newest bundle and the champion on the newest requests; the better one is champion.",
        description="The newest bundle takes the champion's place where it does better (reports/<id>/promotion.json).",
    )


def build_rollback(root: Path, command: Sequence[str] = ROLLBACK) -> dg.JobDefinition:
    """The job for the repository at root."""
    return build_job(
        root,
        "rollback",
        command,
        op_name="put_former_champion_back",
        does="Withdraws the champion and puts the former one in its place.",
        description="The former champion comes back; what is withdrawn is promoted again by force alone.",
    )


def build_champion(root: Path, stage: Stage, command: Sequence[str] = PROMOTE) -> dg.AssetsDefinition:
    """The champion as an asset after the bundle; stage: the one that makes the bundle."""

    @dg.multi_asset(
        name=CROWNING,
        description="Runs `make promote`.",
        specs=[
            dg.AssetSpec(
                CHAMPION,
                deps=[BUNDLE],
                description=ABOUT,
                group_name=stage.package,
                kinds={"bentoml", "pytorch"},
                owners=owners_of(stage.package),
                tags={"stage": "promote"},
            )
        ],
        pool=POOL,
    )
    def crown_champion(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        run_command(context, "promote", command, root)
        report = read_report(root, f"{reports_of(root)}/promotion.json")
        served = report.get("candidate" if report.get("promoted") else "champion") or {}
        version = served.get("model_version")
        return dg.MaterializeResult(
            asset_key=CHAMPION,
            metadata=figures(report),
            data_version=dg.DataVersion(str(version)) if version else None,
        )

    return crown_champion


def reports_of(root: Path) -> str:
    """reports/<id> of the log that params.yaml names, from root."""
    bundle = next(out for out in read_graph(root).outs if out.key == BUNDLE)
    return f"reports/{Path(bundle.path).parent.name}"
