"""Check the sections of params.yaml against each other, so that a contradiction is reported when the file is read."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from features.terms.convention import RECENT

Sections = Mapping[str, Any]


def history_is_kept(sections: Sections) -> list[str]:
    """The online store must keep at least the events that a model reads, and histories the events that are known."""
    history, model, statistics = (sections[name] for name in ("history", "model", "statistics"))
    problems = []
    needed = max(model.history_length, RECENT if statistics.coclick_rank else 0)
    if history.max_length < needed:
        why = "model.history_length" if needed == model.history_length else "statistics.coclick_rank > 0"
        problems.append(
            f"history.max_length: {history.max_length} events of a user are kept online, and {why} reads {needed}; "
            f"raise it to at least {needed}" + (", or lower model.history_length" if "model" in why else "")
        )
    if model.short_length > model.history_length:
        problems.append(
            f"model.short_length: the newest {model.short_length} events are read apart, but model.history_length is "
            f"{model.history_length}; set it to at most {model.history_length}"
        )
    if history.retention_s is not None and history.retention_s <= history.lag_s:
        problems.append(
            f"history.retention_s: events are left out after {history.retention_s:g} s, and history.lag_s lets a "
            f"request see them after {history.lag_s:g} s, so every history would be empty; raise it above "
            f"{history.lag_s:g}, or set it to null"
        )
    return problems


def split_is_in_order(sections: Sections) -> list[str]:
    """train_from before validation, validation not after test, no empty part. A quantile and a time cannot be compared
    without the log."""
    split, delay_s = sections["split"], sections["labels"].delay_s
    problems = list(_in_order(split, delay_s))
    if split.validation == 0:
        problems.append("split.validation: 0 leaves no request to train on; set it above 0")
    if split.test == 1:
        problems.append("split.test: 1 leaves no request to test on, and no bundle is made without; set it below 1")
    limits = sections["validate"]
    for name in ("train_from", "validation", "test"):
        at = getattr(split, name)
        if isinstance(at, datetime) and not limits.earliest <= at <= limits.latest:
            problems.append(
                f"split.{name}: {at.isoformat()} lies outside validate.earliest to latest "
                f"({limits.earliest.isoformat()} to {limits.latest.isoformat()}); no event lies on its other side"
            )
    return problems


def _in_order(split: Any, delay_s: float) -> Iterator[str]:
    for first, then, may_be_equal in (
        ("train_from", "validation", False),
        ("validation", "test", True),
        ("train_from", "test", False),
    ):
        a, b = getattr(split, first), getattr(split, then)
        if a is None or isinstance(a, datetime) is not isinstance(b, datetime):
            continue
        if a > b or (a == b and not may_be_equal):
            yield f"split.{first}: {_show(a)} is not before split.{then}, {_show(b)}; set split.{first} to less"
        elif isinstance(a, datetime) and a != b and then == "validation" and (b - a).total_seconds() <= delay_s:
            yield (
                f"split.{first}: only {(b - a).total_seconds():g} s lie before split.{then}, and labels.delay_s "
                f"({delay_s:g}) leaves no label of them known by then; set split.{first} to an earlier time"
            )


def counts_are_read(sections: Sections) -> list[str]:
    """No window may be finer than the counters, and no setting of the statistics may be ignored."""
    statistics, problems = sections["statistics"], []
    finer = [window for window in statistics.windows_s if window < statistics.bucket_s]
    if finer:
        problems.append(
            f"statistics.bucket_s: counts are kept every {statistics.bucket_s:g} s, and statistics.windows_s asks for "
            f"windows of {', '.join(map(str, finer))} s; lower it to at most {min(finer)}, or drop these windows"
        )
    if statistics.devices and not statistics.context:
        problems.append(
            f"statistics.devices: {', '.join(statistics.devices)} are told apart only where statistics.context is "
            "true; set statistics.context=true, or statistics.devices=[]"
        )
    return problems


def columns_are_distinct(sections: Sections) -> list[str]:
    """User, item and time must be different columns of a table."""
    source = sections["source"]
    if source.name != "table":
        return []
    names = ("user_id", "item_id", "occurred_at")
    mapped = {name: getattr(source.columns, name) for name in names}
    return [
        f"source.columns.{name}: column {mapped[name]!r} is source.columns.{other} already; name another"
        for place, name in enumerate(names)
        for other in names[:place]
        if mapped[name] is not None and mapped[name] == mapped[other]
    ]


def calibration_is_meant(sections: Sections) -> list[str]:
    """A pure ranking loss gives no probabilities, so a limit on them would refuse every model after its training."""
    limit = sections["evaluate"].max_calibration_error
    if sections["train"].loss != "listwise" or limit >= 1:
        return []
    return [
        f"evaluate.max_calibration_error: {limit:g} judges probabilities, and train.loss=listwise gives none; set it "
        "to 1, or train.loss=both"
    ]


def _show(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else f"{value:g}"
