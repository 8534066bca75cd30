"""Numbers by name -> a small picture inside markdown, as Dagster's metadata shows it: SVG, a few KB, no library."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 560, 150
LEFT, TOP, BOTTOM = 64, 26, 34
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8a8a"
"""Okabe and Ito's, told apart by everybody and readable on Dagster's light and dark ground."""
NEWEST = 60
"""At most so many bars; the earlier ones are left out."""


def bars(title: str, values: Mapping[str, float], marked: Sequence[str] = ()) -> str:
    """Columns over names in order, those in marked in another colour, as one markdown image."""
    shown = dict(list(values.items())[-NEWEST:])
    highest = max([*shown.values(), 0]) or 1
    step = (WIDTH - LEFT - 8) / max(len(shown), 1)
    ground = HEIGHT - BOTTOM
    parts = [_text(LEFT, 16, title, "start"), _text(LEFT - 6, TOP + 8, _short(highest)), _text(LEFT - 6, ground, "0")]
    for place, (name, value) in enumerate(shown.items()):
        high = (ground - TOP) * max(value, 0) / highest
        x, colour = LEFT + place * step, ORANGE if name in marked else BLUE
        parts.append(
            f'<rect x="{x:.1f}" y="{ground - high:.1f}" width="{max(step * 0.8, 1):.1f}" height="{high:.1f}" '
            f'fill="{colour}"><title>{escape(name)}: {_short(value)}</title></rect>'
        )
    for place, name in _named(list(shown), marked):
        parts.append(_text(LEFT + (place + 0.4) * step, ground + 16, name, "middle"))
    parts.append(f'<line x1="{LEFT}" y1="{ground}" x2="{WIDTH}" y2="{ground}" stroke="{GREY}"/>')
    return _image(title, "".join(parts))


def _named(names: list[str], marked: Sequence[str]) -> list[tuple[int, str]]:
    """The names that are written below: what is marked, or the first and the last; few are all written."""
    if len(names) <= 6:
        return list(enumerate(names))
    wanted = [name for name in names if name in marked][:1] or [names[0], names[-1]]
    return [(min(max(names.index(name), 1), len(names) - 2), name) for name in wanted]


def _text(x: float, y: float, text: str, anchor: str = "end") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{GREY}">{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def _image(title: str, drawn: str) -> str:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>{drawn}</svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
