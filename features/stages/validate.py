"""Interactions -> validated_interactions, and quarantine with reasons; judged by Great Expectations, with Data Docs."""
# pyright: reportAttributeAccessIssue=false

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from contracts.errors import CheckFailed, InputError
from contracts.publish import publish
from contracts.stage import ATTEMPTS, Report, main
from features.engine.engine import HERE, Engine, running
from features.pages.data_docs import code as made_by
from features.pages.data_docs import make_readable, maker
from features.quality import site
from features.quality.code import code
from features.quality.docs_note import held_back
from features.quality.expectations import Judgement
from features.quality.figures import Figures, count_figures
from features.quality.flaws import Flaws, find_flaws
from features.quality.outcomes import by_group, of_rules
from features.quality.profile import profile_partitions
from features.quality.record import refusal_of, write_profile
from features.quality.split import Judged, Judging
from features.quality.stragglers import end_before_stragglers
from features.quality.suite import CRITICAL, read_suite
from features.quality.verdicts import Verdicts
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import opened
from features.terms.params import CLICKS_ALONE, EngineParams, ExpectationParams, ValidateParams
from features.terms.rules import SHARED, not_after, rules

log = logging.getLogger("leitmotif")

OUTS = ("validated_interactions", "quarantine", "profile")
PAGE = "quality.html"
ONE_USER_S = (
    " An impression_id is one user's: where each user's requests are counted from 1, write it as <user>-<number>, or "
    'leave it out (make set ARGS="source.columns.impression_id=null"), which makes requests of blocks of events.'
)


def run(data: Path, validate: ValidateParams, expectations: ExpectationParams, engine: EngineParams = HERE) -> Report:
    """Quarantine bad rows, drop repeated ones, judge the steward's expectations, and pass on the rest.

    Raises InputError if the log is too small, and CheckFailed if too many rows are bad or repeated or a critical
    expectation fails. Data Docs and the quality page of a refused log are written with the failed attempt; those of the
    last good log stay. engine: judges, splits and counts batches of partitions; repetitions are found in this process.
    """
    folder = data.parent.parent / ".cache" / "validate" / data.name
    with (
        PartitionCache.open(folder) as cache,
        running(engine, folder) as runner,
        cache.scratch() as scratch,
        opened(scratch),
    ):
        return _run(data, validate, expectations, cache, runner)


def _run(
    data: Path, validate: ValidateParams, expectations: ExpectationParams, cache: PartitionCache, engine: Engine
) -> Report:
    root = data.parent.parent
    docs = root / ".state" / data.name / "data_docs"
    files = _partitions(data / "interactions")
    checks, suite = rules(validate), read_suite(expectations.limits)
    if end := end_before_stragglers(files, validate.max_silence_s):
        checks.append(not_after(end))
    flaws = find_flaws(files, checks, cache)
    log.info("%s rows are held back or have a twin", f"{len(flaws.row):,}")
    basis = key_of([str(each) for each in (validate, suite, end)])
    verdicts = Verdicts(cache, basis)
    with publish(data, *OUTS) as staging, Judgement(checks, validate, suite, verdicts) as judgement:
        judging = Judging(cache.folder, data / "provenance", checks, validate, suite)
        judged = Judged(files, flaws, judgement, judging, basis, cache, engine)
        report, keys = judged.split(staging)
        valid = sorted((staging / "validated_interactions").glob("*.parquet"))
        figures = count_figures(valid, cache, engine) if valid else None
        report |= _totals(figures)
        assert judgement.unexpected == flaws.num_rows_by_rule, (judgement.unexpected, flaws.num_rows_by_rule)
        judgement.conclude(report)
        report |= {
            "rows_duplicated_differing": flaws.num_differing,
            "num_expectations": judgement.num_expectations,
            "failed_expectations": judgement.failed,
        }
        report["summary"] = summarise(report)
        counts = _counts(files, flaws)
        profile, profile_key = profile_partitions(figures, valid, data / "items", counts, expectations.trailing, cache)
        outcomes = [*of_rules(checks, flaws.num_rows_by_rule, report), *judgement.judge_partitions(profile)]
        report["expectations"] = by_group(outcomes)
        write_profile(staging / "profile", profile, outcomes)
        try:
            _decide(report, validate)
            _refuse_critical(report)
        except (InputError, CheckFailed) as error:
            judgement.publish(root / ATTEMPTS / "validate" / "data_docs")
            make_readable(root / ATTEMPTS / "validate" / "data_docs", held_back(report), is_refused=True)
            _show(data, staging, str(error), root / ATTEMPTS / "validate" / PAGE)
            raise
        site_key = _publish(judgement, docs, held_back(report), basis, cache)
        log.info("%s See %s", held_back(report), docs / "index.html")
        cache.keep_only({*flaws.keys, *keys, *(figures.keys if figures else ()), *verdicts.keys, profile_key, site_key})
    return report


