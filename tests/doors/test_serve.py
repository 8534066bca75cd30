"""`make serve` and those who talk to it: `make ask`, the docs' curls, `make absorb`, `make freshness`."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clones import run
from tests.doors.conftest import Started, free_port, started, typed

pytestmark = pytest.mark.xdist_group("door-serve")


def ready(program: Started, port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        program.until(lambda: client.get("/readyz").status_code == 200, 300)


@pytest.fixture(scope="module")
def serving(house: Path) -> Iterator[tuple[Started, int]]:
    """`make serve` and its port."""
    port = free_port()
    with started(house, "make serve", f"PORT={port}", LEITMOTIF_REQUEST_LOG="requests") as program:
        ready(program, port)
        yield program, port


@pytest.fixture
def service(serving: tuple[Started, int]) -> int:
    """The port on which `make serve` answers."""
    return serving[1]


def curl(house: Path, port: int, path: str, body: dict) -> dict:
    """The README's curl."""
    url, sent = f"http://127.0.0.1:{port}/{path}", ("-H", "content-type: application/json", "-d", json.dumps(body))
    return json.loads(typed(house, "curl -sf", url, *sent).stdout)


def test_one_ranking_for_one_known_user(house: Path, service: int) -> None:
    told = typed(house, "make ask", f"PORT={service}").stdout
    assert "now in " in told
    assert "rank  item" in told
    told = typed(house, "make ask", f"PORT={service}", "ARGS=--user u00042").stdout
    assert "user u00042 at " in told


def test_an_event_changes_the_next_ranking_is_sealed_and_seen(house: Path, service: int) -> None:
    asked = {"user_id": "u00042", "candidates": ["i00001", "i00045", "nope"], "k": 2}
    before = curl(house, service, "rank", asked)
    assert len(before["items"]) == 2
    events = [{"user_id": "u00042", "item_id": "i00045", "event_id": "door 1"}]
    assert curl(house, service, "events", {"events": events})["num_new"] == 1
    after = curl(house, service, "rank", asked)
    assert after["history"]["length"] == before["history"]["length"] + 1
    assert "1 live events since" in typed(house, "make freshness").stdout
    assert "sealed 1 in live/simulator/" in typed(house, "make absorb").stdout


def test_what_was_served_is_held_against_what_the_model_was_judged_on(house: Path, service: int) -> None:
    asked = {"user_id": "u00042", "candidates": ["i00001"]}
    for _ in range(3):
        curl(house, service, "rank", asked)
    told = typed(house, "make drift LOG=requests").stdout
    assert "rankings are too few to judge" in told
    assert "See reports/simulator/drift.html" in told
    assert "not judged" in (house / "reports/simulator/drift.html").read_text()


def test_recommendations_and_what_items_are_like(house: Path, service: int) -> None:
    listed = curl(house, service, "recommend", {"user_id": "u00042", "k": 10, "preview": True})["items"]
    assert len(listed) == 10
    item = listed[0]["item_id"]
    similar = json.loads(typed(house, "curl -sf", f"http://127.0.0.1:{service}/items/{item}/similar?k=5").stdout)
    assert len(similar["items"]) == 5
    told = json.loads(typed(house, "curl -sf", f"http://127.0.0.1:{service}/items?ids={item},nope").stdout)
    assert [each["known"] for each in told["items"]] == [True, False]


