"""`make forget`: at once for what comes live, at the next run for all that is made; it says what still holds a user."""

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from features.live.forget import forget, words_of
from features.sealed.files import live_of, read_sealed, sealed_files
from features.sealed.forgotten import add_forgotten, hash_of, read_forgotten
from features.stages.ingest import run as ingest
from orchestration.configure import configure, parse_assignments
from tests import clones
from tests.contracts.test_files import killed, writing
from tests.features.live_log import event, seal, show
from tests.features.raw_logs import SMALL, read, source
from tests.one_process import run_stages

USER, OTHER = "u00042", "u00043"
MANY = 40
STAGES = ("ingest", "validate", "histories", "statistics")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the tables were made twice: by a commit, and again after a change."""
    root = clones.clone(tmp_path_factory.mktemp("made"))
    configure(parse_assignments(list(clones.SMALL)), root / "params.yaml")
    seal(root / "live" / "simulator" / "2026-11-24.parquet", show(5, "a", user_id=USER), event(6, user_id=OTHER))
    for seed in (1, 2):
        configure({"seed": seed}, root / "params.yaml")
        run_stages(root, tuple(f"features.stages.{stage}" for stage in STAGES))
        clones.run(root, "dvc", "commit", "-q", "-f", *STAGES)
        clones.run(root, "git", "add", "-A")
        clones.run(root, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", f"seed {seed}")
    return root


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "repository", symlinks=True))


def names_user(path: Path) -> bool:
    """Whether the file says the id anywhere, read in the simplest way; ids of the simulator are of one length."""
    if path.read_bytes().startswith(b"PAR1"):
        texts = (column for column in pq.read_table(path).columns if column.type in (pa.string(), pa.binary()))
        return any(pc.any(pc.match_substring(text, USER)).as_py() for text in texts)
    return USER.encode() in path.read_bytes()


def naming(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix() for path in files if names_user(path)}


def forgetting(root: Path, *users: str) -> str:
    return clones.run(root, sys.executable, "-m", "features.live.forget", *users).stdout


def test_after_the_commands_that_it_prints_nothing_names_the_user(repository: Path) -> None:
    cache = repository / ".dvc" / "cache" / "files" / "md5"
    before = {name.replace("/", "") for name in naming(cache)}
    said = forgetting(repository, USER)
    assert "1 of 1 added to live/simulator/forgotten.txt" in said
    assert "1 sealed live events of theirs removed" in said
    assert {line.split()[0] for line in said.splitlines() if re.match(r"  [0-9a-f]{32}  ", line)} == before
    assert {f"data/{name}" for name in naming(repository / "data")} <= set(said.split())
    revisions = clones.run(repository, "git", "log", "--format=%h", "--", "dvc.lock").stdout.split()
    assert len(revisions) == 2
    for revision in revisions:
        assert re.search(rf"data/simulator/interactions/2024-01-0\d.parquet \([^)]*{revision}:dvc.lock", said)
    assert "\n  dvc repro  " in said
    clones.run(repository, "dvc", "repro", "-q", "histories", "statistics")
    assert naming(repository / "data") == set()
    assert naming(repository / ".cache") == set()
    assert naming(repository / "live") == set()
    assert "up to date" in clones.run(repository, "dvc", "status", "histories", "statistics").stdout
    ledger = {(row["stage"], row["what"]): row["rows"] for row in read(repository / "data/simulator/ledger")}
    assert ledger["ingest", "user forgotten"] >= 5  # one request at least
    assert naming(cache)
    assert "\n  dvc gc --workspace  " in said
    clones.run(repository, "dvc", "gc", "--workspace", "--force")
    assert naming(cache) == set()
    again = forgetting(repository, USER)
    assert "0 of 1 added" in again
    assert f"Nowhere found: {USER}" in again


def test_copies_fetched_from_buckets_are_searched_and_named(repository: Path) -> None:
    rows = f"user,item,at,click\n{USER},i1,2024-01-01T00:00:00Z,1\n"
    for name in ("log-aaaa1111", "earlier-bbbb2222"):  # of an address given now, and of one given before
        (repository / "fetched" / name).mkdir(parents=True)
        (repository / "fetched" / name / "day.csv").write_text(rows)
    said = clones.run(repository, sys.executable, "-m", "features.live.forget", USER).stdout
    assert f"fetched/log-aaaa1111/day.csv  {len(rows)} bytes" in said
    assert "rm -r fetched/earlier-bbbb2222 fetched/log-aaaa1111" in said


def test_what_killed_writers_left_is_removed_and_what_is_being_written_is_named(repository: Path) -> None:
    reports, temp = repository / "reports" / "simulator", repository / "temp"
    temp.mkdir()
    places = (reports / "validate.json", repository / ".state/simulator/docs/page.html", temp / "leitmotif-gx")
    for path in places:
        killed(path, "scratch" if path.parent == temp else "written", f"shown {USER} often")
    other = writing(reports / "audit.json", said=f"shown {USER} often")
    living = next(reports.glob(".audit.json.*"))
    champion = repository / "champions" / ".simulator-abc" / "simulator" / "bundle" / "golden_requests.json"
    of_dvc = repository / ".dvc" / "cache" / "files" / "md5" / "00" / ".F9S0Vhp1pnhzbKtZbZ_6Ag.tmp"
    for path in (champion, of_dvc):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'["{USER}"]')
    said = clones.run(repository, sys.executable, "-m", "features.live.forget", USER, TMPDIR=str(temp)).stdout
    assert "3 temporary files and folders that killed runs left were removed." in said
    assert not [path for place in places for path in place.parent.glob(f".{place.name}.*")]
    assert living.exists()
    for path in (living, champion, of_dvc):
        assert re.search(rf"\n  {re.escape(path.relative_to(repository).as_posix())}  \d+ bytes", said)
    assert re.search(r"\n  make forget +again when the runs have ended", said)
    assert f"\n  rm {of_dvc.relative_to(repository)}  " in said
    assert "make promote ARGS=--force" in said
    other.communicate("go on")
    assert other.returncode == 0
    again = clones.run(repository, sys.executable, "-m", "features.live.forget", USER, TMPDIR=str(temp)).stdout
    assert "make forget " not in again
    assert "\n  reports/simulator/audit.json  " in again


def test_an_unknown_user_is_said_to_be_nowhere_and_recorded_all_the_same(repository: Path) -> None:
    said = forgetting(repository, "u0004", OTHER)
    assert "Nowhere found: u0004." in said  # the beginning of ten others
    live = repository / "live" / "simulator"
    assert read_forgotten(live) == {hash_of("u0004"), hash_of(OTHER)}
    listed = clones.run(repository, sys.executable, "-m", "features.live.forget", "--list").stdout
    assert listed == "2 users of simulator forgotten (live/simulator/forgotten.txt).\n"


def test_without_a_user_or_with_an_empty_one_it_says_what_to_type(repository: Path) -> None:
    for users in ((), ("",)):
        done = clones.run(repository, sys.executable, "-m", "features.live.forget", *users, check=False)
        assert done.returncode == 2
        assert 'make forget USER="u1 u2"' in done.stderr
    assert not (repository / "live" / "simulator" / "forgotten.txt").exists()


@pytest.mark.parametrize(
    ("typed", "users"),
    [
        ("u1 u2", ["u1", "u2"]),
        ("ann&bob", ["ann&bob"]),  # the shell would have forgotten ann, and run bob
        ("ann;ls a|b", ["ann;ls", "a|b"]),
        ("$5 $(HOME) `id`", ["$5", "$(HOME)", "`id`"]),
        ("*.md [x] a(b) 50% a#b ~ !", ["*.md", "[x]", "a(b)", "50%", "a#b", "~", "!"]),
        ("'an id' u2", ["an id", "u2"]),
        ('"o\'neil" -x --list', ["o'neil", "-x", "--list"]),
    ],
)
def test_make_takes_an_id_as_it_is_typed_and_no_shell_reads_it(typed: str, users: list[str]) -> None:
    dry = ["make", "--dry-run", "--old-file=.venv/.ready", "--no-print-directory", "forget", f"USER={typed}"]
    typed_anew = clones.surroundings(clones.ROOT)
    recipe = subprocess.run(dry, cwd=clones.ROOT, env=typed_anew, capture_output=True, text=True, check=True).stdout
    named = recipe.replace("-m features.live.forget", "-c 'import sys; print(sys.argv[1:])'")
    assert named != recipe
    told = subprocess.run(named, shell=True, cwd=clones.ROOT, capture_output=True, text=True, check=True).stdout
    [words] = ast.literal_eval(told)
    assert words_of(words.removeprefix("--words=")) == users


def test_quotes_that_are_not_closed_forget_nobody() -> None:
    with pytest.raises(InputError, match="USER=o'neil cannot be taken apart: No closing quotation"):
        words_of("o'neil")


def test_forgetting_drops_sealed_rows_of_these_users_alone_and_twice_is_once(tmp_path: Path) -> None:
    live = tmp_path / "live" / "table"
    seal(live / "2026-11-24.parquet", event(1), event(2, user_id="u10"), event(3))
    seal(live / "2026-11-25.parquet", event(9))
    seal(live / "2026-11-26.parquet", event(8, user_id="u10"))
    untouched = (live / "2026-11-26.parquet").stat().st_mtime_ns
    assert forget(live, ["u1", "nobody"], tails=[]) == (2, 3)
    rows = [row["seq"] for path in sealed_files(live) for row in read_sealed(path).to_pylist()]
    assert rows == [2, 8]
    assert (live / "2026-11-26.parquet").stat().st_mtime_ns == untouched
    assert b"live-9" not in (live / "2026-11-25.parquet").read_bytes()
    before = {path: path.read_bytes() for path in live.iterdir()}
    assert forget(live, ["nobody", "u1"], tails=[]) == (0, 0)
    assert {path: path.read_bytes() for path in live.iterdir()} == before


def test_what_was_absorbed_stays_said_when_the_newest_row_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "data" / "simulator"
    seal(live_of(data) / "2026-11-24.parquet", event(7, user_id=OTHER), event(9, user_id=USER))
    forget(live_of(data), [USER], tails=[])
    ingest(data, 1, SMALL, source("simulator"))
    assert (data / "absorbed" / "absorbed.json").read_text() == '{\n  "redis": 0,\n  "sqlite": 9\n}\n'


def test_killed_at_any_moment_it_leaves_whole_files_and_a_second_call_finishes(repository: Path) -> None:
    live = repository / "live" / "simulator"
    for day in range(1, MANY + 1):
        seal(live / f"2025-{day // 28 + 1:02}-{day % 28 + 1:02}.parquet", event(day, user_id=USER), event(day + 99))
    for delay in (0.05, 0.4, 0.6, 0.8, 1.0, 1.2):
        process = subprocess.Popen(
            [sys.executable, "-m", "features.live.forget", USER, f"{USER}-{delay}"],
            cwd=repository,
            env=clones.surroundings(repository),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        read_forgotten(live)
        for path in sealed_files(live):
            assert all(row["seq"] for row in read_sealed(path).to_pylist())
    forgetting(repository, USER)
    rows = [row for path in sealed_files(live) for row in read_sealed(path).to_pylist()]
    assert len(rows) == MANY + 1
    assert all(row["user_id"] != USER for row in rows)
    assert not [path for path in live.iterdir() if path.name.startswith(".") and path.name != ".gitignore"]


def test_a_run_of_ingest_that_is_under_way_is_waited_for(tmp_path: Path) -> None:
    live = tmp_path / "live" / "table"
    live.mkdir(parents=True)
    rwlock = tmp_path / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    reader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.2)", "dvc", "repro"])
    read = {str(live.resolve().parent / "known.json"): [{"pid": reader.pid, "cmd": "dvc repro"}]}
    rwlock.write_text(json.dumps({"write": {}, "read": read}))
    began = time.monotonic()
    program = (
        "from pathlib import Path; from features.sealed.forgotten import add_forgotten; "
        f"add_forgotten(Path({str(live)!r}), ['u1'])"
    )
    writer = subprocess.Popen([sys.executable, "-c", program], cwd=clones.ROOT)
    reader.wait()  # reaped: the process that DVC names is gone
    assert not (live / "forgotten.txt").exists()
    assert writer.wait(timeout=30) == 0
    assert time.monotonic() - began > 1
    assert read_forgotten(live) == {hash_of("u1")}
    assert add_forgotten(live, ["u2"]) == 1  # what a dead process left behind holds nobody up
