"""The client and the figures of the comparison with plain FastAPI, against a small server."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from benchmarks import rank_speed
from benchmarks.rank_speed import Connection, Served, loads, spent_s, summarise

BODIES = [json.dumps({"number": number}).encode() for number in range(4)]


class Echo(BaseHTTPRequestHandler):
    """Answers with the body; refuses the number 3."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(429 if body == BODIES[3] else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_connection_is_kept_and_opened_again_after_a_pause(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(port, "POST /rank")
    assert [connection.ask(body) for body in BODIES[2:]] == [(200, BODIES[2]), (429, BODIES[3])]
    monkeypatch.setattr(rank_speed, "IDLE_S", 0.0)
    assert connection.sure(BODIES[0]) == BODIES[0]
    with pytest.raises(SystemExit, match="429"):
        connection.sure(BODIES[3])
    connection.close()


def test_a_load_counts_answers_and_refusals(port: int) -> None:
    served = Served(port, [psutil.Process()])
    told = loads({"both": (served, ((2, 0.2), (2, 0.0))), "one": (served, ((1, 0.0),))}, BODIES, 1.0)
    patient, impatient = told["both"]
    assert [row["clients"] for row in told["one"]] == [1]
    assert [row["refused_wait_s"] for row in (patient, impatient)] == [0.2, 0.0]
    for row in (patient, impatient):
        assert row["clients"] == 2
        assert set(row["statuses"]) == {"200", "429"}
        assert row["answers_per_s"] > 0 < row["answers_per_cpu_s"]
    assert patient["statuses"]["429"] < impatient["statuses"]["429"]


def test_figures_of_times() -> None:
    told = summarise([1.0, 2.0, 3.0, 100.0])
    assert (told["p50_ms"], told["max_ms"], told["over_30_ms"]) == (2.5, 100.0, 1)
    before, began = spent_s(psutil.Process()), time.process_time()
    while time.process_time() - began < 0.05:
        pass
    assert spent_s(psutil.Process()) - before >= 0.05
