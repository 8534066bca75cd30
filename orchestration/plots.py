"""Numbers by name -> a small picture inside markdown, as Dagster's metadata shows it: SVG without a library.

Dagster shows markdown of less than 1,000 characters in place, and hides what is longer behind a link: hence whole
coordinates, one path for all bars, and at most a month of them.
"""

from collections.abc import Mapping, Sequence

IN_PLACE = 1000
"""Characters from which on Dagster shows a link instead."""
WIDTH, HEIGHT = 330, 96
LEFT, TOP, GROUND = 46, 20, 78
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "gray"
"""Okabe and Ito's, told apart by everybody and readable on Dagster's light and dark ground."""
NEWEST = 31
"""At most so many bars; the earlier ones are left out."""


def bars(title: str, values: Mapping[str, float], marked: Sequence[str] = ()) -> str:
    """Columns over names in order, those in marked in another colour, as one markdown image."""
    shown = dict(list(values.items())[-NEWEST:])
    highest = max([*shown.values(), 0]) or 1
    step = (WIDTH - LEFT) / max(len(shown), 1)
    paths = {BLUE: "", ORANGE: ""}
    for place, (name, value) in enumerate(shown.items()):
        top = GROUND - (GROUND - TOP) * max(value, 0) / highest
        paths[ORANGE if name in marked else BLUE] += f"M{_x(place, step):.0f},{GROUND}V{top:.0f}"
    drawn = "".join(
        f"<path d='{path}' stroke='{colour}' stroke-width='{min(max(step * 0.7, 1), 40):.0f}'/>"
        for colour, path in paths.items()
        if path
    )
    drawn += _text(LEFT, 12, title) + _text(0, TOP + 8, _short(highest))
    drawn += "".join(_text(*place, name) for place, name in _named(list(shown), marked, step))
    return _image(title, drawn)


def _x(place: int, step: float) -> float:
    return LEFT + (place + 0.5) * step


def _named(names: list[str], marked: Sequence[str], step: float) -> list[tuple[tuple[float, float], str]]:
    """The names that are written below their bars: what is marked, or the first and the last; few are all written."""
    if len(names) <= 6:
        return [((_x(place, step) - step / 2.2, HEIGHT - 4), name) for place, name in enumerate(names)]
    wanted = [name for name in names if name in marked][:1] or [names[0], names[-1]]
    furthest = WIDTH - 62
    return [((min(_x(names.index(name), step) - step / 2, furthest), HEIGHT - 4), name) for name in wanted]


def _text(x: float, y: float, text: str) -> str:
    plain = text.replace("&", "+").replace("<", "(").replace(">", ")")
    return f"<text x='{x:.0f}' y='{y:.0f}'>{plain}</text>"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def _image(title: str, drawn: str) -> str:
    size = f"viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'"
    style = f"font-size='11' font-family='sans-serif' fill='{GREY}'"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {style}>{drawn}</svg>"
    for plain, coded in (
        ("%", "%25"),
        (" ", "%20"),
        ("<", "%3C"),
        (">", "%3E"),
        ("#", "%23"),
        ("(", "%28"),
        (")", "%29"),
    ):
        svg = svg.replace(plain, coded)
    return f"![{title}](data:image/svg+xml,{svg})"
