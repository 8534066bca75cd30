"""Interactions, the rules and a steward's suite -> Great Expectations' (GX) results, as values that JSON can store.

Importing and opening GX takes seconds, so only `at_hand` of expectations.py imports this module, where something is
really judged.
"""

import operator
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from contracts.errors import InputError
from contracts.files import in_temp, scratch
from features.quality.expectations import HELD_BACK, REPEATING
from features.quality.library import great_expectations
from features.quality.outcomes import PARTITIONS, ROWS, SHOWN, for_tally
from features.quality.site import known_pages, put
from features.quality.suite import COLUMNS, Expected
from features.terms.params import ValidateParams
from features.terms.rules import REPEATED, REPETITION, Rule

TEXTS = ["user_id", "item_id", "role"]
CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*(-?[\d.]+)\s*")
COMPARED = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
RESULTS = "gx/uncommitted/validations"
"""Where Great Expectations stores its results, from which it builds Data Docs."""
SITE = "gx/uncommitted/data_docs/local_site"
Found = dict[str, Any]
"""What was found: outcomes, and GX's results (path -> text), as JSON."""


class Judge:
    """A Great Expectations context for the length of a `with` block."""

    def __init__(self, rules: Sequence[Rule], validate: ValidateParams, suite: Sequence[Expected] = ()) -> None:
        gx = great_expectations()
        self._reasons = {*(rule.reason for rule in rules), REPEATED}
        self._open = ExitStack()
        self._folder = self._open.enter_context(scratch(in_temp("gx")))
        self._context = gx.get_context(mode="file", project_root_dir=self._folder)
        # GX parses this file, comments and all, at each of 125 looks at its settings; where there is none it has none
        (self._folder / "gx" / "uncommitted" / "config_variables.yml").unlink()
        self._context.variables.progress_bars = {"globally": False}
        self._validate, self._log = validate, self._context.data_sources.add_pandas("log")
        self._by_row = self._definition("interactions", _row_expectations(rules))
        self._expected = {each.why: each for each in suite}
        of_rows = [each for each in suite if each.of == ROWS]
        self._of_rows = self._definition("rows", [_written(each) for each in of_rows]) if of_rows else None
        self._columns_judged = _columns_of(of_rows)
        of_partitions = [each for each in suite if each.of == PARTITIONS]
        self._of_partitions = (
            self._definition("partitions", [_written(each) for each in of_partitions]) if of_partitions else None
        )
        self._of_log: Any = None

    def find(self, batch: pa.Table, name: str) -> Found:
        """Judge one batch. batch: interactions, REPETITION and SEVERAL_USERS."""
        before = self._results()
        frame = _frame(batch)
        with _texts_in_arrow():  # only for our own rules: a steward's patterns may mean something else in Arrow
            outcomes = self._run(self._by_row, frame.drop(columns="event_id", errors="ignore"), name)
        counts = {why: int(each.result["unexpected_count"]) for why, each in outcomes.items() if why in self._reasons}
        found = {"unexpected": counts, "failed": _failed(outcomes), "rows": []}
        if self._of_rows is not None:
            shown = frame.loc[:, ["event_id", *self._columns_judged]]
            found["rows"] = self._summaries(self._checkpoint(self._of_rows, shown, name, "event_id"), "event_id")
        return found | self._texts(before)

    def of_partitions(self, profile: pa.Table) -> Found:
        """Judge the figures of every partition (PROFILE)."""
        before = self._results()
        ran = self._checkpoint(self._of_partitions, profile.to_pandas(), "partitions_of_the_log", "partition")
        return {"partitions": self._summaries(ran, "partition")} | self._texts(before)

    def of_log(self, sums: Mapping[str, int], name: str) -> Found:
        """Judge the log by its sums."""
        before = self._results()
        outcomes = self._run(self._defined_by(sums), pd.DataFrame([dict(sums)]), name)
        return {"failed": _failed(outcomes), "num": len(outcomes)} | self._texts(before)

    def publish(self, results: Mapping[str, str], sums: Mapping[str, int], docs: Path, maker: str = "") -> None:
        """Build Data Docs of these results and replace the last ones by rename.

        maker: in a page that need not be built again: the page of a batch whose result was cached is among the last
        ones, at the same address, with the time of its judgement.
        """
        self._defined_by(sums)
        shutil.rmtree(self._folder / RESULTS, ignore_errors=True)
        known = known_pages([Path(name).relative_to(RESULTS) for name in results], docs, maker) if maker else {}
        for name, text in results.items():
            if Path(name).relative_to(RESULTS) not in known:
                path = self._folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        self._context.build_data_docs()
        put(self._folder / SITE, docs, list(known.values()))

    def _defined_by(self, sums: Mapping[str, int]) -> Any:
        """The definition of the log as a whole: its limits depend on the sums."""
        if self._of_log is None:
            self._of_log = self._definition("log", _log_expectations(self._validate, sums))
        return self._of_log

    def _results(self) -> set[Path]:
        return set((self._folder / RESULTS).rglob("*.json"))

    def _texts(self, before: set[Path]) -> Found:
        made = {path.relative_to(self._folder).as_posix(): path for path in sorted(self._results() - before)}
        return {"results": {name: path.read_text(encoding="utf-8") for name, path in made.items()}}

    def _summaries(self, results: list[Any], index: str) -> list[tuple[str, dict[str, Any], bool]]:
        """(why, what a Tally reads of the result, GX's verdict) of each expectation."""
        found = []
        for result in results:
            expected = self._expected[result.expectation_config.meta["reason"]]
            if (reason := _raised(result)) is not None:
                raise InputError(f"{_place(expected)} cannot be judged: {reason}")
            column = str(expected.arguments.get("column"))
            found.append((expected.why, for_tally(result.result, index, column), bool(result.success)))
        return found

    def _checkpoint(self, definition: Any, frame: pd.DataFrame, name: str, index: str) -> list[Any]:
        """Run one definition as a Checkpoint, which identifies unexpected rows by the column `index`."""
        gx = great_expectations()
        shown = {
            "result_format": "SUMMARY",
            "unexpected_index_column_names": [index],
            "partial_unexpected_count": SHOWN,
        }
        checkpoint = gx.Checkpoint(name=definition.name, validation_definitions=[definition], result_format=shown)
        checkpoint = self._context.checkpoints.add_or_update(checkpoint)
        ran = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=name))
        return [result for each in ran.run_results.values() for result in each.results]

    def _definition(self, name: str, expectations: list[Any]) -> Any:
        gx = great_expectations()
        suite = self._context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        batches = self._log.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = gx.ValidationDefinition(name=name, data=batches, suite=suite)
        return self._context.validation_definitions.add(definition)

    def _run(self, definition: Any, frame: pd.DataFrame, name: str) -> dict[str, Any]:
        """Reason -> result of each expectation."""
        run_id = great_expectations().RunIdentifier(run_name=name)
        outcomes = {}
        for outcome in definition.run(batch_parameters={"dataframe": frame}, run_id=run_id).results:
            config = outcome.expectation_config
            if (raised := _raised(outcome)) is not None:
                raise RuntimeError(f"Great Expectations could not judge {config.type}: {raised}")
            outcomes[(config.meta or {})["reason"]] = outcome
        return outcomes

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _failed(outcomes: Mapping[str, Any]) -> list[str]:
    return [why for why, each in outcomes.items() if not each.success]


