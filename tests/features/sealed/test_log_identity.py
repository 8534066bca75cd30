"""Live events belong to one log: another log of the same name is refused with the next step."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InputError
from contracts.publish import write_json
from features.live.absorb import absorb
from features.live.places import state_of
from features.live.sqlite import SqliteTail
from features.online.load import load
from features.online.store import OnlineStore
from features.sealed.files import live_of
from features.sealed.forgotten import add_forgotten
from features.sealed.known_logs import read_known
from features.sealed.log_id import identity_of
from features.stages.ingest import run
from features.terms.params import SourceParams
from orchestration.configure import configure
from tests.clones import surroundings
from tests.features import live_log
from tests.features.live_log import seal, write_table
from tests.features.live_tails import event
from tests.features.raw_logs import COLUMNS, SMALL, source
from tests.features.small_source import make, take

ROOT = Path(__file__).resolve().parents[3]
FIRST, SECOND = "0123456789ab", "ba9876543210"
SWAPPED = COLUMNS | {"user_id": "item", "item_id": "user"}


def table(path: Path, columns: dict[str, str] | None = None, **said: Any) -> SourceParams:
    """A table that is called shop."""
    return source("table", path, COLUMNS if columns is None else columns, id="shop", **said)


def ingest(data: Path, params: SourceParams) -> dict[str, Any]:
    return dict(run(data, 1, SMALL, params))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/shop of a log to which an event came live, and was sealed."""
    data = tmp_path / "data" / "shop"
    params = table(write_table(tmp_path / "log.csv"))
    write_table(tmp_path / "other.csv", "u1,i1,2024-01-01,1\n")
    tail = SqliteTail(tmp_path / "scratch.db")
    tail.append([event("one")])
    assert list(absorb(tail, live_of(data), identity_of(params)).values()) == [1]
    tail.close()
    assert ingest(data, params)["num_live_events"] == 1
    return data


def test_live_events_of_another_log_are_refused_and_both_ways_out_lead_on(data: Path, tmp_path: Path) -> None:
    for other in (table(tmp_path / "other.csv"), table(tmp_path / "log.csv", SWAPPED)):
        with pytest.raises(InputError, match=r"came to another log \(identity [0-9a-f]{12}\)") as caught:
            ingest(data, other)
        assert 'make set ARGS="source.id=..."' in str(caught.value)
        same_as = re.search(r"source.same_as=([0-9a-f]{12}-[0-9a-f]{12})", str(caught.value))
        assert same_as
        told = other.model_copy(update={"same_as": same_as[1]})
        assert ingest(data, told)["num_live_events"] == 1
        assert json.loads((data / "absorbed/log.json").read_text())["log"] == same_as[1].partition("-")[0]
        assert ingest(data.with_name("apart"), other)["num_live_events"] == 0
    assert ingest(data, table(tmp_path / "log.csv"))["num_live_events"] == 1


