"""The ledger -> a waterfall: rows read, rows lost in each stage by reason, and the fates of the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

from features.pages.document import details, escape, percent, table

STAGES = ("ingest", "validate")
GOOD_END = "valid"


def flow(ledger: Sequence[Mapping[str, Any]]) -> str:
    """Every line of the ledger as a bar; the bars add up to the rows read. The same numbers unfold as a table."""
    read = sum(line["rows"] for line in ledger)
    bars, left = [_bar("stock", "read", read, 0, read, read)], read
    for stage in STAGES:
        lost = [line for line in ledger if line["stage"] == stage and line["what"] != GOOD_END]
        for line in lost:
            left -= line["rows"]
            bars.append(_bar("loss", line["what"], -line["rows"], left, line["rows"], read, stage))
        bars.append(_bar("stock", f"after {stage}", left, 0, left, read))
    at = 0
    for line in ledger:
        if line["stage"] not in STAGES:
            bars.append(_bar("end", line["what"], line["rows"], at, line["rows"], read, line["stage"]))
            at += line["rows"]
    rows = [(line["stage"], line["what"], line["rows"], percent(line["rows"] / read)) for line in ledger]
    rows.append(("", "total read", read, percent(1.0)))
    numbers = table(("stage", "fate", "rows", "share"), rows, numbers=(2, 3), caption="The ledger")
    return f'<ol class="flow">{"".join(bars)}</ol>' + details("Numbers", numbers, "the ledger")


def _bar(kind: str, name: str, num: int, start: int, size: int, whole: int, stage: str = "") -> str:
    left, width = (100 * value / max(whole, 1) for value in (start, size))
    bar = (
        f'<span class="bar" style="left:min({left:.3f}%, calc(100% - 3px));width:{width:.3f}%"></span>' if size else ""
    )
    where = f" <small>{escape(stage)}</small>" if stage else ""
    sign = "−" if num < 0 else ""
    return (
        f'<li class="{kind}"><span class="name">{escape(name)}{where}</span>'
        f'<span class="track" aria-hidden="true">{bar}</span>'
        f'<span class="num">{sign}{abs(num):,} <small>{percent(abs(num) / max(whole, 1))}</small></span></li>'
    )
