"""Great Expectations' (GX) results, batch by batch -> one outcome per expectation, with examples; outcomes by group."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from features.quality.suite import CRITICAL, WARNING, Expected
from features.terms.rules import REPEATED, SHARED, Rule

PARTITIONS, ROWS, RULE = "partitions", "rows", "rule"
"""What an expectation judges. A rule (features/terms/rules.py) judges rows too, and quarantines those that break it."""
_NOTHING: Mapping[str, Any] = {"num": 0, CRITICAL: 0, WARNING: 0}
SHOWN = 5
"""How many unexpected values an outcome lists as examples."""


@dataclass(frozen=True)
class Outcome:
    """The result of one expectation over the whole log."""

    group: str
    why: str
    of: str
    column: str
    limit: str  # as a phrase, such as "at most 5"
    severity: str
    passed: bool
    num_judged: int
    num_unexpected: int
    examples: list[dict[str, Any]]  # {"where": the partition or event_id, "value": the unexpected value}


@dataclass
class Tally:
    """One expectation's results so far."""

    expected: Expected
    num_judged: int = 0
    num_unexpected: int = 0
    succeeded: bool = True  # GX's verdict, for expectations that do not count unexpected rows
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: Mapping[str, Any], index: str, success: bool) -> None:
        """Count one batch. result: GX's. index: the column that identifies a row. success: GX's verdict."""
        if "unexpected_count" not in result:
            self.succeeded = self.succeeded and success
            if not success and "observed_value" in result and len(self.examples) < SHOWN:
                self.examples.append({"where": "observed", "value": _plain(result["observed_value"])})
        self.num_judged += int(result.get("element_count", 0)) - int(result.get("missing_count") or 0)
        self.num_unexpected += int(result.get("unexpected_count", 0))
        for each in (result.get("partial_unexpected_index_list") or [])[: SHOWN - len(self.examples)]:
            value = each.get(self.expected.arguments.get("column"))
            self.examples.append({"where": str(each[index]), "value": _plain(value)})

    def outcome(self) -> Outcome:
        """The verdict on the sums."""
        expected = self.expected
        share = 1 - self.num_unexpected / self.num_judged if self.num_judged else 1.0
        return Outcome(
            group=expected.group,
            why=expected.why,
            of=expected.of,
            column=str(expected.arguments.get("column", "")),
            limit=_limit(expected),
            severity=expected.severity,
            passed=self.succeeded and share >= float(expected.arguments.get("mostly", 1.0)),
            num_judged=self.num_judged,
            num_unexpected=self.num_unexpected,
            examples=self.examples,
        )


def for_tally(result: Mapping[str, Any], index: str, column: str) -> dict[str, Any]:
    """The part of GX's result that a Tally reads, in values that JSON can store."""
    summary = {name: result[name] for name in ("element_count", "missing_count", "unexpected_count") if name in result}
    summary |= {"observed_value": _plain(result["observed_value"])} if "observed_value" in result else {}
    listed = (result.get("partial_unexpected_index_list") or [])[:SHOWN]
    summary["partial_unexpected_index_list"] = [
        {index: str(each[index])} | ({column: _plain(each.get(column))} if column != index else {}) for each in listed
    ]
    return summary


def by_group(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """Group -> number of expectations, failures by severity, and sentences about them. Dagster's checks read it."""
    groups: dict[str, dict[str, Any]] = {}
    for each in outcomes:
        group = groups.setdefault(each.group, dict(_NOTHING) | {"failed": [], "failed_critical": [], "held_back": {}})
        group["num"] += 1
        if each.of == RULE:
            group["held_back"] |= {each.why: each.num_unexpected} if each.num_unexpected else {}
        elif not each.passed:
            group[each.severity] += 1
            group["failed"].append(sentence(each))
            group["failed_critical"] += [sentence(each)] if each.severity == CRITICAL else []
    return groups


def of_rules(rules: Sequence[Rule], broken: Mapping[str, int], report: Mapping[str, Any]) -> list[Outcome]:
    """The rules that quarantine rows, as outcomes. broken: reason -> rows that break the rule, for any first reason."""
    outcomes = []
    for rule in rules:
        column = str(rule.arguments["column"])
        outcomes.append(_of_rule(_group(rule), rule.reason, column, broken[rule.reason], report["rows_in"]))
    return [*outcomes, _of_rule("duplicates", REPEATED, "event_id", broken[REPEATED], report["rows_in"])]


def _of_rule(group: str, reason: str, column: str, broken: int, rows: int) -> Outcome:
    return Outcome(group, reason, RULE, column, "no row", WARNING, not broken, rows, broken, [])


def _group(rule: Rule) -> str:
    if rule.reason == SHARED:
        return "requests"
    if rule.reason.endswith(" missing"):
        return "nulls"
    return {"user_id": "ids", "item_id": "ids", "occurred_at": "time"}.get(rule.arguments["column"], "values")


def sentence(outcome: Outcome) -> str:
    """A failed expectation as one line of text."""
    first = ", ".join(f"{each['where']}: {each['value']}" for each in outcome.examples[:3])
    counted = f"in {outcome.num_unexpected:,} of {outcome.num_judged:,} {outcome.of}"
    where = counted if outcome.num_judged else f"of the {outcome.of} as a whole"
    about = " ".join(filter(None, (outcome.column, outcome.limit)))
    return f"expected: {outcome.why} ({about}); otherwise {where}" + (f" ({first})" if first else "")


def as_json(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as values that JSON can store, for files and pages."""
    return [asdict(each) for each in outcomes]


def _limit(expected: Expected) -> str:
    words = {"min_value": "at least", "max_value": "at most", "value_set": "one of", "regex": "matches"}
    limits = [
        f"{words.get(key, key)} {value}" for key, value in expected.arguments.items() if key not in ("column", "mostly")
    ]
    return " and ".join(limits) or expected.expect


def _plain(value: Any) -> Any:
    """A value that JSON can store; floats with four significant digits."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "item"):
        value = value.item()  # numpy's
    return float(f"{value:.4g}") if isinstance(value, float) else value if isinstance(value, int) else str(value)