def test_a_second_one_on_the_port_is_one_line(house: Path, service: int) -> None:
    refused = typed(house, "make serve", f"PORT={service}", check=False)
    lines = [line for line in refused.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, refused.stderr
    assert f"Port {service} is in use by process" in lines[0]
    assert "make serve PORT=" in lines[0]


@pytest.mark.parametrize("port", ["99999", "ten"])
def test_a_port_that_is_none_is_one_line(house: Path, port: str) -> None:
    refused = typed(house, "make serve", f"PORT={port}", check=False)
    lines = [line for line in refused.stderr.splitlines() if not line.startswith("make")]
    assert lines == [f"PORT is '{port}', not a number from 1 to 65535: make serve PORT=3002"]


@pytest.fixture(scope="module")
def tag(house: Path) -> str:
    """The Bento that `make bento` has built."""
    told = typed(house, "make bento").stdout
    return next(line.split()[1] for line in told.splitlines() if line.startswith("Built "))


def test_a_bento_names_the_commit_and_its_bundle_and_holds_code_alone(house: Path, tag: str) -> None:
    source = house / ".bentoml/bentos" / tag.replace(":", "/") / "src"
    held = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()} - {"bentofile.yaml"}
    assert {name.partition("/")[0] for name in held} == {"contracts", "features", "serving", "training"}
    assert {Path(name).suffix for name in held} == {".py", ".html", ".css", ".js", ".svg"}
    model = json.loads((house / "data/simulator/bundle/bundle.json").read_text())["bundle_hash"][:12]
    assert f"tag: leitmotif-bundle:{model}" in (source.parent / "bento.yaml").read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=house, capture_output=True, text=True, check=True).stdout
    assert f"git_revision: {commit.strip()}" in (source.parent / "bento.yaml").read_text()


WITHOUT_OURS = "import sys\nsys.meta_path[:] = [each for each in sys.meta_path if '__editable__' not in str(each)]\n"
"""Python's sitecustomize.py: as in an image, where `pip install -e` has not made our code importable from anywhere."""


def test_a_bento_serves_from_an_empty_folder_as_the_repository_does(
    house: Path, service: int, tag: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_OURS)
    found = run(tmp_path, sys.executable, "-c", "import training", check=False, PYTHONPATH=str(tmp_path))
    assert "No module named 'training'" in found.stderr
    port = free_port()
    given = {"BENTOML_HOME": str(house / ".bentoml"), "LEITMOTIF_STATE": str(house / ".state/simulator/feast")}
    with started(tmp_path, f"bentoml serve {shlex.quote(tag)}", "--port", str(port), **given) as program:
        ready(program, port)
        asked = {"user_id": "u00007", "candidates": ["i00001", "i00045", "nope"]}
        answer = curl(house, service, "rank", asked | {"at": "2024-02-01T00:00:00Z"})
        assert len(answer["items"]) == 3
        assert curl(house, port, "rank", asked | {"at": answer["at"]}) == answer
        assert len(program.family()) > 1
        program.process.kill()
        assert program.gone(20), program.family()


def test_typed_plainly_it_is_built_and_served(house: Path, service: int) -> None:
    told = typed(house, "bentoml build").stdout
    assert 'Successfully built Bento(tag="leitmotif:' in told
    port = free_port()
    with started(house, "bentoml serve", "--port", str(port), LEITMOTIF_WORKERS="2") as program:
        ready(program, port)
        asked = {"user_id": "u00007", "candidates": ["i00001", "i00045"], "at": "2024-02-01T00:00:00Z"}
        assert curl(house, port, "rank", asked) == curl(house, service, "rank", asked)
        assert sum("_bentoml_impl.worker" in command for command in program.family().values()) == 2


def test_nothing_is_built_without_a_bundle_and_one_line_says_so(house: Path, tmp_path: Path) -> None:
    refused = typed(house, "bentoml build", check=False, LEITMOTIF_BUNDLE=str(tmp_path))
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert f"{tmp_path} holds no bundle.json: it is not a bundle." in " ".join(said.split())
    assert "Traceback" not in said


def test_a_bento_without_its_store_says_what_works_there(house: Path, tag: str, tmp_path: Path) -> None:
    given = {"BENTOML_HOME": str(house / ".bentoml"), "LEITMOTIF_STATE": str(tmp_path / "nothing")}
    refused = typed(tmp_path, f"bentoml serve {tag}", "--port", str(free_port()), check=False, **given)
    assert refused.returncode != 0
    assert "Not serving: " in refused.stderr
    assert f"This is a Bento, which has no `make`. LEITMOTIF_STATE is {tmp_path}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_killed_it_leaves_no_process(serving: tuple[Started, int]) -> None:
    program, _ = serving
    assert len(program.family()) > 2
    os.kill(program.process.pid, signal.SIGKILL)
    program.process.wait(10)
    assert program.gone(30), program.family()
