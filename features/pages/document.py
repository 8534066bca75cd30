"""Headings, tables, figures and a verdict -> one self-contained HTML file without scripts or network.

Colours are CSS variables, so that the same drawing works in light mode, in dark mode and on paper.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contracts.files import write_text

GOOD, WARNS, BAD = "good", "warns", "bad"
MARKS = {GOOD: "✓ passed", WARNS: "! passed with warnings", BAD: "✕ blocked"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def write_page(path: Path, title: str, body: Iterable[str], foot: str) -> int:
    """Write the page atomically; returns its size in bytes."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{policy}{view}<meta name="color-scheme" content="light dark">'
    text = (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{CSS}</style></head>\n'
        f"<body><main>\n{chr(10).join(body)}\n</main><footer>{foot}</footer></body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return len(text.encode())


def escape(text: object) -> str:
    """Text as HTML, with control characters as escapes."""
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", str(text))
    return html.escape(shown)


def verdict(over: str, title: str, state: str, sentence: str, facts: Sequence[tuple[str, str]], mark: str = "") -> str:
    """The head of a page: subject, outcome, sentence and key figures."""
    told = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<header class="{state}"><p class="over">{escape(over)}</p><h1>{escape(title)}</h1>'
        f'<p class="mark">{escape(mark or MARKS[state])}</p><p class="sentence">{escape(sentence)}</p>'
        f"<dl>{told}</dl></header>"
    )


def section(title: str, *parts: str, lead: str = "") -> str:
    """A section with a heading."""
    name = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    said = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{said}{"".join(parts)}</section>'


def figure(svg: str, title: str, note: str, numbers: str = "", *, is_wide: bool = False) -> str:
    """A chart with its title, note and numbers, which unfold. is_wide: on a phone it scrolls, or could not be read."""
    more = details("Numbers", numbers, title) if numbers else ""
    box = f'class="chart broad" tabindex="0" role="region" aria-label="Chart: {escape(title)}"'
    box = box if is_wide else 'class="chart"'
    return (
        f"<figure><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption>"
        f"<div {box}>{svg}</div>{more}</figure>"
    )


def details(summary: str, inner: str, about: str = "") -> str:
    """Content that unfolds. about: its subject, for screen readers."""
    of = f'<span class="sr"> of {escape(about)}</span>' if about else ""
    return f"<details><summary>{escape(summary)}{of}</summary>{inner}</details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = (), caption: str = "") -> str:
    """An HTML table that scrolls. numbers: the columns that are aligned to the right."""

    def cell(tag: str, place: int, value: Any) -> str:
        side = ' class="n"' if place in numbers else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{side}{scope}>{value if isinstance(value, Html) else escape(number(value))}</{tag}>"

    head = "".join(cell("th", place, name) for place, name in enumerate(columns))
    body = "".join(f"<tr>{''.join(cell('td', place, value) for place, value in enumerate(row))}</tr>" for row in rows)
    said = f'<caption class="sr">{escape(caption)}</caption>' if caption else ""
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or ", ".join(columns))}">'
    wide = ' class="wide"' if len(columns) > 4 else ""
    return f"{box}<table{wide}>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


class Html(str):
    """Text that is HTML already."""


def number(value: Any) -> str:
    """A cell's text: thousands separated, floats with three significant digits, null as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def percent(share: float | None) -> str:
    """A share as text, in which small shares are not rounded to 0 % and large ones not to 100 %."""
    if share is None:
        return "–"
    value = 100 * share
    if 0 < value < 0.01:
        return "under 0.01 %"
    if 99.99 < value < 100:
        return "over 99.99 %"
    return f"{value:.0f} %" if value in (0, 100) else f"{value:.1f} %" if value >= 1 else f"{value:.2f} %"


def count(num: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 row, 2 rows."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"
