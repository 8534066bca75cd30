"""The sections of params.yaml -> what the Launchpad offers for a stage: every key with its type, limits and comment.

Nothing has a default there: a key that is not given is not changed.
"""

import collections.abc
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel

from contracts.params import PARAMS, SECTIONS, section_type
from orchestration.configure import flatten

FREE = "params"
"""The key under which any parameter may be given, as before there were types: {model: {num_themes: 8}}."""
_KEY = re.compile(r"^( *)(\w+):(?: .*?)??(?:\s+# ?(.*))?$")
_NOTE = re.compile(r"^( *)# ?(.*)$")
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_SCALARS = {bool: dg.Bool, int: dg.Int, float: dg.Float, str: dg.String}


def stage_config(sections: tuple[str, ...], root: Path) -> dict[str, dg.Field]:
    """What a stage's op takes in the Launchpad: the sections that it reads, and FREE for any other."""
    notes = read_notes((root / PARAMS).read_text(encoding="utf-8")) if (root / PARAMS).is_file() else {}
    fields = {name: _section(name, tuple(sorted(notes.items()))) for name in sections if name in SECTIONS}
    free = dg.Field(
        dg.Permissive(),
        is_required=False,
        description="Any other change to params.yaml, written there before the stage runs: {model: {num_themes: 8}}.",
    )
    return {**fields, FREE: free}


def given(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a person gave in the Launchpad, as orchestration.configure takes it; the typed keys win over FREE."""
    typed = {name: _plain(value) for name, value in config.items() if name != FREE}
    return {**flatten(config.get(FREE, {})), **flatten(typed)}


def read_notes(text: str) -> dict[str, str]:
    """params.yaml -> key -> its comment: behind it, with the lines that go on below, or above it."""
    notes: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    above: list[str] = []
    key, column = "", -1
    for line in text.splitlines():
        if note := _NOTE.match(line):
            if len(note[1]) == column:  # right below the comment behind a key: it goes on
                notes[key] += f" {note[2]}"
            else:
                above.append(note[2])
            continue
        if found := _KEY.match(line):
            path = [*((depth, name) for depth, name in path if depth < len(found[1])), (len(found[1]), found[2])]
            key, column = ".".join(name for _, name in path), line.find("#", found.start(3) - 2) if found[3] else -1
            if said := " ".join([*above, found[3] or ""]).strip():
                notes[key] = said
        above = []
    return notes


@cache
def _section(name: str, notes: tuple[tuple[str, str], ...]) -> dg.Field:
    kind = section_type(name)
    about = (kind.__doc__ or "") if isinstance(kind, type) else ""
    described = _said(name, kind, {name: about} | dict(notes))
    return dg.Field(_config(name, kind, dict(notes)), description=described, is_required=False)


def _config(key: str, kind: Any, notes: Mapping[str, str]) -> Any:
    """The Launchpad's type for a type of params.yaml."""
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {}
        for name, field in kind.model_fields.items():
            below, said = f"{key}.{name}", _said(f"{key}.{name}", field.annotation, notes, field.metadata)
            fields[name] = dg.Field(_config(below, field.annotation, notes), description=said, is_required=False)
        return dg.Shape(fields)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _choice(key, arguments)
    if origin in (Union, types.UnionType):
        others = [each for each in arguments if each is not type(None)]
        inner = _config(key, others[0], notes) if len(others) == 1 else dg.Any
        return dg.Noneable(inner) if len(others) < len(arguments) and inner is not dg.Any else inner
    if origin is tuple:
        return dg.Array(_config(key, arguments[0], notes))
    if origin in (dict, collections.abc.Mapping):
        return dg.Permissive()
    return _SCALARS.get(kind, dg.Any)


def _choice(key: str, values: tuple[Any, ...]) -> Any:
    if not all(isinstance(value, str) for value in values):
        return dg.Int if all(isinstance(value, int) for value in values) else dg.Any
    return dg.Enum(key.replace(".", "_"), [dg.EnumValue(value) for value in values])


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _said(key: str, kind: Any, notes: Mapping[str, str], beside: Sequence[Any] = ()) -> str:
    """A key's comment and its limits. beside: what pydantic keeps of them apart from the type."""
    limits = " and ".join(dict.fromkeys([*_limits(beside), *_limits_of(kind)]))
    return "; ".join(filter(None, [notes.get(key, ""), limits])) or key


def _limits_of(kind: Any) -> list[str]:
    if get_origin(kind) is Annotated:
        inner, *metadata = get_args(kind)
        return _limits(metadata) + _limits_of(inner)
    if get_origin(kind) in (Union, types.UnionType):
        return [limit for each in get_args(kind) for limit in _limits_of(each)]
    return []


def _limits(metadata: Sequence[Any]) -> list[str]:
    parts = [part for each in metadata for part in [each, *getattr(each, "metadata", [])]]
    found = [(word, getattr(part, name, None)) for part in parts for name, word in _LIMITS.items()]
    return [f"{word} {value:,.12g}" for word, value in found if isinstance(value, int | float)]


def _plain(value: Any) -> Any:
    """3.0 as it is written by hand: Dagster makes every number of a float's key a float."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
