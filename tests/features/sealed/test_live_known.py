"""A copy of the repository that lacks what is known of live/ does not read the log; DVC knows what was read."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from features.live.absorb import absorb
from features.live.forget import forget
from features.live.sqlite import SqliteTail
from features.sealed.files import live_of, sealed_files
from features.sealed.forgotten import add_forgotten, hash_of
from features.sealed.known_logs import KNOWN, read_known, shared
from tests import clones
from tests.features.live_log import event, seal, write_table
from tests.features.raw_logs import ingest_table

TINY = ("simulator.num_days=2", "simulator.num_users=60", "simulator.num_sessions=4", "simulator.num_items=200")
USER = "u00042"
QUEUE_S = 180


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/table of a log with sealed live events, of whose users some are forgotten."""
    data = tmp_path / "data" / "table"
    write_table(tmp_path / "log.csv")
    seal(live_of(data) / "2026-11-24.parquet", event(1), event(2, user_id="u9"))
    seal(live_of(data) / "2026-11-25.parquet", event(7))
    add_forgotten(live_of(data), ["u2"])
    forget(live_of(data), ["u3", "u9"], tails=[])
    return data


def lost(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def shortened(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def begun_anew(path: Path) -> None:
    path.unlink()
    shutil.copy(path.parents[1] / KNOWN, path.parents[1] / "kept")
    (path.parents[1] / KNOWN).unlink()
    add_forgotten(path.parent, ["u2", "u3", "u9"])
    shutil.move(path.parents[1] / "kept", path.parents[1] / KNOWN)


@pytest.mark.parametrize("spoil", [lost, emptied, shortened, begun_anew])
def test_without_the_list_that_is_known_nothing_is_read_or_added(data: Path, tmp_path: Path, spoil) -> None:
    assert ingest_table(data, tmp_path / "log.csv")["dropped"]["user forgotten"] > 0
    spoil(live_of(data) / "forgotten.txt")
    for attempt in (lambda: ingest_table(data, tmp_path / "log.csv"), lambda: add_forgotten(live_of(data), ["u5"])):
        with pytest.raises(InputError, match=r"forgotten.txt is not the list of 3 forgotten users .*known.json"):
            attempt()


def test_a_sealed_file_that_is_gone_stops_ingest_and_absorb(data: Path, tmp_path: Path) -> None:
    tail = SqliteTail(tmp_path / "scratch.db")
    (live_of(data) / "2026-11-25.parquet").unlink()
    for attempt in (lambda: ingest_table(data, tmp_path / "log.csv"), lambda: absorb(tail, live_of(data))):
        with pytest.raises(InputError, match=r"lacks 2026-11-25.parquet: sealed live events that"):
            attempt()


def test_another_file_in_a_sealed_one_s_place_is_noticed(data: Path, tmp_path: Path) -> None:
    one, other = sealed_files(live_of(data))
    shutil.copy(other, one)
    with pytest.raises(InputError, match=r"2026-11-24.parquet differs from "):
        ingest_table(data, tmp_path / "log.csv")


def test_an_older_known_json_fits_a_list_that_has_grown(data: Path, tmp_path: Path) -> None:
    known = live_of(data).parent / KNOWN
    before = known.read_text()
    add_forgotten(live_of(data), ["u4"])
    assert known.read_text() != before  # what DVC goes by
    known.write_text(before)
    assert ingest_table(data, tmp_path / "log.csv")["dropped"]["user forgotten"] >= 25
    assert "u4" not in set(pq.read_table(data / "interactions")["user_id"].to_pylist())


def test_known_json_names_nobody_and_cannot_be_guessed_from_ids(data: Path, tmp_path: Path) -> None:
    text = (live_of(data).parent / KNOWN).read_text()
    assert not any(said in text for user in ("u2", "u3", "u9") for said in (user + '"', hash_of(user)))
    other = tmp_path / "again" / "live" / "table"
    for users in (["u2"], ["u3", "u9"]):
        add_forgotten(other, users)
    assert read_known(other).digest != read_known(live_of(data)).digest


def test_two_writers_of_two_logs_lose_nothing_of_each_other(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from features.sealed.forgotten import add_forgotten as add\n"
        "for n in range(40): add(Path(sys.argv[1]), [str(n)])"
    )
    logs = [tmp_path / "live" / name for name in ("a", "b")]
    for each in [subprocess.Popen([sys.executable, "-c", program, log], cwd=clones.ROOT) for log in logs]:
        assert each.wait(60) == 0
    assert [read_known(log).forgotten for log in logs] == [40, 40]


def test_a_temporary_workspace_reads_the_list_of_its_repository(data: Path, tmp_path: Path) -> None:
    assert shared(live_of(data)) == live_of(data)
    there = tmp_path / ".dvc" / "tmp" / "exps" / "tmpx" / "data" / "table"
    assert shared(live_of(there)) == live_of(data)
    live_of(there).parent.mkdir(parents=True)
    shutil.copy(live_of(data).parent / KNOWN, live_of(there).parent)
    told = ingest_table(there, tmp_path / "log.csv")
    assert told == ingest_table(data, tmp_path / "log.csv")
    assert told["num_live_events"] == 2


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose log was read and committed, and in which then somebody asked to be forgotten."""
    root = clones.clone(tmp_path_factory.mktemp("forgetful") / "clone")
    clones.run(root, sys.executable, "-m", "orchestration.configure", *TINY)
    clones.run(root, "dvc", "repro", "-q", "ingest")
    clones.run(root, "git", "add", "-A")
    clones.run(root, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "read")
    assert USER in users_of(root, "HEAD")
    add_forgotten(root / "live" / "simulator", [USER])
    return root


def users_of(root: Path, revision: str) -> set[str]:
    """The users of the interactions that dvc.lock names in a revision, read from DVC's cache."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(str(root), rev=revision)
    found = set()
    for path in files.find("data/simulator/interactions"):
        with files.open(path, "rb") as handle:
            found |= set(pq.read_table(handle, columns=["user_id"])["user_id"].to_pylist())
    return found


def test_the_forgotten_stay_so_in_a_temporary_experiment(forgetful: Path) -> None:
    """Nothing that ingest reads of params.yaml changes: DVC would take what it has from before."""
    clones.run(forgetful, "dvc", "exp", "run", "--temp", "-n", "temp", "-S", "train.epochs=3", "ingest")
    users = users_of(forgetful, "temp")
    assert len(users) == 59
    assert USER not in users


@pytest.mark.slow
def test_the_forgotten_stay_so_in_a_queued_experiment(forgetful: Path) -> None:
    """In a workspace as that of --temp; DVC's own worker makes it."""
    clones.run(forgetful, "dvc", "exp", "run", "--queue", "-n", "queued", "-S", "train.epochs=4", "ingest")
    clones.run(forgetful, "dvc", "queue", "start")
    until = time.monotonic() + QUEUE_S
    while "Success" not in (said := clones.run(forgetful, "dvc", "queue", "status").stdout):
        assert "Failed" not in said, clones.run(forgetful, "dvc", "queue", "logs", "queued", check=False).stdout
        assert time.monotonic() < until, said
        time.sleep(0.5)
    clones.run(forgetful, "dvc", "queue", "stop", "--kill", check=False)  # the worker, which would wait for more
    users = users_of(forgetful, "queued")
    assert len(users) == 59
    assert USER not in users
