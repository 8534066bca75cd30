"""`make run` in the toy repository: what it says and how it exits."""

import subprocess
import sys
from pathlib import Path

from tests.orchestration.conftest import Toy

ROOT = Path(__file__).resolve().parents[2]


def test_a_second_run_reruns_nothing_and_shows_the_same_figures(toy: Toy) -> None:
    first = toy.python("orchestration.reproduce")
    assert first.returncode == 0, first.stderr
    assert "3 of 3 stages ran" in first.stdout
    assert "make done in" in first.stdout
    assert "reports/simulator/" in first.stdout
    second = toy.python("orchestration.reproduce")
    assert "0 of 3 stages ran" in second.stdout
    assert toy.runs == ["make", "count", "render"]
    assert _figures(first.stdout) == _figures(second.stdout)


def test_a_failure_is_one_reason_with_the_stages_own_exit_code(made_toy: Toy) -> None:
    refused = made_toy.python("orchestration.reproduce", "audit.min_session_events=13")
    assert refused.returncode == 2
    assert "audit.min_session_events: 2 -> 13" in refused.stdout
    assert refused.stderr.strip().splitlines() == [
        "count failed: min_session_events is 13, the limit is 12. Lower it in params.yaml.",
        "The last good output stands; what this attempt left is in attempts/count/.",
    ]
    assert made_toy.read("totals/total.txt") == "8"
    blocked = made_toy.python("orchestration.reproduce", "audit.min_session_events=99")
    assert blocked.returncode == 3
    assert (made_toy.root / "attempts/count/made/totals/total.txt").read_text() == "105"


def test_bad_arguments_change_nothing(toy: Toy) -> None:
    before = (toy.root / "params.yaml").read_bytes()
    for words, status in ((["--source", "movie"], 2), (["audit.min=3"], 2), (["nosuchstage"], 1)):
        done = toy.python("orchestration.reproduce", *words)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    assert (toy.root / "params.yaml").read_bytes() == before
    assert toy.runs == []


def test_make_run_imports_no_dagster() -> None:
    code = "import sys, orchestration.reproduce; sys.exit('dagster' in sys.modules or 'dvc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def _figures(said: str) -> list[str]:
    return [line.split("  ")[-1] for line in said.splitlines() if line.startswith(("make ", "count ", "render "))]
