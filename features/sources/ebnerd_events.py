"""EB-NeRD's impressions and histories, one row each -> distinct events, contexts, and rejected rows with reasons.

DuckDB does it over Arrow tables; there is no loop over rows in Python.
"""
# pyright: reportAttributeAccessIssue=false

from typing import NamedTuple

import pyarrow as pa

from contracts.schema import CONTEXTS, REJECTED, ROLE_HISTORY, ROLE_IMPRESSION, TIME
from features.sources.log import EVENTS
from features.sources.parse import YEAR_1_US, YEAR_10000_US
from features.tables.connection import connect
from features.terms.convention import CLICKED

SAME_CLICK_US = 600 * 1_000_000
"""A history row this close to a click of the same user on the same item is that click; the impression's time counts."""

TIME_CASES = f"""
    WHEN at_us IS NULL THEN 'no time'
    WHEN at_us NOT BETWEEN {YEAR_1_US} AND {YEAR_10000_US - 1} THEN 'bad time'
"""

IMPRESSIONS = f"""
    CREATE TEMP TABLE impressions AS SELECT *, CASE {TIME_CASES}
        WHEN impression_id IS NULL THEN 'no impression_id'
        WHEN coalesce(len(shown), 0) = 0 THEN 'no candidates'
        WHEN clicked IS NULL THEN 'no list of clicks'
        WHEN NOT list_has_all(shown, clicked) THEN 'click not shown' END AS reason
    FROM behaviors
"""
"""One row per impression, with the reason if it is invalid as a whole."""

CANDIDATES = """
    CREATE TEMP TABLE candidates AS
    SELECT file, line, impression_id, user_id, session_id, at_us, item_id, ordinal::INTEGER - 1 AS position,
        coalesce(list_contains(clicked, item_id), false)::FLOAT AS label,
        CASE WHEN list_position(shown, item_id) < ordinal THEN 'candidate repeated' END AS reason
    FROM (
        SELECT * EXCLUDE (reason), unnest(shown) AS item_id, generate_subscripts(shown, 1) AS ordinal
        FROM impressions WHERE impressions.reason IS NULL
    )
"""
"""One row per candidate; position counts from 0 in the list as shown. Of a repeated candidate the first is valid."""

VISITS = f"""
    CREATE TEMP TABLE visits AS
    WITH exploded AS (
        SELECT file, line, user_id, unnest(item_ids) AS item_id, unnest(times_us) AS at_us,
            generate_subscripts(item_ids, 1) AS ordinal
        FROM history WHERE coalesce(len(item_ids), 0) = coalesce(len(times_us), 0)
    ), numbered AS (
        SELECT *, row_number() OVER (PARTITION BY user_id, item_id, at_us ORDER BY file, line, ordinal) AS copy
        FROM exploded
    ), clicks AS (
        SELECT user_id, item_id, at_us FROM candidates WHERE label >= {CLICKED} AND reason IS NULL
    )
    SELECT * EXCLUDE (copy), CASE {TIME_CASES}
        WHEN EXISTS (
            SELECT 1 FROM clicks WHERE clicks.user_id = numbered.user_id AND clicks.item_id = numbered.item_id
                AND clicks.at_us BETWEEN numbered.at_us - {SAME_CLICK_US} AND numbered.at_us + {SAME_CLICK_US}
        ) THEN 'click repeated in history'
        WHEN copy > 1 AND user_id IS NOT NULL AND item_id IS NOT NULL THEN 'history row repeated' END AS reason
    FROM numbered
"""
"""One row per click of a history, with the reason if it is not an event of its own."""

EVENT_ROWS = f"""
    SELECT NULL::VARCHAR AS event_id, user_id, item_id, at_us AS occurred_at, label, impression_id, position,
        session_id, '{ROLE_IMPRESSION}' AS role, file, line
    FROM candidates WHERE reason IS NULL
    UNION ALL
    SELECT NULL, user_id, item_id, at_us, 1::FLOAT, NULL, NULL, NULL, '{ROLE_HISTORY}', file, line
    FROM visits WHERE reason IS NULL
"""

CONTEXT_ROWS = f"""
    SELECT DISTINCT ON (impression_id) {", ".join(CONTEXTS.names)}
    FROM impressions WHERE reason IS NULL ORDER BY impression_id, file, line
"""
"""The context of each impression: device, subscription, the article being read."""

REJECTED_ROWS = """
    SELECT file, line, reason, raw::VARCHAR AS raw FROM (
        SELECT file, line, reason, 0 AS ordinal, to_json({impression_id: impression_id, user_id: user_id,
            impression_time_us: at_us, article_ids_inview: shown, article_ids_clicked: clicked}) AS raw
        FROM impressions WHERE reason IS NOT NULL
        UNION ALL
        SELECT file, line, reason, position, to_json({impression_id: impression_id, user_id: user_id,
            impression_time_us: at_us, article_id: item_id, position: position})
        FROM candidates WHERE reason IS NOT NULL
        UNION ALL
        SELECT file, line, 'lists of unequal length', 0, to_json({user_id: user_id, article_id_fixed: item_ids,
            impression_time_fixed_us: times_us})
        FROM history WHERE coalesce(len(item_ids), 0) <> coalesce(len(times_us), 0)
        UNION ALL
        SELECT file, line, reason, ordinal, to_json({user_id: user_id, article_id: item_id, impression_time_us: at_us})
        FROM visits WHERE reason IS NOT NULL
    ) ORDER BY file, line, reason, ordinal
"""


class Exploded(NamedTuple):
    """Every entry of the lists, once, as an event or as a rejected row."""

    events: pa.Table  # EVENTS, event_id null
    contexts: pa.Table  # CONTEXTS, one row per impression
    rejected: pa.Table  # REJECTED; an invalid impression or history is one row


def explode(behaviors: pa.Table, history: pa.Table) -> Exploded:
    """Turn the lists of impressions and histories into one row per candidate and click.

    behaviors: impression_id, user_id, session_id, at_us, shown, clicked and the columns of CONTEXTS. history: user_id,
        item_ids, times_us. Both have file and line. A history row that several files repeat counts once; one that is a
        click of an impression does not count.
    """
    with connect() as connection:
        connection.register("behaviors", behaviors)
        connection.register("history", history)
        for step in (IMPRESSIONS, CANDIDATES, VISITS):
            connection.execute(step)
        events = connection.sql(EVENT_ROWS).to_arrow_table()
        contexts = connection.sql(CONTEXT_ROWS).to_arrow_table()
        rejected = connection.sql(REJECTED_ROWS).to_arrow_table()
    at = events["occurred_at"].cast(TIME)
    events = events.set_column(events.column_names.index("occurred_at"), "occurred_at", at)
    for name in ("known_at", "arrived_at"):  # the log does not have these times
        events = events.append_column(name, pa.nulls(len(events), TIME))
    return Exploded(events.select(EVENTS.names).cast(EVENTS), contexts.cast(CONTEXTS), rejected.cast(REJECTED))
