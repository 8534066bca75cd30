"""The peer of features/stages/histories.py: the same tables by hand-written DuckDB SQL."""

from pathlib import Path

import duckdb
import numpy as np

from contracts.params import PARAMS, load_params
from contracts.schema import FIRST_INDEX
from features.terms.convention import CLICKED, micros

SETUP = """
CREATE TABLE users AS
SELECT (row_number() OVER (ORDER BY user_id) - 1)::INTEGER AS user_index, user_id, num_events
FROM (SELECT user_id, count(*) FILTER (label >= {clicked} OR role = 'history') AS num_events FROM log GROUP BY user_id);
CREATE TABLE vocabulary AS
SELECT (row_number() OVER (ORDER BY item_id) - 1 + {first})::INTEGER AS item_index, item_id FROM items;
CREATE TABLE rows AS
SELECT user_index, item_index, epoch_us(occurred_at) AS t, label, role, impression_id, position,
       md5_number_key(event_id) AS event_key, coalesce(md5_number_key(session_id), 0) AS session_key
FROM log JOIN users USING (user_id) JOIN vocabulary USING (item_id);
CREATE TABLE events AS
WITH marked AS (
    SELECT *, CASE WHEN lag(session_key) OVER w <> 0 AND session_key <> 0
                   THEN session_key <> lag(session_key) OVER w
                   ELSE t - lag(t) OVER w > {gap} OR t // {longest} <> lag(t // {longest}) OVER w END AS opens
    FROM rows WHERE label >= {clicked} OR role = 'history'
    WINDOW w AS (PARTITION BY user_index ORDER BY t, item_index, event_key)
)
SELECT user_index, item_index, t, label, event_key, session_key, sum(coalesce(opens, false)::INTEGER) OVER u AS session
FROM marked WINDOW u AS (PARTITION BY user_index ORDER BY t, item_index, event_key ROWS UNBOUNDED PRECEDING);
CREATE TABLE asked AS
SELECT user_index, impression_id, min(t) AS t FROM rows
WHERE role = 'impression' AND impression_id IS NOT NULL GROUP BY ALL;
CREATE TABLE steps AS
SELECT user_index, t, count(*) OVER (PARTITION BY user_index ORDER BY t ROWS UNBOUNDED PRECEDING) AS upto FROM events;
CREATE TABLE requests AS
SELECT (row_number() OVER (ORDER BY asked.t, asked.user_index, impression_id) - 1)::INTEGER AS request_index,
       asked.user_index, impression_id, asked.t, coalesce(upto, 0)::INTEGER AS end_offset
FROM asked ASOF LEFT JOIN (SELECT user_index, t, max(upto) AS upto FROM steps GROUP BY ALL) AS known
     ON asked.user_index = known.user_index AND asked.t - {lag} > known.t
"""
REQUESTS = """
COPY (SELECT request_index, impression_id, device, is_subscriber, reading_item_id, NULL::TIMESTAMPTZ AS known_at
      FROM requests LEFT JOIN contexts USING (impression_id) ORDER BY request_index)
TO '{folder}/requests.parquet' (COMPRESSION zstd)
"""
IMPRESSIONS = """
COPY (SELECT request_index, rows.user_index, item_index, make_timestamptz(requests.t) AS occurred_at, label, end_offset
      FROM rows JOIN requests USING (user_index, impression_id)
      ORDER BY request_index, position NULLS LAST, item_index, event_key)
TO '{folder}/impressions.parquet' (COMPRESSION zstd)
"""
SESSIONS = """
COPY (SELECT user_index, session, min(t) AS started_at, max(t) AS ended_at, count(*) AS num_events
      FROM events GROUP BY ALL ORDER BY user_index, session)
TO '{folder}/sessions.parquet' (COMPRESSION zstd)
"""
ARRAYS = {"item_index": "INTEGER", "t": "BIGINT", "label": "FLOAT", "session": "INTEGER"}
ARRAYS |= {"event_key": "BIGINT", "session_key": "BIGINT"}


def run_sql(data: Path) -> None:
    """Write user_histories' arrays, sessions and both files of impressions to <root>/sql. For logs with impressions."""
    history = load_params(Path(__file__).parents[1] / PARAMS)["history"]
    folder = data.parents[1] / "sql"
    folder.mkdir()
    connection = duckdb.connect(config={"threads": 2, "temp_directory": str(folder / "spill")})
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    connection.execute("CREATE MACRO md5_number_key(text) AS ('0x' || left(md5(text), 16))::UBIGINT::BIT::BIGINT")
    for name, source in (("log", "validated_interactions"), ("items", "items"), ("contexts", "contexts")):
        connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{data / source}/*.parquet')")
    limits = {"gap": micros(history.session_gap_s), "longest": micros(history.session_max_s)}
    connection.execute(SETUP.format(first=FIRST_INDEX, clicked=CLICKED, lag=micros(history.lag_s), **limits))
    lengths = connection.execute("SELECT num_events FROM users ORDER BY user_index").fetchnumpy()["num_events"]
    np.save(folder / "offsets.npy", np.r_[0, np.cumsum(lengths)].astype(np.int64))
    columns = ", ".join(f"{name}::{kind} AS {name}" for name, kind in ARRAYS.items())
    ordered = f"SELECT {columns} FROM events ORDER BY user_index, events.t, events.item_index, events.event_key"
    arrays = connection.execute(ordered).fetchnumpy()
    for name in ARRAYS:
        np.save(folder / f"{'occurred_at' if name == 't' else name}.npy", arrays.pop(name))
    for query in (SESSIONS, REQUESTS, IMPRESSIONS):
        connection.execute(query.format(folder=folder))
