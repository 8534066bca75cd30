"""Vectors, titles and categories of items <-> the bundle's files for retrieval. Search is exact (a matrix product).

`package` writes them; each start compares them with the weights and the vocabulary, and repeats the golden queries.
Shapes: N items in the vocabulary's order, D width, Q queries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save

from contracts.publish import write_json
from serving.bundle.scorer import Scorer

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

CATALOGUE = "catalogue.parquet"
VECTORS = "index.safetensors"
NEIGHBOURS = "golden_neighbours.json"
VECTOR = "vector"
"""Name of the one array in VECTORS."""
COLUMNS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("published_at", pa.int64()),  # us; null: unknown
    ]
)
TOLERANCE = 1e-4
"""Largest difference from the weights and from golden similarities, since CPUs differ in the order of additions."""
NUM_GOLDEN, NUM_NEIGHBOURS = 32, 10
NORM_FLOOR = 1e-12
BLOCK = 256
"""Rows of which only the greatest score is compared first: passing over a million scores, not sorting them."""


@dataclass(frozen=True)
class ItemIndex:
    """The searchable catalogue. A row is an item's position in the vocabulary."""

    item_ids: list[str]
    row_of: Mapping[str, int]
    index_N: Int64  # item_index of the model
    vector_ND: Float32  # the model's item embeddings
    unit_ND: Float32  # the same with length 1; 0 where the embedding is 0
    catalogue: pa.Table  # COLUMNS

    @classmethod
    def of(cls, scorer: Scorer, vector_ND: Float32, catalogue: pa.Table) -> "ItemIndex":
        """Build the index. vector_ND, catalogue: in the order of the scorer's vocabulary."""
        length_N1 = np.linalg.norm(vector_ND.astype(np.float64), axis=1, keepdims=True)
        return cls(
            item_ids=list(scorer.index_of),
            row_of={item_id: row for row, item_id in enumerate(scorer.index_of)},
            index_N=np.fromiter(scorer.index_of.values(), np.int64, len(scorer.index_of)),
            vector_ND=vector_ND,
            unit_ND=(vector_ND / np.maximum(length_N1, NORM_FLOOR)).astype(np.float32),
            catalogue=catalogue,
        )

    def rows(self, item_ids: Sequence[str]) -> Int64:
        """Rows of items; -1 where the vocabulary lacks the item."""
        return np.fromiter((self.row_of.get(item_id, -1) for item_id in item_ids), np.int64, len(item_ids))

    def similar(self, row: int, among_N: Bool, num: int) -> tuple[Int64, Float32]:
        """(rows, cosines) of the nearest other items in a mask, nearest first."""
        cosine_N = self.unit_ND @ self.unit_ND[row]
        wanted_N = among_N.copy()
        wanted_N[row] = False
        rows = best(cosine_N, wanted_N, num)
        return rows, cosine_N[rows]


def best(score_N: npt.NDArray[np.number], among_N: Bool, num: int) -> Int64:
    """At most num rows in the mask with the largest scores, largest first, equal ones in order of rows."""
    rows = np.flatnonzero(among_N)
    return best_of(score_N[rows], rows, num)


def best_of(score_M: npt.NDArray[np.number], rows: Int64, num: int) -> Int64:
    """As best, of given rows in their order. score_M: the score of each."""
    if 0 < num * BLOCK < len(rows):  # num blocks have a row of at least this score, so lesser rows are not among them
        whole = len(rows) // BLOCK * BLOCK
        kept = score_M >= _nth_largest(score_M[:whole].reshape(-1, BLOCK).max(axis=1), num)
        score_M, rows = score_M[kept], rows[kept]
    if 0 < num < len(rows):
        kept = score_M >= _nth_largest(score_M, num)
        score_M, rows = score_M[kept], rows[kept]
    return rows[np.argsort(-score_M, kind="stable")][:num]


def _nth_largest(values: npt.NDArray[np.number], num: int) -> np.number:
    return np.partition(values, len(values) - num)[len(values) - num]


