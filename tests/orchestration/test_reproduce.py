"""`make run` in the toy repository: its output and exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.graph import Graph, Stage
from orchestration.reproduce import MEANINGS, _exit, _standing
from tests.orchestration.conftest import Toy

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("make ", "count ", "render ")


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


def test_a_reason_is_printed_once_and_under_make_with_the_exit_code(
    made_toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAKELEVEL", "1")
    blocked = made_toy.python("orchestration.reproduce", "audit.min_session_events=99")
    said = blocked.stdout + blocked.stderr
    assert blocked.returncode == 3
    assert said.count("the total of 6 is refused") == 1, said
    assert said.splitlines()[-1].startswith("Exit code 3: ")
    assert (made_toy.root / "attempts/count/made/totals/total.txt").read_text() == "105"
    for code in MEANINGS:
        with pytest.raises(SystemExit) as ended:
            _exit(code)
        assert ended.value.code == code
        assert capsys.readouterr().err.startswith(f"Exit code {code}: {MEANINGS[code]}. ")


def test_the_summary_is_of_the_stages_that_were_asked(made_toy: Toy) -> None:
    made_toy.set(audit__min_session_events=4)
    done = made_toy.python("orchestration.reproduce", "count")
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith(STAGES)] == ["make", "count"]
    assert "1 of 3 stages ran" in done.stdout
    assert "Not asked: render." in done.stdout


def test_make_run_prints_evaluate_s_sentences_about_the_model(tmp_path: Path) -> None:
    (tmp_path / "evaluate.json").write_text('{"standing": ["MoS .77, DIN .83: DIN is better."]}')
    stage = Stage("evaluate", "", "exec python -m x.evaluate", (), (), (), (), "evaluate.json")
    graph = Graph(tmp_path, (stage,))
    assert _standing(graph, [stage])[1:] == ["How the model stands", "  MoS .77, DIN .83: DIN is better."]
    (tmp_path / "evaluate.json").write_text("{}")
    assert _standing(graph, [stage]) == _standing(graph, []) == []


@pytest.mark.parametrize("data", ["it's here.csv", 'a "b" $HOME `c`.csv', "-x.csv"])
def test_make_run_takes_a_path_as_it_is_typed(tmp_path: Path, data: str) -> None:
    python = tmp_path / ".venv/bin/python"  # a program in place of ours that says what it was given
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock", ".venv/.ready"):
        (tmp_path / name).touch()
    told = subprocess.run(
        ["make", "-s", "-f", str(ROOT / "Makefile"), "run", "SOURCE=table", f"DATA={data}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.splitlines() == ["-m", "orchestration.reproduce", "--source=table", f"--data={data}"], (
        told.stderr
    )


def test_bad_arguments_change_nothing(toy: Toy) -> None:
    before = (toy.root / "params.yaml").read_bytes()
    for words, status in (
        (["--source", "movie"], 2),
        (["--data", "no/such.csv"], 2),
        (["audit.min=3"], 2),
        (["nosuchstage"], 1),
    ):
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
