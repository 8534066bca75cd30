"""Item attributes in the rows of a log (title, categories, publication, embedding) -> the latest value of each by item.

The facts of a block are one row per item, each fact with the time of the row that states it. So facts of several
blocks are merged by the same rule as rows, in any order.
"""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import ITEMS, TIME
from features.tables.connection import connect

ABOUT_ITEMS = ("title", "categories", "published_us", "embedding")
GIVEN = {name: f"{name} IS NOT NULL" for name in ABOUT_ITEMS} | {"categories": "len(categories) > 0"}
FACTS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        *(pa.field(f"{name}_at", pa.int64()) for name in ABOUT_ITEMS),  # us, the time of the row that states it
        pa.field("title", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("published_us", pa.int64()),
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
"""One row per item: the latest value of each fact, null if no row states it."""

_OF_ROWS = f"""
    SELECT item_id, {", ".join(f"epoch_us(occurred_at) AS {name}_at" for name in ABOUT_ITEMS)}, {", ".join(ABOUT_ITEMS)}
    FROM rows WHERE item_id IS NOT NULL
"""
_LATEST = ", ".join(
    f"max({name}_at) FILTER ({given}) AS {name}_at, "
    f"max_by({name}, {{'at': {name}_at, 'value': {name}}}) FILTER ({given}) AS {name}"
    for name, given in GIVEN.items()
)


def facts_of(rows: pa.Table) -> pa.Table:
    """FACTS of some rows. rows: item_id, occurred_at and ABOUT_ITEMS."""
    if all(rows[name].null_count == len(rows) for name in ABOUT_ITEMS):
        items = pc.drop_null(pc.unique(rows["item_id"]))
        return _named({"item_id": items})
    with connect() as connection:
        connection.register("rows", rows.select(["item_id", "occurred_at", *ABOUT_ITEMS]))
        latest = connection.sql(f"SELECT item_id, {_LATEST} FROM ({_OF_ROWS}) GROUP BY item_id").to_arrow_table()
    return latest.select(FACTS.names).cast(FACTS)


def facts_of_items(item_ids: pa.ChunkedArray | pa.Array) -> pa.Table:
    """FACTS of items without any attribute, only their ids."""
    return _named({"item_id": pc.drop_null(pc.unique(item_ids))})


def merged(facts: Sequence[pa.Table]) -> pa.Table:
    """Several tables of FACTS as one, in order of item_id."""
    together = pa.concat_tables([FACTS.empty_table(), *facts])
    if all(together[name].null_count == len(together) for name in FACTS.names[1:]):
        return _named({"item_id": pc.unique(together["item_id"]).sort()})
    with connect() as connection:
        connection.register("facts", together)
        latest = connection.sql(f"SELECT item_id, {_LATEST} FROM facts GROUP BY item_id ORDER BY item_id")
        return latest.to_arrow_table().select(FACTS.names).cast(FACTS)


def as_items(facts: pa.Table) -> pa.Table:
    """FACTS as a catalogue (contracts.schema.ITEMS), in the same order."""
    none = pa.scalar([], pa.list_(pa.string()))
    columns = {
        "item_id": facts["item_id"],
        "title": facts["title"],
        "categories": pc.coalesce(facts["categories"], none),
        "published_at": facts["published_us"].cast(TIME),
        "embedding": facts["embedding"],
    }
    return pa.table(columns, schema=ITEMS)


def items_of(rows: pa.Table) -> pa.Table:
    """ITEMS, one row per item with the latest value of each fact. The order of the rows does not matter."""
    return as_items(merged([facts_of(rows)]))


def _named(columns: dict[str, pa.Array]) -> pa.Table:
    num = len(columns["item_id"])
    return pa.table([columns.get(field.name, pa.nulls(num, field.type)) for field in FACTS], schema=FACTS)
