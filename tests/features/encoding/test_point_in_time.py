"""On EB-NeRD itself, against its published files read slowly: nothing at or after a request's time is known to it."""

from bisect import bisect_left
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.schema import FIRST_INDEX
from features.encoding.counters import Counters
from features.stages import histories, statistics
from features.tables.histories import UserHistories
from tests import ebnerd_log
from tests.clones import real_data
from tests.features import small_log

pytestmark = [pytest.mark.xdist_group("ebnerd"), pytest.mark.slow]

SECOND = 1_000_000
LAG_US = 60 * SECOND
NEAR_US = 600 * SECOND
DAYS = 3
ONE_IN = 8
FEW_FACTORS = {"statistics__coclick_rank": 16}
"""Users kept and values of a factor, where two whole logs would show no more."""
PARTS = ("train", "validation")
COUNTED = ("item_counters", "user_counters", "user_item_counters")
NUM_STARTS = 8
"""Days of the train week, 18 to 25 May, at whose start co-click factors are made."""

Event = tuple[int, str]
"""Time in microseconds, item."""


class Published(NamedTuple):
    """What the files say, by user and by impression."""

    requests: dict[str, tuple[str, int, list[str], set[str]]]  # name -> user, time, shown, clicked
    events: dict[str, list[Event]]  # user -> clicks and visits, each once, in order


@pytest.fixture(scope="module")
def published() -> Published:
    return read_slowly(real_data("ebnerd-demo"))


@pytest.fixture(scope="module")
def made(ebnerd: Path) -> Path:
    return ebnerd


def read_slowly(folder: Path) -> Published:
    requests, clicks, visits = {}, defaultdict(list), defaultdict(set)
    for part in PARTS:
        rows = pq.read_table(
            folder / part / "behaviors.parquet",
            columns=["impression_id", "user_id", "impression_time", "article_ids_inview", "article_ids_clicked"],
        )
        times = rows["impression_time"].cast(pa.int64()).to_pylist()
        for row, at in zip(rows.drop("impression_time").to_pylist(), times, strict=True):
            user, clicked = str(row["user_id"]), {str(item) for item in row["article_ids_clicked"]}
            shown = [str(item) for item in row["article_ids_inview"]]
            requests[str(row["impression_id"])] = (user, at, shown, clicked)
            clicks[user] += [(at, item) for item in clicked]
        rows = pq.read_table(
            folder / part / "history.parquet", columns=["user_id", "article_id_fixed", "impression_time_fixed"]
        )
        times = rows["impression_time_fixed"].cast(pa.large_list(pa.int64())).to_pylist()
        for row, ats in zip(rows.drop("impression_time_fixed").to_pylist(), times, strict=True):
            visits[str(row["user_id"])] |= set(zip(ats, map(str, row["article_id_fixed"]), strict=True))
    events = {}
    for user in clicks.keys() | visits.keys():
        of_item = defaultdict(list)
        for at, item in clicks[user]:
            of_item[item].append(at)
        kept = [(at, item) for at, item in visits[user] if all(abs(at - own) > NEAR_US for own in of_item[item])]
        events[user] = sorted([*clicks[user], *kept])
    return Published(requests, events)


def stored_events(stored: UserHistories) -> dict[str, list[Event]]:
    items = stored.vocabulary["item_id"].take(pa.array(stored.item_index - FIRST_INDEX)).to_pylist()
    lines = list(zip(stored.occurred_at.tolist(), items, strict=True))
    bounds = stored.offsets.tolist()
    return {user: lines[bounds[n] : bounds[n + 1]] for n, user in enumerate(stored.user_ids.to_pylist())}


def test_a_history_is_every_click_and_visit_of_the_user_once(made: Path, published: Published) -> None:
    stored = stored_events(UserHistories.open(made / "user_histories"))
    assert stored.keys() == published.events.keys()
    for user, events in published.events.items():
        assert stored[user] == events, user


