"""A bundle that is damaged and hashed again is refused in one line that names the file, whichever file it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.errors import InputError
from serving.answering.predictor import Predictor
from serving.answering.refusal import Refusal
from serving.answering.requests import RankRequest
from serving.bundle.index import CATALOGUE, NEIGHBOURS, VECTOR, VECTORS, write_index
from serving.bundle.loaded import (
    GOLDEN,
    METRICS,
    MODEL,
    PROFILE,
    SPEC,
    THEMES,
    VOCABULARY,
    load_scorer,
    open_bundle,
    weights_of,
)
from serving.bundle.manifest import MANIFEST, write_manifest
from serving.bundle.runner_up import RUNNER_UP, open_runner_up
from serving.drift import read_profile
from tests.serving.conftest import Refusing

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

WEIGHTS = weights_of("mos")
READ = (WEIGHTS, MODEL, SPEC, VOCABULARY, THEMES, GOLDEN, METRICS, CATALOGUE, VECTORS, NEIGHBOURS)
BESIDE = (weights_of("din"), RUNNER_UP)
"""Read where another model is loaded beside the served one."""
ITEMS = "items.item.weight"
FOR_PEOPLE = ("DATA_DICTIONARY.md", "MODEL_CARD.md")
FOR_DRIFT = PROFILE
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 8,
    "a list": lambda content: b"[]",
    "a text": lambda content: b'"bundle"',
    "an empty object": lambda content: b"{}",
    "a number": lambda content: b"7",
    "nested without end": lambda content: b"[" * 100_000,
    "a page": lambda content: b"<html><body>404 Not Found</body></html>",
}


def hash_again(bundle: Path) -> None:
    """Make bundle.json match the changed files, as an attacker would."""
    described = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).unlink()
    write_manifest(bundle, **{name: described[name] for name in described.keys() - {"format", "files", "bundle_hash"}})


def assert_said_in_a_line(error: InputError, name: str) -> None:
    assert name in str(error)
    assert "make run" in str(error) or "Train" in str(error) or "Package" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


def test_the_lists_of_this_test_name_every_file(bundle: Path) -> None:
    assert {path.name for path in bundle.iterdir()} == {*READ, *BESIDE, *FOR_PEOPLE, FOR_DRIFT, MANIFEST}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READ)
def test_whatever_a_file_became_is_said_in_a_line_that_names_it(bundle: Path, name: str, damage: str) -> None:
    if name == METRICS and damage == "an empty object":
        pytest.skip("that is one: promote says what it lacks")
    (bundle / name).write_bytes(DAMAGE[damage]((bundle / name).read_bytes()))
    hash_again(bundle)
    with pytest.raises(InputError) as error:
        open_bundle(bundle)
    assert_said_in_a_line(error.value, name)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", BESIDE)
def test_whatever_a_file_of_the_runner_up_became_is_said_by_who_loads_it(bundle: Path, name: str, damage: str) -> None:
    (bundle / name).write_bytes(DAMAGE[damage]((bundle / name).read_bytes()))
    hash_again(bundle)
    opened = open_bundle(bundle)
    with pytest.raises(InputError) as error:
        open_runner_up(opened)
    assert_said_in_a_line(error.value, name)


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_the_profile_became_is_said_by_drift_alone(bundle: Path, damage: str) -> None:
    (bundle / PROFILE).write_bytes(DAMAGE[damage]((bundle / PROFILE).read_bytes()))
    hash_again(bundle)
    open_bundle(bundle)
    with pytest.raises(InputError) as error:
        read_profile(bundle)
    assert_said_in_a_line(error.value, PROFILE)


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_the_manifest_became_is_said_in_a_line_that_names_it(bundle: Path, damage: str) -> None:
    (bundle / MANIFEST).write_bytes(DAMAGE[damage]((bundle / MANIFEST).read_bytes()))
    with pytest.raises(InputError) as error:
        open_bundle(bundle)
    assert_said_in_a_line(error.value, MANIFEST)


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_what_people_read_may_say_anything(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(DAMAGE["garbage"](b""))
    hash_again(bundle)
    open_bundle(bundle)


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def _set(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


SUBTLE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "fewer themes": (THEMES, lambda path: change_json(path, lambda content: content["themes"].pop())),
    "themes without names": (THEMES, lambda path: change_json(path, lambda content: content["themes"][0].pop("name"))),
    "a theme named by a number": (THEMES, lambda path: change_json(path, lambda it: it["themes"][0].update(name=3))),
    "fewer golden requests": (GOLDEN, lambda path: change_json(path, lambda content: content.pop())),
    "a time that is a text": (GOLDEN, lambda path: change_json(path, lambda content: content[0].update(at="now"))),
    "fewer logits": (GOLDEN, lambda path: change_json(path, lambda content: content[0]["logits"].pop())),
    "fewer sessions": (GOLDEN, lambda path: change_json(path, lambda content: content[0]["sessions"].pop())),
    "a width that is a text": (MODEL, lambda path: change_json(path, lambda it: it["shape"].update(num_items="9"))),
    "no shape": (MODEL, lambda path: change_json(path, lambda content: content.pop("shape"))),
    "an unknown router": (MODEL, lambda path: change_json(path, lambda it: it["params"].update(router="x"))),
    "another length": (SPEC, lambda path: change_json(path, lambda content: content.update(history_length="50"))),
    "other columns": (VOCABULARY, lambda path: pq.write_table(pa.table({"a": [1]}), path)),
    "ids that are numbers": (
        VOCABULARY,
        lambda path: change_table(path, lambda it: _set(it, "item_id", pa.array(range(len(it))))),
    ),
    "an id twice": (VOCABULARY, lambda path: change_table(path, lambda it: pa.concat_tables([it, it.slice(0, 1)]))),
    "an item without a row": (
        VOCABULARY,
        lambda path: change_table(path, lambda it: _set(it, "item_index", pa.nulls(len(it), pa.int32()))),
    ),
    "an item in the padding": (
        VOCABULARY,
        lambda path: change_table(path, lambda it: _set(it, "item_index", pa.array([0] * len(it), pa.int32()))),
    ),
    "vectors of another width": (VECTORS, lambda path: save_file({VECTOR: torch.zeros(3, 2)}, path)),
    "a vector of another model": (
        VECTORS,
        lambda path: change_weights(path, lambda weights: weights[VECTOR][5].mul_(1.01).add_(0.001)),
    ),
    "a vector that is no number": (
        VECTORS,
        lambda path: change_weights(path, lambda weights: weights[VECTOR][-1].fill_(float("nan"))),
    ),
    "items in another order": (
        CATALOGUE,
        lambda path: change_table(path, lambda it: it.take([1, 0, *range(2, len(it))])),
    ),
    "an item fewer": (CATALOGUE, lambda path: change_table(path, lambda it: it.slice(1))),
    "a neighbour that is another": (
        NEIGHBOURS,
        lambda path: change_json(path, lambda it: it["queries"][0]["neighbours"][0].update(similarity=-0.5)),
    ),
    "a neighbour that nobody knows": (
        NEIGHBOURS,
        lambda path: change_json(path, lambda it: it["queries"][0]["neighbours"][0].update(item_id="nobody")),
    ),
    "other weights": (WEIGHTS, lambda path: save_file({"a": torch.zeros(3)}, path)),
    "a weight that is no number": (
        WEIGHTS,
        lambda path: change_weights(path, lambda weights: weights[ITEMS][-1].fill_(float("nan"))),
    ),
    "a row beyond the table": (
        WEIGHTS,
        lambda path: change_weights(path, lambda weights: weights["catalogue.row_of_N"][-1].fill_(10**9)),
    ),
}


@pytest.mark.parametrize("what", SUBTLE)
def test_a_file_of_the_right_kind_with_the_wrong_content_is_named(bundle: Path, what: str) -> None:
    name, spoil = SUBTLE[what]
    spoil(bundle / name)
    hash_again(bundle)
    with pytest.raises(InputError) as error:
        open_bundle(bundle)
    assert_said_in_a_line(error.value, name)


def test_golden_scores_that_are_no_numbers_stop_the_service(bundle: Path, state: Path) -> None:
    change_json(bundle / GOLDEN, lambda content: content[0].update(logits=[float("nan")] * len(content[0]["logits"])))
    hash_again(bundle)
    with pytest.raises(InputError, match="golden") as error:
        Predictor.open(bundle, state)
    assert_said_in_a_line(error.value, GOLDEN)


def test_golden_scalars_of_another_width_stop_the_service(bundle: Path, state: Path) -> None:
    change_json(bundle / GOLDEN, lambda content: [row.pop() for row in content[0]["scalars"]])
    hash_again(bundle)
    with pytest.raises(InputError, match="golden") as error:
        Predictor.open(bundle, state)
    assert_said_in_a_line(error.value, GOLDEN)


def test_a_score_that_is_no_number_is_never_an_answer(bundle: Path, state: Path, predictor: Predictor) -> None:
    """One item's embedding is as large as a float goes: finite, in no golden request, and its scores overflow."""
    seen = {item for golden in predictor.bundle.golden for item in (*golden.item_ids, *golden.candidates)}
    rows = predictor.bundle.scorer.model.catalogue.row_of_N
    unseen = next(
        (item, int(rows[index]))
        for item, index in predictor.bundle.scorer.index_of.items()
        if item not in seen and not predictor.bundle.scorer.cold_N[index]
    )
    change_weights(bundle / WEIGHTS, lambda weights: weights[ITEMS][unseen[1]].fill_(3e38))
    write_index(bundle, load_scorer(bundle), pq.read_table(bundle / CATALOGUE))
    hash_again(bundle)
    opened = Predictor.open(bundle, state)
    user = predictor.bundle.golden[0].user_id
    fine = RankRequest(user_id=user, candidates=predictor.bundle.golden[0].candidates)
    assert len(opened.rank(fine).items) == len(fine.candidates)
    with pytest.raises(Refusal, match=f"first '{unseen[0]}'") as refusal:
        opened.rank(RankRequest(user_id=user, candidates=[*fine.candidates, unseen[0]]))
    assert refusal.value.status == 500
    opened.store.tail.close()


def test_the_service_does_not_start_with_a_damaged_bundle_and_says_so_in_a_line(
    refusing: Refusing, bundle: Path
) -> None:
    shutil.copyfile(bundle / MODEL, bundle / WEIGHTS)
    hash_again(bundle)
    (line,) = refusing(LEITMOTIF_BUNDLE=str(bundle)).splitlines()
    assert line.startswith("Not serving: ")
    assert WEIGHTS in line