def _raised(result: Any) -> str | None:
    """Why an expectation could not be judged; None if it could. GX reports the exception of each failed metric."""
    info = result.exception_info or {}
    raised = [info] if "raised_exception" in info else list(info.values())
    messages = [str(each.get("exception_message", each)).strip() for each in raised if each.get("raised_exception")]
    return "; ".join(dict.fromkeys(messages)) if messages else None


def _row_expectations(rules: Sequence[Rule]) -> list[Any]:
    """Expectations that count the rows breaking each rule. `mostly` is 0: the limit applies to the log, not a batch."""
    repeats = {"column": REPETITION, "value_set": [0]}
    expected = [(rule.expectation, rule.reason, rule.arguments) for rule in rules]
    expected.append(("ExpectColumnValuesToBeInSet", REPEATED, repeats))
    counted = [
        _expect(name, reason, f"Counted here, judged in `log`: {reason}.", mostly=0, **arguments)
        for name, reason, arguments in expected
    ]
    return [*counted, _expect("ExpectTableColumnsToMatchSet", "other columns", column_set=list(COLUMNS))]


def _log_expectations(validate: ValidateParams, sums: Mapping[str, int]) -> list[Any]:
    """Expectations of the whole log. sums: the columns of a table with one row."""
    rows = sums["rows"]
    held_back = validate.max_quarantined_share * rows
    most = {HELD_BACK: held_back, REPEATING: validate.max_duplicated_share * rows}
    most |= {name: held_back for name in sums if name.startswith("rows: ")}
    least = {"rows": 1} | {name: getattr(validate, f"min_{name}") for name in ("users", "items", "clicks")}
    return [
        *(
            _expect("ExpectColumnMaxToBeBetween", f"too many {name}", column=name, max_value=most[name])
            for name in most
        ),
        *(
            _expect("ExpectColumnMaxToBeBetween", f"too few {name}", column=name, min_value=least[name])
            for name in least
        ),
    ]


