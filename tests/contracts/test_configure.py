"""params.yaml is changed whole or not at all, and keeps its comments."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from contracts.errors import InputError
from contracts.params import load_params, read_by
from orchestration.configure import EXPECTATIONS, configure, flatten, parse_assignments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of params.yaml on the simulator, with its presets."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    start = {"source.name": "simulator", "source.label_threshold": 1.0, "model.num_themes": 12}
    configure(start, tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


def test_only_the_changed_value_differs(params: Path) -> None:
    before = params.read_text().splitlines()
    (change,) = configure({"model.num_themes": 8}, params)
    after = params.read_text().splitlines()
    assert str(change) == "model.num_themes: 12 -> 8"
    assert [line for line in after if line not in before] == ["  num_themes: 8"]
    assert len(before) == len(after)


def test_the_same_value_leaves_the_file_untouched(params: Path) -> None:
    inode = params.stat().st_ino
    assert configure({"model.num_themes": 12}, params) == []
    assert params.stat().st_ino == inode


def test_nested_and_dotted_changes_mean_the_same(params: Path) -> None:
    configure({"model": {"num_themes": 8, "hidden": [32]}}, params)
    assert configure({"model.num_themes": 8, "model.hidden": [32]}, params) == []


def test_a_limit_that_an_expectation_uses_is_added(params: Path) -> None:
    expectations = params.parent / EXPECTATIONS
    expectations.parent.mkdir(parents=True)
    expectations.write_text("# $name\nvolume: [{with: {column: rows_in, min_value: $min_rows}}]\n")
    (change,) = configure({"expectations.limits.min_rows": 12}, params)
    assert str(change) == "expectations.limits.min_rows: null -> 12"
    limits = load_params(params)["expectations"].limits
    assert (limits["min_rows"], limits["max_position"]) == (12, 10000)
    assert "    min_rows: 12\n    max_gap_share: 0.25\n\nhistory:" in params.read_text(encoding="utf-8")
    with pytest.raises(
        InputError, match=r"a new limit is first used as \$min_row in features/quality/expectations\.yaml"
    ):
        configure({"expectations.limits.min_row": 12}, params)
    with pytest.raises(InputError, match="a new limit is first used"):
        configure({"expectations.limits.name": 12}, params)  # which a comment names
    with pytest.raises(InputError, match="valid number"):
        configure({"expectations.limits.min_rows": "many"}, params)
    assert load_params(params)["expectations"].limits == limits


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.num_theme": 8}, "model.num_theme: no such parameter (did you mean 'model.num_themes'?)"),
        ({"num_themes": 8}, "did you mean 'model.num_themes'?"),
        ({"model.num_themes": -1}, "greater than 0, got -1"),
        ({"model": 3}, "model: a section; give one of model.history_length"),
        ({"source.name": "movielense"}, "did you mean 'movielens'?"),
        ({"history.labels": "clickd", "seed": 2}, "history.labels"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate: input should be a finite number, got nan"),
        ({"train.epochs": float("nan")}, "train.epochs: input should be a valid integer, got nan"),
    ],
)
def test_a_refused_change_leaves_the_file_as_it_was(params: Path, change: dict[str, object], says: str) -> None:
    before = params.read_bytes()
    with pytest.raises(InputError, match=re.escape(says)):
        configure(change, params)
    assert params.read_bytes() == before
    assert not list(params.parent.glob(".params*"))


def test_a_source_brings_its_preset_and_given_values_win(params: Path) -> None:
    configure({"source.name": "movielens", "source.path": "ml", "history.labels": "clicked"}, params)
    values = YAML(typ="safe").load(params)
    assert values["source"]["label_threshold"] == 4.0
    assert values["source"]["path"] == "ml"
    assert values["history"]["labels"] == "clicked"
    assert values["evaluate"]["popularity_window_s"] is None


def test_switching_there_and_back_restores_the_file(params: Path) -> None:
    before = params.read_bytes()
    configure({"source.name": "movielens", "source.path": "ml"}, params)
    configure({"source.name": "simulator"}, params)
    assert params.read_bytes() == before


def test_a_switch_keeps_what_a_person_had_set(params: Path) -> None:
    configure({"source.label_threshold": 3.0, "source.columns.user_id": "uid"}, params)
    configure({"source.name": "table", "source.path": "log.csv"}, params)
    source = YAML(typ="safe").load(params)["source"]
    assert (source["label_threshold"], source["columns"]["user_id"], source["partition"]) == (3.0, "uid", "month")


def test_the_path_of_a_log_that_is_left_does_not_stay(params: Path) -> None:
    configure({"source.name": "movielens", "source.path": "ml"}, params)
    with pytest.raises(InputError, match="say where the log of source 'table' lies"):
        configure({"source.name": "table"}, params)


def test_presets_set_the_same_keys_but_for_those_that_only_some_sources_read() -> None:
    keys = {path.stem: set(flatten(YAML(typ="safe").load(path))) for path in (ROOT / "presets").glob("*.yaml")}
    assert set(keys) == {"simulator", "movielens", "ebnerd", "table"}
    for source, names in keys.items():
        assert names <= keys["simulator"], source
        assert not [key for key in keys["simulator"] - names if read_by(key, None)], source


def test_the_simulator_s_preset_is_what_params_yaml_ships_and_has_every_key_that_only_some_sources_read() -> None:
    preset, shipped = (
        flatten(YAML(typ="safe").load(ROOT / name)) for name in ("presets/simulator.yaml", "params.yaml")
    )
    assert {key: shipped[key] for key in preset} == preset
    assert [key for key in shipped if not read_by(key, None)] == [
        key for key in shipped if not read_by(key, None) and key in preset
    ]


@pytest.mark.parametrize(
    ("source", "own"),
    [
        ("table", {"source.columns.user_id": "it's", "source.time_unit": "ms", "source.label_threshold": 0.5}),
        ("movielens", {"source.label_threshold": 3.0, "source.path": "ml"}),
        ("ebnerd", {"source.path": "demo"}),
    ],
)
def test_another_source_and_back_leaves_every_section_of_ingest_as_it_was(
    params: Path, source: str, own: dict[str, object]
) -> None:
    configure({"simulator.num_users": 70}, params)
    before = YAML(typ="safe").load(params)
    configure({"source.name": source, "source.path": "log", **own}, params)
    there = YAML(typ="safe").load(params)
    assert there["simulator"]["num_users"] == 1750  # the other's sections do not depend on it either
    configure({"source.name": "simulator"}, params)
    assert YAML(typ="safe").load(params) == before
    configure({"source.name": source, "source.path": there["source"]["path"]}, params)
    assert YAML(typ="safe").load(params) == there  # and what was set of the source comes back


def test_what_was_set_of_a_source_is_forgotten_when_it_is_set_back(params: Path) -> None:
    configure({"source.name": "table", "source.path": "log", "source.columns.user_id": "uid"}, params)
    configure({"source.name": "simulator"}, params)
    configure({"source.name": "table", "source.path": "log", "source.columns.user_id": None}, params)
    configure({"source.name": "simulator"}, params)
    configure({"source.name": "table", "source.path": "log"}, params)
    assert YAML(typ="safe").load(params)["source"]["columns"]["user_id"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"statistics.context": True, "statistics.devices": ["1", "2"]},
        {"model.hidden": []},
        {"history.session_max_s": None, "source.columns.label": "a: b # c"},
        {"train.learning_rate": 5e-05, "split.test": "2023-05-25T07:00:00Z"},
        {"source.path": "a very long folder name with spaces in it " * 4 + "end"},
    ],
)
def test_a_change_is_written_as_dvc_would_write_it(params: Path, tmp_path: Path, change: dict[str, object]) -> None:
    """DVC's own reading and writing again, as `dvc exp run -S` does, changes nothing."""
    from dvc.utils.serialize import modify_yaml

    configure(change, params)
    written = params.read_text()
    with modify_yaml(params) as values:
        values["seed"] = 1
    assert params.read_text() == written


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.text(st.characters(blacklist_categories=["Cc", "Cs"], blacklist_characters="~"), min_size=1, max_size=30)
)
def test_any_path_survives_the_round_trip(params: Path, path: str) -> None:
    configure({"source.path": path}, params)
    assert YAML(typ="safe").load(params)["source"]["path"] == path


