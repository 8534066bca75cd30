"""Figures of validate for every partition of the log -> one asset with the log's own partitions and their figures.

DVC writes tables as a whole, so they have no partitions in Dagster; the figures of each day, month or year do. The keys
are the log's files, kept current by the sensor `dvc_lock`. A partition is new if its figures changed, whether validate
ran in Dagster or not; a backfill of several is one run, which reads new files, validates, and reports the chosen ones.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.figures import QUALITY, page_link, table
from orchestration.graph import Graph, Out
from orchestration.internals import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG, versions_by_partition
from orchestration.plots import bars
from orchestration.versions import read_made

PROFILE = "profile"
"""The output of validate that holds the figures of every partition, and what became of every expectation."""
ASSET = dg.AssetKey("partition_quality")
JUDGING = "judge_partitions"
"""The step that runs `dvc repro` of the stage that makes PROFILE, and of what that stage reads."""
PARTITIONS = dg.DynamicPartitionsDefinition(name="log_partitions")
COUNTS = ("rows_in", "rows_quarantined", "rows_duplicated", "clicks", "users", "items", "requests")
BESIDE = ("rows_of_trailing", "click_rate_of_trailing", "category_distance", "new_item_share", "longest_gap_s")
EXPECTATION = ("why", "severity", "limit")
AROUND = 14
"""A picture shows so many partitions before and after its own."""

Row = Mapping[str, Any]


def profile_of(graph: Graph) -> Out | None:
    """The output with every partition's figures; None in a pipeline without one."""
    return next((out for out in graph.outs if out.key == PROFILE), None)


def read_rows(graph: Graph) -> dict[str, Row]:
    """The figures of every partition of the present log in order of time, as validate last wrote them."""
    out = profile_of(graph)
    file = graph.root / out.path / "partitions.parquet" if out else None
    made = any(PROFILE in made.versions for made in read_made(graph))
    if file is None or not made or not file.is_file():
        return {}
    import pyarrow.parquet as pq

    return {row["partition"]: row for row in pq.read_table(file).to_pylist()}


def record_partitions(instance: dg.DagsterInstance, graph: Graph) -> list[str]:
    """Report the log's partitions to Dagster, and the figures of those that changed; returns their names."""
    if profile_of(graph) is None or not (rows := read_rows(graph)):
        return []
    _keep_names(instance, list(rows))
    known, failures = versions_by_partition(instance, ASSET), read_failures(graph)
    changed = [name for name in rows if known.get(name) != _version(graph, rows[name], *failures.of(name))]
    for name in changed:
        instance.report_runless_asset_event(materialization(graph, rows, name, failures))
    return changed


@dataclass(frozen=True)
class Failures:
    """What validate names of the partitions that fail: of every expectation the first few."""

    named: Mapping[str, list[Row]]
    """Partition -> the expectations that it is named for, with its own value."""
    cut: list[Row]
    """The expectations that more partitions fail than are named: of the others none is known to hold or to fail."""

    def of(self, name: str) -> tuple[list[Row], list[Row]]:
        """The expectations that a partition failed, and those of which nobody knows."""
        failed = self.named.get(name, [])
        return failed, [each for each in self.cut if name not in each["names"]]


def materialization(graph: Graph, rows: Mapping[str, Row], name: str, failures: Failures) -> dg.AssetMaterialization:
    """What is known of one partition, as an event."""
    failed, unknown = failures.of(name)
    return dg.AssetMaterialization(
        ASSET,
        partition=name,
        description=_sentence(rows[name], failed, unknown),
        metadata=_metadata(graph, rows, name, failed, unknown),
        tags={
            DATA_VERSION_TAG: _version(graph, rows[name], failed, unknown),
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        },
    )


