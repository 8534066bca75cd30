"""Interactions, the rules and a steward's suite -> Great Expectations' (GX) results: counts, outcomes, Data Docs.

Rows are counted batch by batch, but the log is judged by the sums, because a limit on a share or on the number of users
cannot be applied to one batch. features.stages.validate decides which rows are quarantined; both must count the same.
GX itself (judge.py) is opened only if something is not known yet.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from features.quality.outcomes import PARTITIONS, Outcome, Tally
from features.quality.suite import Expected
from features.terms.params import ValidateParams
from features.terms.rules import REPEATED, Rule

if TYPE_CHECKING:
    from features.quality.judge import Judge

HELD_BACK = "rows held back"
REPEATING = "rows that repeat another"
Found = Mapping[str, Any]
Remembered = Callable[[Sequence[object], Callable[[], Found]], Found]
"""(everything that a verdict depends on beside rules, suite and code; what finds it) -> the verdict."""


def found_again(_: Sequence[object], find: Callable[[], Found]) -> Found:
    """Remembers nothing."""
    return find()


class Judgement:
    """Batches in, then the log's counts, Data Docs out.

    unexpected: reason -> rows of all batches that break this rule.
    failed: the failed expectations of the log as a whole, and of any batch if its columns are wrong.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        validate: ValidateParams,
        suite: Sequence[Expected] = (),
        remembered: Remembered = found_again,
    ) -> None:
        self.unexpected = dict.fromkeys([*(rule.reason for rule in rules), REPEATED], 0)
        self.failed: list[str] = []
        self.num_expectations = 0
        self.results: dict[str, str] = {}
        self.sums: dict[str, int] = {}
        self._by = (rules, validate, suite)
        self._remembered = remembered
        self._tallies = {each.why: Tally(each) for each in suite}

    def add(self, batch: pa.Table, name: str) -> Found:
        """Judge one batch and count the result, which is returned."""
        with at_hand(*self._by) as judge:
            found = judge.find(batch, name)
        self.recall(found)
        return found

    def recall(self, found: Found) -> None:
        """Count the result of a batch that was judged here or elsewhere, and add it to Data Docs."""
        for reason, num in found["unexpected"].items():
            self.unexpected[reason] += num
        for why, summary, success in found["rows"]:
            self._tallies[why].add(summary, "event_id", success)
        self._keep(found)

    def judge_partitions(self, profile: pa.Table) -> list[Outcome]:
        """Judge the figures of every partition (PROFILE) after all batches; returns the outcomes of the whole suite."""
        if any(each.expected.of == PARTITIONS for each in self._tallies.values()):
            figures = json.dumps(profile.to_pylist(), default=str)
            found = self._remembered(["partitions", figures], lambda: self._of_partitions(profile))
            for why, summary, success in found["partitions"]:
                self._tallies[why].add(summary, "partition", success)
            self._keep(found)
        return [tally.outcome() for tally in self._tallies.values()]

    def conclude(self, counts: Mapping[str, Any]) -> None:
        """Judge the log by its sums, after all batches. counts: validate's report."""
        sums = {HELD_BACK: counts["rows_quarantined"], REPEATING: counts["rows_duplicated"], "rows": counts["rows_in"]}
        sums |= {name: counts[f"num_{name}"] for name in ("users", "items", "clicks")}
        sums |= {f"rows: {reason}": number for reason, number in self.unexpected.items() if reason != REPEATED}
        name = f"whole_log_{counts['rows_quarantined']}_of_{counts['rows_in']}_rows_held_back"
        self.sums = sums
        found = self._remembered(["log", list(sums.items())], lambda: self._of_log(name))
        self.num_expectations = 1 + found["num"]  # of the expectations of rows only that of the columns can fail
        self._keep(found)

    def publish(self, docs: Path, maker: str = "") -> None:
        """Build Data Docs and replace the last ones by rename. maker: in a page that need not be built again."""
        with at_hand(*self._by) as judge:
            judge.publish(self.results, self.sums, docs, maker)

    def _of_partitions(self, profile: pa.Table) -> Found:
        with at_hand(*self._by) as judge:
            return judge.of_partitions(profile)

    def _of_log(self, name: str) -> Found:
        with at_hand(*self._by) as judge:
            return judge.of_log(self.sums, name)

    def _keep(self, found: Found) -> None:
        self.results |= found["results"]
        self.failed += [reason for reason in found.get("failed", ()) if reason not in self.failed]

    def __enter__(self) -> "Judgement":
        self._block = _Block()
        self._token = _opened.set(self._block)
        return self

    def __exit__(self, *_: object) -> None:
        _opened.reset(self._token)
        self._block.open.close()


@dataclass
class _Block:
    """A `with` block of a Judgement, and its Judge once that is needed."""

    open: ExitStack = field(default_factory=ExitStack)
    judge: "Judge | None" = None


_opened: ContextVar[_Block | None] = ContextVar("opened", default=None)


@contextmanager
def at_hand(rules: Sequence[Rule], validate: ValidateParams, suite: Sequence[Expected]) -> Iterator["Judge"]:
    """The Judge of the enclosing `with` block, because opening one takes seconds; a new one in a task of Spark."""
    from features.quality.judge import Judge  # Great Expectations: late

    if (block := _opened.get()) is None:
        with Judge(rules, validate, suite) as judge:
            yield judge
        return
    if block.judge is None:
        block.judge = block.open.enter_context(Judge(rules, validate, suite))
    yield block.judge
