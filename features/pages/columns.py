"""Columns of features/quality/profile.py -> what each one means, in words with its unit, for the steward's page."""

from collections.abc import Mapping

from features.pages.document import Html, escape, table

MEANINGS: Mapping[str, str] = {
    "partition": "its day, month or year, in UTC",
    "rows_in": "rows that ingest wrote",
    "rows_valid": "rows that are used",
    "rows_quarantined": "rows held back",
    "rows_duplicated": "rows that repeat another",
    "quarantined_share": "share of the rows that is held back",
    "duplicated_share": "share of the rows that repeat another",
    "users": "distinct users",
    "items": "distinct items",
    "requests": "distinct requests (impression_id)",
    "clicks": "clicked rows",
    "first_at": "time of the oldest event",
    "last_at": "time of the newest event",
    "click_rate": "clicked share of the rows that may be trained on",
    "rows_per_request": "rows per request, mean",
    "rows_per_user": "rows per user, mean",
    "all_clicked_share": "share of the requests of two rows or more in which everything was clicked",
    "most_per_minute": "most distinct times of one user's rows within a minute",
    "busiest_user_share": "share of the rows that the busiest user has",
    "negative_ids": "rows whose user or item is a negative number",
    "longest_gap_s": "longest time without an event, in seconds",
    "longest_gap_share": "longest time without an event, as a share of the partition's length",
    "silent_at_end_s": "seconds from the newest event to the partition's end",
    "missing_before": "partitions without a valid row just before this one",
    "unknown_item_share": "share of the rows whose item has no title and no category",
    "new_item_share": "share of the rows whose item is in no earlier partition",
    "rows_of_trailing": "rows, divided by the median of the partitions before",
    "click_rate_of_trailing": "click rate, divided by the median of the partitions before",
    "category_distance": "how far the mix of categories is from that of the partitions before, 0 to 1",
}


def limit_of(column: str, limit: str) -> Html:
    """A limit with its column, and below it what the column means."""
    meaning = f"<br><small>{escape(MEANINGS[column])}</small>" if column in MEANINGS else ""
    return Html(f"{escape(f'{column} {limit}'.strip())}{meaning}")


def legend(columns: tuple[str, ...]) -> str:
    """A table of the columns' meanings."""
    rows = [(column, MEANINGS.get(column, "")) for column in columns]
    return table(("column", "means"), rows, caption="What the columns mean")
