"""The audit's dozen users -> a strip for each: their sessions in order, coloured and lettered by theme."""

from collections.abc import Mapping, Sequence
from typing import Any

from features.pages.document import count, escape, percent, section

Report = Mapping[str, Any]
# Paul Tol's "muted" and "light", in an order that keeps neighbours apart; each block also has its theme's letter
TONES = (
    "#332288",
    "#44AA99",
    "#CC6677",
    "#DDCC77",
    "#117733",
    "#88CCEE",
    "#882255",
    "#999933",
    "#AA4499",
    "#EE8866",
    "#77AADD",
    "#BBCC33",
)
DARK = (0, 4, 6)
OTHER = "#8b95a3"
_BOX = '<div class="strip broad" tabindex="0" role="region" aria-label="Chart: sessions of a dozen users">'


def strips(report: Report) -> str:
    """The section of the page, with the key to its colours. All strips have one scale."""
    names = [*report["themes"]]
    keys = "".join(
        f'<li><i style="background:{TONES[place]}"></i>{chr(65 + place).lower()} {escape(name)}</li>'
        for place, name in enumerate(names)
    )
    widest = max((sum(_widths(each)) for each in report["strips"]), default=0.0)
    rows = "".join(
        f"<span>{each['name']} <small>{percent(each['hop_rate'])}</small></span>{_strip(each, names, widest)}"
        for each in report["strips"]
    )
    lead = (
        "Each block is a session, oldest on the left, wider with more events. Users are sorted by the share of their "
        "sessions that turn to another theme, which is shown beside the name."
    )
    return section("A dozen users", f'<ul class="legend">{keys}</ul>{_BOX}{rows}</div>', lead=lead)


def _widths(each: Report) -> list[float]:
    """Of the blocks of a user's sessions, with the gap after each."""
    return [1.0 + max(7.0, 4.0 * size**0.5) for _, size, _ in each["sessions"]]


def _strip(each: Report, names: Sequence[str], widest: float) -> str:
    """widest: of all strips, so that all have one scale, and letters of one size."""
    blocks, at = [], 0.0
    whole = max(widest, 420.0)
    for (theme, size, day), step in zip(each["sessions"], _widths(each), strict=True):
        width = step - 1.0
        colour = OTHER if theme is None else TONES[theme]
        name = "another theme" if theme is None else names[theme]
        letter = "" if theme is None else chr(97 + theme)
        ink = "#fff" if theme in DARK else "#000"
        blocks.append(
            f'<rect x="{at:.1f}" width="{width:.1f}" height="18" fill="{colour}"><title>day {day}: {escape(name)}, '
            f"{count(size, 'event')}</title></rect>"
            f'<text x="{at + width / 2:.1f}" y="13" text-anchor="middle" fill="{ink}">{letter}</text>'
        )
        at += step
    return (
        f'<svg role="img" aria-label="Sessions of user {each["name"]}: {len(each["sessions"])}, '
        f'{percent(each["hop_rate"])} turn" viewBox="0 0 {whole:.0f} 18" preserveAspectRatio="xMinYMid meet" '
        f'font-size="10" font-family="sans-serif">{"".join(blocks)}</svg>'
    )
