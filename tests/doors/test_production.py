"""The same code location as a production instance: Postgres, web server and daemon as processes of their own."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.clones import ROOT
from tests.doors.conftest import free_port, started, typed
from tests.doors.test_ui import Dagster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("door-ui")]

DRIVER = "postgresql+psycopg2"
"""SQLAlchemy 2.1 takes plain `postgresql` for psycopg 3, and dagster-postgres brings psycopg2."""
MATERIALIZED = """{assetNodes(assetKeys: [{path: ["bundle"]}]) {assetMaterializations(limit: 1) {timestamp}}}"""


def programs() -> Path | None:
    """The folder of Postgres's programs; Debian keeps them off PATH."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), Path(shutil.which("initdb") or "/nowhere").parent]
    wanted = ("initdb", "postgres", "pg_isready")
    return next((each for each in folders if all((each / name).exists() for name in wanted)), None)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty Postgres of its own; its address."""
    pytest.importorskip("dagster_postgres")
    folder = programs()
    if folder is None:
        pytest.skip("no Postgres: apt-get install postgresql")
    home = tmp_path_factory.mktemp("postgres")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    if user:
        home = Path("/var/tmp") / f"leitmotif-postgres-{os.getpid()}"
        home.mkdir()
        shutil.chown(home, user)
    data, port = home / "data", free_port()
    subprocess.run(
        [folder / "initdb", "-D", data, "-U", "dagster", "--auth=trust", "-E", "UTF8"],
        user=user, cwd=home, check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [folder / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""],
        user=user, cwd=home, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ready = [folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        for _ in range(150):
            if subprocess.run(ready, check=False).returncode == 0:
                break
            assert server.poll() is None
            time.sleep(0.2)
        yield f"://dagster@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def test_the_same_code_location_runs_over_postgres_with_a_daemon(house: Path, postgres: str, tmp_path: Path) -> None:
    import psycopg2

    shutil.copyfile(ROOT / "deploy/dagster/dagster.yaml", tmp_path / "dagster.yaml")
    environment = {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_POSTGRES_URL": DRIVER + postgres,
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    port = free_port()
    typed(house, "python -m orchestration.recover", **environment)
    with (
        started(house, f"dagster-webserver -p {port}", **environment) as web,
        started(house, "dagster-daemon run", **environment) as daemon,
    ):
        page = Dagster(web, port)
        with page.client:
            page.load()
            page.ends(page.launch("absorb"))
            told = lambda: page.ask(MATERIALIZED)["assetNodes"][0]["assetMaterializations"]  # noqa: E731
            daemon.until(told, 120, every_s=1)
    with psycopg2.connect(f"postgresql{postgres}") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert cursor.fetchall() == [("SUCCESS",)]
    connection.close()


def test_but_for_its_storage_it_is_set_as_make_ui_sets_it() -> None:
    here, there = (
        YAML(typ="safe").load((ROOT / path).read_text())
        for path in ("orchestration/dagster.yaml", "deploy/dagster/dagster.yaml")
    )
    assert {key: there[key] for key in here} == here
    assert set(there) - set(here) == {"storage"}