def test_no_request_sees_an_event_at_or_after_its_time_less_the_lag(made: Path, published: Published) -> None:
    """All 50,080 requests, ties included: the offset is how many events were before, counted one by one."""
    stored = UserHistories.open(made / "user_histories")
    table = pq.read_table(made / "impressions" / "impressions.parquet")
    names = pq.read_table(made / "impressions" / "requests.parquet")["impression_id"].to_pylist()
    assert len(names) == len(published.requests)
    assert set(names) == published.requests.keys()
    items = stored.vocabulary["item_id"].take(pc.subtract(table["item_index"], FIRST_INDEX)).to_pylist()
    times = pc.cast(table["occurred_at"], pa.int64()).to_pylist()
    users = stored.user_ids.take(table["user_index"]).to_pylist()
    found: dict[str, list[Any]] = defaultdict(list)
    columns = (table[name].to_pylist() for name in ("request_index", "label", "end_offset"))
    for request, label, end, item, at, user in zip(*columns, items, times, users, strict=True):
        found[names[request]].append((user, at, item, label, end))
    num_tied = 0
    for name, (user, at, shown, clicked) in published.requests.items():
        events = published.events[user]
        before = sum(event_at < at - LAG_US for event_at, _ in events)
        num_tied += any(event_at == at for event_at, _ in events)
        assert found[name] == [(user, at, item, float(item in clicked), before) for item in shown], name
    assert num_tied == len(published.requests)  # each request's own click stands at its time


def test_counters_are_what_was_shown_and_clicked_before_one_by_one(made: Path, published: Published) -> None:
    """For candidates drawn from all requests, at t less each lag: the item's, the user's and the pair's counts."""
    item_ids = pq.read_table(made / "user_histories" / "vocabulary.parquet")["item_id"]
    user_ids = pq.read_table(made / "user_histories" / "users.parquet")["user_id"]
    counters = Counters.from_folder(made, item_ids, user_ids)
    item_rank, user_rank = ({key: n for n, key in enumerate(ids.to_pylist())} for ids in (item_ids, user_ids))
    rows = [(at, user, item, item in clicked) for user, at, shown, clicked in published.requests.values()
            for item in shown]  # fmt: skip
    own = {(user, at, item) for at, user, item, clicked in rows if clicked}
    history = [(at, user, item, True) for user, events in published.events.items() for at, item in events]
    shown_rows = set(rows)  # an item's counts are of impressions: histories reach only into the train week
    rows += [row for row in history if (row[1], row[0], row[2]) not in own]
    tables: dict[str, dict[Any, list[tuple[int, bool]]]] = {
        name: defaultdict(list) for name in ("item", "user", "pair")
    }
    for at, user, item, clicked in rows:
        for name, key in (("item", item), ("user", user), ("pair", (user, item))):
            if name != "item" or (at, user, item, clicked) in shown_rows:
                tables[name][key].append((at, clicked))
    draw = np.random.default_rng(5)
    names = sorted(published.requests)
    for name in draw.choice(len(names), 400, replace=False):
        user, at, shown, _ = published.requests[names[name]]
        item, lag = shown[draw.integers(len(shown))], int(draw.choice([0, 60, 300, 3600])) * SECOND
        pair = counters.pair_key(user_rank[user], item_rank[item])
        for table, key, counter, number in (
            ("item", item, counters.item_counters, item_rank[item]),
            ("user", user, counters.user_counters, user_rank[user]),
            ("pair", (user, item), counters.user_item_counters, int(pair)),
        ):
            seen = [(event_at, clicked) for event_at, clicked in tables[table][key] if event_at < at - lag]
            recent = [(event_at, clicked) for event_at, clicked in seen if event_at >= at - lag - 86400 * SECOND]
            for some, (shows, clicks) in (
                (seen, counter.read(number, at - lag)),
                (recent, counter.window(number, at, lag, 86400 * SECOND)),
            ):
                assert (int(shows), int(clicks)) == (len(some), sum(clicked for _, clicked in some)), (table, key, at)


