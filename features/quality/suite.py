"""features/quality/expectations.yaml and the limits of params.yaml -> expectations of partitions and of rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contracts.errors import InputError
from contracts.section import Section
from features.terms.rules import REPETITION, SEVERAL_USERS

FILE = Path(__file__).with_name("expectations.yaml")
NAME = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
GROUP = re.compile(r"[A-Za-z0-9_]+")
COLUMNS = ("user_id", "item_id", "occurred_at", "label", "position", "role", REPETITION, SEVERAL_USERS)
"""Of a row, those that are judged."""
CRITICAL, WARNING = "critical", "warning"


class Written(Section):
    """One expectation as written in the file."""

    why: str
    of: Literal["partitions", "rows"]
    expect: str = Field(pattern="^Expect[A-Za-z]+$")
    arguments: dict[str, Any] = Field(alias="with")
    severity: Literal["critical", "warning"]
    where: str | None = None


@dataclass(frozen=True)
class Expected:
    """One expectation with its limits filled in."""

    group: str
    why: str
    of: str
    expect: str
    arguments: Mapping[str, Any]
    severity: str
    where: str | None

    @property
    def is_critical(self) -> bool:
        """Whether a failure blocks the next stages."""
        return self.severity == CRITICAL


def read_suite(limits: Mapping[str, float | int], file: Path = FILE) -> list[Expected]:
    """All expectations in the file's order. Raises InputError that names the fault and its place in the file."""
    try:
        groups = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{file.name} cannot be read: {error}. `git diff {file.name}` shows what changed.") from error
    if not isinstance(groups, dict) or not all(isinstance(listed, list) for listed in groups.values()):
        raise InputError(f"{file.name}: give groups, each a list of expectations, as its first lines describe.")
    if bad := [group for group, listed in groups.items() if not listed or not GROUP.fullmatch(str(group))]:
        raise InputError(
            f"{file.name}: {bad[0]!r}: the name of a group consists of letters, digits and _, since Dagster's check is "
            "named after it, and a group has at least one expectation."
        )
    suite = []
    for group, listed in groups.items():
        for number, each in enumerate(listed, 1):
            place = f"{file.name}, {group}, {number}"
            suite.append(_expected(str(group), place, each, limits))
    names = [each.why for each in suite]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file.name}: {twice[0]!r} is there more than once; give each expectation its own `why`.")
    return suite


def _expected(group: str, place: str, entry: object, limits: Mapping[str, float | int]) -> Expected:
    try:
        written = Written.model_validate(entry)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise InputError(f"{place}: {key}: {detail['msg'].lower()}.") from error
    arguments = {key: _number(value, place, limits) for key, value in written.arguments.items()}
    where = None if written.where is None else NAME.sub(lambda m: str(_limit(m[1], place, limits)), written.where)
    return Expected(group, written.why, written.of, written.expect, arguments, written.severity, where)


def _number(value: Any, place: str, limits: Mapping[str, float | int]) -> Any:
    if isinstance(value, str) and (match := NAME.fullmatch(value)):
        return _limit(match[1], place, limits)
    return value


def _limit(name: str, place: str, limits: Mapping[str, float | int]) -> float | int:
    if name not in limits:
        known = ", ".join(sorted(limits)) or "none"
        raise InputError(
            f"{place}: ${name} is not a limit; add it to params.yaml, expectations.limits (known: {known})."
        )
    return limits[name]
