"""Quality figures of validate and histories (features/quality/record.py) -> the data steward's page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.pages.changes import since
from features.pages.columns import limit_of
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
from features.tables.ledger import JOINED, OUTCOME_JOINED

Report = Mapping[str, Any]
MOST_REASONS = 30
RULE = "rule"


def write_quality(
    path: Path, report: Report, before: Report | None = None, docs: str | None = None, runs: Sequence[Report] = ()
) -> int:
    """Write the page; returns its size in bytes.

    before: the last run's report, with its `told_at`. docs: link to Data Docs. runs: summaries, this run's last.
    """
    state, sentence = judged(report)
    body = [
        verdict(_title(report), f"Data quality of {report['log']}", state, sentence, _facts(report)),
        section(
            "Where the rows went",
            flow(report["ledger"]),
            lead="Every row that was read has exactly one fate; the bars add up to what was read.",
        ),
        _failures(report),
        _reasons(report),
        by_partition(report["partitions"], report["expectations"]),
        since(report, before),
        over_runs(runs),
        _expectations(report),
    ]
    link = f'<a href="{escape(docs)}">Great Expectations’ Data Docs</a> have every result. ' if docs else ""
    foot = (
        f"{link if docs else ''}Limits: params.yaml, <code>validate</code> and <code>expectations</code>; "
        "expectations: features/quality/expectations.yaml. Held-back rows: <code>make quarantine</code>. Times are UTC."
    )
    return write_page(path, f"Data quality of {report['log']}", body, foot)


def judged(report: Report) -> tuple[str, str]:
    """(state, one sentence that says why)."""
    if report["refused"]:
        return BAD, report["refused"]
    failed = [each for each in report["expectations"] if not each["passed"] and each["of"] != RULE]
    if failed:
        first = failed[0]
        judged_of = f" in {first['num_unexpected']:,} of {first['num_judged']:,} {first['of']}"
        return WARNS, (
            f"{_counted(report)}. {len(failed)} of {_num_expectations(report)} expectations "
            f"{'does not hold: ' if len(failed) == 1 else 'do not hold, the first of them: '}“{first['why']}” "
            f"fails{judged_of if first['num_judged'] else ''}."
        )
    return GOOD, f"{_counted(report)}. All {_num_expectations(report)} expectations hold."


def summary(report: Report) -> dict[str, Any]:
    """One run as a row of the table of runs."""
    return {
        "rows_read": report["rows_read"],
        "rows_used": _used(report),
        "num_failed": sum(not each["passed"] and each["of"] != RULE for each in report["expectations"]),
        "newest": _newest(report),
        "state": judged(report)[0],
    }


def _title(report: Report) -> str:
    return "refused by validate: later stages do not run" if report["refused"] else "from rows read to rows used"


def _counted(report: Report) -> str:
    """How many of the rows read are valid, and where most of the others went."""
    read, used = report["rows_read"], _used(report)
    if used == read:
        return f"All {count(read, 'row')} read are valid"
    joined = sum(line["rows"] for line in report["ledger"] if line["what"] in (JOINED, OUTCOME_JOINED))
    lost = read - used - joined
    return (
        f"{used:,} of {count(read, 'row')} read ({percent(used / read)}) are valid"
        + (f"; {joined:,} joined another row of the same item and request" if joined else "")
        + (f"; {lost:,} ({percent(lost / read)}) are not used" if lost else "")
        + (f", most often: {largest['what']} ({largest['rows']:,})" if (largest := _largest(report)) else "")
    )


def _num_expectations(report: Report) -> int:
    return sum(each["of"] != RULE for each in report["expectations"])


def _used(report: Report) -> int:
    return sum(line["rows"] for line in report["ledger"] if line["stage"] == "histories" or line["what"] == "valid")


def _lost(report: Report, stage: str) -> list[Report]:
    return [line for line in report["ledger"] if line["stage"] == stage and line["what"] != GOOD_END]


def _largest(report: Report) -> Report | None:
    lost = [line for stage in STAGES for line in _lost(report, stage) if line["what"] not in (JOINED, OUTCOME_JOINED)]
    return max(lost, key=lambda each: each["rows"], default=None)


def _facts(report: Report) -> list[tuple[str, str]]:
    partitions = report["partitions"]
    lost = {stage: sum(line["rows"] for line in _lost(report, stage)) for stage in STAGES}
    return [
        ("rows read", f"{report['rows_read']:,}"),
        ("dropped by ingest", f"{lost['ingest']:,}"),
        ("held back or repeated", f"{lost['validate']:,}"),
        ("valid", f"{_used(report):,}"),
        ("partitions", f"{len(partitions):,}"),
        ("newest event", _newest(report) or "–"),
    ]


def _newest(report: Report) -> str | None:
    times = [row["last_at"] for row in report["partitions"] if row["last_at"]]
    return max(times)[:16].replace("T", " ") if times else None


def _failures(report: Report) -> str:
    failed = [each for each in report["expectations"] if not each["passed"] and each["of"] != RULE]
    if not failed:
        return section("Expectations", "<p>Every expectation holds.</p>")
    order = sorted(failed, key=lambda each: each["severity"] != "critical")
    rows = [
        (
            _tag(each),
            each["group"],
            each["why"],
            limit_of(each["column"], each["limit"]),
            f"{each['num_unexpected']:,} of {each['num_judged']:,} {each['of']}",
            "; ".join(f"{one['where']}: {number(one['value'])}" for one in each["examples"]),
        )
        for each in order
    ]
    columns = ("severity", "group", "expected", "limit", "failing", "for example")
    return section(
        "Expectations that failed",
        table(columns, rows, caption="Failed expectations"),
        lead="A failed critical expectation blocks later stages; a warning is reported here and in Dagster.",
    )


def _tag(outcome: Report) -> Html:
    if outcome["passed"]:
        return Html('<span class="tag good">holds</span>')
    kind = BAD if outcome["severity"] == "critical" else WARNS
    return Html(f'<span class="tag {kind}">{escape(outcome["severity"])}</span>')


def _reasons(report: Report) -> str:
    reasons = sorted(report["reasons"], key=lambda each: each["reason"] in (JOINED, OUTCOME_JOINED))  # these last
    if not reasons:
        return section("Rows that did not pass", "<p>None: every row passed.</p>")
    parts = []
    for each in reasons[:MOST_REASONS]:
        parts.append(
            f'<h3>{escape(each["reason"])} <span class="tag">{escape(each["stage"])}</span></h3>'
            f"<p>{count(each['rows'], 'row')}, {percent(each['rows'] / report['rows_read'])} of rows read.</p>"
            + "".join(_example(example) for example in each["examples"])
        )
    if len(reasons) > MOST_REASONS:
        parts.append(f"<p>{len(reasons) - MOST_REASONS} more reasons: <code>make quarantine</code>.</p>")
    return section(
        "Rows that did not pass, and why",
        *parts,
        lead="A row has the first reason that applies. Below are the first rows of each reason, with file and line.",
    )


def _example(example: Report) -> str:
    place = f"{example['file']}, line {example['line']:,}" if example["line"] else example["file"]
    read = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in example["row"].items()
        if name not in ("file", "line", "reason")
    )
    shown = example["raw"] or read or "(text left out)"
    more = details("as it was read", f"<pre>{escape(read)}</pre>", place) if example["raw"] and read else ""
    return f'<p class="where">{escape(place)}</p><pre>{escape(shown)}</pre>{more}'


def _expectations(report: Report) -> str:
    rows = [
        (
            _tag(each) if each["of"] != RULE else f"{each['num_unexpected']:,} rows",
            each["group"],
            each["why"],
            each["of"],
            each["column"] if each["of"] == RULE else f"{each['column']} {each['limit']}",
            each["num_judged"],
            each["num_unexpected"],
        )
        for each in report["expectations"]
    ]
    columns = ("outcome", "group", "what", "of", "limit", "judged", "failing")
    inner = table(columns, rows, numbers=(5, 6), caption="All expectations and rules")
    lead = (
        "Rules hold back single rows; expectations judge the log and its partitions as a whole. A row that breaks "
        "several rules is held back once."
    )
    return section("All rules and expectations", details(f"{len(rows)} rules and expectations", inner), lead=lead)
