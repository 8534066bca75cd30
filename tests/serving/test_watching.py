"""What the service says of itself: figures, lines and spans, and nothing of anybody in any of them."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse

from contracts.errors import InputError
from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest
from serving.http.admission import Admission
from serving.http.watched import Watched
from serving.watching import logs, metrics
from serving.watching.seen import OTHER, Seen, route_of, seen, watch
from serving.watching.stages import FEATURES, HISTORY, REPLY, SCORES, USER_SIDE, WAIT, Spent, recording, stage
from serving.watching.traces import Traces
from tests.serving.conftest import Refusing

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(server: httpx.Client) -> Series:
    """All that /metrics tells, as a reader of Prometheus' own has it."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def risen(before: Series, after: Series, name: str, **labels: str) -> float:
    key = (f"leitmotif_{name}", tuple(sorted(labels.items())))
    return after.get(key, 0.0) - before.get(key, 0.0)


def test_each_request_is_counted_once_by_what_it_was(server: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    before = series(server)
    for user in (golden.user_id, "nobody-knows-me"):
        answer = server.post("/rank", json={"user_id": user, "candidates": [*golden.candidates, "new"], "k": 1})
        assert answer.status_code == 200
    server.post("/rank", json={"user_id": golden.user_id})
    server.post("/recommend", json={"user_id": golden.user_id, "k": 3})
    after = series(server)
    assert risen(before, after, "requests_total", route="/rank", status="200") == 2
    assert risen(before, after, "requests_total", route="/rank", status="400") == 1
    assert risen(before, after, "request_seconds_count", route="/rank") == 3
    assert risen(before, after, "rankings_total", route="/rank", user="cold") == 1
    assert risen(before, after, "rankings_total", route="/rank", user="known") == 1
    assert risen(before, after, "rankings_total", route="/recommend", user="known") == 1
    assert risen(before, after, "refused_total", cause="invalid_request") == 1
    for name in (WAIT, HISTORY, FEATURES, USER_SIDE, SCORES, REPLY):
        assert risen(before, after, "stage_seconds_count", stage=name) >= 3
        assert risen(before, after, "stage_seconds_sum", stage=name) > 0
    assert risen(before, after, "stage_seconds_count", stage="retrieval") == 1
    assert risen(before, after, "history_events_count") == 3
    assert risen(before, after, "history_age_seconds_count") == 2
    assert sum(risen(before, after, name, **dict(labels)) for (full, labels) in after
               if (name := full.removeprefix("leitmotif_")) == "rankings_by_theme_total") == 2  # fmt: skip
    scored = sum(value - before.get(key, 0) for key, value in after.items()
                 if key[0] == "leitmotif_candidate_scores_total" and ("route", "/rank") in key[1])  # fmt: skip
    assert scored == 2 * (len(golden.candidates) + 1)  # all candidates, not the k that are answered
    assert after[("leitmotif_requests_in_flight", ())] == 1  # /metrics itself


def test_scores_are_laid_beside_those_of_the_bundles_own_requests(server: httpx.Client, predictor: Predictor) -> None:
    logits = np.concatenate([np.array(each.logits) for each in predictor.bundle.golden])
    scores, low, told = 1 / (1 + np.exp(-logits)), 0.0, series(server)
    for end in metrics.SCORE_BINS:
        expected = float(np.mean((scores > low) & (scores <= end)))
        assert told[("leitmotif_expected_score_share", (("up_to", f"{end:g}"),))] == pytest.approx(expected)
        low = end


def test_no_label_and_no_name_comes_of_what_was_asked(server: httpx.Client) -> None:
    for path in ("/users/secret-name/themes", "/items/secret-name/similar", "/secret-name", "/page/secret-name/x"):
        server.get(path)
    server.post("/rank", json={"user_id": "secret-name", "candidates": ["secret-name"]})
    text = server.get("/metrics").text
    assert "secret-name" not in text
    assert all(line.startswith(("leitmotif_", "# ")) for line in text.splitlines())
    assert len(text.splitlines()) < 600


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/rank", "/rank"),
        ("/users/u1/themes", "/users/{user_id}/themes"),
        ("/items/a/b/similar", "/items/{item_id}/similar"),
        ("/page/0123/main.js", "/page"),
        ("/rank/", OTHER),
        ("/\u2028", OTHER),
    ],
)
def test_paths_are_a_few_routes(path: str, route: str) -> None:
    assert route_of(path) == route


