"""Valid rows by partition -> one row of figures per partition: volume, clicks, rates, gaps, vocabulary, category mix.

Figures of one partition by itself are counted in figures.py. Comparisons with earlier partitions (`*_of_trailing`,
`category_distance`) are null for the first one. DuckDB counts; no row of the log enters Python.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.known_hashes import hash_of
from features.quality.code import code
from features.quality.figures import Figures
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import connect
from features.tables.partitions import Partition

Float = npt.NDArray[np.float64]

NO_CATEGORY = "(none)"
Counts = tuple[int, int, int]
"""Of a partition: rows in, quarantined, repeated."""
KEPT = "profile.arrow"
PROFILE = pa.schema(
    [
        pa.field("partition", pa.string(), nullable=False),
        pa.field("rows_in", pa.int64(), nullable=False),
        pa.field("rows_valid", pa.int64(), nullable=False),
        pa.field("rows_quarantined", pa.int64(), nullable=False),
        pa.field("rows_duplicated", pa.int64(), nullable=False),
        pa.field("quarantined_share", pa.float64(), nullable=False),
        pa.field("duplicated_share", pa.float64(), nullable=False),
        pa.field("users", pa.int64(), nullable=False),
        pa.field("items", pa.int64(), nullable=False),
        pa.field("requests", pa.int64(), nullable=False),  # impression_ids
        pa.field("clicks", pa.int64(), nullable=False),
        pa.field("first_at", pa.timestamp("us", tz="UTC")),
        pa.field("last_at", pa.timestamp("us", tz="UTC")),
        pa.field("click_rate", pa.float64()),  # of rows that may be trained on
        pa.field("rows_per_request", pa.float64()),
        pa.field("rows_per_user", pa.float64()),
        pa.field("all_clicked_share", pa.float64()),  # of requests: two rows or more, all clicked
        pa.field("most_per_minute", pa.int64()),  # most distinct times of one user's rows within a minute
        pa.field("busiest_user_share", pa.float64()),  # of the partition's rows
        pa.field("negative_ids", pa.int64()),  # rows whose user or item is a negative number, which often means nobody
        pa.field("longest_gap_s", pa.float64()),  # longest time between events, the last one of earlier days included
        pa.field("longest_gap_share", pa.float64()),  # the same as a share of the partition's length
        pa.field("silent_at_end_s", pa.float64()),  # from the newest event to the partition's end
        pa.field("missing_before", pa.int64()),  # partitions without a valid row between this one and the previous one
        pa.field("unknown_item_share", pa.float64()),  # rows whose item has no title and no category in the catalogue
        pa.field("new_item_share", pa.float64()),  # rows whose item is in no earlier partition
        pa.field("rows_of_trailing", pa.float64()),  # rows divided by the median of the trailing partitions
        pa.field("click_rate_of_trailing", pa.float64()),
        pa.field("category_distance", pa.float64()),  # Jensen-Shannon, 0 to 1, from the trailing partitions' mix
    ]
)
"""profile/partitions.parquet: one row per partition, in order of time."""

_KNOWN = """
    SELECT place, sum(num * unknown::INT)::DOUBLE / sum(num) AS unknown_item_share,
        coalesce(sum(num) FILTER (first_place = place), 0)::DOUBLE / sum(num) AS new_item_share
    FROM named JOIN seen USING (item_id) GROUP BY place
"""
_MIX = f"""
    SELECT place, coalesce(category, '{NO_CATEGORY}') AS category, sum(num)::BIGINT AS num
    FROM named LEFT JOIN categories USING (item_id) GROUP BY ALL
