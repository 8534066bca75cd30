"""The asset `partition_quality`: chosen days, months or years are judged, in one run however many they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.assets import POOL, RETRIES, failure, plain_words
from orchestration.attempt import repro
from orchestration.graph import Stage, read_graph
from orchestration.labels import kinds_of, owners_of
from orchestration.partitions import ASSET, JUDGING, PARTITIONS, PROFILE, materialization, read_failures, read_rows
from orchestration.record import record

ABOUT = """What validate found of each day, month or year of the log: rows, click rate, failed expectations, beside the
partitions around it. The partitions are the log's own; they come by themselves whenever validate has run.

To materialize some of them reads new files, judges what changed, and reports those chosen, in one run."""
CONFIG = {
    "again": dg.Field(
        bool,
        is_required=False,
        default_value=False,
        description="Judge the whole log again, even where neither it nor what is expected of it has changed.",
    )
}


def build_partition_asset(root: Path, stage: Stage) -> dg.AssetsDefinition:
    """The asset for the repository at root; stage: the one that makes PROFILE."""

    @dg.multi_asset(
        name=JUDGING,
        description=f"Runs `dvc repro {stage.name}` and reports the chosen partitions.",
        specs=[
            dg.AssetSpec(
                ASSET,
                deps=[dg.AssetKey(PROFILE)],
                description=ABOUT,
                group_name=stage.package,
                kinds=kinds_of(stage),
                owners=owners_of(stage.package),
                tags={"stage": stage.name},
                partitions_def=PARTITIONS,
                skippable=True,  # every partition is an event with figures of its own, which an output cannot have
            )
        ],
        partitions_def=PARTITIONS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
        config_schema=CONFIG,
    )
    def judge_partitions(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with plain_words(stage.name, RETRIES - context.retry_number):
            force = context.op_execution_context.op_config["again"]
            # not over Dagster's pipes, which would have the outputs be results: these are events, one a partition
            attempt = repro(root, [stage.name], single=force, force=force, say=context.log.info)
            if attempt.reason:
                raise failure(attempt.reason.stage or stage.name, attempt, root)
            context.log.info(f"{stage.name}: {attempt.fates.get(stage.name, 'done')}")
            graph = read_graph(root)
            rows, failures = read_rows(graph), read_failures(graph)
            gone = [name for name in context.partition_keys if name not in rows]
            if gone:
                raise dg.Failure(f"{', '.join(gone)}: the log has no such partition now.")
            for name in context.partition_keys:
                context.log_event(materialization(graph, rows, name, failures))
            record(context.instance, graph)
        yield from ()

    return judge_partitions
