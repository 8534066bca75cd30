"""A stage's report -> Dagster's asset checks, which evaluate the figures that stages measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from contracts.views import incomplete, stale
from orchestration.configure import EXPECTATIONS

Report = Mapping[str, Any]


class Verdict(NamedTuple):
    """Whether a check passed, and the figures that say why."""

    passed: bool
    description: str
    warns: bool = False  # where it did not pass: a warning, which keeps nothing from running
    figures: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Check:
    """One asset check."""

    out: str
    name: str
    blocking: bool  # a failure keeps Dagster from running what reads this out
    description: str
    judge: Callable[[Report], Verdict]


def _ingest_adds_up(report: Report) -> Verdict:
    read, written, dropped = report["rows_read"], report["rows_written"], sum(report["dropped"].values())
    return Verdict(read == written + dropped, f"{read:,} rows read, {written:,} written + {dropped:,} dropped")


def _validate_adds_up(report: Report) -> Verdict:
    parts = [report[f"rows_{part}"] for part in ("valid", "quarantined", "duplicated")]
    num, failed = report["num_expectations"], len(report["failed_expectations"] or [])
    reasons = "; ".join(f"{reason}: {rows:,}" for reason, rows in sorted(report["quarantined_by_reason"].items()))
    return Verdict(
        report["rows_in"] == sum(parts),
        "{:,} rows in, {:,} valid + {:,} quarantined + {:,} duplicated".format(report["rows_in"], *parts)
        + f"; {num - failed} of {num} expectations hold within their limits; held back: {reasons or 'nothing'}",
    )


def _online_equals_offline(report: Report) -> Verdict:
    checked, mismatches = report["parity"]["checked"], report["parity"]["mismatches"]
    return Verdict(mismatches == 0 and checked > 0, f"{mismatches:,} mismatches in {checked:,} requests read back")


def _fresh(report: Report) -> Verdict:
    reasons = stale(report["views"])
    return Verdict(not reasons, "; ".join(reasons) or "no view is further behind the log's end than its limit")


def _complete(report: Report) -> Verdict:
    reasons = incomplete(report["views"])
    return Verdict(not reasons, "; ".join(reasons) or "every view holds the keys that the log has")


def _verdict_passed(report: Report) -> Verdict:
    verdict = report["verdict"]
    reasons = "; ".join(verdict["reasons"] or [])
    if verdict.get("state") == "not judged":
        return Verdict(False, f"not judged: {reasons}", warns=True)
    told = [reasons or "every rule holds", *(report.get("warnings") or []), *(report.get("standing") or [])]
    return Verdict(bool(verdict["passed"]), ". ".join(each.rstrip(".") for each in told))


JUDGED = "validated_interactions"
"""The output whose stage judges the expectations."""
RULES_OF = ("nulls", "ids", "time", "values", "requests", "duplicates")
"""Groups that rules of single rows belong to, beside the groups of that file."""


def checks_of(root: Path, out: str) -> list[Check]:
    """All checks of one output."""
    return [check for check in CHECKS if check.out == out] + (group_checks(root) if out == JUDGED else [])


def group_checks(root: Path) -> list[Check]:
    """One check for each group of expectations: what validate counted of it, by severity."""
    file = root / EXPECTATIONS
    written = YAML(typ="safe").load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [
        Check(
            JUDGED,
            f"expectations_{group}",
            True,  # a critical failure ends the stage before; what is left to say is a warning
            _expected(group, [each["why"] for each in written.get(group, ()) if "why" in each]),
            partial(_group_holds, group),
        )
        for group in dict.fromkeys([*RULES_OF, *written])
    ]


def _expected(group: str, sentences: Sequence[str]) -> str:
    """What a group asks of the log, in the words of the expectations themselves."""
    expected = f"Expected: {'; '.join(sentences)}." if sentences else ""
    held_back = f"Rows that break a rule on {group} are held back and counted here." if group in RULES_OF else ""
    return " ".join(filter(None, [expected, held_back]))


def _group_holds(group: str, report: Report) -> Verdict:
    told = report.get("expectations", {}).get(group)
    if told is None:
        return Verdict(False, "not judged: validate has not run since this group was written", warns=True)
    failed = told["critical"] + told["warning"]
    held = "; ".join(f"{reason}: {rows:,}" for reason, rows in sorted(told["held_back"].items()))
    fails = f"; failed: {told['critical']} critical, {told['warning']} with a warning" if failed else ""
    said = f"{told['num'] - failed} of {told['num']} hold{fails}; rows that break a rule: {held or 'none'}"
    counts = {"expectations": told["num"], "critical": told["critical"], "warnings": told["warning"]}
    counts["rows that break a rule"] = sum(told["held_back"].values())
    return Verdict(not failed, ". ".join([said, *(told["failed"] or [])]), not told["critical"], counts)


CHECKS = (
    Check("interactions", "rows_add_up", True, "Every row read was written or dropped.", _ingest_adds_up),
    Check(
        "validated_interactions",
        "rows_add_up",
        True,
        "Every row is valid, quarantined or a duplicate.",
        _validate_adds_up,
    ),
    Check(
        "feature_snapshot",
        "online_equals_offline",
        True,
        "What Feast answers online is what training read.",
        _online_equals_offline,
    ),
    # users missing online would be answered as unknown: downstream assets must not run
    Check(
        "feature_snapshot", "complete", True, "The online store holds the users and items that the log has.", _complete
    ),
    # a warning: a quiet log may have no click for a day, and the online store is then up to date
    Check(
        "feature_snapshot",
        "event_time_lag",
        False,
        "No view lies further behind the log's end than its limit, by the log's own clock.",
        _fresh,
    ),
    Check("metrics", "model_is_good_enough", True, "The absolute rules of evaluate.", _verdict_passed),
)


def judge(check: Check, report: Report) -> Verdict:
    """The verdict of one check; a report without its figures fails it."""
    try:
        return check.judge(report)
    except (KeyError, TypeError, AttributeError) as error:
        return Verdict(False, f"The report lacks what this check reads: {error}. Run the stage again.")