def test_assignments_are_yaml_values_and_odd_words_stay_words() -> None:
    given_ = ["seed=3", "a.b=null", "a.c=[1, 2]", "a.d=time: ms", "a.e=x=y", "a.f=0.5", "a.g=2024-01-01"]
    given_ += ["a.h=slot #", "a.i='3'"]
    assert parse_assignments(given_) == {
        "seed": 3,
        "a.b": None,
        "a.c": [1, 2],
        "a.d": "time: ms",
        "a.e": "x=y",
        "a.f": 0.5,
        "a.g": "2024-01-01",
        "a.h": "slot #",
        "a.i": "3",
    }


@pytest.mark.parametrize("name", ["0", "1e3", "true", "#slot", "&slot", "[slot]", "{slot}", "- slot", "2024-01-01"])
def test_a_column_may_have_any_name(name: str) -> None:
    assert parse_assignments([f"source.columns.position={name}"]) == {"source.columns.position": name}


@pytest.mark.parametrize("nothing", ["", "null", "~", "NULL"])
def test_a_column_that_a_table_lacks_is_null(nothing: str) -> None:
    assert parse_assignments([f"source.columns.position={nothing}"]) == {"source.columns.position": None}


def test_settings_of_another_program_are_one_value_to_which_names_are_added(params: Path) -> None:
    before = params.read_text()
    configure(parse_assignments(["engine.options={spark.executor.memory: 1g}"]), params)
    configure(parse_assignments(["engine.options.spark.cores.max=4"]), params)
    read = YAML(typ="safe").load(params)["engine"]["options"]
    assert read == {"spark.executor.memory": "1g", "spark.cores.max": "4"}
    assert load_params(params)["engine"].options == read
    (change,) = configure({"engine": {"options": {"spark.executor.memory": "2g"}}}, params)
    assert change.new == {"spark.executor.memory": "2g"}
    configure({"engine.options.spark.executor.memory": None}, params)
    assert YAML(typ="safe").load(params.read_text())["engine"]["options"] == {}
    assert params.read_text() == before


