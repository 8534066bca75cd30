"""`make ask` shows one ranking to a person."""

import http.server
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from serving.answering.predictor import Predictor
from serving.ask import draw_candidates, longest_history, main, post, rank_here, titles
from tests.clones import run

PROFILES = "item_profile.parquet"
pytestmark = pytest.mark.xdist_group("serving")


def test_it_picks_a_user_and_items_and_prints_a_ranking(made: Path, predictor: Predictor) -> None:
    told = run(made, "python", "-m", "serving.ask", "--k", "5").stdout
    assert predictor.bundle.manifest.model_version in told
    assert "now in " in told
    assert [line.split()[0] for line in told.splitlines()[5:]] == ["1", "2", "3", "4", "5"]


def test_it_says_why(asking: Callable[..., "Told"], server: httpx.Client) -> None:
    for where in ((), ("--url", str(server.base_url))):
        told = asking(*where, "--explain", "--k", "3")
        assert told.code == 0, told.stderr
        assert told.stdout.count("base ") == 3
        assert "theme +" in told.stdout or "theme -" in told.stdout


class Told(NamedTuple):
    """What the command printed, and how it ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def asking(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """The command in this process, which has imported what it needs."""

    def told(*arguments: str) -> Told:
        monkeypatch.chdir(made)
        monkeypatch.setattr(sys, "argv", ["ask", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Told(code, *capsys.readouterr())

    return told


def test_it_ranks_what_it_is_given(asking: Callable[..., Told]) -> None:
    told = asking("--user", "nobody", "--candidates", "x", "y", "--context", '{"reading_item_id": "i00001"}')
    assert told.code == 0, told.stderr
    assert "cold start" in told.stdout
    assert told.stdout.count("(unknown item)") == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:9"], "make serve"),
        (["--at", "soon"], "ISO 8601"),
        (["--k", "0"], "greater than"),
        (["--context", "reading"], "is not JSON"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(asking: Callable[..., Told], arguments: list[str], says: str) -> None:
    told = asking(*arguments)
    assert (told.code, told.stdout) == (2, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("No ranking: ")
    assert says in line


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"candidates": []}, r"candidates: List should have at least 1 item"),
        ({"candidates": ["a", ""]}, r"candidates.1: String should have at least 1 character"),
        ({"user_id": "a\nb"}, r"user_id: Ids have no control characters"),
        ({"k": 0}, r"k: Input should be greater than"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(told: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}[^\n]*$"):
        rank_here({"user_id": "u", "candidates": ["a"]} | told)


@pytest.mark.parametrize("num_items", [0, 5])
def test_candidates_are_drawn_where_there_are_items(tmp_path: Path, num_items: int) -> None:
    pq.write_table(pa.table({"item_id": pa.array(map(str, range(num_items)), pa.string())}), tmp_path / PROFILES)
    if num_items:
        assert sorted(draw_candidates(tmp_path, 10)) == [*"01234"]
    else:
        with pytest.raises(InputError, match=r"has no items .* --candidates"):
            draw_candidates(tmp_path, 10)


def test_a_refusal_of_the_server_is_its_sentence(asking: Callable[..., Told], server: httpx.Client) -> None:
    told = asking("--url", str(server.base_url), "--at", "soon")
    assert told.code == 2
    assert f"No ranking: {server.base_url} answered 400: at: Input should be an ISO 8601 time" in told.stderr


ANSWERS = {
    "a page": b"<html>",
    "another object": b'{"items": []}',
    "a list": b"[]",
    "no text": b"\xff\xfe",
    "less than it says": None,
    "no HTTP": b"",
}


class Stranger(http.server.BaseHTTPRequestHandler):
    """Something else on the port: it answers 200 to whatever is posted."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        name = self.path.removesuffix("/rank").strip("/").replace("_", " ")
        if name == "no HTTP":
            self.wfile.write(b"SSH-2.0-x\r\n")
            return
        body = ANSWERS[name]
        self.send_response(200)
        self.send_header("content-length", str(50 if body is None else len(body)))
        self.end_headers()
        self.wfile.write(body or b"{")

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.mark.parametrize("name", ANSWERS)
def test_another_program_on_the_port_is_said_in_a_line(name: str) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        thread = threading.Thread(target=stranger.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{stranger.server_port}/{name.replace(' ', '_')}"
        with pytest.raises(InputError, match=r"is not the ranking service.*`make serve` starts one"):
            post(url, {"user_id": "u", "candidates": ["a"]})
        thread.join()


@pytest.mark.parametrize("url", ["http://[::1", "nonsense", "http://127.0.0.1:x"])
def test_what_is_no_url_is_said_in_a_line(url: str) -> None:
    with pytest.raises(InputError, match="`make serve` starts one"):
        post(url, {"user_id": "u", "candidates": ["a"]})


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"PAR1" * 20])
def test_a_snapshot_that_was_cut_short_is_said_in_a_line(tmp_path: Path, content: bytes) -> None:
    for name in ("user_history.parquet", PROFILES):
        (tmp_path / name).write_bytes(content)
    for ask in (longest_history, lambda folder: draw_candidates(folder, 3), titles):
        with pytest.raises(InputError, match=r"\.parquet cannot be read: .*`make pull` fetches it"):
            ask(tmp_path)
