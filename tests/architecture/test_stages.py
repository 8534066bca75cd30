"""dvc.yaml says what the stages' code says: params, modules, outs. The files are parsed, not imported."""

import ast
from pathlib import Path

import grimp
import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

from contracts.figures import COMPARED
from contracts.inputs import note_inputs
from contracts.params import SECTIONS, load_params, read_params
from contracts.stage import BESIDE
from orchestration.graph import Graph, Stage, read_graph

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("contracts", "features", "training", "serving", "orchestration")
MOST_CODE_DEPS = 12
MOST_LINES = 250
STAGES = ("ingest", "validate", "histories", "describe", "statistics", "audit", "materialize", "train")
STAGES += ("evaluate", "review", "package")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph(ROOT)


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)


def _module(stage: Stage) -> str:
    assert stage.cmd.startswith("exec python -m "), f"{stage.name}: a shell must not stay between DVC and the stage"
    return stage.cmd.removeprefix("exec python -m ")


def _file(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _room(path: Path) -> str:
    """The dep that covers a module: its room, or the file itself if it is in no room."""
    if path.parts[0] == "contracts":
        return "contracts"
    is_in_a_room = len(path.parts) > 2 and path.parts[1] != "stages"
    return "/".join(path.parts[:2]) if is_in_a_room else path.as_posix()


def _is_empty(path: Path) -> bool:
    return not path.read_text(encoding="utf-8").strip()


def test_the_stages_are_there_in_order(graph: Graph) -> None:
    assert tuple(stage.name for stage in graph.stages) == STAGES


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_run_by_the_one_runner(graph: Graph, name: str) -> None:
    tree = ast.parse(_file(_module(graph.stage(name))).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module's first sentence says what goes in and what comes out"
    several = ", several=True" if name == "train" else ""  # torchrun may start several processes of it
    assert ast.unparse(tree.body[-1]) == f"if __name__ == '__main__':\n    main(run{several})"


@pytest.mark.parametrize("name", STAGES)
def test_the_params_of_a_stage_are_its_signature(graph: Graph, name: str) -> None:
    tree = ast.parse(_file(_module(graph.stage(name))).read_text(encoding="utf-8"))
    (run,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    arguments = [argument.arg for argument in (*run.args.posonlyargs, *run.args.args, *run.args.kwonlyargs)]
    assert "data" in arguments
    wanted = sorted(argument for argument in arguments if argument not in BESIDE)  # what runs it changes no byte
    assert wanted == sorted(graph.stage(name).params), f"dvc.yaml, {name}: params: [{', '.join(wanted)}]"
    assert set(wanted) <= set(SECTIONS)


@pytest.mark.parametrize("name", STAGES)
def test_the_rooms_and_files_of_a_stage_cover_what_it_imports_and_no_more(
    graph: Graph, imports: grimp.ImportGraph, name: str
) -> None:
    stage = graph.stage(name)
    module = _module(stage)
    imported = {_file(each).relative_to(ROOT) for each in (module, *imports.find_upstream_modules(module))}
    wanted = {_room(path) for path in imported if not _is_empty(ROOT / path)}
    listed = {path for path in stage.files if path.partition("/")[0] in PACKAGES}
    listed.discard(load_params(ROOT / "params.yaml")["source"].path)
    missing, superfluous = (", ".join(sorted(paths)) or "nothing" for paths in (wanted - listed, listed - wanted))
    assert wanted == listed, f"dvc.yaml, {name}: add to deps: {missing}; remove: {superfluous}"
    assert len(listed) <= MOST_CODE_DEPS


def test_the_pipeline_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) < MOST_LINES


def test_no_stage_reruns_when_a_page_or_the_services_edge_is_edited(graph: Graph) -> None:
    """What only answers requests or shows results is behind a wall that no stage's deps reach over."""
    reached = {path for stage in graph.stages for path in stage.files}
    for room in ("serving/http", "serving/answering", "serving/service.py", "orchestration"):
        assert not any(path == room or path.startswith(f"{room}/") for path in reached), room


def test_the_raw_log_is_a_dep_so_that_new_rows_rerun_ingest(graph: Graph) -> None:
    assert load_params(ROOT / "params.yaml")["source"].path in graph.stage("ingest").files


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_notes_what_dvc_takes_for_its_deps_and_params(name: str) -> None:
    """contracts.inputs reads dvc.yaml by itself, so that no stage imports DVC."""
    with Repo(str(ROOT)) as repo:
        (stage,) = repo.stage.collect(name)
    inputs = note_inputs(name, read_params(ROOT / "params.yaml"), [], ROOT)
    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    assert sorted(inputs.params) == sorted(key for dep in params for key in dep.params)
    assert sorted(inputs.deps) == sorted(dep.def_path for dep in stage.deps if dep not in params)
    assert set(inputs.outs) == {out.def_path for out in stage.outs if out.use_cache}


def test_a_report_turns_dvcs_run_cache_off_for_no_stage_and_is_no_metric() -> None:
    """DVC keeps no run whose outs are not cached, but for metrics and plots: switching source back would rerun it."""
    with Repo(str(ROOT)) as repo:
        stages = repo.stage.load_all(str(ROOT / "dvc.yaml"))
    for stage in stages:
        kinds = {out.def_path.split("/", 2)[2]: (out.is_metric, out.is_plot) for out in stage.outs if not out.use_cache}
        figures = {f"figures/{stage.name}.json": (True, False)} if stage.name in COMPARED else {}
        assert kinds == {f"{stage.name}.json": (False, True), **figures}


def test_no_stage_imports_another_stage(graph: Graph, imports: grimp.ImportGraph) -> None:
    modules = {_module(stage) for stage in graph.stages}
    for module in modules:
        assert not imports.find_upstream_modules(module) & modules - {module}


def test_every_section_of_params_yaml_is_read_by_a_stage_or_a_command(graph: Graph) -> None:
    # of `make promote`, of Dagster, which are no stages, and of what runs stages: they rerun nothing
    beside = {"promote", "alerts", "engine"}
    assert set(graph.sections) | beside == set(SECTIONS)
    assert not beside & set(graph.sections)


def test_every_out_is_a_table_or_page_of_the_source_and_every_stage_reports(graph: Graph) -> None:
    for stage in graph.stages:
        assert stage.report is not None
        assert stage.report.endswith(f"/{stage.name}.json")
        assert stage.report.startswith("reports/")
        for out in stage.outs:
            folder, _, name = Path(out.path).parts
            assert folder == ("reports" if name.endswith(".html") else "data")
    names = [out.key for out in graph.outs]
    assert len(names) == len(set(names))


def test_package_init_files_are_empty() -> None:
    """But of the two that must come before Feast, which they import without typeguard and torch."""
    full = {path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py") if not _is_empty(path)}
    assert full == {ROOT / "features" / room / "__init__.py" for room in ("feast_store", "online")}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_first_what_it_is(package: str) -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*.py")
        if not _is_empty(path) and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
