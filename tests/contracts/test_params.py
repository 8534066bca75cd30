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
