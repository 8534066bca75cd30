"""Every command that README.md and docs/ name is run: by a door's test, read here, or for a reason given here."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOORS = ROOT / "tests" / "doors"
PROGRAMS = ("make", "dvc", "feast", "bentoml", "curl", "python -m", "source")

RUN_ELSEWHERE = {
    "make test": "it is what runs these tests",
    "make lint": "make test runs it",
    "make clean": "tests/contracts/test_running.py runs what it asks before it deletes",
    "make serve HOST=": "it would listen beyond loopback; tests/serving/test_strangers.py reads what it runs",
    "python -m orchestration.reproduce": "it is what make run calls",
    "make serve ONLINE=": "needs a Redis that keeps every write; tests/features/online starts one",
    "make load ONLINE=": "needs a Redis of a deployment; tests/features/online loads into one that it starts",
    "feast materialize-incremental": "tests/features/feast_store/test_feast_repo.py runs it, without typeguard",
    "bentoml containerize": "minutes and an image builder; `make image-check` runs it",
    "dvc repro validate": "what a backfill in Dagster runs: tests/doors/test_ui.py starts one from the page",
    "make spark": "430 MB; tests/features/engine runs on what it installs",
    "python -m benchmarks.worker_memory": "minutes; tests/features/online/test_state_by_key.py is the small form",
    "python -m benchmarks.slopes": "minutes; tests/benchmarks/test_capacity.py reads what it wrote",
    "python -m benchmarks.arrivals": "minutes; tests/features/stages/test_ingest_by_file.py is the small form",
    "python -m serving.replay": "tests/serving/test_request_log.py runs it on what a service logged",
    "source .venv/bin/activate": "a line for the shell that is typed in; what it puts on the path is typed here",
}
"""Commands that no door runs, each with the reason."""


def pages() -> str:
    """README.md and the pages that it links."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))))


def commands_of(text: str) -> set[str]:
    """The commands in a Markdown text: lines of its plain code blocks, and what stands between backticks."""
    lines, prose, fence = [], [], None
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```")
        elif fence is None:
            prose.append(line)
        elif fence == "":
            lines.append(re.sub(r"(^|\s)#.*", "", line))
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "\n".join(prose))]
    parts = [part.strip() for line in lines for part in re.split(r"\s+&&\s+|;\s", line)]
    return {key for part in parts if part.startswith(PROGRAMS) and (key := key_of(part))}


def key_of(command: str) -> str:
    """What makes a command that one: program, target or subcommand, names of variables; SOURCE with its value."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    if len(words) < 2 or words[0] == "source":
        return command if len(words) > 1 else ""
    if words[:2] == ["python", "-m"]:
        return " ".join(words[:3])
    if words[0] == "make":
        given = [
            word if word.startswith("SOURCE=") and "..." not in word else word.partition("=")[0] + "="
            for word in words[2:]
            if "=" in word
        ]
        return " ".join([*words[:2], *sorted(given)]) if re.fullmatch("[a-z]+", words[1]) else ""
    if words[0] == "curl":
        last = next((part.rpartition("/")[2] for part in words if "localhost" in part), "")
        return "curl " + re.sub(r"ids=.*", "ids=", last)
    if words[0] == "bentoml":
        return " ".join(words[:2])
    named = _subcommand(words)
    return " ".join(named) if len(named) > 1 else ""


def _subcommand(words: list[str]) -> list[str]:
    """`feast -c features/repo feature-views list` -> feast feature-views list; `dvc metrics diff`, `dvc repro`."""
    rest, named = words[1:], [words[0]]
    while rest and rest[0].startswith("-"):
        rest = rest[2:]
    return named + [word for word in rest[:2] if re.fullmatch("[a-z][a-z-]+", word)]


def typed_by_doors() -> set[str]:
    """The commands that tests/doors types, by the calls of typed() and started() in its sources."""
    found = set()
    for path in DOORS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("typed", "started"):
                literal = [_literal(argument) for argument in node.args[1:]]
                command = " ".join(shlex.quote(word) if place else word for place, word in enumerate(literal))
                if command.startswith("curl"):
                    continue
                found.add(key_of(command))
    asked = (DOORS / "test_serve.py").read_text()
    for path in ("rank", "events", "recommend"):
        assert f'curl(house, service, "{path}"' in asked
        found.add(f"curl {path}")
    for path in ("similar?k=5", "items?ids="):
        assert f"/{path}" in asked
        found.add(f"curl {path}")
    prepared = (ROOT / "tests" / "prepared.py").read_text()
    assert 'run(add_environment(clone(making)), "make", "run", f"ARGS=' in prepared
    return found | {"make run", "make run ARGS="}


def _literal(node: ast.expr) -> str:
    """A string as written; what is filled in later is left as a mark."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) for part in node.values)
    return "FILLED"


def benchmarks_that_tests_run() -> set[str]:
    """`python -m benchmarks.<name>` whose module a test of benchmarks calls, on a small log."""
    text = "".join(path.read_text() for path in (ROOT / "tests" / "benchmarks").glob("test_*.py"))
    called = re.findall(r'run\(monkeypatch, capsys, "(\w+)"', text)
    called += re.findall(r"from benchmarks\.(\w+) import", text)
    called += [name.strip() for names in re.findall(r"from benchmarks import (.*)", text) for name in names.split(",")]
    return {f"python -m benchmarks.{name}" for name in called}


def is_run(command: str, run: set[str]) -> bool:
    """Whether a command is run, with those variables at least: `make ask` by `make ask PORT=`."""
    name, wanted = _apart(command)
    return any(name == other and wanted <= given for other, given in map(_apart, run))


def _apart(command: str) -> tuple[str, set[str]]:
    words = command.split()
    given = {word for word in words if "=" in word}
    given |= {"SOURCE=" for word in given if word.startswith("SOURCE=")}
    return " ".join(word for word in words if "=" not in word), given


def test_every_command_of_the_readme_is_run() -> None:
    named = commands_of(pages())
    assert {"make ui", "make run DATA= SOURCE=movielens", "dvc exp run", "feast apply", "curl rank"} <= named
    run = typed_by_doors() | benchmarks_that_tests_run()
    missing = {command for command in named if not is_run(command, run)} - RUN_ELSEWHERE.keys()
    assert not missing, f"README.md or docs/ name what no test runs: {sorted(missing)}"


def test_a_reason_is_given_for_nothing_that_is_run_or_not_named() -> None:
    named = commands_of(pages())
    run = typed_by_doors() | benchmarks_that_tests_run()
    assert not {command for command in RUN_ELSEWHERE if is_run(command, run)}
    assert RUN_ELSEWHERE.keys() <= named


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('```\nmake run SOURCE=table DATA=x ARGS="a=1 b=2"  # so\n```', {"make run ARGS= DATA= SOURCE=table"}),
        ("see `dvc metrics diff` and `make push`", {"dvc metrics diff", "make push"}),
        ("```\ndvc exp run -S model.x=8\nfeast -c features/repo ui\n```", {"dvc exp run", "feast ui"}),
        ("by `python -m benchmarks.baselines --tracks\nserving`", {"python -m benchmarks.baselines"}),
        ("```\ncurl -s localhost:3000/rank -d '{}'\n```", {"curl rank"}),
        ("a new door: `make nowhere`", {"make nowhere"}),
    ],
)
def test_commands_are_found_where_they_stand(text: str, keys: set[str]) -> None:
    assert commands_of(text) == keys