"""


def profile_partitions(
    figures: Figures | None,
    valid: Sequence[Path],
    items: Path,
    counts: Mapping[str, Counts],
    trailing: int,
    cache: PartitionCache,
) -> tuple[pa.Table, str]:
    """As `profiled`, unless it is known; and its key in the cache."""
    catalogue = [hash_of(file) for file in sorted(items.glob("*.parquet"))]
    of = [path.stem for path in valid], list(counts.items())
    key = key_of(code(), "profile", figures.key if figures else "", catalogue, of, trailing)
    if not cache.holds(key):
        with cache.making() as making:
            (making / key).mkdir()
            with pa.ipc.new_file(str(making / key / KEPT), PROFILE) as file:
                file.write_table(profiled(figures, valid, items, counts, trailing))
            cache.put(key, making / key, {KEPT: len(counts)})
    with pa.OSFile(str(cache.file(key, KEPT))) as file:
        return pa.ipc.open_file(file).read_all(), key


def profiled(
    figures: Figures | None, valid: Sequence[Path], items: Path, counts: Mapping[str, Counts], trailing: int
) -> pa.Table:
    """Figures of every partition (PROFILE).

    valid: validated_interactions/<partition>.parquet, in order; a partition without a valid row has no file. figures:
    of these; None if there are none. items: the folder of the catalogue. counts: partition -> (rows in, quarantined,
    duplicated). trailing: the number of earlier partitions that each is compared with.
    """
    places = {path.stem: place for place, path in enumerate(valid)}
    found: dict[int, dict[str, Any]] = {place: {} for place in places.values()}
    mix: dict[int, dict[str, int]] = {place: {} for place in places.values()}
    if figures:
        before = None
        for row in figures.of.to_pylist():
            gap_us = row.pop("longest_gap_us")
            silent_us = micros_of(row["first_at"]) - before if before is not None else 0
            before = micros_of(row["last_at"])
            found[row["place"]] |= row | {"longest_gap_s": max(gap_us, silent_us) / 1e6}
        with connect() as connection:
            _prepare(connection, figures, items)
            for row in connection.sql(_KNOWN).to_arrow_table().to_pylist():
                found[row["place"]] |= row
            for place, category, num in connection.sql(_MIX).fetchall():
                mix[place][category] = num
    rows = [_row(name, counts[name], found.get(places.get(name, -1), {})) for name in counts]
    _beside_trailing(rows, [mix.get(places.get(name, -1), {}) for name in counts], trailing)
    return pa.Table.from_pylist(rows, schema=PROFILE)


def _prepare(connection: duckdb.DuckDBPyConnection, figures: Figures, items: Path) -> None:
    """Create named (rows by partition and item), seen (each item's first partition), categories (item_id, category)."""
    files, firsts = [str(path) for path, _ in figures.items], [first for _, first in figures.items]
    connection.execute(
        "CREATE TEMP TABLE firsts AS SELECT unnest(?::VARCHAR[]) AS filename, unnest(?::BIGINT[]) AS first_place",
        [files, firsts],
    )
    connection.execute(f"""
        CREATE TEMP VIEW named AS SELECT place + first_place AS place, item_id, num
        FROM read_parquet({files}, filename = true) JOIN firsts USING (filename);
        CREATE TEMP VIEW catalogue AS FROM read_parquet('{items}/*.parquet');
        CREATE TEMP TABLE catalogued AS
            SELECT count(*) FILTER (title IS NOT NULL OR len(categories) > 0) > 0 AS has_items FROM catalogue;
        CREATE TEMP TABLE categories AS SELECT item_id, unnest(categories) AS category FROM catalogue;
        CREATE TEMP TABLE seen AS SELECT item_id, min(place) AS first_place,
            CASE WHEN (SELECT has_items FROM catalogued)
                THEN coalesce(bool_and(title IS NULL AND len(categories) = 0), true) END AS unknown
        FROM named LEFT JOIN (SELECT item_id, title, categories FROM catalogue) USING (item_id) GROUP BY item_id;
    """)


def _row(name: str, counts: Counts, found: Mapping[str, Any]) -> dict[str, Any]:
    rows_in, quarantined, duplicated = counts
    shares = {"quarantined_share": quarantined / rows_in, "duplicated_share": duplicated / rows_in}
    none = dict.fromkeys(("rows_valid", "users", "items", "requests", "clicks"), 0)
    totals = {"partition": name, "rows_in": rows_in, "rows_quarantined": quarantined, "rows_duplicated": duplicated}
    row: dict[str, Any] = {**none, **found, **totals, **shares}
    if row["rows_valid"]:
        partition = Partition(name)
        row["longest_gap_share"] = row["longest_gap_s"] * 1e6 / (partition.last_us + 1 - partition.first_us)
        row["silent_at_end_s"] = (partition.last_us - micros_of(row["last_at"])) / 1e6
        row["busiest_user_share"] = (row.pop("busiest", None) or 0) / row["rows_valid"]
    return row


def micros_of(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _beside_trailing(rows: list[dict[str, Any]], mixes: Sequence[Mapping[str, int]], trailing: int) -> None:
    """Add the comparisons of each partition with earlier ones."""
    for place, row in enumerate(rows):
        before = [(rows[at], mixes[at]) for at in range(max(place - trailing, 0), place)]
        earlier = [each["partition"] for each in rows[:place] if each["rows_valid"]]
        if earlier and row["rows_valid"]:
            row["missing_before"] = _between(earlier[-1], row["partition"])
        if not before or not row["rows_valid"]:
            row["new_item_share"] = None
            continue
        row["rows_of_trailing"] = row["rows_valid"] / max(float(np.median([r["rows_valid"] for r, _ in before])), 1.0)
        rates = [r["click_rate"] for r, _ in before if r.get("click_rate")]
        if rates and row.get("click_rate") is not None:
            row["click_rate_of_trailing"] = row["click_rate"] / float(np.median(rates))
        row["category_distance"] = _distance(mixes[place], [mix for _, mix in before])


def _between(first: str, second: str) -> int:
    """The number of partitions between two, in their unit."""
    unit = Partition(second).unit
    return int((np.datetime64(second, unit) - np.datetime64(first, unit)).astype(np.int64)) - 1


def _distance(mix: Mapping[str, int], before: Sequence[Mapping[str, int]]) -> float | None:
    """Distance of a partition's category mix from that of earlier partitions together; None without any category."""
    from scipy.spatial.distance import jensenshannon  # imported late: it takes most of a second

    names = sorted({*mix, *(name for each in before for name in each)})
    if names in ([], [NO_CATEGORY]):
        return None
    now, then = (_share([each.get(name, 0) for name in names]) for each in (mix, _sum(before)))
    if not now.any() or not then.any():
        return None
    return float(jensenshannon(now, then, base=2))


def _sum(mixes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for mix in mixes:
        for name, num in mix.items():
            total[name] = total.get(name, 0) + num
    return total


def _share(counts: Sequence[int]) -> Float:
    values = np.asarray(counts, float)
    return values / max(values.sum(), 1.0)
