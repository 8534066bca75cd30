"""`make ui`: the page shows the assets, the pipeline is launched there, a parameter is changed in the Launchpad."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from contracts.params import load_params
from tests.clones import clone, hashes
from tests.doors.conftest import Started, free_port, started, typed
from tests.prepared import add_environment, prepared

pytestmark = pytest.mark.xdist_group("door-ui")

CHROMIUM = "/usr/bin/chromium"
LOCATIONS = """{workspaceOrError{... on Workspace{locationEntries{name loadStatus locationOrLoadError{__typename
... on PythonError{message} ... on RepositoryLocation{repositories{name}}}}}}}"""
LAUNCH = """mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename
... on LaunchRunSuccess{run{runId}} ... on RunConfigValidationInvalid{errors{message}} ... on PythonError{message}}}"""
STATUS = "query($r: ID!) {runOrError(runId: $r) {... on Run{status}}}"
FAILURES = """query($r: ID!) {logsForRun(runId: $r) {... on EventConnection{events{
__typename ... on ExecutionStepFailureEvent{stepKey message error{message}}}}}}"""


PARTITIONS = """{assetNodeOrError(assetKey: {path: ["partition_quality"]}) {... on AssetNode{partitionKeys}}}"""
BACKFILLS = "{partitionBackfillsOrError {... on PartitionBackfills{results{status numPartitions}}}}"
RUNS = "{runsOrError {... on Runs{results{status tags{key} assetMaterializations{partition}}}}}"


class Dagster:
    """The running web server."""

    def __init__(self, program: Started, port: int) -> None:
        self.program = program
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)  # a new one for each question would cost more than it
        self.place: dict[str, str] = {}

    def ask(self, query: str, **variables: Any) -> Any:
        """GraphQL, as the page does."""
        answer = self.client.post("/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def load(self) -> None:
        """Wait for the code location and keep its name."""

        def loaded() -> bool:
            entries = self.ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
            if not entries or entries[0]["loadStatus"] != "LOADED":
                return False
            (entry,) = entries
            location = entry["locationOrLoadError"]
            assert location["__typename"] == "RepositoryLocation", location.get("message")
            self.place = {
                "repositoryLocationName": entry["name"],
                "repositoryName": location["repositories"][0]["name"],
            }
            return True

        self.program.until(loaded, 300, every_s=0.5)

    def launch(self, job: str, config: dict[str, Any] | None = None, *assets: str) -> str:
        """Launch a job as the page does, its Launchpad's config given; its run id."""
        selector = {**self.place, "jobName": job}
        if assets:
            selector["assetSelection"] = [{"path": [asset]} for asset in assets]
        done = self.ask(LAUNCH, p={"selector": selector, "runConfigData": config or {}})["launchRun"]
        assert done["__typename"] == "LaunchRunSuccess", done
        return done["run"]["runId"]

    def ends(self, run_id: str, status: str = "SUCCESS") -> None:
        """Wait for a run's end."""
        over = ("SUCCESS", "FAILURE", "CANCELED")
        self.program.until(lambda: self.status(run_id) in over, 600, every_s=0.5)
        assert self.status(run_id) == status, self.failures(run_id) or self.program.said[-4000:]

    def status(self, run_id: str) -> str:
        """QUEUED, STARTED, SUCCESS, ..."""
        return self.ask(STATUS, r=run_id)["runOrError"]["status"]

    def backfills(self) -> list[str]:
        """How all backfills stand."""
        return [each["status"] for each in self.ask(BACKFILLS)["partitionBackfillsOrError"]["results"]]

    def failures(self, run_id: str) -> list[Any]:
        """What the failed steps of a run say."""
        events = self.ask(FAILURES, r=run_id)["logsForRun"]["events"]
        return [event for event in events if event["__typename"] == "ExecutionStepFailureEvent"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """A new clone with the parameters of the one in which `make run` has run."""
    new = add_environment(clone(tmp_path_factory.mktemp("new")))
    (new / "params.yaml").write_text((made / "params.yaml").read_text())
    return new


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `make run` has run."""
    return prepared(tmp_path_factory)


@pytest.fixture(scope="module")
def dagster(house: Path) -> Iterator[Dagster]:
    """`make ui` on a free port, its code location loaded."""
    port = free_port()
    with started(house, "make ui", f"PORT={port}") as program:
        running = Dagster(program, port)
        with running.client:
            running.load()
            yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A real browser."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1600, "height": 1000})
        browser.close()


@pytest.fixture
def days(dagster: Dagster) -> list[str]:
    """The partitions of the small log, as Dagster knows them once validate has run."""
    return dagster.ask(PARTITIONS)["assetNodeOrError"]["partitionKeys"]


def test_a_full_run_in_dagster_makes_the_same_outputs_as_make_run_and_dvc_has_nothing_to_do(
    dagster: Dagster, house: Path, made: Path
) -> None:
    dagster.ends(dagster.launch("everything"))
    assert hashes(house / "data") == hashes(made / "data")
    assert "up to date" in typed(house, "dvc status").stdout


def test_a_parameter_of_the_launchpad_changes_the_asset(dagster: Dagster, house: Path) -> None:
    before = (house / "reports/simulator/audit.json").read_text()
    wanted = load_params(house / "params.yaml")["audit"].min_session_events + 2
    config = {"ops": {"audit": {"config": {"audit": {"min_session_events": wanted}}}}}
    dagster.ends(dagster.launch("everything", config, "shift_audit", "shift_page"))
    assert load_params(house / "params.yaml")["audit"].min_session_events == wanted
    assert (house / "reports/simulator/audit.json").read_text() != before


def test_the_page_shows_the_assets_materialized_and_no_error(dagster: Dagster, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{dagster.url}/assets")
    for asset in ("absorbed", "bundle", "coclicks", "contexts"):
        page.get_by_text(asset, exact=True).first.wait_for(timeout=60_000)
    page.get_by_text("Materialized").first.wait_for(timeout=60_000)
    assert not page.get_by_text("Failed").count()
    page.goto(f"{dagster.url}/deployment/locations")
    page.get_by_text("Loaded", exact=True).first.wait_for(timeout=60_000)
    assert not errors


def test_a_parameter_of_the_wrong_type_is_refused_before_a_run_begins(dagster: Dagster) -> None:
    config = {"ops": {"audit": {"config": {"audit": {"num_draws": "many"}}}}}
    selector = {**dagster.place, "jobName": "everything"}
    done = dagster.ask(LAUNCH, p={"selector": selector, "runConfigData": config})["launchRun"]
    assert done["__typename"] == "RunConfigValidationInvalid"
    assert "num_draws" in done["errors"][0]["message"]


def test_the_graph_shows_every_group(dagster: Dagster, page: Page) -> None:
    page.goto(f"{dagster.url}/asset-groups")
    for group in ("features", "training", "serving"):
        page.get_by_text(group, exact=True).last.wait_for(timeout=60_000)


def test_a_partition_shows_its_picture_and_a_link_that_opens(dagster: Dagster, page: Page, days: list[str]) -> None:
    page.goto(f"{dagster.url}/assets/partition_quality?view=partitions&partition={days[1]}")
    picture = page.locator("img[alt='Valid rows by partition']")
    picture.wait_for(timeout=60_000)
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    link = page.get_by_role("link", name="quality.html").first.get_attribute("href")
    assert link is not None
    answer = httpx.get(link)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert httpx.get(link, headers={"Host": "elsewhere.example"}).status_code == 421
    assert httpx.get(link.replace("quality.html", "ingest.json")).status_code == 404


def test_a_failed_check_says_why(dagster: Dagster, page: Page) -> None:
    """The small pipeline is too small for a verdict, which is a check that did not pass."""
    page.goto(f"{dagster.url}/assets/metrics?view=checks")
    page.get_by_text("model_is_good_enough").first.wait_for(timeout=60_000)
    page.get_by_text("model_is_good_enough").first.click()
    page.get_by_text("not judged:").first.wait_for(timeout=60_000)


def test_a_backfill_of_three_partitions_from_the_page_is_one_run(
    dagster: Dagster, page: Page, days: list[str], house: Path
) -> None:
    page.goto(f"{dagster.url}/assets/partition_quality?view=partitions&partition={days[1]}")
    page.get_by_role("button", name="Materialize").first.click(timeout=60_000)
    dialog = page.get_by_role("dialog")
    dialog.locator("span").filter(has_text=days[1]).last.click(timeout=60_000)
    for day in days[2:4]:
        page.locator("label").filter(has_text=day).click()
    page.keyboard.press("Escape")
    dialog.get_by_text("3 partitions").wait_for()
    dialog.get_by_text("Backfills all partitions in a single run.").wait_for()
    page.get_by_role("button", name="Launch backfill").click()
    dagster.program.until(lambda: dagster.backfills() == ["COMPLETED_SUCCESS"], 300, every_s=1)
    runs = dagster.ask(RUNS)["runsOrError"]["results"]
    (run,) = [each for each in runs if "dagster/backfill" in {tag["key"] for tag in each["tags"]}]
    assert run["status"] == "SUCCESS"
    assert [each["partition"] for each in run["assetMaterializations"]] == days[1:4]
    assert "up to date" in typed(house, "dvc status validate").stdout


def test_live_events_are_sealed_there(dagster: Dagster) -> None:
    dagster.ends(dagster.launch("absorb"))


def test_a_run_whose_process_is_killed_keeps_no_other_from_running(dagster: Dagster) -> None:
    """As the kernel does where memory runs out. Dagster fails such a run, but leaves its place in the pool taken."""
    config = {"ops": {"audit": {"config": {"audit": {"num_draws": 3000}}}}}
    killed = dagster.launch("everything", config, "shift_audit", "shift_page")
    dagster.program.until(lambda: _worker(dagster), 120)
    os.kill(_worker(dagster), signal.SIGKILL)
    dagster.ends(killed, "FAILURE")
    dagster.ends(dagster.launch("absorb"))


def _worker(dagster: Dagster) -> int:
    """The process of the run: the parent of the `dvc repro` of its stage; 0 while there is none."""
    stages = [pid for pid, said in dagster.program.family().items() if "-m dvc repro" in said]
    return int(Path(f"/proc/{stages[0]}/stat").read_text().rpartition(")")[2].split()[1]) if stages else 0


def test_a_second_one_on_the_port_is_one_line(dagster: Dagster, house: Path) -> None:
    port = dagster.url.rpartition(":")[2]
    refused = typed(house, "make ui", f"PORT={port}", check=False)
    lines = [line for line in refused.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, refused.stderr
    assert f"Port {port} is in use by process" in lines[0]
    assert "make ui PORT=" in lines[0]


def test_killed_it_leaves_no_process(dagster: Dagster) -> None:
    program = dagster.program
    commands = program.family().items()
    (server,) = [pid for pid, said in commands if "dagster dev --port" in said and "orchestration.door" not in said]
    os.kill(server, signal.SIGKILL)
    assert program.gone(40), program.family()
