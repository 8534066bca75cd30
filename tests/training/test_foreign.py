"""A foreign score file is judged on the candidates that it scores, and ours on the same ones."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from features.stages import histories
from tests.features.small_log import history, random_log, request, write_log
from training.foreign import judge, read_scores


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small log whose every candidate is a test candidate; `ours` scores as `theirs`, upside down."""
    data = write_log(tmp_path / "data" / "log", random_log(3))
    histories.run(data, request(), history())
    rows = pq.read_table(data / "impressions" / "impressions.parquet")
    (data / "predictions").mkdir()
    ours = rows.select(["request_index", "item_index", "label"]).append_column("ours", pa.array([1.0] * len(rows)))
    pq.write_table(ours, data / "predictions" / "predictions.parquet")
    return data


def scores(data: Path, keep: int) -> pa.Table:
    """The labels themselves as scores, by the log's own names; of the first rows only."""
    rows = pq.read_table(data / "predictions" / "predictions.parquet").slice(0, keep)
    names = pq.read_table(data / "impressions" / "requests.parquet")["impression_id"].to_pylist()
    items = pq.read_table(data / "user_histories" / "vocabulary.parquet")
    ids = dict(zip(items["item_index"].to_pylist(), items["item_id"].to_pylist(), strict=True))
    return pa.table(
        {
            "impression_id": [names[place] for place in rows["request_index"].to_pylist()],
            "item_id": [ids[place] for place in rows["item_index"].to_pylist()],
            "score": rows["label"].cast(pa.float64()),
        }
    )


def test_a_file_of_the_labels_is_perfect_and_covers_what_it_names(data: Path, tmp_path: Path) -> None:
    pcsv.write_csv(scores(data, 90), tmp_path / "other.csv")
    told = judge(data, read_scores(tmp_path / "other.csv"), "other", 1800)
    assert (told["num_judged"], told["num_scores"]) == (90, 90)
    assert told["auc"] == {"ours": 0.5, "other (yours)": 1.0}
    found = {(row["model"], row["since_shift"]): row["auc"] for row in told["models"]}
    assert found["other (yours)", 0] == 1.0
    assert found["ours", 0] == 0.5
    judged = set(pq.read_table(data / "predictions" / "predictions.parquet")["request_index"].to_pylist()[:90])
    assert 0 < sum(row["requests"] for row in told["models"] if row["model"] == "ours") <= len(judged)


def test_a_file_that_cannot_be_judged_says_why(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    for text, why in (
        ("impression_id,item_id\nr0,i0\n", "has no column score"),
        ("impression_id,item_id,score\nr0,i0,nan\n", "missing or not finite"),
        ("impression_id,item_id,score\nr0,i0,high\n", "Give scores as numbers"),
        ("impression_id,item_id,score\nr0,i0,1\nr0,i0,2\n", "several scores"),
    ):
        other.write_text(text)
        with pytest.raises(InputError, match=why):
            read_scores(other)
    other.write_text("impression_id,item_id,score\nnobody,i0,1\n")
    with pytest.raises(InputError, match="None of the 1 scores matches"):
        judge(data, read_scores(other), "other", 1800)
