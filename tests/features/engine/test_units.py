"""Units of work in this process, what a task checks before it runs one, and the errors when Spark is not available."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from contracts.errors import CheckFailed, InputError
from features.engine.engine import HERE, running
from features.engine.task import Place, TaskResult, run_unit
from features.tables import cache as tables_cache
from features.tables.cache import PartitionCache
from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features.redis_server import free_port
from tests.features.spark_cluster import spark_home


def halve(unit: int) -> float:
    """A unit that may be refused (0), fail a check (negative), or raise an unexpected error (13)."""
    if unit == 0:
        raise InputError("nothing to halve")
    if unit < 0:
        raise CheckFailed("below nothing")
    return 1 / (unit - 13) + unit / 2


def write_line(folder: Path, unit: int) -> int:
    with (folder / "lines").open("a") as file:
        file.write(f"{unit}\n")
    return unit


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "token").write_text("here")
    return Place.here(tmp_path / "token", {})


def spark(master: str) -> EngineParams:
    return EngineParams(name="spark", master=master, options={})


def refusal(params: EngineParams, shared: Path) -> str:
    with running(params, shared) as engine, pytest.raises(InputError) as caught:
        list(engine.map(halve, [1, 2], "halving"))
    assert not list(shared.glob(".shared-*"))
    return str(caught.value)


def test_units_run_here_in_order_and_each_when_its_result_is_requested(tmp_path: Path) -> None:
    with running(HERE, tmp_path) as engine:
        results = engine.map(partial(write_line, tmp_path), [3, 1, 2], "writing")
        assert next(results) == 3
        assert (tmp_path / "lines").read_text() == "3\n"
        assert list(results) == [1, 2]


def test_a_task_returns_its_result_and_errors_that_a_retry_would_not_fix(place: Place) -> None:
    assert pickle.loads(run_unit(place, halve, pickle.dumps(12))) == TaskResult(5.0)
    for unit, kind, message in ((0, InputError, "nothing to halve"), (-1, CheckFailed, "below nothing")):
        result = pickle.loads(run_unit(place, halve, pickle.dumps(unit)))
        assert isinstance(result.error, kind)
        assert str(result.error) == message
    with pytest.raises(ZeroDivisionError):  # Spark retries this, then gives up
        run_unit(place, halve, pickle.dumps(13))


def test_a_task_that_sees_other_files_or_other_code_refuses(place: Place, tmp_path: Path) -> None:
    apart = replace(place, token=tmp_path / "elsewhere")
    result: TaskResult = pickle.loads(run_unit(apart, halve, pickle.dumps(2)))
    assert f"does not see {tmp_path / 'elsewhere'}" in str(result.error)
    assert "must share the folder of the repository" in str(result.error)
    result = pickle.loads(run_unit(replace(place, code="of last week"), halve, pickle.dumps(2)))
    assert "is not the driver's. Install the same requirements.lock and code there." in str(result.error)


def test_of_two_attempts_at_a_cache_entry_the_first_is_kept_unless_it_is_damaged(tmp_path: Path) -> None:
    def put(cache: PartitionCache, text: str) -> Path:
        with cache.making() as making:
            (making / "key").mkdir()
            (making / "key" / "rows.arrow").write_text(text)
            cache.put("key", making / "key", {"rows.arrow": 1})
        return cache.file("key", "rows.arrow")

    with PartitionCache.open(tmp_path / "cache") as cache:
        entry = put(PartitionCache(cache.folder), "first")
        inode = entry.stat().st_ino
        assert put(PartitionCache(cache.folder), "first") == entry
        assert entry.stat().st_ino == inode  # readers of it are not disturbed
        entry.write_text("damaged")
        assert put(cache, "mended").read_text() == "mended"
        assert [path.name for path in cache.folder.iterdir() if path.is_dir()] == ["key"]


def test_an_attempt_that_is_killed_takes_no_entry_of_another_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one puts its entry after this one has looked for it; then this one is killed before its rename."""
    with PartitionCache.open(tmp_path / "cache") as cache, cache.making() as making:
        for name in ("this", "other"):
            (making / name).mkdir()
            (making / name / "rows.arrow").write_text("rows")
        other, asked = PartitionCache(cache.folder), []

        def holds(key: str) -> bool:
            found = other.holds(key)
            asked.append(key)
            rename(making / "other", cache.folder / "key")
            return found

        def rename_unless_asked(made: Path, target: Path) -> bool:
            if asked:
                raise KeyboardInterrupt
            return rename(made, target)

        rename = tables_cache.rename_first
        other.put("key", making / "other", {"rows.arrow": 1})
        os.rename(cache.folder / "key", making / "other")  # whole, with its entry.json
        monkeypatch.setattr(cache, "holds", holds)
        monkeypatch.setattr(tables_cache, "rename_first", rename_unless_asked)
        with suppress(KeyboardInterrupt):
            cache.put("key", making / "this", {"rows.arrow": 1})
        assert other.holds("key")


