"""Dagster's assets are DVC's graph, no more and no less."""

from pathlib import Path

import dagster as dg
import pytest
from ruamel.yaml import YAML

from orchestration.checks import CHECKS
from orchestration.definitions import build_definitions
from orchestration.graph import Graph, read_graph
from orchestration.partitions import ASSET
from orchestration.promotion import CHAMPION
from orchestration.versions import code_key, params_key

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's words about itself

BESIDE = {ASSET, CHAMPION}
"""What is no output of DVC: reports of every partition, and what `make promote` decides."""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph(ROOT)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(ROOT)


def test_assets_are_the_outs_of_dvc_yaml(graph: Graph, definitions: dg.Definitions) -> None:
    declared = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    outs = [next(iter(out)) if isinstance(out, dict) else out for stage in declared.values() for out in stage["outs"]]
    assets = definitions.resolve_asset_graph().materializable_asset_keys - BESIDE
    named = {out.rpartition("/")[2].replace(".html", "_page") for out in outs}
    assert {key.to_user_string() for key in assets} == named
    assert len(assets) == len(outs) == len(graph.outs)


def test_edges_between_assets_are_the_deps_of_dvc_yaml(graph: Graph, definitions: dg.Definitions) -> None:
    assets = definitions.resolve_asset_graph()
    for stage in graph.stages:
        inputs = {out.key for out in stage.inputs}
        observed = {params_key(section) for section in stage.params} | {code_key(stage.name)}
        for out in stage.outs:
            parents = assets.get(dg.AssetKey(out.key)).parent_keys
            assert {key.to_user_string() for key in parents} == inputs | observed


def test_a_stage_is_one_op_in_the_one_pool(graph: Graph, definitions: dg.Definitions) -> None:
    stages = [asset for asset in definitions.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    ops = {asset.op.name: asset.op.pool for asset in stages if asset.is_materializable}
    assert ops == {stage.name: "dvc" for stage in graph.stages} | {"judge_partitions": "dvc", "crown_champion": "dvc"}


def test_every_asset_says_what_its_table_means(graph: Graph) -> None:
    assert all(stage.description != stage.name for stage in graph.stages)
    assert all(len(out.description) > 20 for out in graph.outs)


def test_every_check_judges_an_asset(graph: Graph) -> None:
    assert {check.out for check in CHECKS} <= {out.key for out in graph.outs}
