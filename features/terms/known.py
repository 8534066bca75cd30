"""When a fact of the log became known, and so from when it counts: one rule for tables, tails and replays.

A row holds up to two facts: an impression or action, and its click.

- The row counts from its own time on, or from `arrived_at` on where it came later than that.
- Its click counts with the row, or from `known_at` on where it became known later than the row.

That later time is the time of the fact: counters and histories use it as the event's time and are ordered by it, with
ties by item and event key. A read as of t reads strictly before t - lag, so no fact is read before it was known, and
facts that arrive later never change an earlier read.
A history of all labels holds a show from its time on and, as a separate event, its click from when that became known.

Where the log does not say (null), facts are known at their own times. labels.delay_s then takes its place: a click is
known that long after its row, and lags of features that reveal clicks must not be shorter
(features.terms.params.lags_below_delay).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.schema import TIME
from features.terms.convention import CLICKED

Int64 = npt.NDArray[np.int64]


def times_of(rows: Any) -> tuple[Any, Any]:
    """(time of the row, time of its click or of the row if it has none), for an Ibis table of interactions."""
    import ibis  # imported here, since the replay needs this module but not Ibis

    row_at = ibis.greatest(rows.occurred_at, ibis.coalesce(rows.arrived_at, rows.occurred_at))
    click_at = ibis.ifelse(rows.label >= CLICKED, ibis.greatest(row_at, ibis.coalesce(rows.known_at, row_at)), row_at)
    return row_at, click_at


def says_known(path: Path) -> bool:
    """Whether any row of a Parquet file of interactions says when it or its click was known."""
    metadata = pq.read_metadata(path)
    places = [metadata.schema.names.index(name) for name in ("known_at", "arrived_at")]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return any(group.column(place).statistics.null_count < group.num_rows for group in groups for place in places)


def times_in(rows: pa.Table) -> tuple[Int64, Int64]:
    """The same as times_of for an Arrow table, in us."""
    own = _us(rows["occurred_at"])
    row_at = np.maximum(own, _us(rows["arrived_at"], own))
    clicked = rows["label"].to_numpy() >= CLICKED
    return row_at, np.where(clicked, np.maximum(row_at, _us(rows["known_at"], row_at)), row_at)


def _us(column: pa.ChunkedArray, otherwise: Int64 | None = None) -> Int64:
    whole: Any = column.cast(TIME).cast(pa.int64()).combine_chunks()
    if otherwise is None or not whole.null_count:
        return whole.to_numpy(zero_copy_only=False)
    return np.where(whole.is_null().to_numpy(zero_copy_only=False), otherwise, whole.fill_null(0).to_numpy())
