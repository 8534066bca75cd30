"""Clicks become requests with sampled unclicked items: seeded, from the past, never the request's own items."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InputError
from contracts.params import check_params
from features.live.open_tail import ENGINE_VARIABLE
from features.online.parity import replay_from, replay_requests
from features.online.replay import replaying
from features.online.snapshot import write_snapshot
from features.sources.joined import JOINED
from features.sources.negatives import FILE
from features.stages import validate
from features.stages.ingest import run
from features.stages.materialize import parity_spec
from features.terms.params import negatives_are_no_history
from tests.features.raw_logs import SMALL, digest, expectations, ingest_table, limits, read, source
from tests.features.small_log import build, history, settings, statistics

COLUMNS = {"user_id": "user", "item_id": "item", "occurred_at": "at"}


def write(path: Path, clicks: list[tuple[str, str, int]], requests: list[str] | None = None) -> Path:
    lines = [
        f"{user},{item},2024-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z,{name}\n"
        for (user, item, second), name in zip(clicks, requests or [""] * len(clicks), strict=True)
    ]
    path.write_text("user,item,at,req\n" + "".join(lines))
    return path


def clicks_of(seed: int, num: int = 400) -> list[tuple[str, str, int]]:
    random = np.random.default_rng(seed)
    items = random.zipf(1.6, num) % 20
    return [(f"u{random.integers(9)}", f"i{item:02}", second) for second, item in enumerate(items)]


def sampled(data: Path) -> dict[str, list[dict[str, Any]]]:
    requests: dict[str, list[dict[str, Any]]] = {}
    for row in read(data / "interactions"):
        requests.setdefault(row["impression_id"], []).append(row)
    return requests


@pytest.mark.parametrize("chosen_from", ["popularity", "uniform"])
def test_each_click_is_a_request_with_items_clicked_before_it(tmp_path: Path, chosen_from: str) -> None:
    clicks = clicks_of(1)
    path = write(tmp_path / "log.csv", clicks)
    report = ingest_table(tmp_path / "data", path, COLUMNS, negatives=4, negatives_from=chosen_from)
    first = {item: second for _, item, second in reversed(clicks)}
    requests = sampled(tmp_path / "data")
    assert len(requests) == len(clicks)
    for rows in requests.values():
        [click] = [row for row in rows if row["label"] == 1]
        second = click["occurred_at"].hour * 3600 + click["occurred_at"].minute * 60 + click["occurred_at"].second
        items = [row["item_id"] for row in rows]
        assert len(set(items)) == len(items)
        assert {(row["user_id"], row["occurred_at"]) for row in rows} == {(click["user_id"], click["occurred_at"])}
        seen = {item for item, at in first.items() if at < second} - {click["item_id"]}
        assert set(items) - {click["item_id"]} <= seen
        if len(seen) >= 8:
            assert len(items) == 5
    num = sum(row["label"] == 0 for rows in requests.values() for row in rows)
    assert (
        report["rows_sampled"]
        == num
        == sum(row["file"] == f"{FILE}log.csv" for row in read(tmp_path / "data/provenance"))
    )
    assert report["rows_read"] == report["rows_written"] == num + len(clicks)
    assert validate.run(tmp_path / "data", limits(min_unclicked=1), expectations())["num_unclicked"] == num


def test_popular_items_are_drawn_more_often_and_the_others_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [("u", "often" if n % 4 else f"rare{n % 20}", n) for n in range(2000)])
    shares = {}
    for chosen_from in ("popularity", "uniform"):
        ingest_table(tmp_path / chosen_from, path, COLUMNS, negatives=1, negatives_from=chosen_from)
        drawn = Counter(row["item_id"] for row in read(tmp_path / chosen_from / "interactions") if row["label"] == 0)
        beside_rare = sum(drawn.values()) - 1500
        shares[chosen_from] = drawn["often"] / beside_rare
    assert shares["popularity"] > 0.7  # 3 of 4 clicks
    assert shares["uniform"] < 0.35  # 1 of 6 items, 5 where the clicked one is left out


def test_the_same_seed_draws_the_same_and_later_rows_change_nothing(tmp_path: Path) -> None:
    clicks = clicks_of(2)
    path, early = write(tmp_path / "log.csv", clicks), write(tmp_path / "early.csv", clicks[:200])
    for name, file, seed in (("a", path, 1), ("b", path, 1), ("c", path, 2), ("d", early, 1)):
        run(tmp_path / name, seed, SMALL, source("table", file, COLUMNS, negatives=3))
    assert digest(tmp_path / "a" / "interactions") == digest(tmp_path / "b" / "interactions")
    assert digest(tmp_path / "a" / "interactions") != digest(tmp_path / "c" / "interactions")
    later = sampled(tmp_path / "a")
    assert all(later[name] == rows for name, rows in sampled(tmp_path / "d").items())


def test_negatives_are_never_items_of_the_request_and_requests_with_unclicked_items_get_none(
    tmp_path: Path,
) -> None:
    clicks = [("u", f"i{n % 7}", n) for n in range(60)]
    names = [f"r{n // 3}" for n in range(60)]
    path = write(tmp_path / "log.csv", clicks, names)
    ingest_table(tmp_path / "data", path, COLUMNS | {"impression_id": "req"}, negatives=2)
    requests = sampled(tmp_path / "data")
    assert {len(rows) for name, rows in requests.items() if int(name[1:]) > 5} == {5}
    assert all(len({row["item_id"] for row in rows}) == len(rows) for rows in requests.values())
    path.write_text(
        "user,item,at,req,click\nu,a,2024-01-01,r,1\nu,b,2024-01-02,q,1\nu,a,2024-01-02,q,0\nu,c,2024-01-03,p,1\n"
    )
    columns = COLUMNS | {"impression_id": "req", "label": "click"}
    report = ingest_table(tmp_path / "data", path, columns, negatives=2)
    assert {name: len(rows) for name, rows in sampled(tmp_path / "data").items()} == {"r": 1, "q": 2, "p": 3}
    assert report["rows_sampled"] == 2


def test_sampled_and_joined_rows_are_read_live_as_they_are_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "sqlite")
    clicks = clicks_of(4, 300)
    path = write(tmp_path / "log.csv", [*clicks, *((user, item, second + 1) for user, item, second in clicks[::3])],
                 [*("" if n % 3 else f"r{n}" for n in range(300)), *(f"r{n}" for n in range(0, 300, 3))])  # fmt: skip
    report = ingest_table(tmp_path / "table", path, COLUMNS | {"impression_id": "req"}, negatives=3)
    assert report["dropped"] == {JOINED: 100}
    data = tmp_path / "data" / "log"
    made = build(data, read(tmp_path / "table" / "interactions"))
    (data / "feature_snapshot").mkdir()
    stamp = write_snapshot(data, made, 50, settings(), data / "feature_snapshot")
    from_us = replay_from(data, 0.5)
    with replaying(data, stamp, from_us, tmp_path / "scratch") as replay:
        compared, _ = replay_requests(replay, data, parity_spec(history(), statistics()), from_us, 10_000)
    assert compared.checked > 100
    assert compared.first == []


def test_negatives_are_sampled_only_if_configured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = ingest_table(tmp_path / "data", write(tmp_path / "log.csv", clicks_of(3, 30)), COLUMNS)
    assert (report["rows_sampled"], report["rows_written"]) == (0, 30)
    assert 'make set ARGS="source.negatives=4"' in caplog.text


def test_histories_of_all_rows_and_sampled_items_exclude_each_other(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load(Path("params.yaml").read_text())
    raw["source"]["negatives"], raw["history"]["labels"] = 4, "all"
    with pytest.raises(InputError, match=r"source\.negatives: sampled items would be events of histories"):
        check_params(raw)
    raw["history"]["labels"] = "clicked"
    assert negatives_are_no_history(check_params(raw)) == []
