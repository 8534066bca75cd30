"""MovieLens' files as published become a log."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import QUARANTINE
from features.stages.ingest import run
from features.tables.ledger import assemble
from tests.clones import real_data
from tests.features.raw_logs import SMALL, read, source

RATINGS = "userId,movieId,rating,timestamp\n"
MOVIES = "movieId,title,genres\n"


def write(folder: Path, ratings: str, movies: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ratings.csv").write_text(RATINGS + ratings)
    (folder / "movies.csv").write_text(MOVIES + movies)
    return folder


def ingest(data: Path, folder: Path) -> dict:
    return dict(run(data, 1, SMALL, source("movielens", folder, label_threshold=4.0, partition="year")))


def test_ratings_are_clicks_from_four_on_and_all_genres_are_kept(tmp_path: Path) -> None:
    movies = '1,"Film, The (1995)",Comedy|Drama\n2,Other,(no genres listed)\n3,Unrated,War\n'
    folder = write(tmp_path / "ml", "7,1,4.0,789652009\n7,2,3.5,789652009\n8,9,5.0,789652010\n", movies)
    ingest(tmp_path / "data", folder)
    rows = {(row["user_id"], row["item_id"]): row["label"] for row in read(tmp_path / "data" / "interactions")}
    assert rows == {("7", "1"): 1, ("7", "2"): 0, ("8", "9"): 1}
    items = {row["item_id"]: (row["title"], row["categories"]) for row in read(tmp_path / "data" / "items")}
    assert items == {
        "1": ("Film, The (1995)", ["Comedy", "Drama"]),
        "2": ("Other", []),
        "3": ("Unrated", ["War"]),
        "9": (None, []),
    }


def test_rows_that_cannot_be_parsed_are_kept_with_their_place(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "ml", "7,1,4.0,789652009\n7,2,good,789652009\n7,3,1.0,later\n7,1\n", "1,Film,War\n2,Film\n"
    )
    report = ingest(tmp_path / "data", folder)
    assert report["dropped"] == {"bad label": 1, "bad time": 1, "wrong number of fields": 1}
    assert [(row["file"], row["line"], row["raw"]) for row in read(tmp_path / "data" / "rejected")] == [
        ("movies.csv", 3, "2,Film"),
        ("ratings.csv", 3, "7,2,good,789652009"),
        ("ratings.csv", 4, "7,3,1.0,later"),
        ("ratings.csv", 5, "7,1"),
    ]


def test_ratings_and_movies_are_counted_apart(tmp_path: Path) -> None:
    movies = '1,Film,War\n2,Other\n1,"Again\n1",War\n3,Third,War\n'
    folder = write(tmp_path / "ml", "7,1,4.0,789652009\n7,1\n", movies)
    report = ingest(tmp_path / "data", folder)
    assert (report["rows_read"], report["rows_written"], report["dropped"]) == (2, 1, {"wrong number of fields": 1})
    assert report["items_read"] == 4
    assert report["items_dropped"] == {"wrong number of fields": 1, "movie repeated": 1}
    held = read(tmp_path / "data" / "rejected")
    assert [(row["file"], row["line"], row["raw"]) for row in held if row["file"] == "movies.csv"] == [
        ("movies.csv", 3, "2,Other"),
        ("movies.csv", 4, '1,"Again\n1",War'),
    ]
    assert {row["item_id"]: row["title"] for row in read(tmp_path / "data" / "items")} == {"1": "Film", "3": "Third"}
    (tmp_path / "data" / "quarantine").mkdir()
    shutil.copytree(tmp_path / "data" / "interactions", tmp_path / "data" / "validated_interactions")
    pq.write_table(QUARANTINE.empty_table(), tmp_path / "data" / "quarantine" / "quarantine.parquet")
    assert sum(assemble(tmp_path / "data", {"impression": 1})["rows"].to_pylist()) == report["rows_read"]


def test_another_folder_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ratings.csv does not exist"):
        ingest(tmp_path / "data", tmp_path)
    folder = write(tmp_path / "ml", "", "")
    (folder / "movies.csv").write_text("id,title\n")
    with pytest.raises(InputError, match=r"movies.csv has no column movieId, genres. It has: id, title"):
        ingest(tmp_path / "data", folder)


def test_the_real_log_is_read_whole(tmp_path: Path) -> None:
    report = ingest(tmp_path, real_data("movielens-small"))
    assert (report["rows_read"], report["rows_written"], report["num_users"]) == (100_004, 100_004, 671)
    assert report["num_items"] == 9_125
    assert report["num_clicks"] / report["rows_written"] == pytest.approx(0.516, abs=0.001)
    assert (report["first_event_at"][:10], report["last_event_at"][:10]) == ("1995-01-09", "2016-10-16")
