"""Logs and the DVC remote in a bucket: a real S3 server (moto's) on loopback, in a process of its own."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InputError
from orchestration import fetch as module
from orchestration.fetch import fetch
from tests.clones import clone, run
from tests.s3_server import S3Server


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    served = S3Server(tmp_path_factory.mktemp("store"))
    yield served
    served.client.close()
    served.end()


@pytest.fixture
def store(shared_store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The store with an empty bucket logs; the environment names it, and the folder is empty."""
    _prepared(shared_store, tmp_path, monkeypatch)
    for each in shared_store.client.list_buckets()["Buckets"]:
        for key in shared_store.client.list_objects_v2(Bucket=each["Name"]).get("Contents", []):
            shared_store.client.delete_object(Bucket=each["Name"], Key=key["Key"])
    shared_store.client.create_bucket(Bucket="logs")
    return shared_store


def _prepared(store: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (store.environment | {"HOME": str(folder)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)


def _held(path: str) -> dict[str, bytes]:
    root = Path(path)
    return {each.relative_to(root).as_posix(): each.read_bytes() for each in root.rglob("*") if each.is_file()}


def test_one_object_is_a_file_and_a_prefix_is_a_folder(store: S3Server) -> None:
    store.put("2026/log.csv", b"one")
    for key in ("days/1.csv", "days/deeper/2.csv", "days/_SUCCESS", "days/.hidden", "dayside.csv"):
        store.put(key, key.encode())
    path, said = fetch("s3://logs/2026/log.csv")
    assert Path(path).read_bytes() == b"one"
    assert "1 objects, 0.0 MB came to fetched/log-" in said
    path, _ = fetch("s3://logs/days/")
    assert _held(path) == {"1.csv": b"days/1.csv", "deeper/2.csv": b"days/deeper/2.csv"}


def test_an_object_of_the_same_etag_is_not_fetched_again_and_one_that_went_goes(store: S3Server) -> None:
    for number in range(3):
        store.put(f"days/{number}.csv", b"x" * 10**6)
    path, said = fetch("s3://logs/days")
    assert "3 objects, 3.0 MB" in said
    first = {each.name: each.stat().st_ino for each in Path(path).iterdir()}
    assert "nothing changed since" in fetch("s3://logs/days")[1]
    assert {each.name: each.stat().st_ino for each in Path(path).iterdir()} == first
    store.put("days/1.csv", b"y" * 2 * 10**6)
    store.client.delete_object(Bucket="logs", Key="days/2.csv")
    assert "2 objects, 2.0 MB" in fetch("s3://logs/days")[1]
    assert {name: content[:1] for name, content in _held(path).items()} == {"0.csv": b"x", "1.csv": b"y"}
    assert (Path(path) / "0.csv").stat().st_ino == first["0.csv"]
    (Path(path) / "0.csv").unlink()
    assert "2 objects, 3.0 MB" in fetch("s3://logs/days")[1], "a file that is not as it came is fetched with the others"


def test_what_cannot_be_fetched_is_one_error_and_what_was_fetched_stands(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("log.csv", b"good")
    path, _ = fetch("s3://logs/log.csv")
    store.put("log.csv", b"newer")
    for url, message in (
        ("s3://nowhere/log.csv", "s3://nowhere/log.csv: no such bucket, or nothing is there"),
        ("s3://logs/other.csv", "s3://logs/other.csv: n"),
        ("s3://", "s3:// names no bucket"),
    ):
        with pytest.raises(InputError, match=message):
            fetch(url)
    store.put("up/../../out.csv", b"elsewhere")
    with pytest.raises(InputError, match="cannot be a file's name"):
        fetch("s3://logs/up")
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(InputError, match=r"no credentials.*Set AWS_ACCESS_KEY_ID.*what was fetched before stands"):
            fetch("s3://logs/log.csv")
    assert Path(path).read_bytes() == b"good"
    assert not list(Path("fetched").glob(".staging*"))


def test_an_object_that_changes_while_it_is_read_is_refused(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("log.csv", b"good")
    path, _ = fetch("s3://logs/log.csv")
    store.put("log.csv", b"a" * 10**6)
    monkeypatch.setattr(module, "BLOCK", 2**16)
    read = module._blocks

    def overtaken(source: Any) -> Iterator[bytes]:
        for number, block in enumerate(read(source)):
            yield block
            if number == 0:
                store.put("log.csv", b"b" * 10**6)

    monkeypatch.setattr(module, "_blocks", overtaken)
    with pytest.raises(InputError, match="changed while it was being fetched"):
        fetch("s3://logs/log.csv")
    assert Path(path).read_bytes() == b"good"


def test_a_store_that_goes_away_in_the_midst_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Server(tmp_path)
    _prepared(store, tmp_path, monkeypatch)
    store.client.create_bucket(Bucket="logs")
    store.put("log.csv", b"good")
    path, _ = fetch("s3://logs/log.csv")
    store.put("log.csv", b"a" * 10**6)
    monkeypatch.setattr(module, "BLOCK", 2**16)
    read = module._blocks

    def cut(source: Any) -> Iterator[bytes]:
        for block in read(source):
            yield block
            store.end()

    monkeypatch.setattr(module, "_blocks", cut)
    with pytest.raises(InputError, match=r"the store does not answer.*what was fetched before stands"):
        fetch("s3://logs/log.csv")
    with pytest.raises(InputError, match="the store does not answer"):
        fetch("s3://logs/log.csv")
    assert Path(path).read_bytes() == b"good"
    store.client.close()


def test_make_run_reads_a_log_from_a_bucket_and_a_refusal_changes_nothing(store: S3Server, tmp_path: Path) -> None:
    rows = [f"u{n % 5},i{n % 7},{1_700_000_000 + n},{n % 3 == 0:d}" for n in range(200)]
    store.put("log.csv", "\n".join(["who,what,at,hit", *rows]).encode())
    house = clone(tmp_path / "house")
    columns = [f"source.columns.{ours}={theirs}" for ours, theirs in (
        ("user_id", "who"), ("item_id", "what"), ("occurred_at", "at"), ("label", "hit"))]  # fmt: skip
    command = [sys.executable, "-m", "orchestration.reproduce", "--source=table"]
    before = (house / "params.yaml").read_bytes()
    refused = run(house, *command, "--data=s3://logs/none.csv", *columns, "source.time_unit=s", "ingest", check=False)
    assert refused.returncode == 2
    assert "params.yaml stays as it was. s3://logs/none.csv" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (house / "params.yaml").read_bytes() == before
    done = run(house, *command, "--data=s3://logs/log.csv", *columns, "source.time_unit=s", "ingest")
    assert "s3://logs/log.csv: 1 objects" in done.stdout
    (report,) = (house / "reports").glob("log-*/ingest.json")
    assert json.loads(report.read_text())["rows_written"] == 200
    again = run(house, *command, "--data=s3://logs/log.csv", "ingest")
    assert "nothing changed since" in again.stdout
    assert "0 of 11 stages ran" in again.stdout


def test_the_dvc_remote_may_be_a_bucket(store: S3Server, tmp_path: Path) -> None:
    """As `make remote URL=s3://...`, `make push` and `make pull` type it."""
    for command in (
        ["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "remote", "add", "-q", "-d", "storage", "elsewhere"],
        ["dvc", "remote", "modify", "--local", "storage", "url", "s3://logs/leitmotif"],
    ):  # fmt: skip
        run(tmp_path, *command)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a").write_bytes(os.urandom(10**5))
    run(tmp_path, "dvc", "add", "-q", "weights")
    held = _held("weights")
    run(tmp_path, "dvc", "push", "--run-cache")
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "weights")
    run(tmp_path, "dvc", "pull", "--run-cache")
    assert _held("weights") == held
    gone = run(tmp_path, "dvc", "remote", "modify", "--local", "storage", "url", "s3://nowhere/x")
    assert gone.returncode == 0
    (tmp_path / "weights" / "b").write_bytes(b"more")
    run(tmp_path, "dvc", "add", "-q", "weights")
    failed = run(tmp_path, "dvc", "push", check=False)
    assert failed.returncode != 0
    assert "The specified bucket does not exist" in failed.stderr