def _written(expected: Expected) -> Any:
    """The expectation as an object of Great Expectations. `mostly` is applied to the sums, not to a batch."""
    ours = {"mostly": 0} if expected.of == ROWS else {}
    if expected.where is not None:
        ours |= {"row_condition": _condition(expected)}
    ours |= {"severity": expected.severity}
    given = {key: value for key, value in expected.arguments.items() if key not in ours}
    try:
        return _expect(expected.expect, expected.why, f"{expected.group}: {expected.why}.", **given, **ours)
    except (AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{_place(expected)}: {reason}") from error


def _condition(expected: Expected) -> Any:
    """`where`, such as `rows_in >= 500`, as a row condition of Great Expectations."""
    from great_expectations.expectations.row_conditions import Column

    found = CONDITION.fullmatch(expected.where or "")
    if not found:
        raise InputError(f"{_place(expected)}: where: {expected.where!r} is not <column> <sign> <number>.")
    column, sign, number = found.groups()
    return COMPARED[sign](Column(column), float(number))


def _place(expected: Expected) -> str:
    return f"expectations.yaml, {expected.group}: {expected.expect} of {expected.why!r}"


def _expect(expectation: str, reason: str, notes: str | None = None, **arguments: Any) -> Any:
    kind = getattr(great_expectations().expectations, expectation)
    return kind(meta={"reason": reason}, notes=notes or f"Otherwise: {reason}.", **arguments)


def _columns_of(suite: Sequence[Expected]) -> list[str]:
    """The columns that a suite needs; all if an expectation names none. GX hashes and copies every column it gets."""
    named: set[str] = set()
    for each in suite:
        lists = (value if isinstance(value, list) else [value] for value in each.arguments.values())
        given = {name for names in lists for name in names if isinstance(name, str)}
        columns = {name for name in COLUMNS if name in given}
        if not columns:
            return list(COLUMNS)
        named |= columns | {name for name in COLUMNS if each.where and name in each.where}
    return [name for name in COLUMNS if name in named]


def _texts_in_arrow() -> AbstractContextManager[None]:
    """GX converts a column to text to match a pattern or take a length; with this, Arrow does it, not a Python loop."""
    return pd.option_context("future.infer_string", True)


def _frame(batch: pa.Table) -> pd.DataFrame:
    """The batch in types that GX judges vectorised: ids as categories, numbers as float64 or int64, times with a zone.

    event_id, if present, only identifies rows and is rarely judged, so it stays in Arrow's memory.
    """
    columns = {name: batch[name] for name in ("event_id", *COLUMNS) if name in batch.column_names}
    for name in ("label", "position"):
        columns[name] = columns[name].cast(pa.float64())
    in_arrow = {pa.string(): pd.StringDtype("pyarrow")}
    return pa.table(columns).combine_chunks().to_pandas(categories=TEXTS, types_mapper=in_arrow.get)