def test_the_command_says_one_thing_and_exits_2(params: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.configure", "modl.width=3"],
        cwd=params.parent,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'model.width'?" in done.stderr
    assert "Traceback" not in done.stderr


def _id(params: Path) -> str:
    return YAML(typ="safe").load(params)["source"]["id"]


def _table(path: str, **columns: str) -> dict[str, str]:
    return {"source.name": "table", "source.path": path} | {
        f"source.columns.{ours}": of for ours, of in columns.items()
    }


def test_each_table_has_an_id_of_its_own_by_its_path_and_mapping_and_finds_it_again(params: Path) -> None:
    logs = [
        _table("a/Shop log.csv.gz", user_id="u", item_id="i"),
        _table("b/Shop log.csv.gz", user_id="u", item_id="i"),
        _table("b/Shop log.csv.gz", user_id="i", item_id="u"),
        _table("b/日誌.parquet", user_id="u", item_id="i"),
    ]
    ids = []
    for changes in (*logs, *logs):
        changed = configure(changes, params)
        assert "source.id" in {change.key for change in changed}
        ids.append(_id(params))
    assert len(set(ids)) == 4
    assert ids[:4] == ids[4:]
    assert re.fullmatch(r"shop-log-[0-9a-f]{6}", ids[0])
    assert re.fullmatch(r"log-[0-9a-f]{6}", ids[3])
    configure({"source.name": "simulator"}, params)
    assert _id(params) == "simulator"


def test_more_columns_of_a_log_are_no_other_log(params: Path) -> None:
    configure(_table("log.csv", user_id="u", item_id="i"), params)
    before = _id(params)
    configure({"source.columns.label": "liked", "source.columns.position": "slot", "source.time_unit": "ms"}, params)
    configure({"source.path": "./log.csv"}, params)
    assert _id(params) == before


def test_an_id_of_ones_own_stays_until_the_source_changes(params: Path) -> None:
    configure(_table("log.csv", user_id="u") | {"source.id": "shop"}, params)
    configure({"source.path": "moved.csv"}, params)
    assert _id(params) == "shop"
    configure({"source.name": "movielens", "source.path": "ml"}, params)
    assert _id(params) == "movielens"
    configure({"source.path": "ml-25m"}, params)
    assert _id(params) == "movielens"
    configure({"source.path": "ml-small", "source.id": "ml-small"}, params)
    assert _id(params) == "ml-small"


def test_same_as_is_said_of_one_path(params: Path) -> None:
    configure(_table("log.csv", user_id="u") | {"source.id": "shop"}, params)
    configure({"source.same_as": "0123456789ab-ba9876543210"}, params)
    configure({"source.path": "moved.csv"}, params)
    assert YAML(typ="safe").load(params)["source"]["same_as"] is None


@pytest.mark.parametrize(
    "name", ["../data", "a/b", "Shop", ".hidden", "", "locks", "movielens", "x" * 64, "log 1", "-x", "é", "shop.db"]
)
def test_an_id_that_is_no_safe_folder_of_its_own_is_refused(params: Path, name: str) -> None:
    before = params.read_text()
    with pytest.raises(InputError, match=r"source"):
        configure({"source.id": name}, params)
    assert params.read_text() == before


def test_params_from_before_say_which_key_is_missing_and_what_to_write(params: Path) -> None:
    text = "".join(line for line in params.read_text().splitlines(keepends=True) if not line.startswith("  id:"))
    params.write_text(text)
    with pytest.raises(InputError, match=r"source.id: missing \(.*write `id: <name>` below `name:`"):
        configure({"seed": 2}, params)
