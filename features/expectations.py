"""Interactions and the rules -> Great Expectations' judgement: counts by rule, failed expectations, Data Docs to read.

GX judges and reports; which rows are held back is decided by features.validate, and the two must count alike.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa

from features.params import ValidateParams
from features.rules import REPEATED, REPETITION, SEVERAL_USERS, Rule

COLUMNS = ("user_id", "item_id", "occurred_at", "label", "position", "role", REPETITION, SEVERAL_USERS)
TEXTS = ["user_id", "item_id", "role"]


class Judgement:
    """A Great Expectations context that lives as long as its `with`: batches in, pages out.

    unexpected: rows by reason that a rule's expectation did not expect, over all batches.
    failed: the expectations that failed on any batch.
    """

    def __init__(self, rules: Sequence[Rule], validate: ValidateParams) -> None:
        gx = _great_expectations()
        self.unexpected = dict.fromkeys([*(rule.reason for rule in rules), REPEATED], 0)
        self.failed: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="leitmotif-gx-"))
        self._context = gx.get_context(mode="file", project_root_dir=self._folder)
        self._context.variables.progress_bars = {"globally": False}
        expectations = _expectations(rules, validate)
        self.num_expectations = len(expectations)
        suite = self._context.suites.add(gx.ExpectationSuite(name="interactions", expectations=expectations))
        asset = self._context.data_sources.add_pandas("log").add_dataframe_asset("interactions")
        batches = asset.add_batch_definition_whole_dataframe("partitions")
        definition = gx.ValidationDefinition(name="interactions", data=batches, suite=suite)
        self._definition = self._context.validation_definitions.add(definition)

    def add(self, batch: pa.Table, name: str) -> None:
        """Judge one batch: interactions with the columns REPETITION and SEVERAL_USERS."""
        run_id = _great_expectations().RunIdentifier(run_name=name)
        result = self._definition.run(batch_parameters={"dataframe": _frame(batch)}, run_id=run_id)
        for outcome in result.results:
            config = outcome.expectation_config
            if outcome.exception_info.get("raised_exception"):
                raise RuntimeError(f"Great Expectations could not judge {config.type}: {outcome.exception_info}")
            reason = (config.meta or {})["reason"]
            if reason in self.unexpected:
                self.unexpected[reason] += outcome.result["unexpected_count"]
            if not outcome.success and reason not in self.failed:
                self.failed.append(reason)

    def publish(self, docs: Path) -> None:
        """Build the pages, once, and put them in the place of the last ones by rename."""
        self._context.build_data_docs()
        docs.parent.mkdir(parents=True, exist_ok=True)
        old, new = (docs.with_name(f".{docs.name}.{which}") for which in ("old", "new"))
        if old.exists() and not docs.exists():
            os.replace(old, docs)  # a swap was killed halfway
        for left in (old, new):
            shutil.rmtree(left, ignore_errors=True)
        shutil.move(self._folder / "gx" / "uncommitted" / "data_docs" / "local_site", new)  # from another disk, perhaps
        if docs.exists():
            os.replace(docs, old)
        os.replace(new, docs)
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self) -> "Judgement":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


def _great_expectations() -> ModuleType:
    """Imported late: it reports its use to its makers unless told not to before, and it imports deprecated modules."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations
        import great_expectations.expectations

    return great_expectations


def _expectations(rules: Sequence[Rule], validate: ValidateParams) -> list[Any]:
    by_rule = [
        _expect(rule.expectation, rule.reason, mostly=1 - validate.max_quarantined_share, **rule.arguments)
        for rule in rules
    ]
    duplicates = {"column": REPETITION, "value_set": [0], "mostly": 1 - validate.max_duplicated_share}
    users = {"column": "user_id", "min_value": validate.min_users}
    items = {"column": "item_id", "min_value": validate.min_items}
    return [
        *by_rule,
        _expect("ExpectColumnValuesToBeInSet", REPEATED, **duplicates),
        _expect("ExpectTableRowCountToBeBetween", "no rows", min_value=1),
        _expect("ExpectTableColumnsToMatchSet", "other columns", column_set=list(COLUMNS)),
        _expect("ExpectColumnUniqueValueCountToBeBetween", "too few users", **users),
        _expect("ExpectColumnUniqueValueCountToBeBetween", "too few items", **items),
        _expect("ExpectColumnSumToBeBetween", "too few clicks", column="label", min_value=validate.min_clicks),
    ]


def _expect(name: str, reason: str, **arguments: Any) -> Any:
    return getattr(_great_expectations().expectations, name)(
        meta={"reason": reason}, notes=f"Otherwise: {reason}.", **arguments
    )


def _frame(batch: pa.Table) -> pd.DataFrame:
    """Types that GX judges by vector: ids as categories, numbers as float64 or int64, times with their zone."""
    columns = {name: batch[name] for name in COLUMNS}
    for name in ("label", "position"):
        columns[name] = columns[name].cast(pa.float64())
    return pa.table(columns).to_pandas(categories=TEXTS)
