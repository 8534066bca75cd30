"""Under load: memory stays, nothing fails, and a worker that is killed takes nothing with it that was acknowledged."""

import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.soak import GROWTH, Told, asking, soak, workers_of
from features.live.sqlite import SqliteTail
from serving.answering.predictor import Predictor
from tests.serving.conftest import serving
from tests.serving.test_watching import series

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

SECONDS = 8
PER_S = 25.0


def test_a_short_soak_is_answered_and_memory_stays(keeping: httpx.Client, predictor: Predictor) -> None:
    users = sorted({golden.user_id for golden in predictor.bundle.golden})
    ask = asking(users, sorted(predictor.bundle.scorer.index_of))
    soak(keeping.base_url, ask, PER_S, 2, workers_of(keeping))  # what is read once
    told = soak(keeping.base_url, ask, PER_S, SECONDS, workers_of(keeping))
    assert told.is_sound(), told.report()
    assert told.statuses[200] > 10 * told.statuses[400] > 0
    assert 0.5 * PER_S * SECONDS < sum(told.statuses.values()) < 2 * PER_S * SECONDS
    assert set(told.statuses) <= {200, 400, 429}


def test_what_grows_and_what_fails_is_no_sound_soak() -> None:
    flat = [(float(n), 100) for n in range(40)]
    assert Told(Counter({200: 9}), [0.1], flat).is_sound()
    assert not Told(Counter({200: 9, 503: 1}), [0.1], flat).is_sound()
    assert not Told(Counter({200: 9, 0: 1}), [0.1], flat).is_sound()
    leaking = [(at, round(size * (1 + 2 * GROWTH * at / 20))) for at, size in flat]
    assert not Told(Counter({200: 9}), [0.1], leaking).is_sound()


def test_a_worker_killed_under_load_is_restarted_and_every_acknowledged_event_is_stored_once(
    house: Path,
) -> None:
    acknowledged, statuses, lost = set[str](), Counter[int](), 0
    lock, over = threading.Lock(), threading.Event()

    def post(seed: int) -> None:
        nonlocal lost
        draw = random.Random(seed)
        for number in range(10_000):
            if over.is_set():
                return
            name = f"soak-{seed}-{number}"
            event = {"user_id": f"soak{draw.randrange(9)}", "item_id": "i00001", "event_id": name}
            try:  # a connection each: those to the killed worker are reset, others are taken by the one that lives
                answer = httpx.post(server.base_url.join("/events"), json={"events": [event]}, timeout=10)
            except httpx.TransportError:
                with lock:
                    lost += 1
                continue
            with lock:
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    acknowledged.add(name)

    with serving(house, LEITMOTIF_WORKERS="2", BENTOML_CONTAINERIZED="true") as server:  # as in an image
        before = workers_of(server)
        assert len(before) == 2
        for _ in range(8):  # a connection each, perhaps to another worker
            asked = {"user_id": "soak", "candidates": ["i00001"], "preview": True}
            httpx.post(server.base_url.join("/rank"), json=asked, timeout=10).raise_for_status()
        ranked = ("leitmotif_requests_total", (("route", "/rank"), ("status", "200")))
        assert series(server)[ranked] == 8  # whoever of the workers is asked
        threads = [threading.Thread(target=post, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            before[0].kill()
            psutil.wait_procs(before[:1], 20)
            answered = len(acknowledged)
            limit = time.monotonic() + 90
            while not (restarted := set(workers_of(server)) - set(before)) and time.monotonic() < limit:
                time.sleep(0.2)
            assert len(restarted) == 1
            next(iter(restarted)).suspend()  # it has hardly begun to start
            while len(acknowledged) == answered and time.monotonic() < limit:
                time.sleep(0.2)
            next(iter(restarted)).resume()
            assert len(acknowledged) > answered  # meanwhile, by the other
        finally:  # a thread that went on would disturb the tests after this one
            over.set()
            for thread in threads:
                thread.join()
        assert set(statuses) <= {200, 429}, statuses
        assert lost <= 6  # what the killed worker had at hand, or was about to take
    tail = SqliteTail(house / "live" / "simulator.db")
    kept = Counter(event.event_id for _, event in tail.since(0) if event.event_id.startswith("soak-"))
    tail.close()
    assert acknowledged <= kept.keys()
    assert set(kept.values()) == {1}
