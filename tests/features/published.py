"""EB-NeRD's published files -> what was known at each request, by SQL over every event. No code of ours is read.

A window of SQL that ends `lag + 1` microseconds before a row holds the events strictly before its time less the lag.
"""

from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray]

SECOND = 1_000_000
SAME_CLICK_US = 600 * SECOND
HOUR_US = 3600 * SECOND
NEVER_HOURS = 24.0 * 365
ENDS = (("min", "first_at"), ("max", "seen_at"))


def read_log(folder: Path) -> duckdb.DuckDBPyConnection:
    """shown: a row a candidate; visits: clicks of the histories that no impression holds; acts: both.

    asked: a row a request, what it says besides its user and its candidates.
    """
    log = duckdb.connect()
    log.execute("SET threads = 1; SET enable_progress_bar = false")
    log.execute(f"""
        CREATE TABLE shown AS
        SELECT impression_id::VARCHAR AS request, user_id::VARCHAR AS user_id, epoch_us(impression_time) AS t,
            item::VARCHAR AS item_id, max(list_contains(article_ids_clicked, item))::INTEGER AS click
        FROM (SELECT *, unnest(article_ids_inview) AS item FROM read_parquet('{folder}/*/behaviors.parquet'))
        GROUP BY ALL""")
    log.execute(f"""
        CREATE TABLE asked AS
        SELECT impression_id::VARCHAR AS request, device_type::VARCHAR AS device, is_subscriber,
            article_id::VARCHAR AS reading, impression_time::TIME AS clock
        FROM read_parquet('{folder}/*/behaviors.parquet')""")
    log.execute(f"""
        CREATE TABLE visits AS
        SELECT DISTINCT user_id::VARCHAR AS user_id, item::VARCHAR AS item_id, epoch_us(visited) AS t
        FROM (SELECT user_id, unnest(article_id_fixed) AS item, unnest(impression_time_fixed) AS visited
            FROM read_parquet('{folder}/*/history.parquet'))""")
    log.execute(f"""
        DELETE FROM visits USING shown WHERE shown.user_id = visits.user_id AND shown.item_id = visits.item_id
            AND click = 1 AND abs(shown.t - visits.t) <= {SAME_CLICK_US}""")
    log.execute("""
        CREATE TABLE acts AS SELECT request, user_id, item_id, t, click FROM shown
        UNION ALL SELECT NULL, user_id, item_id, t, 1 FROM visits""")
    return log


def of_items(
    log: duckdb.DuckDBPyConnection, windows_s: tuple[int, ...], shows_lag_s: float, clicks_lag_s: float
) -> Columns:
    """By (request, item): shows and clicks in all and in each window, the first show, the last, the last click."""
    late, early = _us(clicks_lag_s), _us(shows_lag_s)
    counts = [f"count(*) OVER {_frame('item_id', early, w)} AS shows_{n}" for n, w in _scopes(windows_s)]
    counts += [f"sum(click) OVER {_frame('item_id', late, w)} AS clicks_{n}" for n, w in _scopes(windows_s)]
    ends = [f"{which}(t) OVER {_frame('item_id', early)} AS {name}" for which, name in ENDS]
    last = f"max(CASE WHEN click = 1 THEN t END) OVER {_frame('item_id', late)} AS clicked_at"
    return _columns(log, f"SELECT request, item_id, t, {', '.join([*counts, *ends, last])} FROM shown")


def of_pairs(log: duckdb.DuckDBPyConnection, lag_s: float) -> Columns:
    """By (request, item): how often the user was shown that item and clicked it, and when last."""
    frame = _frame("user_id, item_id", _us(lag_s))
    return _columns(log, f"""
        SELECT * FROM (
            SELECT request, item_id, t, count(*) OVER {frame} AS shows, sum(click) OVER {frame} AS clicks,
                max(t) OVER {frame} AS seen_at FROM acts
        ) WHERE request IS NOT NULL""")  # fmt: skip


