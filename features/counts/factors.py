"""Clicks -> factors and codes of users at the start of each period: a truncated SVD of who clicked what before it.

The matrix has a row per user and a column per item, with 1 / sqrt(clicks of the user x clicks of the item) where there
was a click; its left singular vectors, weighted by their singular values and normalised, are the users' factors.
Signs and order of singular vectors differ from period to period, so factors are compared within a period alone. A code
is what a model may learn weights on: the leading directions but the first, which says how active a user is, turned onto
the codes of the period before (orthogonal Procrustes: Schoenemann, 1966).
Randomised range finder: Halko, Martinsson and Tropp, 2011. Equal bytes are promised on one CPU type, as for weights.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse
from threadpoolctl import ThreadpoolController

from contracts.errors import InputError
from contracts.files import written
from contracts.schema import COCLICK_CLICKS, ROLE_IMPRESSION, TIME, coclick_factors
from features.engine.engine import Engine
from features.tables.arrow_file import read_arrow, store_arrow
from features.terms.convention import CLICKED, code_width, micros

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Codes = npt.NDArray[np.int8]

MAX_PERIODS = 2_000
MAX_BYTES = 4 * 2**30
"""Limit of the factors of all users in all periods, which training and each worker keep in memory."""
OVERSAMPLING = 8
POWER_STEPS = 4
LENGTH = 127
"""A factor's length, as int8."""


@dataclass(frozen=True)
class Periods:
    """What the factors of every period are made of."""

    pairs: Path  # at (us), user, item: the first click of each pair, in numbers; in Arrow's format
    rank: int
    folder: Path  # of the files that are made


def write_coclicks(
    engine: Engine, rows: ir.Table, rank: int, period_s: float, folder: Path, scratch: Path
) -> dict[str, int]:
    """Write clicks.parquet, history_clicks.parquet and factors.parquet; returns counts. rows: validated.

    Clicks of role history go to a file of their own: a log has them for some weeks only, so they must not change the
    number of readers by which items are compared. A period's factors use the clicks before its start.
    engine: what factorises periods. scratch: a folder for what is between.
    """
    clicked = rows.filter(rows.label >= CLICKED)
    clicks = _write_clicks(clicked.filter(clicked.role == ROLE_IMPRESSION), folder / "clicks.parquet")
    by_history = _write_clicks(clicked.filter(clicked.role != ROLE_IMPRESSION), folder / "history_clicks.parquet")
    pairs = clicked.group_by(["user_id", "item_id"]).agg(occurred_at=clicked.occurred_at.min())
    pairs = pairs.order_by(["user_id", "item_id"]).to_pyarrow()
    schema, num_factors = coclick_factors(rank, code_width(rank)), 0
    with pq.ParquetWriter(folder / "factors.parquet", schema, compression="zstd") as writer:
        for table in _factors(engine, pairs, _starts(clicks, micros(period_s), rank), rank, scratch):
            writer.write_table(table.cast(schema))
            num_factors += len(table)
    return {
        "num_coclick_clicks": len(clicks),
        "num_coclick_history_clicks": len(by_history),
        "num_coclick_factors": num_factors,
    }


def user_factors(users: Int64, items: Int64, rank: int) -> npt.NDArray[np.int8]:
    """[U, rank] of clicked pairs, numbered densely from 0; columns beyond the matrix' rank are 0."""
    return _of_one_length(leading(users, items, rank)[:, :rank], rank)


def user_codes(directions: Floats, earlier_rows: Int64, earlier: Codes, width: int) -> Codes:
    """[U, width] codes: the directions of `leading`, rotated as close as possible to the previous period's codes.

    directions: of leading. earlier_rows: [E] the users who had codes, by their rows here. earlier: [E, width] these.
    """
    made = np.zeros((len(directions), width))
    own = directions[:, 1 : width + 1]
    made[:, : own.shape[1]] = own
    with _libraries().limit(limits=1):
        left, _, right = np.linalg.svd(made[earlier_rows].T @ earlier.astype(np.float64))
        turned = made @ (left @ right)
    return _of_one_length(turned, width)


def leading(users: Int64, items: Int64, rank: int) -> Floats:
    """[U, up to rank + OVERSAMPLING] the left singular vectors times their values, the greatest first."""
    shape = (int(users.max()) + 1, int(items.max()) + 1)
    weight = 1 / np.sqrt(np.bincount(users)[users] * np.bincount(items)[items])
    matrix = sparse.csr_matrix((weight, (users, items)), shape=shape)
    width = min(rank + OVERSAMPLING, *shape)
    sketch = np.random.default_rng(0).standard_normal(
        (shape[0], width)
    )  # drawn for users, so that renaming items changes nothing
    with _libraries().limit(limits=1):  # equal bytes on any number of cores, and on a busy machine 10x faster
        for _ in range(POWER_STEPS):
            basis, _ = np.linalg.qr(matrix.T @ sketch)
            sketch = matrix @ basis
        left, values, _ = np.linalg.svd(sketch, full_matrices=False)
    return left * values


