"""A ranking that was sent is recorded whatever fails: a real server, its store locked or lost, its worker killed."""

import asyncio
import json
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.responses import JSONResponse

from features.live.redis_servers import WAIT_S
from features.live.sqlite import SqliteTail
from features.sealed.event import LiveEvent
from serving.http.given import Given, came_at, once_given

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

ASK = {"user_id": "given", "candidates": ["i00001", "i00002", "i00003"]}


async def called(timeout_s: float, needed_s: float, status: int = 200, leaves: bool = False) -> tuple[int, list[str]]:
    """The status that a caller sees of an endpoint that takes needed_s, and what was done after it."""
    from bentoml._internal.server.http.traffic import TimeoutMiddleware

    sent: list[MutableMapping[str, Any]] = []
    done: list[str] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        assert came_at() <= time.monotonic()
        await asyncio.sleep(needed_s)
        once_given(lambda: done.append("body" if sent[-1]["type"] == "http.response.body" else "early"))
        await JSONResponse({}, status)(scope, receive, send)

    async def receive() -> MutableMapping[str, Any]:
        if not leaves:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    app: Callable[..., Awaitable[None]] = TimeoutMiddleware(Given(endpoint), timeout_s)  # type: ignore[arg-type]
    await app({"type": "http", "method": "POST", "headers": []}, receive, send)
    return sent[0]["status"], done


def test_callbacks_run_after_the_last_part_of_an_answer() -> None:
    assert asyncio.run(called(5, 0)) == (200, ["body"])


def test_callbacks_do_not_run_after_a_timeout_a_refusal_or_a_disconnect() -> None:
    assert asyncio.run(called(0.05, 1)) == (504, [])
    assert asyncio.run(called(5, 0, status=400)) == (400, [])
    assert asyncio.run(called(5, 0, leaves=True)) == (200, [])


def test_a_store_is_waited_for_a_shorter_time_than_a_request() -> None:
    from serving.service import STORE_S, TIMEOUT_S

    assert STORE_S + WAIT_S < TIMEOUT_S


def rows_of(house: Path) -> list[LiveEvent]:
    tail = SqliteTail(house / "live" / "simulator.db")
    rows = [event for _, event in tail.since(0)]
    tail.close()
    return rows


def kept(house: Path, impression_id: str, num_rows: int) -> list[LiveEvent]:
    """The rows of a ranking, as soon as there are this many."""
    for _ in range(200):
        rows = [event for event in rows_of(house) if event.impression_id == impression_id]
        if len(rows) >= num_rows:
            return rows
        time.sleep(0.1)
    return pytest.fail(f"{num_rows} rows of {impression_id} were not kept")


@contextmanager
def locked(house: Path) -> Iterator[None]:
    """Another connection holds a write transaction open."""
    other = sqlite3.connect(house / "live" / "simulator.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_with_a_locked_store_rankings_continue_and_events_are_refused_in_time(
    keeping: httpx.Client, lived: Path
) -> None:
    event = {"user_id": "locked", "item_id": "i00001", "event_id": "sent again"}
    assert keeping.post("/rank", json=ASK).status_code == 200
    with locked(lived):
        shown = keeping.post("/rank", json=ASK)
        assert shown.status_code == 200
        with ThreadPoolExecutor(12) as callers:
            answers = list(callers.map(lambda _: keeping.post("/events", json={"events": [event]}), range(12)))
        assert {answer.status_code for answer in answers} == {503}  # none was given up: 504
    assert [row.item_id for row in kept(lived, shown.json()["impression_id"], 3)] == [
        item["item_id"] for item in shown.json()["items"]
    ]
    assert not [row for row in rows_of(lived) if row.user_id == "locked"]
    fates = [keeping.post("/events", json={"events": [event]}).json()["events"][0]["fate"] for _ in range(2)]
    assert fates == ["new", "repeated"]


def test_a_ranking_whose_caller_has_disconnected_is_not_recorded(keeping: httpx.Client, lived: Path) -> None:
    body = json.dumps(ASK | {"user_id": "gone"}).encode()
    head = f"POST /rank HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection((keeping.base_url.host, keeping.base_url.port or 80)) as caller:
        caller.sendall(head.encode() + b"\r\n\r\n" + body)
    stays = keeping.post("/rank", json=ASK | {"user_id": "stays"}).json()  # in turn after it
    kept(lived, stays["impression_id"], 3)
    assert not [row for row in rows_of(lived) if row.user_id == "gone"]


def test_an_immediate_click_finds_its_show(keeping: httpx.Client, lived: Path) -> None:
    for number in range(20):
        shown = keeping.post("/rank", json=ASK | {"user_id": f"quick {number}"}).json()
        click = {"user_id": f"quick {number}", "item_id": "i00002", "impression_id": shown["impression_id"]}
        assert keeping.post("/events", json={"events": [click]}).json()["num_new"] == 1
        rows = kept(lived, shown["impression_id"], 4)
        assert sorted((row.revision, row.label) for row in rows) == [(0, 0.0), (0, 0.0), (0, 0.0), (1, 1.0)]


def wait_until_ready(keeping: httpx.Client) -> None:
    """Wait until a new worker has replaced the killed one."""
    for _ in range(600):
        try:
            if keeping.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail("no worker was ready again")


def test_a_worker_killed_before_it_stores_a_ranking_loses_the_show_but_not_the_click(
    keeping: httpx.Client, lived: Path
) -> None:
    with locked(lived):
        shown = keeping.post("/rank", json=ASK | {"user_id": "killed"}).json()
        (worker,) = [
            each
            for each in psutil.Process().children(recursive=True)
            if "_bentoml_impl.worker" in " ".join(each.cmdline())
            and each.cwd() == str(lived)  # tests keep other services
        ]
        worker.kill()
        psutil.wait_procs([worker], 20)
    click = {"user_id": "killed", "item_id": "i00002", "impression_id": shown["impression_id"]}
    wait_until_ready(keeping)
    answer = keeping.post("/events", json={"events": [click]})
    assert answer.json()["events"][0]["fate"] == "new"
    assert keeping.post("/events", json={"events": [click]}).json()["events"][0]["fate"] == "repeated"
    (row,) = kept(lived, shown["impression_id"], 1)
    assert (row.revision, row.label, row.user_id) == (0, 1.0, "killed")


def test_deleting_live_events_under_the_service_is_logged_and_it_keeps_running(
    keeping: httpx.Client, lived: Path
) -> None:
    log = lived / f"serve-{keeping.base_url.port}.log"
    said_before = len(log.read_text())
    event = {"user_id": "lost", "item_id": "i00001"}
    assert keeping.post("/events", json={"events": [event, event]}).json()["num_new"] == 2
    asked = {"user_id": "lost", "candidates": ["i00001"], "preview": True}
    before = keeping.post("/rank", json=asked).json()
    assert before["history"]["length"] == 2
    for left in (lived / "live").glob("simulator.db*"):
        left.unlink()
    after = keeping.post("/rank", json=asked)
    assert (after.status_code, after.json()["history"]["length"]) == (200, 0)
    assert after.json()["at"] > before["at"]
    assert keeping.post("/events", json={"events": [event]}).json()["num_new"] == 1
    said = log.read_text()[said_before:]
    assert "simulator.db was taken away while it was in use" in said
    assert "Traceback" not in said
