"""The graph -> Dagster assets: one multi-asset for each stage; its op runs the stage and its assets are the outputs."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetKey

from contracts.errors import InputError
from orchestration.attempt import WAIT_S, Attempt, repro
from orchestration.checks import Check, checks_of, judge
from orchestration.columns import column_schema
from orchestration.configure import configure
from orchestration.dvc_lock import LockBusy
from orchestration.figures import metadata, read_report
from orchestration.graph import Graph, Out, Stage, read_graph
from orchestration.labels import freshness_of, kinds_of, owners_of
from orchestration.launchpad import given, stage_config
from orchestration.record import provenance, record
from orchestration.versions import code_key, observe, params_key, read_made

POOL = "dvc"
"""DVC allows one writer at a time, and so does Dagster's pool of this name (orchestration/dagster.yaml: limit 1)."""

_SKIPPED = (
    '{"__dagster_pipes_version": "0.1", "method": "opened", "params": {"extras": {}}}\n'
    '{"__dagster_pipes_version": "0.1", "method": "closed", "params": null}\n'
)
"""The message for a stage that DVC skips: without any, Dagster warns of a silent process."""


RETRIES, RETRY_S = 2, 30
"""Number of retries and seconds between them for a transient failure: a file that DVC is writing.

Whatever else fails would fail again. Not a `RetryPolicy`: with one, Dagster tries a run again that somebody ended."""


def build_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    """All assets: the outputs of stages, and the assets that are only observed."""
    made = [_stage_assets(graph.root, stage) for stage in graph.stages]
    observed = [
        _observed(graph.root, params_key(section), f"The section {section!r} of params.yaml.", "params")
        for section in graph.sections
    ]
    observed += [
        _observed(graph.root, code_key(stage.name), _describe_code(stage), "code", ", ".join(stage.files))
        for stage in graph.stages
    ]
    return [*made, *observed]


def _specs(root: Path, stage: Stage) -> list[dg.AssetSpec]:
    inputs = [out.key for out in stage.inputs]
    inputs += [params_key(section) for section in stage.params] + [code_key(stage.name)]
    return [
        dg.AssetSpec(
            out.key,
            deps=[AssetKey.from_user_string(key) for key in inputs],
            description=out.description,
            group_name=stage.package,
            code_version=stage.cmd,
            kinds=kinds_of(stage),
            owners=owners_of(stage.package),
            tags={"stage": stage.name},
            metadata=_definition(root, stage, out),
            freshness_policy=freshness_of(out),
            automation_condition=dg.AutomationCondition.eager(),  # acts only where its sensor is switched on
        )
        for out in stage.outs
    ]


def _definition(root: Path, stage: Stage, out: Out) -> dict[str, Any]:
    """Metadata of an output's definition: its columns, and where the code is."""
    lines = (root / "dvc.yaml").read_text(encoding="utf-8").splitlines()
    line = next((number for number, text in enumerate(lines, 1) if text == f"  {stage.name}:"), 1)
    references: list[Any] = [
        dg.LocalFileCodeReference(file_path=str(root / stage.module), line_number=1, label=stage.module),
        dg.LocalFileCodeReference(file_path=str(root / "dvc.yaml"), line_number=line, label=f"dvc.yaml, {stage.name}"),
    ]
    columns = column_schema(out.key)
    known = {"dagster/column_schema": columns} if columns else {}
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=references), **known}


def _stage_assets(root: Path, stage: Stage) -> dg.AssetsDefinition:
    checks = [check for out in stage.outs for check in checks_of(root, out.key)]

    @dg.multi_asset(
        name=stage.name,
        description=stage.description,
        specs=_specs(root, stage),
        check_specs=[
            dg.AssetCheckSpec(check.name, asset=check.out, blocking=check.blocking, description=check.description)
            for check in checks
        ],
        can_subset=False,
        pool=POOL,
        config_schema=stage_config((*stage.params, *stage.beside), root),
    )
    def run_stage(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with plain_words(stage.name, RETRIES - context.retry_number):
            graph = _configure(context, root, given(context.op_execution_context.op_config))
            record(context.instance, graph, but=[stage.name])
            attempt = _repro(context, root, stage.name)
            if attempt.reason:
                raise failure(stage.name, attempt, root)
            context.log.info(f"{stage.name}: {attempt.fates.get(stage.name, 'done')}")
            yield from _results(context.instance, graph, stage.name, checks)

    return run_stage


@contextmanager
def plain_words(what: str, tries_left: int = 0) -> Iterator[None]:
    """Retry if a file stays locked or unreadable; after the last retry, fail with one line instead of a traceback."""
    try:
        yield
    except LockBusy as error:
        if tries_left > 0:
            raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_S) from error
        raise dg.Failure(f"{what}: {error}. Then materialize it again.") from error