@cache
def _libraries() -> ThreadpoolController:
    """NumPy's linear algebra, whose threads are limited. It is found by reading all that the process has mapped, which
    takes 4 ms and more: once, not twice a period."""
    return ThreadpoolController()


def _of_one_length(vectors: Floats, width: int) -> npt.NDArray[np.int8]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    made = np.zeros((len(vectors), width), np.int8)
    made[:, : vectors.shape[1]] = np.rint(LENGTH * vectors / np.where(length > 0, length, 1.0))
    return made


def _write_clicks(rows: ir.Table, path: Path) -> pa.Table:
    clicks = rows.select("item_id", "occurred_at", "user_id").order_by(["item_id", "occurred_at", "user_id"])
    clicks = clicks.to_pyarrow().cast(COCLICK_CLICKS)
    pq.write_table(clicks, path, compression="zstd")
    return clicks


def _starts(clicks: pa.Table, period_us: int, rank: int) -> Int64:
    """Starts of the periods from the first click to the one after the last, whole multiples of the period."""
    if not len(clicks):
        return np.zeros(0, np.int64)
    ends = pc.min_max(clicks["occurred_at"].cast(pa.int64()))
    first, last = ends["min"].as_py() // period_us, ends["max"].as_py() // period_us + 1
    if last - first >= MAX_PERIODS:
        raise InputError(
            f"statistics.coclick_period_s is {period_us / 1e6:g}: the log's clicks span {last - first + 1:,} such "
            f"periods, and each is a factorisation; at most {MAX_PERIODS:,} are made. Raise it."
        )
    size = (last - first + 1) * pc.count_distinct(clicks["user_id"]).as_py() * (rank + code_width(rank))
    if size > MAX_BYTES:
        raise InputError(
            f"Factors of {rank} for all users in {last - first + 1:,} periods take {size / 2**30:.1f} GiB; "
            f"{MAX_BYTES / 2**30:g} are held at most. Raise statistics.coclick_period_s or lower coclick_rank."
        )
    return np.arange(first, last + 1, dtype=np.int64) * period_us


def factorise(periods: Periods, start: int) -> Path:
    """The file of a period's leading directions [U, 1 + width of codes], and of its users' factors [U, rank].

    U: users with a click before the period's start, in ascending order.
    """
    pairs = read_arrow(periods.pairs)
    before = pairs["at"].to_numpy() < start
    users, items = (np.unique(pairs[name].to_numpy()[before], return_inverse=True)[1] for name in ("user", "item"))
    directions = leading(users, items, periods.rank)
    made = {
        "directions": directions[:, : 1 + code_width(periods.rank)],
        "factors": _of_one_length(directions[:, : periods.rank], periods.rank),
    }
    path = periods.folder / f"{start}.npz"
    with written(path, lasting=False) as making, making.open("wb") as file:  # numpy would add a suffix to a name
        np.savez(file, **made)
    return path


def _factors(engine: Engine, pairs: pa.Table, starts: Int64, rank: int, scratch: Path) -> Iterator[pa.Table]:
    """One table a period that has something to factorise."""
    at = pairs["occurred_at"].cast(pa.int64()).to_numpy()
    # numbered by id: numbered by appearance, a later click could renumber items of earlier periods
    ids = {name: pc.unique(pairs[name]).sort() for name in ("user_id", "item_id")}
    users, items = (pc.index_in(pairs[name], value_set=each).to_numpy().astype(np.int64) for name, each in ids.items())
    periods = Periods(scratch / "pairs.arrow", rank, scratch)
    store_arrow(pa.table({"at": at, "user": users, "item": items}), periods.pairs)
    starts = starts[starts > at.min()] if len(at) else starts[:0]
    width, said_at = code_width(rank), time.monotonic()
    earlier, codes = np.zeros(0, np.int64), np.zeros((0, width), np.int8)  # users, ascending, and their codes
    files = engine.map(partial(factorise, periods), starts.tolist(), "factors of periods")
    for number, (start, file) in enumerate(zip(starts.tolist(), files, strict=True)):
        known = np.unique(users[at < start])
        with np.load(file) as made:
            directions, factors = made["directions"], made["factors"]
        file.unlink()
        codes = user_codes(directions, np.searchsorted(known, earlier), codes, width)
        earlier = known
        yield pa.table(
            {
                "starts_at": pa.array(np.full(len(known), start)).cast(TIME),
                "user_id": ids["user_id"].take(pa.array(known)),
                "factor": pa.FixedSizeListArray.from_arrays(pa.array(factors.ravel()), rank),
                "code": pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), width),
            }
        )
        if time.monotonic() - said_at >= 5:
            log.info("co-click factors: %d of %d periods", number + 1, len(starts))
            said_at = time.monotonic()
