"""A click is defined once, in features/terms/convention.py: no other line compares a label with a number."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from features.terms.convention import CLICKED, is_click

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("contracts", "features", "training", "serving", "orchestration", "benchmarks")
LABEL = re.compile(r"(?<![a-z])labels?(?![a-z])", re.IGNORECASE)
IN_TEXT = re.compile(r"(?<![a-z])labels?\w*\s*(>=|<=|<>|!=|==|=|>|<)\s*\d", re.IGNORECASE)
COMPARE = {"equal", "not_equal", "greater", "greater_equal", "less", "less_equal"}


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _is_label(node: ast.AST) -> bool:
    """Whether it says `label`: a name, an attribute, a key, a parameter; not how many there are."""
    counts = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"
    return not counts and LABEL.search(ast.unparse(node)) is not None


def definitions(source: str) -> list[str]:
    """Every place that compares a label with a number, in Python, in Arrow's functions and in SQL."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in COMPARE:
            sides = list(node.args)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and IN_TEXT.search(node.value):
            found.append(node.value.strip())
            continue
        else:
            continue
        if any(map(_is_number, sides)) and any(map(_is_label, sides)):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_line_says_what_a_click_is_but_one(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {line}"
        for path in (ROOT / package).rglob("*.py")
        for line in definitions(path.read_text(encoding="utf-8"))
    }
    assert not found, "use features.terms.convention.CLICKED or is_click"


@pytest.mark.parametrize(
    "line",
    [
        "labels > 0",
        "row.label >= 1",
        "requests.label[rows] > 0.5",
        "1.0 == table['label']",
        "pc.greater_equal(events['label'], 1.0)",
        "sql('SELECT count(*) FILTER (label >= 0.5 OR role)')",
        "f'WHERE {x} AND label = 1'",
    ],
)
def test_the_test_sees_every_form_of_a_definition(line: str) -> None:
    assert definitions(line)


@pytest.mark.parametrize("line", ["len(labels) == 0", "label >= CLICKED", "label_share > limit", "f'{n} >= {CLICKED}'"])
def test_the_test_sees_nothing_where_there_is_none(line: str) -> None:
    assert not definitions(line)


def test_a_label_between_0_and_1_is_a_click_from_the_half_on() -> None:
    assert CLICKED == 0.5
    assert is_click([0, 0.3, 0.5, 0.7, 1, np.nan]).tolist() == [False, False, True, True, True, False]