def summarise(report: Mapping[str, Any]) -> str:
    """A sentence with the result of Great Expectations and the rows that were quarantined or repeated."""
    differing = report["rows_duplicated_differing"]
    met = report["num_expectations"] - len(report["failed_expectations"])
    reasons = "; ".join(f"{reason}: {num:,}" for reason, num in sorted(report["quarantined_by_reason"].items()))
    return (
        f"{met} of {report['num_expectations']} expectations of the whole log hold; {report['rows_quarantined']:,} of "
        f"{report['rows_in']:,} rows ({report['rows_quarantined'] / report['rows_in']:.2%}) are held back in quarantine"
        + (f" ({reasons})" if reasons else "")
        + f", {report['rows_duplicated']:,} repeat another row and are left out."
        + (
            f" {differing:,} of these say something else than the row whose event_id they have: is "
            "source.columns.event_id the name of one event?"
            if differing
            else ""
        )
    )


def _totals(figures: Figures | None) -> dict[str, int]:
    """Counts of the valid rows."""
    names = ("rows_valid", "num_clicks", "num_users", "num_items")
    totals = {name: figures.totals[name] if figures else 0 for name in names}
    return totals | {"num_unclicked": totals["rows_valid"] - totals["num_clicks"]}


def _publish(judgement: Judgement, docs: Path, sentence: str, basis: str, cache: PartitionCache) -> str:
    """Data Docs of this judgement, unless they stand there already; returns their key in the cache."""
    of = [sorted(judgement.results), list(judgement.sums.items()), sentence]
    key = key_of(code(), "docs", maker(), made_by(), basis, of)
    if not site.stands(docs, key, cache):
        judgement.publish(docs, maker())
        make_readable(docs, sentence)
        site.note(docs, key, cache)
    return key


def _counts(files: Sequence[Path], flaws: Flaws) -> dict[str, tuple[int, int, int]]:
    """Partition -> (rows in, quarantined, repeated)."""
    counts = {}
    for place, file in enumerate(files):
        here = flaws.of(place)
        is_bad = np.array([text is not None for text in flaws.reason[here]], dtype=bool)
        repeated = int((flaws.repetition[here] > 0).sum())
        counts[file.stem] = (pq.read_metadata(file).num_rows, int(is_bad.sum()), repeated)
    return counts


def _refuse_critical(report: Mapping[str, Any]) -> None:
    """Raise CheckFailed if an expectation of severity critical failed."""
    groups = report["expectations"].values()
    failed = [sentence for group in groups if group[CRITICAL] for sentence in group["failed_critical"]]
    if failed:
        raise CheckFailed(
            f"{len(failed)} critical expectation{'s' if len(failed) > 1 else ''} of features/quality/expectations.yaml "
            f"failed: {'; '.join(failed)}. See {ATTEMPTS}/validate ({PAGE}, data_docs) and correct the source, or "
            "change its limit in params.yaml, expectations.limits."
        )


def _show(data: Path, staging: Path, why: str, page: Path) -> None:
    """Write the quality page of a refused log; the page's code is imported only now."""
    from features.pages.quality import write_quality

    write_quality(page, refusal_of(data, staging, why))


def _partitions(folder: Path) -> list[Path]:
    """The partitions' files in order. Raises InputError if there are none, or one has no rows."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(
            f"{folder} has no partitions; at least 1 is needed. Run `dvc repro ingest` and read its report."
        )
    for file in files:
        if not pq.read_metadata(file).num_rows:
            raise InputError(
                f"Partition {file.stem} is empty: {file} has 0 rows; at least 1 is needed. "
                "Export that period again or leave it out, then run `dvc repro ingest`."
            )
    return files


def _decide(report: Mapping[str, Any], validate: ValidateParams) -> None:
    """Raise if the log is not fit for training: too many rows quarantined or repeated, or too few left."""
    for rows, limit in (("quarantined", "max_quarantined_share"), ("duplicated", "max_duplicated_share")):
        share = report[f"rows_{rows}"] / report["rows_in"]
        if share > getattr(validate, limit):
            reasons = "; ".join(f"{reason}: {num:,}" for reason, num in report["quarantined_by_reason"].items())
            because = f" ({reasons})" if rows == "quarantined" else ""
            advice = ONE_USER_S if rows == "quarantined" and SHARED in report["quarantined_by_reason"] else ""
            raise CheckFailed(
                f"{report[f'rows_{rows}']:,} of {report['rows_in']:,} rows are {rows}, {share:.1%}{because}; "
                f"validate.{limit} is {getattr(validate, limit):.1%}. "
                f"See {ATTEMPTS}/validate (data_docs, made/quarantine) and correct the source, or raise the limit: "
                f'make set ARGS="validate.{limit}={min(1, math.ceil(share * 100) / 100):g}".{advice}'
            )
    for what in ("users", "items", "clicks"):
        count, limit = report[f"num_{what}"], getattr(validate, f"min_{what}")
        if count < limit:
            advice = " Check source.columns.label and source.label_threshold." if what == "clicks" else ""
            raise InputError(
                f"The log has {count:,} {what if count != 1 else what[:-1]} in {report['rows_valid']:,} valid rows; "
                f"validate.min_{what} is {limit:,}. Use a larger log.{advice}"
            )
    if report["num_unclicked"] < validate.min_unclicked:
        raise InputError(
            f"The log has {report['num_unclicked']:,} rows that were shown and not clicked in {report['rows_valid']:,} "
            f"valid rows; validate.min_unclicked is {validate.min_unclicked:,}, as nothing can be learnt from clicks "
            f'alone. {CLICKS_ALONE} To stop before training: make set ARGS="validate.min_unclicked=0".'
        )


if __name__ == "__main__":
    main(run)
