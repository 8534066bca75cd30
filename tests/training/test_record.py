"""The record of a run, and the row that it chooses."""

import csv
import math

import pytest

from training.fitting.record import Measured, best_of, write_record


def row(number, loss, gauc=0.6, model="mos"):
    return Measured(model, 1, 10 * number, 0.5, math.nan, math.nan, loss, 0.7, gauc, 0.6)


@pytest.mark.parametrize(
    ("losses", "best"),
    [([0.5, 0.4, 0.6], 2), ([0.4, 0.4], 1), ([0.5, math.nan], 1), ([math.inf, 0.7], 2), ([math.nan, math.nan], 2)],
)
def test_the_best_row_has_the_lowest_finite_loss_and_without_any_it_is_the_last(losses, best):
    assert best_of([row(number, loss) for number, loss in enumerate(losses, 1)], "logloss") == best


def test_a_ranking_figure_chooses_by_the_highest(tmp_path):
    record = [row(number, 0.1 * number, gauc) for number, gauc in enumerate([0.6, 0.8, 0.8], 1)]
    assert (best_of(record, "logloss"), best_of(record, "gauc")) == (1, 2)


def test_the_record_has_a_line_a_validation_and_blanks_where_nothing_was_measured(tmp_path):
    write_record(tmp_path / "record.csv", [row(1, 0.1234567), row(2, math.nan)])
    with (tmp_path / "record.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [each["step"] for each in rows] == ["10", "20"]
    assert [each["validation_logloss"] for each in rows] == ["0.123457", ""]
    assert rows[0]["mutual_information"] == ""