def test_what_tasks_had_put_when_one_failed_is_kept_though_no_result_came(tmp_path: Path) -> None:
    def all_or_nothing() -> Iterator[str]:
        """An engine that returns results when all units have run."""
        with cache.making() as making:
            (making / "first").mkdir()
            (making / "first" / "rows.arrow").write_text("rows")
            PartitionCache(cache.folder).put("first", making / "first", {"rows.arrow": 1})
        raise InputError("the second cannot be read")
        yield ""

    with pytest.raises(InputError), PartitionCache.open(tmp_path / "cache") as cache:
        cache.keep_only([])
        cache.came(all_or_nothing(), ["first", "second"])
    assert PartitionCache(tmp_path / "cache").holds("first")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark")
def test_what_is_no_master_is_called_that(tmp_path: Path) -> None:
    spark_home()
    assert "engine.master: 'loca[2]' is no master of Spark" in refusal(spark("loca[2]"), tmp_path)


def test_without_pyspark_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    said = refusal(spark("local[1]"), tmp_path)
    assert "pyspark is not installed" in said
    assert "make spark" in said


@pytest.mark.skipif(find_spec("pyspark") is None, reason="pyspark is not installed: make spark")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark")
def test_without_java_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    said = refusal(spark("local[1]"), tmp_path)
    assert "there is no java on PATH or at JAVA_HOME. Install Java 17" in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark")
def test_a_master_that_does_not_answer_is_named(tmp_path: Path) -> None:
    spark_home()
    master = f"spark://127.0.0.1:{free_port()}"
    said = refusal(spark(master), tmp_path)
    assert f"Spark at {master} cannot be reached" in said
    assert "engine.name=duckdb" in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor.memory": "2g"}, "engine.options: 'executor.memory' is no setting of Spark"),
        ({"spark.master": "local[2]"}, "it is engine.master"),
    ],
)
def test_options_that_spark_would_ignore_are_named(tmp_path: Path, options: dict[str, str], said: str) -> None:
    spark_home()
    engine = spark("local[1]").model_copy(update={"options": options})
    assert said in refusal(engine, tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyspark")
@pytest.mark.parametrize("options", [{"spark.executor.memory": "lots"}, {"spark.sql.shuffle.partitions": "many"}])
def test_an_option_of_a_wrong_value_is_not_called_a_spark_that_cannot_be_reached(
    tmp_path: Path, options: dict[str, str]
) -> None:
    """In a process of its own: the JVM of a session that did not start stays."""
    spark_home()
    engine = spark("local[1]").model_copy(update={"options": options})
    asked = f"""
import sys
from pathlib import Path
from contracts.errors import InputError
from features.engine.engine import running
from features.tables.cache import key_of
from features.terms.params import EngineParams
try:
    with running(EngineParams.model_validate_json({engine.model_dump_json()!r}), Path({str(tmp_path)!r})) as engine:
        list(engine.map(key_of, ["a"], "a try"))
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    ((name, value),) = options.items()
    assert "Spark at local[1] did not start" in done.stdout
    assert f"Check engine.options ({name}: {value}) first" in done.stdout
    assert "cannot be reached" not in done.stdout


def test_the_duckdb_engine_does_not_import_pyspark() -> None:
    asked = "import sys, features.stages.histories, features.stages.validate; print('pyspark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
