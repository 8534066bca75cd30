"""The quality figures of this run and the last one -> what changed between them."""

from collections.abc import Mapping
from typing import Any

from features.pages.document import Html, escape, section, table

Report = Mapping[str, Any]
TITLE = "What changed since the last run"
MOST = 20


def since(report: Report, before: Report | None) -> str:
    """A section of the page. before: None if there was no earlier run."""
    if before is None:
        return section(TITLE, "<p>There is no earlier run of this log on this machine.</p>")
    rows = [row for row in _rows(report, before) if row[1] != row[2]]
    lead = f"Compared with the run of {escape(before['told_at'])}."
    if not rows:
        return section(TITLE, "<p>Nothing: the same rows, the same fates, the same outcomes.</p>", lead=lead)
    shown = [(name, now, then, _difference(now, then)) for name, now, then in rows[:MOST]]
    more = f"<p>{len(rows) - MOST} more.</p>" if len(rows) > MOST else ""
    return section(TITLE, table(("what", "now", "then", "difference"), shown, (1, 2, 3), TITLE), more, lead=lead)


def _rows(report: Report, before: Report) -> list[tuple[str, Any, Any]]:
    rows: list[tuple[str, Any, Any]] = [("rows read", report["rows_read"], before["rows_read"])]
    fates = [{(line["stage"], line["what"]): line["rows"] for line in each["ledger"]} for each in (report, before)]
    rows += [
        (f"{key[0]}: {key[1]}", fates[0].get(key, 0), fates[1].get(key, 0))
        for key in dict.fromkeys([*fates[0], *fates[1]])
    ]
    passed = [{each["why"]: each for each in one["expectations"] if each["of"] != "rule"} for one in (report, before)]
    rows += [
        (f"expected: {why}", _outcome(passed[0].get(why)), _outcome(passed[1].get(why)))
        for why in dict.fromkeys([*passed[0], *passed[1]])
    ]
    sizes = [{row["partition"]: row["rows_in"] for row in each["partitions"]} for each in (report, before)]
    rows += [(f"partition {name}", sizes[0].get(name), sizes[1].get(name)) for name in sorted({*sizes[0], *sizes[1]})]
    return rows


def _outcome(each: Report | None) -> str:
    return "not checked" if each is None else "holds" if each["passed"] else f"{each['num_unexpected']:,} failing"


def _difference(now: Any, then: Any) -> Html | str:
    if isinstance(now, int) and isinstance(then, int):
        return f"{now - then:+,}".replace("-", "−")
    if then is None:
        return "new"
    return "gone" if now is None else ""