def of_users(log: duckdb.DuckDBPyConnection, windows_s: tuple[int, ...], lag_s: float, session_gap_s: float) -> Columns:
    """By (request, item): the user's shows and clicks in all and in each window, of this session, and when last."""
    lag, frames = _us(lag_s), [(n, _frame("user_id", _us(lag_s), w)) for n, w in _scopes(windows_s)]
    counts = [f"sum(shows) OVER {frame} AS shows_{n}, sum(clicks) OVER {frame} AS clicks_{n}" for n, frame in frames]
    session = f"sum(shows) OVER {_frame('user_id', lag, session_gap_s)} AS session_shows"
    return _columns(log, f"""
        SELECT request, item_id, known.* FROM (
            SELECT user_id, t, {", ".join([*counts, session])}, max(t) OVER {_frame("user_id", lag)} AS seen_at
            FROM (SELECT user_id, t, count(*) AS shows, sum(click) AS clicks FROM acts GROUP BY user_id, t)
        ) AS known JOIN shown USING (user_id, t)""")  # fmt: skip


def of_requests(log: duckdb.DuckDBPyConnection) -> Columns:
    """By (request, item): what the request says of itself; its hour in parts of a day."""
    return _columns(
        log,
        """
        SELECT request, item_id, device, is_subscriber::INTEGER AS is_subscriber,
            (reading IS NOT NULL)::INTEGER AS on_item_page, coalesce(reading = item_id, false)::INTEGER AS is_read,
            (date_part('hour', clock) + date_part('minute', clock) / 60 + date_part('second', clock) / 3600) / 24 AS day
        FROM shown JOIN asked USING (request)""",
    )


def readers(log: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[int, str]]]:
    """Item -> (time in us, user) of every click on it where it was shown."""
    rows = log.sql("SELECT item_id, list((t, user_id)) FROM shown WHERE click = 1 GROUP BY item_id").fetchall()
    return dict(rows)


def reading(log: duckdb.DuckDBPyConnection) -> dict[str, str | None]:
    """Request -> the item on whose page it was made."""
    return dict(log.sql("SELECT request, reading FROM asked").fetchall())


def pairs_before(log: duckdb.DuckDBPyConnection, start: int) -> tuple[list[str], list[str]]:
    """(users, items), each pair once, of clicks and visits strictly before a time; in order."""
    rows = log.sql(f"""
        SELECT DISTINCT user_id, item_id FROM acts WHERE click = 1 AND t < {start} ORDER BY ALL""").fetchall()
    users, items = zip(*rows, strict=True)
    return list(users), list(items)


def clicks_of_users(log: duckdb.DuckDBPyConnection) -> dict[str, tuple[list[int], list[str]]]:
    """User -> (times in us, items) of all clicks and visits, in order; a tie goes by item."""
    rows = log.sql("""
        SELECT user_id, list(t ORDER BY t, item_id), list(item_id ORDER BY t, item_id)
        FROM acts WHERE click = 1 GROUP BY user_id""").fetchall()
    return {user: (times, items) for user, times, items in rows}


def requests(log: duckdb.DuckDBPyConnection) -> list[tuple[str, str, int]]:
    """(request, user, time in us) of every impression."""
    return log.sql("SELECT DISTINCT request, user_id, t FROM shown").fetchall()


def log_hours(at: npt.NDArray, then: npt.NDArray) -> npt.NDArray:
    """log1p of hours since; a year where it never was (null)."""
    never = np.ma.getmaskarray(then)
    return np.log1p(np.where(never, NEVER_HOURS, np.minimum((at - np.ma.getdata(then)) / HOUR_US, NEVER_HOURS)))


def _scopes(windows_s: tuple[int, ...]) -> list[tuple[str, int | None]]:
    return [("total", None), *((f"{window}s", window) for window in windows_s)]


def _frame(keys: str, lag_us: int, window_s: float | None = None) -> str:
    begin = "UNBOUNDED" if window_s is None else lag_us + _us(window_s)
    return f"(PARTITION BY {keys} ORDER BY t RANGE BETWEEN {begin} PRECEDING AND {lag_us + 1} PRECEDING)"


def _us(seconds: float) -> int:
    return round(seconds * SECOND)


def _columns(log: duckdb.DuckDBPyConnection, query: str) -> Columns:
    return log.sql(f"SELECT * FROM ({query}) ORDER BY request, item_id").fetchnumpy()