def read_failures(graph: Graph) -> Failures:
    """What validate says of the partitions that failed an expectation."""
    out = profile_of(graph)
    file = graph.root / out.path / "expectations.json" if out else None
    named: dict[str, list[Row]] = {}
    cut: list[Row] = []
    if file is None or not file.is_file():
        return Failures(named, cut)
    for outcome in json.loads(file.read_text(encoding="utf-8"))["expectations"]:
        if outcome["of"] != "partitions" or outcome["passed"]:
            continue
        told = {key: outcome[key] for key in EXPECTATION}
        for example in outcome["examples"]:
            named.setdefault(str(example["where"]), []).append({**told, "value": example["value"]})
        if outcome["num_unexpected"] > len(outcome["examples"]):
            names = [str(example["where"]) for example in outcome["examples"]]
            cut.append({**told, "names": names, "num": outcome["num_unexpected"]})
    return Failures(named, cut)


def _version(graph: Graph, row: Row, failed: list[Row], unknown: list[Row]) -> str:
    """A partition's data version: of its own figures, so that a new day leaves the days before as they are."""
    limits = [{key: each[key] for key in EXPECTATION} for each in unknown]  # not of how many other partitions fail
    text = json.dumps([_source(graph), row, failed, limits], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _source(graph: Graph) -> str:
    """The id of the log, which names its folders."""
    out = profile_of(graph)
    assert out is not None
    return Path(out.path).parent.name


def _keep_names(instance: dg.DagsterInstance, wanted: list[str]) -> None:
    """The keys in order of time: a backfill of adjacent partitions is one run only if their keys are adjacent."""
    known = instance.get_dynamic_partitions(str(PARTITIONS.name))
    kept = 0
    while kept < min(len(known), len(wanted)) and known[kept] == wanted[kept]:
        kept += 1
    for name in known[kept:]:
        instance.delete_dynamic_partition(str(PARTITIONS.name), name)
    if wanted[kept:]:
        instance.add_dynamic_partitions(str(PARTITIONS.name), wanted[kept:])


def _sentence(row: Row, failed: Collection[Row], unknown: Collection[Row]) -> str:
    said = f"{row['rows_valid']:,} of {row['rows_in']:,} rows are valid"
    if row.get("click_rate") is not None:
        said += f", {row['click_rate']:.1%} clicked"
    if failed:
        said += f"; {len(failed)} expectations failed"
    for each in unknown:
        shown = f"the first {len(each['names'])} of {each['num']:,} partitions that fail"
        said += f"; validate names only {shown}: {each['why']}"
    return f"{said}." if failed or unknown else f"{said}; every expectation holds."


def _metadata(
    graph: Graph, rows: Mapping[str, Row], name: str, failed: list[Row], unknown: list[Row]
) -> dict[str, dg.MetadataValue]:
    row = rows[name]
    names = list(rows)
    place = names.index(name)
    near = {each: rows[each] for each in names[max(place - AROUND, 0) : place + AROUND + 1]}
    valid = {each: values["rows_valid"] for each, values in near.items()}
    rates = {each: values["click_rate"] or 0 for each, values in near.items()}
    shown: dict[str, dg.MetadataValue] = {}
    if not unknown:
        shown["failed expectations"] = dg.MetadataValue.int(len(failed))
    if failed:
        why = {each["why"]: {key: each[key] for key in ("severity", "value", "limit")} for each in failed}
        shown["why"] = dg.MetadataValue.md(table(why))
    shown["rows"] = dg.MetadataValue.md(bars("Valid rows by partition", valid, [name]))
    shown["click rates"] = dg.MetadataValue.md(bars("Click rate by partition", rates, [name]))
    shown["page"] = page_link(graph.root, graph.root / "reports" / _source(graph) / QUALITY)  # a later stage's
    shown["dagster/partition_row_count"] = dg.MetadataValue.int(row["rows_valid"])
    shown |= {key: dg.MetadataValue.int(row[key]) for key in COUNTS}
    shares = {key: round(float(row[key]), 4) for key in ("click_rate", *BESIDE) if row.get(key) is not None}
    return shown | {key: dg.MetadataValue.float(share) for key, share in shares.items()}
