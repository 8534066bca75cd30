"""The one definition of a valid interaction: each rule is a DuckDB condition, a GX expectation and a test of one value.

A log is judged by the first two (features/quality/flaws.py, features/quality/expectations.py), a live event by the
third.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.schema import ROLE_HISTORY, ROLE_IMPRESSION
from features.terms.params import ValidateParams

REPEATED = "repeats an event"
REPETITION, SEVERAL_USERS = "repetition", "num_users_of_impression"
"""Derived columns that are also judged; they compare a row with other rows."""
SHARED = "impression of several users"
CONTROL_CHARACTERS = r"[\x00-\x1f\x7f-\x9f]"


@dataclass(frozen=True)
class Rule:
    """One reason to quarantine a row."""

    reason: str
    condition: str  # SQL over a row, true where it is bad, never null
    expectation: str  # the GX expectation whose unexpected rows are the same rows
    arguments: Mapping[str, Any]
    breaks: Callable[[Any], bool]  # whether one value of the column (arguments["column"]) is bad; null is None


def first_broken(values: Mapping[str, Any], rules: Sequence[Rule]) -> Rule | None:
    """The first rule that one interaction breaks. values: by column. Rules across rows are not checked."""
    sound = {SEVERAL_USERS: 1}
    return next((rule for rule in rules if rule.breaks((sound | dict(values))[rule.arguments["column"]])), None)


def rules(validate: ValidateParams) -> list[Rule]:
    """All rules, in the order in which a row's first reason is taken."""
    roles = (ROLE_IMPRESSION, ROLE_HISTORY)
    return [
        *(_present(column) for column in ("user_id", "item_id", "occurred_at")),
        Rule(
            "label missing",
            "label IS NULL OR isnan(label)",
            "ExpectColumnValuesToNotBeNull",
            {"column": "label"},
            lambda label: label is None or math.isnan(label),
        ),
        *(_short(column, validate.max_id_length) for column in ("user_id", "item_id")),
        *(_printable(column) for column in ("user_id", "item_id")),
        _in_time(validate.earliest, validate.latest),
        _between("label outside 0 to 1", "label", min_value=0, max_value=1),
        _between("position below 0", "position", min_value=0),
        Rule(
            "role unknown",
            f"role NOT IN {roles}",
            "ExpectColumnValuesToBeInSet",
            {"column": "role", "value_set": list(roles)},
            lambda role: role not in roles,
        ),
        _between(SHARED, SEVERAL_USERS, max_value=1),
    ]


def not_after(end: datetime) -> Rule:
    """The rule for a log in which a few rows come long after all others, which end before `end`."""
    return Rule(
        "occurred_at long after all other rows",
        f"coalesce(occurred_at > TIMESTAMPTZ '{end.isoformat()}', false)",
        "ExpectColumnValuesToBeBetween",
        {"column": "occurred_at", "max_value": end},
        lambda at: at is not None and at > end,
    )


def _present(column: str) -> Rule:
    return Rule(
        f"{column} missing",
        f"{column} IS NULL",
        "ExpectColumnValuesToNotBeNull",
        {"column": column},
        lambda value: value is None,
    )


def _short(column: str, limit: int) -> Rule:
    return Rule(
        f"{column} not of 1 to {limit} characters",
        f"coalesce(length({column}) NOT BETWEEN 1 AND {limit}, false)",
        "ExpectColumnValueLengthsToBeBetween",
        {"column": column, "min_value": 1, "max_value": limit},
        lambda value: value is not None and not 1 <= len(value) <= limit,
    )


def _printable(column: str) -> Rule:
    return Rule(
        f"{column} has control characters",
        f"coalesce(regexp_matches({column}, '{CONTROL_CHARACTERS}'), false)",
        "ExpectColumnValuesToNotMatchRegex",
        {"column": column, "regex": CONTROL_CHARACTERS},
        lambda value: value is not None and re.search(CONTROL_CHARACTERS, value) is not None,
    )


def _in_time(earliest: datetime, latest: datetime) -> Rule:
    first, last = (f"TIMESTAMPTZ '{limit.isoformat()}'" for limit in (earliest, latest))
    return Rule(
        "occurred_at outside validate.earliest to latest",
        f"coalesce(occurred_at NOT BETWEEN {first} AND {last}, false)",
        "ExpectColumnValuesToBeBetween",
        {"column": "occurred_at", "min_value": earliest, "max_value": latest},
        lambda at: at is not None and not earliest <= at <= latest,
    )


def _between(reason: str, column: str, **limits: int) -> Rule:
    """NaN is left to the null check."""
    tests = [f"{column} < {limits['min_value']}"] if "min_value" in limits else []
    tests += [f"{column} > {limits['max_value']} AND NOT isnan({column}::DOUBLE)"] if "max_value" in limits else []
    return Rule(
        reason,
        f"coalesce({' OR '.join(tests)}, false)",
        "ExpectColumnValuesToBeBetween",
        {"column": column, **limits},
        lambda value: (
            value is not None
            and (value < limits.get("min_value", -math.inf) or value > limits.get("max_value", math.inf))
        ),
    )