def write_index(folder: Path, scorer: Scorer, profiles: pa.Table | None) -> ItemIndex:
    """Write the three files. profiles: the snapshot's item_profile; None: no catalogue."""
    item_ids = list(scorer.index_of)
    catalogue = _catalogue(item_ids, profiles)
    index = ItemIndex.of(scorer, item_vectors(scorer), catalogue)
    pq.write_table(catalogue, folder / CATALOGUE)
    (folder / VECTORS).write_bytes(save({VECTOR: index.vector_ND}))
    rows = np.unique(np.linspace(0, max(len(item_ids) - 1, 0), NUM_GOLDEN).round().astype(np.int64))
    write_json(folder / NEIGHBOURS, {"queries": [_golden(index, int(row)) for row in rows[: len(item_ids)]]})
    return index


def item_vectors(scorer: Scorer) -> Float32:
    """[N, D] the model's embeddings of the vocabulary's items, in its order."""
    index_N = np.fromiter(scorer.index_of.values(), np.int64, len(scorer.index_of))
    return np.ascontiguousarray(scorer.tables.item_NX.cpu().numpy()[index_N, : scorer.params.width])


def read_vectors(path: Path, scorer: Scorer) -> Float32:
    """Read the vectors. Raises ValueError if they differ from the weights."""
    vector_ND = load_file(path)[VECTOR]
    wanted_ND = item_vectors(scorer)
    if vector_ND.shape != wanted_ND.shape or vector_ND.dtype != np.float32:
        raise ValueError(
            f"it holds {vector_ND.dtype} of shape {list(vector_ND.shape)}, but the model has float32 of "
            f"{list(wanted_ND.shape)}"
        )
    off = np.abs(vector_ND - wanted_ND) / (1 + np.abs(wanted_ND))
    if not (off <= TOLERANCE).all():
        row = int(np.argmax(~(off <= TOLERANCE).all(axis=1)))
        raise ValueError(f"the vector of item {list(scorer.index_of)[row]!r} differs from the weights")
    return vector_ND


def read_catalogue(path: Path, scorer: Scorer) -> pa.Table:
    """Read the catalogue. Raises ValueError if its items are not those of the vocabulary."""
    catalogue = pq.read_table(path).cast(COLUMNS)
    if catalogue["item_id"].to_pylist() != list(scorer.index_of):
        raise ValueError("its items are not those of the vocabulary, in that order")
    if catalogue["categories"].null_count:
        raise ValueError("categories is null in some rows")
    return catalogue


def check_neighbours(path: Path, index: ItemIndex) -> None:
    """Repeat the golden queries. Raises ValueError if neighbours or similarities differ."""
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    everything_N = np.ones(len(index.row_of), bool)
    for query in content["queries"]:
        row = index.row_of[query["item_id"]]
        rows, cosines = index.similar(row, everything_N, NUM_NEIGHBOURS)
        wanted = [(index.row_of[each["item_id"]], float(each["similarity"])) for each in query["neighbours"]]
        if len(wanted) != len(rows):
            raise ValueError(f"item {query['item_id']!r} has {len(wanted)} neighbours, but {len(rows)} are found")
        for (other, similarity), found in zip(wanted, cosines, strict=True):
            here = float(index.unit_ND[other] @ index.unit_ND[row])
            if abs(here - similarity) > TOLERANCE or abs(found - similarity) > TOLERANCE:  # ties may swap places
                raise ValueError(
                    f"item {query['item_id']!r} has a neighbour of similarity {found:.5f}, which was "
                    f"{similarity:.5f} when packaged"
                )


def _golden(index: ItemIndex, row: int) -> dict[str, Any]:
    item_ids = index.item_ids
    rows, cosines = index.similar(row, np.ones(len(item_ids), bool), NUM_NEIGHBOURS)
    found = zip(rows.tolist(), cosines.tolist(), strict=True)
    return {
        "item_id": item_ids[row],
        "neighbours": [{"item_id": item_ids[other], "similarity": cosine} for other, cosine in found],
    }


def _catalogue(item_ids: Sequence[str], profiles: pa.Table | None) -> pa.Table:
    row_of = {} if profiles is None else {row["item_id"]: row for row in profiles.to_pylist()}
    rows = [row_of.get(item_id, {}) for item_id in item_ids]
    return pa.table(
        {
            "item_id": item_ids,
            "title": [row.get("title") for row in rows],
            "categories": [row.get("categories") or [] for row in rows],
            "published_at": [row.get("published_at") for row in rows],
        },
        schema=COLUMNS,
    )
