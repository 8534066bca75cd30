"""Every partition of the log is an asset partition with its figures, validated by Dagster or by `dvc repro`."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import dagster as dg
import pytest

from features.quality.outcomes import SHOWN
from orchestration.partitions import ASSET, BESIDE, COUNTS, PARTITIONS
from orchestration.plots import IN_PLACE, NEWEST, bars
from tests.orchestration.conftest import Seen, Toy, environment
from tests.orchestration.test_doors import Door

pytestmark = pytest.mark.filterwarnings(  # Dagster's words about itself
    "ignore::dagster.PreviewWarning",
    "ignore::dagster.BetaWarning",
    "ignore::DeprecationWarning",
)
DAYS = [f"2024-01-0{day}" for day in range(1, 5)]
JUDGE = """  judge:
    cmd: exec python -m toy.judge
    params: [audit]
    deps:
      - data/${source.id}/interactions
      - toy/judge.py
    outs: ["data/${source.id}/profile"]
    metrics:
      - reports/${source.id}/judge.json: {cache: false}
"""


class Days(Door):
    """The door to a pipeline that judges days."""

    def known(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(str(PARTITIONS.name)))

    def events(self, day: str) -> list[dg.AssetMaterialization]:
        """Dagster's events of a day, newest first."""
        wanted = dg.AssetRecordsFilter(asset_key=ASSET, asset_partitions=[day])
        records = self.instance.fetch_materializations(wanted, limit=20).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def backfill(self, first: str, last: str, **config: object) -> dg.ExecuteInProcessResult:
        """The one run that the page's backfill of these days starts."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[ASSET],
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
            run_config={"ops": {"judge_partitions": {"config": config}}} if config else {},
            raise_on_error=False,
        )


@pytest.fixture(scope="module")
def judged(made_template: Path, empty_instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The toy pipeline with a stage that judges days, run once by `dvc repro`, seen by Dagster's sensor."""
    home = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        root = shutil.copytree(made_template, home / "repository")
        with (root / "dvc.yaml").open("a") as file:
            file.write(JUDGE)
        Toy(root).dvc("repro", "judge")
        return Seen.by(Days, root, empty_instance)


@pytest.fixture
def days(judged: Seen, toy: Toy) -> Iterator[Days]:
    """A copy of both: the repository, where `toy` is, and what Dagster was told."""
    with judged.copied(Days, toy.root) as door:
        yield door


def test_after_dvc_repro_every_day_is_there_with_its_figures_and_its_failure(days: Days) -> None:
    assert days.known() == DAYS
    (event,) = days.events(DAYS[0])
    assert (event.metadata["failed expectations"].value, event.metadata["rows_in"].value) == (0, 1)
    (event,) = days.events(DAYS[3])
    assert event.metadata["dagster/partition_row_count"].value == 4
    assert "| no day has too many rows | warning | 4 | at most 2 |" in str(event.metadata["why"].value)
    assert event.description == "4 of 4 rows are valid, 50.0% clicked; 1 expectations failed."
    assert "nothing new" in days.tick()


def test_only_days_with_changed_figures_are_reported_again(days: Days, toy: Toy) -> None:
    toy.set(audit__min_session_events=3)  # the third day fails no longer; the fourth has another limit
    toy.dvc("repro", "judge")
    told = days.tick()
    assert [day for day in DAYS if f"{ASSET.to_user_string()} {day}" in told] == DAYS[2:]
    assert [len(days.events(day)) for day in DAYS] == [1, 1, 2, 2]
    assert "why" not in days.events(DAYS[2])[0].metadata


def test_a_backfill_of_three_days_is_one_run_that_reports_each_and_leaves_dvc_nothing(days: Days, toy: Toy) -> None:
    toy.set(seed=4)  # a fifth day; ingest is what has to run first
    run = days.backfill(DAYS[1], DAYS[3])
    assert run.success
    assert toy.runs[-2:] == ["make", "judge"]
    assert [len(days.events(day)) for day in DAYS] == [1, 2, 2, 2]
    assert {days.events(day)[0].tags["dagster/data_version"] for day in DAYS[1:]} != {None}
    assert days.known() == [*DAYS, "2024-01-05"]
    assert len(days.events("2024-01-05")) == 1
    assert "up to date" in toy.dvc("status", "judge")
    told = days.tick()
    assert "partition" not in told


def test_without_changes_nothing_runs_unless_forced(days: Days, toy: Toy) -> None:
    ran = toy.runs
    assert days.backfill(DAYS[0], DAYS[0]).success
    assert toy.runs == ran
    assert days.backfill(DAYS[0], DAYS[0], again=True).success
    assert toy.runs == [*ran, "judge"]


def test_a_day_that_the_log_no_longer_has_goes_and_is_refused(days: Days, toy: Toy) -> None:
    toy.set(seed=2)
    run = days.backfill(DAYS[3], DAYS[3])
    (failure,) = [event.step_failure_data for event in run.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "2024-01-04: the log has no such partition now" in str(failure.user_failure_data.description)
    days.tick()
    assert days.known() == DAYS[:3]


def test_days_that_validate_does_not_name_are_not_called_good_and_a_new_day_changes_no_other(
    days: Days, toy: Toy
) -> None:
    toy.set(seed=7, audit__min_session_events=1)  # seven of eight days fail, five are named
    toy.dvc("repro", "judge")
    days.tick()
    named, other = (days.events(day)[0] for day in (f"2024-01-0{SHOWN + 1}", f"2024-01-0{SHOWN + 2}"))
    assert named.metadata["failed expectations"].value == 1
    assert "failed expectations" not in other.metadata
    assert other.description is not None
    assert "validate names only the first 5 of 7 partitions that fail: no day has too many rows" in other.description
    assert "every expectation holds" not in other.description
    toy.set(seed=8)
    toy.dvc("repro", "judge")
    told = days.tick()
    assert [day for day in days.known() if f"{ASSET.to_user_string()} {day}" in told] == ["2024-01-09"]


def test_an_earlier_day_that_arrives_late_is_in_order(instance: dg.DagsterInstance) -> None:
    from orchestration.partitions import _keep_names

    for names in (DAYS[1:], DAYS, [DAYS[0], DAYS[2]]):
        _keep_names(instance, names)
        assert list(instance.get_dynamic_partitions(str(PARTITIONS.name))) == names


def test_the_figures_are_columns_of_the_real_profile() -> None:
    from features.quality.profile import PROFILE

    assert {*COUNTS, *BESIDE, "click_rate", "rows_valid", "partition"} <= set(PROFILE.names)


def test_a_picture_has_a_bar_for_each_partition_its_own_marked_and_is_shown_in_place() -> None:
    values = {f"2024-02-{place:02}": float(place) for place in range(NEWEST + 5)}
    picture = bars("Rows <b>", values, ["2024-02-34"])
    assert len(picture) < IN_PLACE
    assert not set(" <>()") & set(picture.removeprefix("![Rows <b>](").removesuffix(")"))  # a markdown address
    blue, orange = re.findall(r"d='([^']+)'", unquote(picture))
    tops = [int(top) for top in re.findall(r"V(\d+)", blue)]
    assert len(tops) == NEWEST - 1
    assert tops == sorted(tops, reverse=True)
    assert orange.count("M") == 1
    assert bars("of nothing", {}).startswith("![of nothing]")
