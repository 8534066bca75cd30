"""A point of the quality page that stands for several partitions says what it is of each figure."""

from features.pages.columns import MEANINGS
from features.pages.grouping import MOST_POINTS, grouped
from features.pages.partitions import by_partition
from features.quality.profile import PROFILE


def days(num: int) -> list[dict]:
    none = dict.fromkeys(PROFILE.names)
    return [
        none | {"partition": f"{1900 + day}", "rows_in": 10 + day, "rows_valid": 10 + day, "users": day % 2 + 1}
        | {"click_rate": 0.5, "rows_quarantined": 0, "rows_duplicated": 0, "silent_at_end_s": 60.0 * day}
        for day in range(num)
    ]  # fmt: skip


def test_rows_are_added_and_users_are_the_largest_of_a_partition() -> None:
    rows = days(2 * MOST_POINTS)
    first = grouped(rows)[0]
    assert (first["rows_valid"], first["users"], first["click_rate"]) == (10 + 11, 2, 0.5)
    page = by_partition(rows, [])
    assert "Each point stands for 2 partitions: counts of rows are added, rates averaged; of users" in page


def test_a_point_for_one_partition_needs_no_words() -> None:
    assert "Each point stands" not in by_partition(days(MOST_POINTS), [])


def test_every_figure_of_a_partition_says_what_it_means() -> None:
    assert list(MEANINGS) == PROFILE.names


def test_a_time_is_shown_to_the_second() -> None:
    page = by_partition([days(1)[0] | {"last_at": "2024-01-31T23:59:58.123456+00:00"}], [])
    assert ">2024-01-31 23:59:58<" in page
    assert ".123456" not in page