def _configure(context: dg.AssetExecutionContext, root: Path, changes: dict[str, Any]) -> Graph:
    try:
        for change in configure(changes, root / "params.yaml", wait_s=WAIT_S, say=context.log.info) if changes else []:
            context.log.info(f"params.yaml: {change}")
    except InputError as error:
        raise dg.Failure(f"params.yaml stays as it was. {error}") from error
    return read_graph(root)  # again: another source means other paths


def _repro(context: dg.AssetExecutionContext, root: Path, stage: str) -> Attempt:
    """Run `dvc repro --single-item` and stream the stage's log lines to Dagster."""
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.PreviewWarning)  # Dagster's own, about itself
            session = stack.enter_context(
                dg.open_pipes_session(
                    context=context,
                    context_injector=dg.PipesTempFileContextInjector(),
                    message_reader=dg.PipesTempFileMessageReader(),
                )
            )
        attempt = repro(
            root, [stage], single=True, say=print, tell=context.log.info, env=session.get_bootstrap_env_vars()
        )
        messages = Path(session.message_reader_params["path"])
        if os.path.getsize(messages) == 0:
            messages.write_text(_SKIPPED, encoding="utf-8")
    return attempt


def _results(instance: dg.DagsterInstance, graph: Graph, stage: str, checks: list[Check]) -> Iterator[Any]:
    made = {made.stage.name: made for made in read_made(graph)}[stage]
    tags = provenance(instance, made)
    report = read_report(graph.root, made.stage.report)
    for out, version in made.versions.items():
        verdicts = [(check, judge(check, report)) for check in checks if check.out == out]
        yield dg.MaterializeResult(
            asset_key=out,
            metadata=metadata(graph.root, made, out),
            data_version=dg.DataVersion(version),
            tags=tags,
            check_results=[
                dg.AssetCheckResult(
                    passed=verdict.passed,
                    asset_key=out,
                    check_name=check.name,
                    description=verdict.description,
                    metadata=dict(verdict.figures),
                    severity=dg.AssetCheckSeverity.WARN if verdict.warns else dg.AssetCheckSeverity.ERROR,
                )
                for check, verdict in verdicts
            ],
        )


def failure(stage: str, attempt: Attempt, root: Path) -> dg.Failure:
    """A failed attempt in Dagster's words."""
    assert attempt.reason is not None
    stands = {
        True: f"stands; `dvc checkout {stage}` restored it",
        False: f"could not be restored: it is not in DVC's cache; `dvc pull {stage}` fetches it from the remote",
        None: "there is none yet" if attempt.reason.stage else "stands: nothing was begun",
    }[attempt.restored]
    return dg.Failure(
        f"{stage}: {attempt.reason.message}",
        metadata={
            "exit_code": attempt.reason.exit_code,
            "attempt": dg.MetadataValue.path(str(root / "attempts" / stage)),
            "last good output": stands,
        },
    )


def _describe_code(stage: Stage) -> str:
    return f"What `{stage.cmd}` is made of: its command, its paths, and the files and folders of code."


def _observed(root: Path, key: str, description: str, group: str, files: str = "") -> dg.AssetsDefinition:
    @dg.observable_source_asset(
        key=AssetKey.from_user_string(key),
        description=description,
        group_name=group,
        metadata={"files": files} if files else {},
    )
    def look() -> dg.DataVersion:
        with plain_words(key):
            return dg.DataVersion(observe(read_graph(root))[key])

    return look  # type: ignore[return-value]
