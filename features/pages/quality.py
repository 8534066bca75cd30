"""What validate and histories found out of a log (features/quality/record.py) -> the page that a steward opens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.pages.changes import since
from features.pages.document import (
    BAD,
    GOOD,
    WARNS,
    Html,
    count,
    details,
    escape,
    number,
    percent,
    section,
    table,
    verdict,
    write_page,
)
from features.pages.flow import GOOD_END, STAGES, flow
from features.pages.partitions import by_partition
from features.pages.runs import over_runs

Told = Mapping[str, Any]
MOST_REASONS = 30
RULE = "rule"


def write_quality(
    path: Path, told: Told, before: Told | None = None, docs: str | None = None, runs: Sequence[Told] = ()
) -> int:
    """Write the page; returns its bytes.

    before: what the last run told, with its `told_at`. docs: to Data Docs. runs: summaries, this run's last.
    """
    state, sentence = judged(told)
    body = [
        verdict(_title(told), f"Data quality of {told['log']}", state, sentence, _facts(told)),
        section(
            "Where the rows went",
            flow(told["ledger"]),
            lead="Every row that was read has exactly one fate; the bars add up to what was read.",
        ),
        _failures(told),
        _reasons(told),
        by_partition(told["partitions"], told["expectations"]),
        since(told, before),
        over_runs(runs),
        _expectations(told),
    ]
    link = (
        f'<a href="{escape(docs)}">Great Expectations’ Data Docs</a> have every result as it was judged. '
        if docs
        else ""
    )
    foot = (
        f"{link if docs else ''}Limits: params.yaml, <code>validate</code> and <code>expectations</code>; "
        "expectations: features/quality/expectations.yaml. Held-back rows: <code>make quarantine</code>. Times are UTC."
    )
    return write_page(path, f"Data quality of {told['log']}", body, foot)


def judged(told: Told) -> tuple[str, str]:
    """State and one sentence."""
    used = _used(told)
    lost = told["rows_read"] - used
    failed = [each for each in told["expectations"] if not each["passed"] and each["of"] != RULE]
    counted = (
        f"{used:,} of {count(told['rows_read'], 'row')} read ({percent(used / told['rows_read'])}) are valid; "
        f"{lost:,} ({percent(lost / told['rows_read'])}) are not used"
        + (f", most often: {largest['what']} ({largest['rows']:,})" if (largest := _largest(told)) else "")
    )
    if told["refused"]:
        return BAD, f"Blocked: {told['refused']}"
    if failed:
        first = failed[0]
        return WARNS, (
            f"{counted}. {count(len(failed), 'expectation')} of {_num_expectations(told)} failed; the first: "
            f"{first['why']} ({count(first['num_unexpected'], 'exception')})."
        )
    return GOOD, f"{counted}. All {_num_expectations(told)} expectations hold."


def summary(told: Told) -> dict[str, Any]:
    """A run in one row, for the runs after it to be seen beside."""
    return {
        "rows_read": told["rows_read"],
        "rows_used": _used(told),
        "num_failed": sum(not each["passed"] and each["of"] != RULE for each in told["expectations"]),
        "newest": _newest(told),
        "state": judged(told)[0],
    }


def _title(told: Told) -> str:
    return "refused by validate: nothing was passed on" if told["refused"] else "from what was read to what is used"


def _num_expectations(told: Told) -> int:
    return sum(each["of"] != RULE for each in told["expectations"])


def _used(told: Told) -> int:
    return sum(line["rows"] for line in told["ledger"] if line["stage"] == "histories" or line["what"] == "valid")


def _lost(told: Told, stage: str) -> list[Told]:
    return [line for line in told["ledger"] if line["stage"] == stage and line["what"] != GOOD_END]


def _largest(told: Told) -> Told | None:
    lost = [line for stage in STAGES for line in _lost(told, stage)]
    return max(lost, key=lambda each: each["rows"], default=None)


def _facts(told: Told) -> list[tuple[str, str]]:
    partitions = told["partitions"]
    lost = {stage: sum(line["rows"] for line in _lost(told, stage)) for stage in STAGES}
    return [
        ("rows read", f"{told['rows_read']:,}"),
        ("not taken in", f"{lost['ingest']:,}"),
        ("held back or repeated", f"{lost['validate']:,}"),
        ("valid", f"{_used(told):,}"),
        ("partitions", f"{len(partitions):,}"),
        ("newest event", _newest(told) or "–"),
    ]


def _newest(told: Told) -> str | None:
    times = [row["last_at"] for row in told["partitions"] if row["last_at"]]
    return max(times)[:16].replace("T", " ") if times else None


def _failures(told: Told) -> str:
    failed = [each for each in told["expectations"] if not each["passed"] and each["of"] != RULE]
    if not failed:
        return section("What a steward expects", "<p>Every expectation holds.</p>")
    order = sorted(failed, key=lambda each: each["severity"] != "critical")
    rows = [
        (
            _tag(each),
            each["group"],
            each["why"],
            f"{each['column']} {each['limit']}",
            f"{each['num_unexpected']:,} of {each['num_judged']:,} {each['of']}",
            "; ".join(f"{one['where']}: {number(one['value'])}" for one in each["examples"]),
        )
        for each in order
    ]
    columns = ("severity", "group", "expected", "limit", "not so in", "for example")
    return section(
        "What a steward expects, and is not so",
        table(columns, rows, caption="Failed expectations"),
        lead="A critical expectation blocks what follows; a warning is reported here and in Dagster.",
    )


def _tag(outcome: Told) -> Html:
    if outcome["passed"]:
        return Html('<span class="tag good">holds</span>')
    kind = BAD if outcome["severity"] == "critical" else WARNS
    return Html(f'<span class="tag {kind}">{escape(outcome["severity"])}</span>')


def _reasons(told: Told) -> str:
    reasons = told["reasons"]
    if not reasons:
        return section("Rows that were held back", "<p>None: every row could be read and breaks no rule.</p>")
    parts = []
    for each in reasons[:MOST_REASONS]:
        parts.append(
            f'<h3>{escape(each["reason"])} <span class="tag">{escape(each["stage"])}</span></h3>'
            f"<p>{count(each['rows'], 'row')}, {percent(each['rows'] / told['rows_read'])} of what was read.</p>"
            + "".join(_example(example) for example in each["examples"])
        )
    if len(reasons) > MOST_REASONS:
        parts.append(f"<p>{len(reasons) - MOST_REASONS} more reasons: <code>make quarantine</code>.</p>")
    return section(
        "Rows that were held back, and why",
        *parts,
        lead="A row has the first reason that applied. The first rows of each, with their file and line.",
    )


def _example(example: Told) -> str:
    place = f"{example['file']}, line {example['line']:,}" if example["line"] else example["file"]
    read = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in example["row"].items()
        if name not in ("file", "line", "reason")
    )
    shown = example["raw"] or read or "(text left out)"
    more = details("as it was read", f"<pre>{escape(read)}</pre>", place) if example["raw"] and read else ""
    return f'<p class="where">{escape(place)}</p><pre>{escape(shown)}</pre>{more}'


def _expectations(told: Told) -> str:
    rows = [
        (
            _tag(each) if each["of"] != RULE else f"{each['num_unexpected']:,} rows",
            each["group"],
            each["why"],
            each["of"],
            f"{each['column']} {each['limit']}",
            each["num_judged"],
            each["num_unexpected"],
        )
        for each in told["expectations"]
    ]
    columns = ("outcome", "group", "what", "of", "limit", "judged", "not so")
    inner = table(columns, rows, numbers=(5, 6), caption="All expectations and rules")
    lead = (
        "Rules hold single rows back; expectations judge partitions and rows as a whole. A row can break several rules "
        "and is held back once."
    )
    return section("All that was asked", details(f"{len(rows)} rules and expectations", inner), lead=lead)
