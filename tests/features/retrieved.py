"""The frame that asks Feast for every candidate of a log, and what training reads of each, to compare."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore

from contracts.schema import FIRST_INDEX
from features.encoding.counters import Counters
from features.feast_store.retrieve import retrieve
from features.tables.histories import UserHistories
from features.terms.convention import micros
from features.terms.params import HistoryParams, StatisticsParams


def candidates(data: Path) -> tuple[pa.Table, pd.DataFrame]:
    """The impressions, and the frame that asks for them, shuffled with one seed."""
    table = pq.read_table(data / "impressions" / "impressions.parquet")
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    stored = UserHistories.open(data / "user_histories")
    asked = {
        "user_id": stored.user_ids.take(table["user_index"]),
        "item_id": stored.vocabulary["item_id"].take(pc.subtract(table["item_index"], FIRST_INDEX)),
        "event_timestamp": table["occurred_at"],
    }
    return table, pa.table(asked).to_pandas()


def compare(store: FeatureStore, data: Path, own: HistoryParams, counted: StatisticsParams) -> pa.Table:
    """Assert that every column of every row is what training reads; returns what was retrieved."""
    impressions, entity_df = candidates(data)
    found = retrieve(store, entity_df)
    assert found.select([*entity_df.columns]).to_pandas().equals(entity_df)
    wanted = {"end_offset": impressions["end_offset"].to_numpy()} | read_by_training(data, impressions, own, counted)
    assert sorted(found.column_names) == sorted([*entity_df.columns, *wanted])
    for name, values in wanted.items():
        assert found[name].type == pa.int64()
        np.testing.assert_array_equal(found[name].to_numpy(), values, name)
    return found


def read_by_training(
    data: Path, impressions: pa.Table, own: HistoryParams, counted: StatisticsParams
) -> dict[str, np.ndarray]:
    """The as-of reads of features/encoding/counters.py, by the names that retrieve gives them."""
    stored = UserHistories.open(data / "user_histories")
    counters = Counters.from_folder(data, stored.vocabulary["item_id"], stored.user_ids)
    at = impressions["occurred_at"].cast(pa.int64()).to_numpy()
    users = impressions["user_index"].to_numpy().astype(np.int64)
    items = impressions["item_index"].to_numpy().astype(np.int64) - FIRST_INDEX
    pairs = counters.pair_key(users, items)
    read: dict[str, np.ndarray] = {}
    for of, table, keys, lags in (
        ("item", counters.item_counters, items, (counted.shows_lag_s, counted.clicks_lag_s)),
        ("user", counters.user_counters, users, (counted.user_lag_s,) * 2),
        ("user_item", counters.user_item_counters, pairs, (counted.user_lag_s,) * 2),
    ):
        for place, (what, lag_s) in enumerate(zip(("shows", "clicks"), lags, strict=True)):
            read[f"{of}_{what}_total"] = table.read(keys, at - micros(lag_s))[place]
            for window_s in counted.windows_s if of != "user_item" else ():
                window = table.window(keys, at, micros(lag_s), micros(window_s))
                read[f"{of}_{what}_{window_s}s"] = window[place]
    session, _ = counters.user_counters.window(users, at, micros(counted.user_lag_s), micros(own.session_gap_s))
    return read | {"user_shows_session": session}
