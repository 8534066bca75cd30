"""The record of a run, and the epoch that it chooses."""

import csv
import math

import pytest

from training.fitting.record import Epoch, best_epoch, log_live, write_record


def epoch(number, loss, model="mos"):
    return Epoch(model, number, 0.5, math.nan, loss, 0.7, 0.6)


@pytest.mark.parametrize(
    ("losses", "best"),
    [([0.5, 0.4, 0.6], 2), ([0.4, 0.4], 1), ([0.5, math.nan], 1), ([math.inf, 0.7], 2), ([math.nan, math.nan], 2)],
)
def test_the_best_epoch_has_the_lowest_finite_loss_and_without_any_it_is_the_last(losses, best):
    assert best_epoch([epoch(number, loss) for number, loss in enumerate(losses, 1)]) == best


def test_a_ranking_loss_chooses_by_the_highest_iauc():
    record = [Epoch("din", number, 0.5, math.nan, 0.1 * number, 0.7, iauc) for number, iauc in enumerate([0.6, 0.8], 1)]
    assert (best_epoch(record), best_epoch(record, listwise=True)) == (1, 2)


def test_the_record_has_a_line_an_epoch_and_blanks_where_nothing_was_measured(tmp_path):
    write_record(tmp_path / "record.csv", [epoch(1, 0.1234567), epoch(2, math.nan)])
    with (tmp_path / "record.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["validation_logloss"] for row in rows] == ["0.123457", ""]
    assert rows[0]["mutual_information"] == ""


def test_the_curves_lie_in_the_live_folder(tmp_path):
    log_live(tmp_path / "live", [epoch(1, 0.5), epoch(2, 0.4), epoch(1, 0.6, "din")])
    lines = (tmp_path / "live" / "plots" / "metrics" / "mos" / "validation_logloss.tsv").read_text().splitlines()
    assert [line.split("\t")[-1] for line in lines[1:]] == ["0.5", "0.4"]
    assert (tmp_path / "live" / "plots" / "metrics" / "din" / "validation_logloss.tsv").exists()
