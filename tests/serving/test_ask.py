"""`make ask` shows one ranking to a person."""

from pathlib import Path

import httpx
import pytest

from serving.predictor import Predictor
from tests.clones import run

pytestmark = pytest.mark.xdist_group("serving")


def test_it_picks_a_user_and_items_and_prints_a_ranking(made: Path, predictor: Predictor) -> None:
    told = run(made, "python", "-m", "serving.ask", "--k", "5").stdout
    assert predictor.bundle.manifest.model_version in told
    assert "now in " in told
    assert [line.split()[0] for line in told.splitlines()[5:]] == ["1", "2", "3", "4", "5"]


def test_it_ranks_what_it_is_given(made: Path) -> None:
    given = ("--user", "nobody", "--candidates", "x", "y", "--context", '{"reading_item_id": "i00001"}')
    told = run(made, "python", "-m", "serving.ask", *given).stdout
    assert "cold start" in told
    assert told.count("(unknown item)") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:9"], "make serve"),
        (["--at", "soon"], "ISO 8601"),
        (["--k", "0"], "greater than"),
        (["--context", "reading"], "is not JSON"),
        (["--candidates", ""], "candidates.0: String should have at least 1 character"),
        (["--user", "a\nb"], "control characters"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(made: Path, arguments: list[str], says: str) -> None:
    done = run(made, "python", "-m", "serving.ask", *arguments, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "No ranking" in line] == [done.stderr.splitlines()[-1]]


def test_a_refusal_of_the_server_is_its_sentence(made: Path, server: httpx.Client) -> None:
    done = run(made, "python", "-m", "serving.ask", "--url", str(server.base_url), "--at", "soon", check=False)
    assert done.returncode == 2
    assert f"No ranking: {server.base_url} answered 400: at: Input should be an ISO 8601 time" in done.stderr