def test_a_log_some_days_later_makes_the_same_histories_and_counts(tmp_path: Path) -> None:
    """The log of one in eight users."""
    by = DAYS * 86400 * SECOND
    raw = {"now": ebnerd_log.of_some_users(real_data("ebnerd-demo"), tmp_path / "raw" / "now", ONE_IN)}
    raw["later"] = ebnerd_log.shifted(raw["now"], tmp_path / "raw" / "later", DAYS)
    both = [
        ebnerd_log.make(tmp_path / name, ebnerd_log.sections_of(log, tmp_path / "params" / name, **FEW_FACTORS))
        for name, log in raw.items()
    ]
    first, second = (UserHistories.open(data / "user_histories") for data in both)
    assert len(first.occurred_at) > 40_000
    assert second.vocabulary.equals(first.vocabulary)
    assert second.user_ids.equals(first.user_ids)
    for name in ("offsets", "item_index", "label", "session"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name), name)
    np.testing.assert_array_equal(second.occurred_at, first.occurred_at + by)
    counted = (*COUNTED, "coclicks/clicks.parquet", "coclicks/factors.parquet")
    for path in ("impressions/impressions.parquet", *counted):
        time = "starts_at" if path.endswith("factors.parquet") else "occurred_at"
        tables = [pq.read_table(data / path) for data in both]
        times = [table[time].cast(pa.int64()).to_numpy() for table in tables]
        np.testing.assert_array_equal(times[1], times[0] + by, path)
        assert tables[1].drop(time).equals(tables[0].drop(time)), path


def test_events_that_come_later_change_nothing_before(made: Path, tmp_path: Path, published: Published) -> None:
    """The train week alone gives its requests the histories, counts and factors that it has within both weeks."""
    cut = 1_684_998_000 * SECOND  # 2023-05-25T07:00:00Z
    table = pq.read_table(made / "impressions" / "impressions.parquet")
    assert bisect_left(sorted(at for _, at, _, _ in published.requests.values()), cut) == 24_724
    others = ("items", "contexts", "quarantine", "rejected")
    for name in ("interactions", *others):
        (tmp_path / name).mkdir()
    for name in others:
        (tmp_path / name / f"{name}.parquet").symlink_to(made / name / f"{name}.parquet")
    rows = pa.concat_tables(pq.read_table(path) for path in sorted((made / "interactions").iterdir()))
    before = rows.filter(pc.less(rows["occurred_at"].cast(pa.int64()), cut))
    pq.write_table(before, tmp_path / "interactions" / "2023.parquet")
    (tmp_path / "validated_interactions").symlink_to(tmp_path / "interactions", target_is_directory=True)
    histories.run(tmp_path, small_log.request(), small_log.history(lag_s=60))
    statistics.run(tmp_path, ebnerd_log.sections_of(real_data("ebnerd-demo"), tmp_path / "params")["statistics"])
    names = [
        pq.read_table(data / "user_histories" / "users.parquet")["user_id"].to_pylist() for data in (made, tmp_path)
    ]
    asked = table.filter(pc.less(table["occurred_at"].cast(pa.int64()), cut))
    alone = pq.read_table(tmp_path / "impressions" / "impressions.parquet")
    for column in ("request_index", "item_index", "label", "end_offset", "occurred_at"):
        assert alone[column].equals(asked[column]), column
    kept = [pa.array(users).take(rows["user_index"].combine_chunks()) for users, rows in zip(names, (asked, alone),
            strict=True)]  # fmt: skip
    assert kept[0].equals(kept[1])
    factors = [pq.read_table(data / "coclicks" / "factors.parquet") for data in (made, tmp_path)]
    known = [table.filter(pc.less_equal(table["starts_at"].cast(pa.int64()), cut)) for table in factors]
    assert pc.count_distinct(known[0]["starts_at"]).as_py() == NUM_STARTS
    assert known[1].equals(known[0])
    for name in (*COUNTED, "coclicks/clicks.parquet"):
        whole, part = (pq.read_table(data / name) for data in (made, tmp_path))
        earlier = whole.filter(pc.less(whole["occurred_at"].cast(pa.int64()), cut))
        order = [(key, "ascending") for key in part.column_names]
        assert part.sort_by(order).equals(earlier.sort_by(order)), name
    stored = [stored_events(UserHistories.open(data / "user_histories")) for data in (made, tmp_path)]
    assert {user: [event for event in events if event[0] < cut] for user, events in stored[0].items()
            if user in stored[1]} == stored[1]  # fmt: skip
    assert not any(
        event[0] < cut for event in chain(*(stored[0][user] for user in stored[0].keys() - stored[1].keys()))
    )
