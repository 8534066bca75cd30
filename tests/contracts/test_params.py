"""params.yaml is typed: what is wrong is named, with a guess at what was meant."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from contracts.errors import InputError
from contracts.params import SECTIONS, check_params, load_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw() -> dict:
    return YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def test_the_repository_s_own_params_are_valid_and_complete(raw: dict) -> None:
    assert check_params(raw).keys() == SECTIONS.keys() == raw.keys()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "num_theme", 8, r"model.num_theme: no such parameter \(did you mean 'num_themes'\?\)"),
        ("model", "num_themes", 0, "model.num_themes: input should be greater than 0, got 0"),
        ("source", "name", "movielense", "source.name: .*'movielens'.*got 'movielense'"),
        ("split", "validation", "yesterday", "split.validation: .*got 'yesterday'"),
        ("history", "lag_s", float("inf"), "history.lag_s: input should be .*got inf"),
        ("validate", "latest", "1980-01-01", "validate: .*earliest .* must lie before latest"),
        ("train", "epochs", "many", "train.epochs: .*got 'many'"),
    ],
)
def test_a_bad_value_is_one_message_that_names_the_key(
    raw: dict, section: str, key: str, value: object, message: str
) -> None:
    raw[section][key] = value
    with pytest.raises(InputError, match=message):
        check_params(raw)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "num_themes", True),
        ("train", "epochs", True),
        ("history", "lag_s", True),
        ("split", "validation", True),
        ("train", "epochs", "3"),
        ("train", "epochs", 2.0),
        ("model", "hidden", [64, True]),
        ("model", "hidden", [64, -1]),
        ("statistics", "windows_s", [3600, "60"]),
        ("statistics", "windows_s", [3600, 60, 3600]),
        ("statistics", "windows_s", 3600),
        ("statistics", "devices", ["1", "2", "1"]),
        ("statistics", "context", 1),
        ("serve", "log_exposures", "yes"),
        ("source", "label_threshold", float("nan")),
        ("serve", "max_future_s", 1e300),
        ("evaluate", "popularity_window_s", 10**15),
        ("evaluate", "num_bootstrap", 1),
        ("evaluate", "serve", "din"),
        ("evaluate", "min_auc_over_popularity", 2),
        ("materialize", "num_read_back", 0),
    ],
)
def test_what_only_looks_like_a_value_is_refused_by_its_key(raw: dict, section: str, key: str, value: object) -> None:
    raw[section][key] = value
    with pytest.raises(InputError, match=rf"params\.yaml: {section}\.{key}"):
        check_params(raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"history.max_length": 100},
            r"history\.max_length: 100 events .* model\.history_length reads 200; raise it to at least 200, or lower",
        ),
        (
            {"model.history_length": 5, "model.short_length": 5, "history.max_length": 9, "statistics.coclick_rank": 4},
            r"history\.max_length: 9 .* statistics\.coclick_rank > 0 reads 10; raise it to at least 10",
        ),
        ({"model.short_length": 201}, r"model\.short_length: the newest 201 .* set it to at most 200"),
        ({"history.retention_s": 60, "history.lag_s": 60}, r"history\.retention_s: .* every history would be empty"),
        ({"split.validation": 0.95}, r"split\.validation: 0\.95 is not before split\.test, 0\.91"),
        ({"split.train_from": 0.85}, r"split\.train_from: 0\.85 is not before split\.validation, 0\.85"),
        ({"split.train_from": 0.93}, r"split\.train_from: 0\.93 is not before split\.test"),
        (
            {"split.validation": "2023-06-02", "split.test": "2023-06-01"},
            r"split\.validation: 2023-06-02T00:00:00\+00:00 is not before split\.test, 2023-06-01",
        ),
        (
            {"split.train_from": "2023-06-01", "split.validation": "2023-06-01T00:01:00Z", "labels.delay_s": 60}
            | {"history.lag_s": 60},
            r"split\.train_from: only 60 s lie before split\.validation, and labels\.delay_s \(60\)",
        ),
        ({"split.validation": 0.0}, r"split\.validation: 0 leaves no request to train on"),
        ({"split.test": 1.0}, r"split\.test: 1 leaves no request to test on"),
        ({"split.test": "1985-01-01"}, r"split\.test: 1985-01-01\S+ lies outside validate\.earliest to latest"),
        ({"statistics.bucket_s": 7200}, r"statistics\.bucket_s: .* windows of 3600 s; lower it to at most 3600"),
        ({"statistics.devices": ["1"]}, r"statistics\.devices: 1 .* set statistics\.context=true"),
        (
            {
                "source.name": "table",
                "source.id": "shop",
                "source.columns.user_id": "id",
                "source.columns.item_id": "id",
            },
            r"source\.columns\.item_id: column 'id' is source\.columns\.user_id already",
        ),
        ({"train.loss": "listwise"}, r"evaluate\.max_calibration_error: 0\.05 .* set it to 1, or train\.loss=both"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_when_the_file_is_read(
    raw: dict, changes: dict, message: str
) -> None:
    for key, value in changes.items():
        *parents, name = key.split(".")
        section = raw
        for parent in parents:
            section = section[parent]
        section[name] = value
    with pytest.raises(InputError, match=message):
        check_params(raw)


@pytest.mark.parametrize(
    "split",
    [
        {"train_from": None, "validation": 0.9, "test": 0.9},  # no validation part: the last epoch stands
        {"train_from": "2023-05-18T13:00:00Z", "validation": 0.5, "test": "2023-05-25"},  # only the log can tell
        {"train_from": 0.1, "validation": 0.2, "test": 0.3},
    ],
)
def test_a_split_in_order_is_right(raw: dict, split: dict) -> None:
    raw["split"] = split
    assert check_params(raw)["split"]


@pytest.mark.parametrize("preset", sorted(path.name for path in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_agrees_with_the_rest_of_the_file(raw: dict, preset: str) -> None:
    for section, values in YAML(typ="safe").load((ROOT / "presets" / preset).read_text()).items():
        for name, value in values.items():
            nested = isinstance(value, dict) and isinstance(raw[section][name], dict)
            raw[section][name] = raw[section][name] | value if nested else value
    raw["source"]["path"] = "somewhere"
    assert check_params(raw)


def test_a_typo_in_a_nested_key_is_named_with_its_neighbours(raw: dict) -> None:
    raw["source"]["columns"]["usr_id"] = "viewer"
    with pytest.raises(InputError, match=r"source.columns.usr_id: no such parameter \(did you mean 'user_id'\?\)"):
        check_params(raw)


def test_every_problem_is_listed_at_once(raw: dict) -> None:
    del raw["seed"]
    raw["modle"] = {}
    raw["train"]["epochs"] = -1
    with pytest.raises(
        InputError, match=r"modle: no such section.*'model'.*seed: the section is missing.*train.epochs"
    ):
        check_params(raw)


def test_a_split_is_a_quantile_or_a_time(raw: dict) -> None:
    raw["split"] = {"train_from": None, "validation": 0.5, "test": "2023-05-25T07:00:00+00:00"}
    split = check_params(raw)["split"]
    assert split.train_from is None
    assert split.validation == 0.5
    assert split.test == datetime(2023, 5, 25, 7, tzinfo=UTC)


def test_no_feature_may_know_a_click_before_its_label_is_known(raw: dict) -> None:
    raw["labels"]["delay_s"] = 60
    raw["history"]["lag_s"] = 59.5
    raw["statistics"] |= {"clicks_lag_s": 60, "user_lag_s": 0, "shows_lag_s": 0}
    message = (
        r"params\.yaml: labels\.delay_s: a click is known 60 s after its time, but history\.lag_s \(59\.5\), "
        r"statistics\.user_lag_s \(0\) would read it earlier; raise to at least 60, or lower labels\.delay_s\."
    )
    with pytest.raises(InputError, match=message) as error:
        check_params(raw)
    assert error.value.exit_code == 2
    raw["history"]["lag_s"] = raw["statistics"]["user_lag_s"] = 60
    assert check_params(raw)["labels"].delay_s == 60


def test_a_rule_between_sections_is_asked_only_of_sections_that_are_right(raw: dict) -> None:
    raw["labels"]["delay_s"] = 60
    raw["history"]["lag_s"] = -1
    with pytest.raises(InputError, match=r"history\.lag_s: ") as error:
        check_params(raw)
    assert "labels" not in str(error.value)


@pytest.mark.parametrize("text", ["seed: [", "just words", "\udcff"])
def test_a_file_that_is_no_params_file_is_bad_input(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run from the repository's root"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("seed", [-1, True, 2**32, 1.5])
def test_a_seed_is_what_every_generator_takes(raw: dict, seed: object) -> None:
    raw["seed"] = seed
    with pytest.raises(InputError, match="seed: "):
        check_params(raw)
