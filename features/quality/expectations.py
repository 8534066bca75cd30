"""Interactions, the rules and a steward's suite -> Great Expectations' judgement: counts, outcomes, Data Docs to read.

Rows are counted batch by batch, and the log is judged by its sums: a limit on a share, or on how many users there are,
says nothing of one batch. Which rows are held back is decided by features.stages.validate, and the two must count
alike.
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
from features.quality.outcomes import PARTITIONS, ROWS, SHOWN, Outcome, Tally, told_of
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
"""Where Great Expectations keeps what it found, of which it makes its pages."""
SITE = "gx/uncommitted/data_docs/local_site"
HELD_BACK = "rows held back"
REPEATING = "rows that repeat another"


class Judgement:
    """A Great Expectations context that lives as long as its `with`: batches in, then the log's counts, pages out.

    unexpected: rows by reason that a rule's expectation did not expect, over all batches.
    failed: the expectations that failed, of the log as a whole (and of any batch, that its columns are these).
    """

    def __init__(self, rules: Sequence[Rule], validate: ValidateParams, suite: Sequence[Expected] = ()) -> None:
        gx = _great_expectations()
        self.unexpected = dict.fromkeys([*(rule.reason for rule in rules), REPEATED], 0)
        self.failed: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="leitmotif-gx-"))
        self._context = gx.get_context(mode="file", project_root_dir=self._folder)
        self._context.variables.progress_bars = {"globally": False}
        self._validate, self._log = validate, self._context.data_sources.add_pandas("log")
        by_row = _row_expectations(rules)
        self._by_row = self._definition("interactions", by_row)
        self.num_expectations = len(by_row)
        self._tallies = {each.why: Tally(each) for each in suite}
        of_rows = [each for each in suite if each.of == ROWS]
        self._of_rows = self._definition("rows", [_written(each) for each in of_rows]) if of_rows else None
        self._asked_of_rows = _columns_of(of_rows)

    def add(self, batch: pa.Table, name: str) -> dict[str, Any]:
        """Judge one batch and count what is found, which is returned (see `find`)."""
        found = self.find(batch, name)
        self.recall(found)
        return found

    def find(self, batch: pa.Table, name: str) -> dict[str, Any]:
        """Judge one batch: interactions with the columns REPETITION and SEVERAL_USERS. What was found, as JSON.

        It counts once it is given to `recall`, of this judgement or of another one of the same rules and suite.
        """
        before = self._results()
        frame = _frame(batch)
        with _texts_in_arrow():  # our own rules, whose patterns mean the same to Arrow; a steward's may not
            outcomes = self._run(self._by_row, frame.drop(columns="event_id", errors="ignore"), name)
        counts = {why: int(each.result["unexpected_count"]) for why, each in outcomes.items() if why in self.unexpected}
        failed = [why for why, each in outcomes.items() if not each.success]
        found: dict[str, Any] = {"unexpected": counts, "failed": failed, "rows": []}
        if self._of_rows is not None:
            shown = frame.loc[:, ["event_id", *self._asked_of_rows]]
            found["rows"] = self._told(self._checkpoint(self._of_rows, shown, name, "event_id"), "event_id")
        found["results"] = {
            path.relative_to(self._folder).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(self._results() - before)
        }
        return found

    def recall(self, found: Mapping[str, Any]) -> None:
        """Count a batch that was judged, here or elsewhere, and show it in the pages as it was found."""
        for name, text in found["results"].items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.failed += [reason for reason in found["failed"] if reason not in self.failed]
        self._count(found)

    def _count(self, found: Mapping[str, Any]) -> None:
        for reason, num in found["unexpected"].items():
            self.unexpected[reason] += num
        for why, told, success in found["rows"]:
            self._tallies[why].add(told, "event_id", success)

    def _results(self) -> set[Path]:
        return set((self._folder / RESULTS).rglob("*.json"))

    def judge_partitions(self, profile: pa.Table) -> list[Outcome]:
        """Judge the figures of every partition (PROFILE), once all batches were added: the whole suite's outcomes."""
        wanted = [each.expected for each in self._tallies.values() if each.expected.of == PARTITIONS]
        if wanted:
            definition = self._definition("partitions", [_written(each) for each in wanted])
            frame = profile.to_pandas()
            ran = self._checkpoint(definition, frame, "partitions_of_the_log", "partition")
            for why, told, success in self._told(ran, "partition"):
                self._tallies[why].add(told, "partition", success)
        return [tally.outcome() for tally in self._tallies.values()]

    def _told(self, results: list[Any], index: str) -> list[tuple[str, dict[str, Any], bool]]:
        """Of each expectation: why, what a tally reads, GX's word."""
        found = []
        for result in results:
            expected = self._tallies[result.expectation_config.meta["reason"]].expected
            if (said := _raised(result)) is not None:
                raise InputError(f"{_place(expected)} cannot be judged: {said}")
            column = str(expected.arguments.get("column"))
            found.append((expected.why, told_of(result.result, index, column), bool(result.success)))
        return found

    def _checkpoint(self, definition: Any, frame: pd.DataFrame, name: str, index: str) -> list[Any]:
        """Run one definition as a Checkpoint, which names the rows that were not expected by a column of theirs."""
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
        """Judge the log by its sums, once all batches were added. counts: validate's report."""
        told = {HELD_BACK: counts["rows_quarantined"], REPEATING: counts["rows_duplicated"], "rows": counts["rows_in"]}
        told |= {name: counts[f"num_{name}"] for name in ("users", "items", "clicks")}
        told |= {f"rows: {reason}": number for reason, number in self.unexpected.items() if reason != REPEATED}
        definition = self._definition("log", expectations := _log_expectations(self._validate, told))
        name = f"whole_log_{counts['rows_quarantined']}_of_{counts['rows_in']}_rows_held_back"
        self._run(definition, pd.DataFrame([told]), name)
        self.num_expectations = 1 + len(expectations)  # what rows are counted by decides nothing but their columns

    def _definition(self, name: str, expectations: list[Any]) -> Any:
        gx = _great_expectations()
        suite = self._context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        batches = self._log.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = gx.ValidationDefinition(name=name, data=batches, suite=suite)
        return self._context.validation_definitions.add(definition)

    def _run(self, definition: Any, frame: pd.DataFrame, name: str) -> dict[str, Any]:
        """Every expectation's outcome by its reason."""
        run_id = _great_expectations().RunIdentifier(run_name=name)
        outcomes = {}
        for outcome in definition.run(batch_parameters={"dataframe": frame}, run_id=run_id).results:
            config = outcome.expectation_config
            if (said := _raised(outcome)) is not None:
                raise RuntimeError(f"Great Expectations could not judge {config.type}: {said}")
            reason = (config.meta or {})["reason"]
            outcomes[reason] = outcome
            if not outcome.success and reason not in self.failed:
                self.failed.append(reason)
        return outcomes

    def publish(self, docs: Path, maker: str = "") -> None:
        """Build the pages, once, and put them in the place of the last ones by rename.

        maker: in a page that need not be built again. Of a batch that was recalled the page is among the last ones, at
        the same address: with the time of its judgement.
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
    """The judgement of the block that this runs in, as to begin one takes a second; in a task of its own a new one."""
    if (judgement := _opened.get()) is not None:
        yield judgement
        return
    with Judgement(rules, validate, suite) as judgement:
        yield judgement


def _great_expectations() -> ModuleType:
    """Imported late: it reports its use to its makers unless told not to before, and it imports deprecated modules."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations
        import great_expectations.execution_engine.pandas_execution_engine as engine
        import great_expectations.expectations

    engine.HASH_THRESHOLD = 0  # of larger frames GX notes no fingerprint; nobody reads it, and it costs a third of all
    return great_expectations