def test_an_answer_names_its_request_by_the_callers_word_or_a_new_one(server: httpx.Client) -> None:
    for path in ("/info", "/nowhere", "/livez"):
        assert server.get(path, headers={"x-request-id": "shop-7.a"}).headers["x-request-id"] == "shop-7.a"
    refused = server.post("/rank", content=b"[", headers={"x-request-id": "r/1"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (415, "r/1")
    for told in ("two words", "x" * 129, 'a"b', ""):
        named = server.get("/info", headers={"x-request-id": told}).headers["x-request-id"]
        assert named != told
        assert len(named) == 16
    assert len({server.get("/info").headers["x-request-id"] for _ in range(5)}) == 5


def test_stages_add_up_to_the_work_and_cost_nothing_where_nobody_looks() -> None:
    spent = Spent()
    with recording(spent):
        for _ in range(2):
            with stage(HISTORY):
                time.sleep(0.002)
        time.sleep(0.002)
    told = spent.seconds()
    assert told[HISTORY] >= 0.004
    assert told[REPLY] >= 0.002
    assert sum(told.values()) == pytest.approx(spent.ended - spent.asked)
    assert stage(HISTORY) is stage(SCORES)  # outside: the one that does nothing
    assert len(spent.parts) == 2


def test_the_stages_of_a_ranking_are_those_of_the_predictor(predictor: Predictor) -> None:
    golden, spent = predictor.bundle.golden[0], Spent()
    with recording(spent):
        predictor.answer(RankRequest(user_id=golden.user_id, candidates=golden.candidates, explain=True))
    assert {name for name, took_s in spent.seconds().items() if took_s > 0} == {
        WAIT, HISTORY, FEATURES, USER_SIDE, SCORES, "reasons", REPLY}  # fmt: skip
    assert len(spent.logits) == len(golden.candidates)


async def through(app: Watched, headers: list[tuple[bytes, bytes]], path: str) -> dict[bytes, bytes]:
    """The headers of an answer that came through."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return dict(sent[0]["headers"])


async def computing(scope: Any, receive: Any, send: Any) -> None:
    """An app with one stage."""
    seen().spent = spent = Spent()
    with recording(spent), stage(SCORES):
        logging.getLogger("leitmotif").warning("said within")
    await JSONResponse({}, 503 if scope["path"] == "/events" else 200)(scope, receive, send)


def test_a_request_is_a_span_with_its_stages_in_the_callers_trace() -> None:
    caught = InMemorySpanExporter()
    app = Watched(computing, traces=lambda: Traces(SimpleSpanProcessor(caught)))
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    began = time.time_ns()
    asyncio.run(through(app, [(b"traceparent", parent), (b"x-request-id", b"r1")], "/users/u00042/themes"))
    asyncio.run(through(app, [], "/events"))
    asyncio.run(through(app, [], "/livez"))
    part, whole, other_part, failed = caught.get_finished_spans()
    assert (whole.name, part.name) == ("POST /users/{user_id}/themes", SCORES)
    assert f"{whole.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert part.parent.span_id == whole.context.span_id
    assert whole.parent.span_id == 0xB7AD6B7169203331
    assert began - 5e6 < whole.start_time <= part.start_time <= part.end_time <= whole.end_time < time.time_ns() + 5e6
    assert whole.attributes["leitmotif.request_id"] == "r1"
    assert "u00042" not in whole.to_json() + part.to_json()
    assert (failed.status.is_ok, whole.status.is_ok) == (False, True)
    assert failed.context.trace_id != whole.context.trace_id
    assert other_part.name == SCORES


def test_an_exporter_that_is_not_installed_is_one_line(refusing: Refusing) -> None:
    said = refusing(OTEL_TRACES_EXPORTER="otlp_proto_http")
    assert "OTEL_TRACES_EXPORTER is 'otlp_proto_http', but no installed package has that exporter" in said
    assert "Traceback" not in said


def test_a_form_of_lines_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEITMOTIF_LOG", "xml")
    with pytest.raises(InputError, match=r"LEITMOTIF_LOG is 'xml'\. Set it to text or json"):
        logs.chosen()


def test_a_line_of_the_computing_thread_names_its_request() -> None:
    from serving.service import Leitmotif

    service = object.__new__(Leitmotif.inner)
    service.computing, service.predictor = ThreadPoolExecutor(1), None
    service.admission = Admission(1, 1.0, 1)
    request = RankRequest(user_id="u", candidates=["i"])

    async def asked(request_id: str) -> tuple[str, str]:
        watch(Seen(request_id, "/rank"))
        return await service.in_turn(lambda _, __: (threading.current_thread().name, seen().request_id), request)

    for request_id in ("r1", "r2"):
        thread, named = asyncio.run(asked(request_id))
        assert (thread.startswith("ThreadPool"), named) == (True, request_id)


def test_what_a_killed_worker_had_at_hand_is_at_hand_no_more(tmp_path: Path) -> None:
    told = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    dies = "import os; from serving.watching import metrics as m; m.IN_FLIGHT.inc(); m.KEPT.inc(); os._exit(9)"
    asked = "from serving.watching import metrics as m; m.start(); print(m.exposition().decode())"
    subprocess.run([sys.executable, "-c", dies], env=told, check=False)
    text = subprocess.run([sys.executable, "-c", asked], env=told, check=True, capture_output=True, text=True).stdout
    assert "\nleitmotif_rankings_kept_total 1.0\n" in text
    assert "\nleitmotif_requests_in_flight 1.0\n" not in text