def test_same_as_applies_only_to_the_path_it_was_set_for(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ingest(data, table(tmp_path / "other.csv"))
    same_as = str(caught.value).split("same_as=")[1][:25]
    shutil.copy(tmp_path / "other.csv", tmp_path / "third.csv")
    with pytest.raises(InputError, match="came to another log"):
        ingest(data, table(tmp_path / "third.csv", same_as=same_as))


def test_another_label_or_unit_is_no_other_log(data: Path, tmp_path: Path) -> None:
    columns = {ours: theirs for ours, theirs in COLUMNS.items() if ours != "label"}
    assert ingest(data, table(tmp_path / "log.csv", columns, partition="month"))["num_live_events"] == 1


def test_the_forgotten_of_another_log_are_not_forgotten_here(tmp_path: Path) -> None:
    data = tmp_path / "data" / "shop"
    add_forgotten(live_of(data), ["u1"], identity_of(table(write_table(tmp_path / "log.csv"))))
    with pytest.raises(InputError, match="came to another log"):
        ingest(data, table(write_table(tmp_path / "other.csv")))


def test_a_tail_that_was_not_absorbed_is_another_logs_too(tmp_path: Path) -> None:
    data = tmp_path / "data" / "shop"
    tail = SqliteTail(tmp_path / "live" / "shop.db")
    tail.append([event("one")])
    assert tail.belongs_to(identity_of(table(write_table(tmp_path / "log.csv"))))
    tail.close()
    with pytest.raises(InputError, match=r"live events in .*live/shop.db came to another log"):
        ingest(data, table(write_table(tmp_path / "other.csv")))
    ingest(data, table(tmp_path / "log.csv"))


def test_two_movielens_under_one_name_are_two_logs(tmp_path: Path) -> None:
    data = tmp_path / "data" / "movielens"
    small = source("movielens", tmp_path / "ml-small")
    absorbing = SqliteTail(tmp_path / "scratch.db")
    absorbing.append([event("one")])
    absorb(absorbing, live_of(data), identity_of(small))
    with pytest.raises(InputError, match="came to another log"):
        ingest(data, source("movielens", tmp_path / "ml-25m"))
    with pytest.raises(InputError, match="ratings"):  # ours: it goes on to read the folder, which is not there
        ingest(data, small)


def test_data_without_a_log_identity_is_taken_over_by_the_first_log(tmp_path: Path) -> None:
    data = tmp_path / "data" / "shop"
    live, params = live_of(data), table(write_table(tmp_path / "log.csv"))
    seal(live / "2026-11-24.parquet", live_log.event(1))
    (tmp_path / "live" / "known.json").unlink()  # sealed before there was one
    (live / "forgotten.txt").write_text(f"{'0' * 64}\n")
    with pytest.raises(InputError, match=r"2026-11-24.parquet differs from .*known.json.*`make absorb`"):
        ingest(data, params)
    tail = SqliteTail(tmp_path / "scratch.db")
    assert absorb(tail, live, identity_of(params)) == {}
    assert ingest(data, params)["num_live_events"] == 1
    assert read_known(live).log == identity_of(params)
    assert add_forgotten(live, ["u2"]) == 1
    assert (live / "forgotten.txt").read_text().splitlines()[1] == "0" * 64
    with pytest.raises(InputError, match="came to another log"):
        ingest(data, table(tmp_path / "other.csv"))


def test_a_store_does_not_open_over_live_events_of_another_log(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    data = make(folder)
    state = state_of(data)
    snapshot = data / "feature_snapshot" / "snapshot.json"
    for log in (FIRST, SECOND):
        write_json(data / "absorbed" / "log.json", {"id": "shop", "log": log})
        take(data, {})
        assert json.loads(snapshot.read_text())["log"] == log
        assert load(data, state)
        if log == FIRST:
            OnlineStore.open(state).append([event("one")])
    said = rf"live/shop.db \(SQLite\) holds live events of another log .*{FIRST}"
    with pytest.raises(InputError, match=said) as caught:
        OnlineStore.open(state)
    assert "source.id=..." in str(caught.value)
    write_json(data / "absorbed" / "log.json", {"id": "shop", "log": FIRST})
    take(data, {})
    assert load(data, state)
    assert OnlineStore.open(state).live.num_events == 1


def test_absorb_and_forget_do_not_touch_events_of_another_log(tmp_path: Path) -> None:
    write_table(tmp_path / "log.csv")
    write_table(tmp_path / "other.csv")
    for name in ("presets", "params.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    columns = {f"source.columns.{ours}": theirs for ours, theirs in COLUMNS.items()}
    named = {"source.name": "table", "source.path": "log.csv", "source.id": "shop"} | columns
    configure(named, tmp_path / "params.yaml")
    tail = SqliteTail(tmp_path / "live" / "shop.db")
    tail.append([event("one")])
    assert told(tmp_path, "absorb").startswith("sealed 1 in live/shop/")
    tail.append([event("two", user="u2")])
    configure({"source.path": "other.csv"}, tmp_path / "params.yaml")
    for command in ("absorb", "forget u"):
        said = told(tmp_path, *command.split())
        assert "What live/known.json knows of live/shop/ came to another log" in said
    assert [each.event_id for _, each in tail.since(0)] == ["one", "two"]
    assert not (tmp_path / "live" / "shop" / "forgotten.txt").exists()
    configure({"source.same_as": said.split("same_as=")[1][:25]}, tmp_path / "params.yaml")
    assert told(tmp_path, "absorb").startswith("sealed 1 in live/shop/")
    tail.close()


def told(folder: Path, command: str, *arguments: str) -> str:
    """What a command says in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", f"features.live.{command}", *arguments],
        cwd=folder,
        env=surroundings(folder) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).replace(f"{folder}/", "")
