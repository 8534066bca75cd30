"""Feast's own command line, in a clone, from the repository's root: apply, materialize-incremental.

Here it is started without typeguard, in half the time; tests/doors/test_commands.py types `feast` as a person does.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from features.live.places import state_of
from features.online.store import OnlineStore
from features.stages.materialize import run as materialize
from orchestration.configure import configure
from tests import clones
from tests.features.small_log import START, build, history, labels, random_log, statistics, validate
from tests.features.small_log import materialize as parity

pytestmark = pytest.mark.xdist_group("feast")
PROGRAM = "import features.feast_store; from feast.cli.cli import cli; cli(prog_name='feast')"
FEAST = ("python", "-c", PROGRAM, "-c", "features/repo")


@pytest.fixture(scope="module")
def new_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing has been run, until `clone` is asked for."""
    return clones.clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def clone(new_clone: Path) -> Path:
    """It, after its source `table` has been run up to materialize."""
    root = new_clone
    (root / "log.csv").write_text("user,item,at\n", encoding="utf-8")
    columns = {f"source.columns.{name}": name for name in ("user_id", "item_id", "occurred_at")}
    named = {"source.name": "table", "source.id": "table", "source.path": str(root / "log.csv")}
    configure(named | columns, root / "params.yaml")
    data = root / "data" / "table"
    build(data, random_log(2))
    materialize(data, history(), statistics(), parity(num_parity_requests=5), validate(), labels())
    return root


def feast(root: Path, *command: str) -> str:
    return clones.run(root, *FEAST, *command, PYTHONPATH=str(root)).stdout


def test_a_clone_that_was_never_run_is_told_what_to_run(new_clone: Path) -> None:
    """The first test of this file: the next ones run it."""
    done = clones.run(new_clone, *FEAST, "apply", check=False, PYTHONPATH=str(new_clone))
    assert done.returncode
    assert "make run" in done.stderr + done.stdout


def test_what_was_loaded_is_what_feast_apply_finds_in_the_repository(clone: Path) -> None:
    loaded = OnlineStore.open(state_of(clone / "data" / "table")).feast
    before = {view.name: view for view in loaded.list_feature_views()}
    assert {"user_history", "item_shows__total", "user_events"} <= before.keys()
    feast(clone, "apply")
    again = OnlineStore.open(state_of(clone / "data" / "table")).feast
    assert {view.name: view for view in again.list_feature_views()} == before
    for view in before.values():
        assert view.owner
        assert view.description
        assert view.tags["stage"] in {"statistics", "materialize"}


def test_materializing_further_keeps_what_is_served(clone: Path) -> None:
    before = OnlineStore.open(state_of(clone / "data" / "table")).history("u1")
    feast(clone, "materialize-incremental", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    after = OnlineStore.open(state_of(clone / "data" / "table")).history("u1")
    assert before is not None
    assert after is not None
    assert (after.item_ids, after.occurred_at.tolist()) == (before.item_ids, before.occurred_at.tolist())


def test_the_store_of_the_repository_reads_as_of_a_time(clone: Path, tmp_path: Path) -> None:
    """As a Feast user opens it, in a process of its own."""
    program = (
        "import json, pandas as pd; from feast import FeatureStore\n"
        "store = FeatureStore('features/repo')\n"
        f"asked = pd.DataFrame({{'user_id': ['u1'], 'event_timestamp': [pd.Timestamp({START.isoformat()!r})"
        " + pd.Timedelta(days=1)]})\n"
        "job = store.get_historical_features(asked, ['user_history:item_ids', 'user_events:end_offset'])\n"
        "print(json.dumps(job.to_arrow().drop(['event_timestamp']).to_pylist()))\n"
    )
    said = clones.run(clone, "python", "-c", program, PYTHONPATH=str(clone)).stdout
    (line,) = json.loads(said.splitlines()[-1])
    assert line["end_offset"] == len(line["item_ids"]) > 0
