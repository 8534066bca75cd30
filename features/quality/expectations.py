"""Interactions, the rules and a steward's suite -> Great Expectations' (GX) results: counts, outcomes, Data Docs.

Rows are counted batch by batch, but the log is judged by the sums, because a limit on a share or on the number of users
cannot be applied to one batch. features.stages.validate decides which rows are quarantined; both must count the same.
"""

import operator
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa

from contracts.errors import InputError
from features.quality.outcomes import PARTITIONS, ROWS, SHOWN, Outcome, Tally, for_tally
from features.quality.site import known_pages, put
from features.quality.suite import Expected
from features.terms.params import ValidateParams
from features.terms.rules import REPEATED, REPETITION, SEVERAL_USERS, Rule

COLUMNS = ("user_id", "item_id", "occurred_at", "label", "position", "role", REPETITION, SEVERAL_USERS)
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
HELD_BACK = "rows held back"
REPEATING = "rows that repeat another"


class Judgement:
    """A Great Expectations context for the length of a `with` block: batches in, then the log's counts, Data Docs out.

    unexpected: reason -> rows of all batches that break this rule.
    failed: the failed expectations of the log as a whole, and of any batch if its columns are wrong.
    """

    def __init__(self, rules: Sequence[Rule], validate: ValidateParams, suite: Sequence[Expected] = ()) -> None:
        gx = _great_expectations()
        self.unexpected = dict.fromkeys([*(rule.reason for rule in rules), REPEATED], 0)
        self.failed: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="leitmotif-gx-"))
        self._context = gx.get_context(mode="file", project_root_dir=self._folder)
        # GX parses this file, comments and all, at each of 125 looks at its settings; where there is none it has none
        (self._folder / "gx" / "uncommitted" / "config_variables.yml").unlink()
        self._context.variables.progress_bars = {"globally": False}
        self._validate, self._log = validate, self._context.data_sources.add_pandas("log")
        by_row = _row_expectations(rules)
        self._by_row = self._definition("interactions", by_row)
        self.num_expectations = len(by_row)
        self._tallies = {each.why: Tally(each) for each in suite}
        of_rows = [each for each in suite if each.of == ROWS]
        self._of_rows = self._definition("rows", [_written(each) for each in of_rows]) if of_rows else None
        self._columns_judged = _columns_of(of_rows)

    def add(self, batch: pa.Table, name: str) -> dict[str, Any]:
        """Judge one batch and count the result, which is returned (see `find`)."""
        found = self.find(batch, name)
        self.recall(found)
        return found

    def find(self, batch: pa.Table, name: str) -> dict[str, Any]:
        """Judge one batch and return the result as JSON. batch: interactions, REPETITION and SEVERAL_USERS.

        The result is not counted until it is passed to `recall`, of this judgement or of one with the same rules and
        suite.
        """
        before = self._results()
        frame = _frame(batch)
        with _texts_in_arrow():  # only for our own rules: a steward's patterns may mean something else in Arrow
            outcomes = self._run(self._by_row, frame.drop(columns="event_id", errors="ignore"), name)
        counts = {why: int(each.result["unexpected_count"]) for why, each in outcomes.items() if why in self.unexpected}
        failed = [why for why, each in outcomes.items() if not each.success]
        found: dict[str, Any] = {"unexpected": counts, "failed": failed, "rows": []}
        if self._of_rows is not None:
            shown = frame.loc[:, ["event_id", *self._columns_judged]]
            found["rows"] = self._summaries(self._checkpoint(self._of_rows, shown, name, "event_id"), "event_id")
        found["results"] = {
            path.relative_to(self._folder).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(self._results() - before)
        }
        return found

    def recall(self, found: Mapping[str, Any]) -> None:
        """Count the result of a batch that was judged here or elsewhere, and add it to Data Docs."""
        for name, text in found["results"].items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.failed += [reason for reason in found["failed"] if reason not in self.failed]
        self._count(found)

    def _count(self, found: Mapping[str, Any]) -> None:
        for reason, num in found["unexpected"].items():
            self.unexpected[reason] += num
        for why, summary, success in found["rows"]:
            self._tallies[why].add(summary, "event_id", success)

    def _results(self) -> set[Path]:
        return set((self._folder / RESULTS).rglob("*.json"))

    def judge_partitions(self, profile: pa.Table) -> list[Outcome]:
        """Judge the figures of every partition (PROFILE) after all batches; returns the outcomes of the whole suite."""
        wanted = [each.expected for each in self._tallies.values() if each.expected.of == PARTITIONS]
        if wanted:
            definition = self._definition("partitions", [_written(each) for each in wanted])
            frame = profile.to_pandas()
            ran = self._checkpoint(definition, frame, "partitions_of_the_log", "partition")
            for why, summary, success in self._summaries(ran, "partition"):
                self._tallies[why].add(summary, "partition", success)
        return [tally.outcome() for tally in self._tallies.values()]

    def _summaries(self, results: list[Any], index: str) -> list[tuple[str, dict[str, Any], bool]]:
        """(why, what a Tally reads of the result, GX's verdict) of each expectation."""
        found = []
        for result in results:
            expected = self._tallies[result.expectation_config.meta["reason"]].expected
            if (reason := _raised(result)) is not None:
                raise InputError(f"{_place(expected)} cannot be judged: {reason}")
            column = str(expected.arguments.get("column"))
            found.append((expected.why, for_tally(result.result, index, column), bool(result.success)))
        return found

    def _checkpoint(self, definition: Any, frame: pd.DataFrame, name: str, index: str) -> list[Any]:
        """Run one definition as a Checkpoint, which identifies unexpected rows by the column `index`."""
        gx = _great_expectations()
        shown = {
            "result_format": "SUMMARY",
            "unexpected_index_column_names": [index],
            "partial_unexpected_count": SHOWN,
        }
        checkpoint = gx.Checkpoint(name=definition.name, validation_definitions=[definition], result_format=shown)
        checkpoint = self._context.checkpoints.add_or_update(checkpoint)
        ran = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=name))
        return [result for each in ran.run_results.values() for result in each.results]

    def conclude(self, counts: Mapping[str, Any]) -> None:
        """Judge the log by its sums, after all batches. counts: validate's report."""
        sums = {HELD_BACK: counts["rows_quarantined"], REPEATING: counts["rows_duplicated"], "rows": counts["rows_in"]}
        sums |= {name: counts[f"num_{name}"] for name in ("users", "items", "clicks")}
        sums |= {f"rows: {reason}": number for reason, number in self.unexpected.items() if reason != REPEATED}
        definition = self._definition("log", expectations := _log_expectations(self._validate, sums))
        name = f"whole_log_{counts['rows_quarantined']}_of_{counts['rows_in']}_rows_held_back"
        self._run(definition, pd.DataFrame([sums]), name)
        self.num_expectations = 1 + len(expectations)  # of the expectations of rows only that of the columns can fail

    def _definition(self, name: str, expectations: list[Any]) -> Any:
        gx = _great_expectations()
        suite = self._context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        batches = self._log.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = gx.ValidationDefinition(name=name, data=batches, suite=suite)
        return self._context.validation_definitions.add(definition)

    def _run(self, definition: Any, frame: pd.DataFrame, name: str) -> dict[str, Any]:
        """Reason -> result of each expectation."""
        run_id = _great_expectations().RunIdentifier(run_name=name)
        outcomes = {}
        for outcome in definition.run(batch_parameters={"dataframe": frame}, run_id=run_id).results:
            config = outcome.expectation_config
            if (raised := _raised(outcome)) is not None:
                raise RuntimeError(f"Great Expectations could not judge {config.type}: {raised}")
            reason = (config.meta or {})["reason"]
            outcomes[reason] = outcome
            if not outcome.success and reason not in self.failed:
                self.failed.append(reason)
        return outcomes

    def publish(self, docs: Path, maker: str = "") -> None:
        """Build Data Docs and replace the last ones by rename.

        maker: in a page that need not be built again: the page of a batch whose result was cached is among the last
        ones, at the same address, with the time of its judgement.
        """
        known = known_pages(self._folder / RESULTS, docs, maker) if maker else {}
        for result in known:
            result.unlink()
        self._context.build_data_docs()
        put(self._folder / SITE, docs, list(known.values()))

    def __enter__(self) -> "Judgement":
        self._token = _opened.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _opened.reset(self._token)
        shutil.rmtree(self._folder)


_opened: ContextVar[Judgement | None] = ContextVar("opened", default=None)


@contextmanager
def at_hand(rules: Sequence[Rule], validate: ValidateParams, suite: Sequence[Expected]) -> Iterator[Judgement]:
    """The judgement of the enclosing `with` block, because opening one takes a second; a new one in a task of Spark."""
    if (judgement := _opened.get()) is not None:
        yield judgement
        return
    with Judgement(rules, validate, suite) as judgement:
        yield judgement


def _great_expectations() -> ModuleType:
    """Import Great Expectations late: analytics must be switched off before, and it imports deprecated modules."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations
        import great_expectations.execution_engine.pandas_execution_engine as engine
        import great_expectations.expectations

    engine.HASH_THRESHOLD = 0  # of frames above this size GX takes no fingerprint: unused, and a third of the time
    return great_expectations


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
    kind = getattr(_great_expectations().expectations, expectation)
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
