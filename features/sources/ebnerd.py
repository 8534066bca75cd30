"""An EB-NeRD folder as published (train, validation, and articles if they are there) -> a log.

A row is a candidate of an impression (role impression) or a click of a history (role history). The demo, small and
large bundles have the same layout. Columns known only after the request (read_time, scroll_percentage, next_*, an
article's totals) are never read.
"""
# pyright: reportAttributeAccessIssue=false

import logging

import pyarrow as pa

from contracts.schema import ITEMS, REJECTED, TIME
from features.sources.ebnerd_events import explode
from features.sources.ebnerd_files import ARTICLES, BEHAVIORS, HISTORY, find_ebnerd, read_columns
from features.sources.log import Log
from features.tables.connection import connect
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")

CATALOGUE = """
    SELECT item_id, title, published_us AS published_at, NULL::FLOAT[] AS embedding,
        list_filter(names, lambda name, place: name IS NOT NULL AND list_position(names, name) = place) AS categories
    FROM (
        SELECT DISTINCT ON (item_id) item_id, title, published_us, [coalesce(category, category_id)]
            || list_transform(coalesce(subcategory, []), lambda number: 'subcategory ' || number)
            || list_transform(coalesce(topics, []), lambda topic: 'topic ' || topic) AS names
        FROM articles WHERE item_id IS NOT NULL
        ORDER BY item_id, published_us DESC NULLS LAST, title NULLS LAST, line
    )
"""
"""One row per article, the latest if an article is listed twice. Its category comes first, then subcategories and
topics, with prefixes because both are numbers."""

NAMELESS = """
    SELECT file, line, 'no article_id' AS reason, to_json({title: title})::VARCHAR AS raw
    FROM articles WHERE item_id IS NULL ORDER BY line
"""


def read_ebnerd(source: SourceParams) -> Log:
    """Each candidate and each click of a history becomes a row; an impression or history that is invalid counts as one.

    Raises InputError if a file or a column is missing or has another type.
    """
    files = find_ebnerd(source.path)
    behaviors = pa.concat_tables([read_columns(file, BEHAVIORS) for file in files.behaviors])
    history = pa.concat_tables([read_columns(file, HISTORY) for file in files.history])
    events, contexts, rejected = explode(behaviors, history)
    log.info(
        "read %s events of %s impressions and %s histories, %s rows rejected",
        *(f"{len(table):,}" for table in (events, behaviors, history, rejected)),
    )
    num_files = len(files.behaviors) + len(files.history)
    if files.articles is None:
        log.info("There is no articles.parquet: items have no title, categories or time of publication")
        return Log(events, ITEMS.empty_table(), rejected, num_files, contexts)
    items, nameless = _items(read_columns(files.articles, ARTICLES))
    return Log(events, items, rejected, num_files + 1, contexts, rejected_items=nameless)


def _items(articles: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The catalogue (ITEMS), and articles without an id (REJECTED)."""
    with connect() as connection:
        connection.register("articles", articles)
        items = connection.sql(CATALOGUE).to_arrow_table()
        nameless = connection.sql(NAMELESS).to_arrow_table()
    at = items["published_at"].cast(TIME)
    items = items.set_column(items.column_names.index("published_at"), "published_at", at)
    return items.select(ITEMS.names).cast(ITEMS), nameless.cast(REJECTED)