def _raised(result: Any) -> str | None:
    """What kept an expectation from being judged, if anything did: where a metric fails, GX names each that did."""
    info = result.exception_info or {}
    raised = [info] if "raised_exception" in info else list(info.values())
    said = [str(each.get("exception_message", each)).strip() for each in raised if each.get("raised_exception")]
    return "; ".join(dict.fromkeys(said)) if said else None


def _row_expectations(rules: Sequence[Rule]) -> list[Any]:
    """What each row is counted by. `mostly` 0: how many may break a rule is asked of the log, not of a batch."""
    repeats = {"column": REPETITION, "value_set": [0]}
    asked = [(rule.expectation, rule.reason, rule.arguments) for rule in rules]
    asked.append(("ExpectColumnValuesToBeInSet", REPEATED, repeats))
    counted = [
        _expect(name, reason, f"Counted here, judged in `log`: {reason}.", mostly=0, **arguments)
        for name, reason, arguments in asked
    ]
    return [*counted, _expect("ExpectTableColumnsToMatchSet", "other columns", column_set=list(COLUMNS))]


def _log_expectations(validate: ValidateParams, told: Mapping[str, int]) -> list[Any]:
    """What the whole log must hold, by the sums in `told`: one column each of a table of one row."""
    rows = told["rows"]
    held_back = validate.max_quarantined_share * rows
    most = {HELD_BACK: held_back, REPEATING: validate.max_duplicated_share * rows}
    most |= {name: held_back for name in told if name.startswith("rows: ")}
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
    """As Great Expectations has it: `mostly` is asked of the sums, not of a batch."""
    asked = {"mostly": 0} if expected.of == ROWS else {}
    if expected.where is not None:
        asked |= {"row_condition": _condition(expected)}
    asked |= {"severity": expected.severity}
    given = {key: value for key, value in expected.arguments.items() if key not in asked}
    try:
        return _expect(expected.expect, expected.why, f"{expected.group}: {expected.why}.", **given, **asked)
    except (AttributeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{_place(expected)}: {said}") from error


def _condition(expected: Expected) -> Any:
    """`rows_in >= 500` as Great Expectations' own condition."""
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
    """Those that a suite speaks of; all where it speaks of the table. GX hashes and copies every column it is shown."""
    named: set[str] = set()
    for each in suite:
        lists = (value if isinstance(value, list) else [value] for value in each.arguments.values())
        given = {name for names in lists for name in names if isinstance(name, str)}
        told = {name for name in COLUMNS if name in given}
        if not told:
            return list(COLUMNS)
        named |= told | {name for name in COLUMNS if each.where and name in each.where}
    return [name for name in COLUMNS if name in named]


def _texts_in_arrow() -> AbstractContextManager[None]:
    """GX makes text of a column to match a pattern or take its length; so that is not done value by value in Python."""
    return pd.option_context("future.infer_string", True)


def _frame(batch: pa.Table) -> pd.DataFrame:
    """Types that GX judges by vector: ids as categories, numbers as float64 or int64, times with their zone.

    event_id, where it is there, names rows and is judged by few: it stays in Arrow's memory.
    """
    columns = {name: batch[name] for name in ("event_id", *COLUMNS) if name in batch.column_names}
    for name in ("label", "position"):
        columns[name] = columns[name].cast(pa.float64())
    kept = {pa.string(): pd.StringDtype("pyarrow")}
    return pa.table(columns).combine_chunks().to_pandas(categories=TEXTS, types_mapper=kept.get)
