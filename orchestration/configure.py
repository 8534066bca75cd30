"""Change params.yaml: validate the result, keep comments, replace the file atomically, and report old and new values.

Called by `python -m orchestration.configure key=value ...` (make run, make set) and by Dagster's Launchpad. The file is
written as DVC writes it (`dvc exp run -S`), so that both change only the lines of changed values. It never changes
while a stage runs: the change waits, says for which process, and gives up after a while.
"""

import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contracts.errors import InputError
from contracts.files import write_text
from contracts.params import PARAMS, check_params, load_params, read_by
from contracts.running import alone
from contracts.source_id import default_id, fingerprint

PRESETS = Path("presets")
KEPT = "kept"
"""Folder of presets/: a user's settings of a previous source that other sources do not read. Not in git."""
NEUTRAL = "simulator"  # its preset has every key: what a key is where its source is another
SOURCE = "source.name"
PATH = "source.path"
ID = "source.id"
SAME_AS = "source.same_as"
COLUMNS = "source.columns."
FREE = ("engine.options",)
"""Keys whose value is a mapping with names of another program's: the value is one, and `key.name=value` adds to it."""
LIMITS = "expectations.limits."
EXPECTATIONS = Path("features/quality/expectations.yaml")
"""Where a limit's name is used, as $name; one that is used there may be added."""
NULLS = ("", "null", "~")
WAIT_S = 60.0
"""How long a change waits for running processes."""


@dataclass(frozen=True)
class Change:
    """One changed parameter."""

    key: str  # section.name
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_show(self.old)} -> {_show(self.new)}"


def main() -> None:
    """Apply key=value arguments to params.yaml; exit 2 with one message if that is not possible."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("python -m orchestration.configure section.name=value ... changes params.yaml: model.num_themes=8")
        sys.exit(0 if arguments else 2)
    try:
        changes = configure(parse_assignments(arguments), say=lambda line: print(line, file=sys.stderr))
    except InputError as error:
        print(f"params.yaml stays as it was. {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("\n".join(map(str, changes)) or "params.yaml already says so.")


def parse_assignments(arguments: list[str]) -> dict[str, Any]:
    """`section.name=value` arguments -> {key: value}; values are YAML, so null, 3, [1, 2] and plain words."""
    changes: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise InputError(f"{argument!r} is not key=value. Write for example model.num_themes=8.")
        value = _parse(text)
        is_column = key.strip().startswith(COLUMNS) and value is not None  # column 0 of a table is called "0"
        changes[key.strip()] = text if is_column and not isinstance(value, str) else value
    return changes


def configure(
    changes: Mapping[str, Any], path: Path = PARAMS, *, wait_s: float = WAIT_S, say: Callable[[str], None] = print
) -> list[Change]:
    """Write changes to the file at path, atomically, and return what changed.

    changes: values by section.name; a nested mapping means its leaves. If source.name changes, presets/<source>.yaml
        is applied first: it replaces the preset values of the old source, the user's own values stay, and the given
        values override both. Another log gets an id of its own. Keys that the new source does not read are reset, so
        that they make no stage stale; presets/kept/ restores them when the source is chosen again.
    wait_s, say: how long to wait for running stages, and where to report that.
    Raises InputError for an unknown key (with the closest known one), for a value that its section refuses, and if
    something is still running after wait_s.
    """
    plan = _plan(changes, path)
    if not plan.made:
        return []
    with alone(path.absolute().parent, wait_s, say, f"{path.name} is changed"):
        if path.read_text(encoding="utf-8") != plan.before:  # by another door, meanwhile
            plan = _plan(changes, path)
        for name, own in plan.kept.items():
            write_text(path.parent / PRESETS / KEPT / f"{name}.yaml", own)
        write_text(path, plan.text)
    return plan.made


@dataclass(frozen=True)
class _Plan:
    """The content to write, and the changes it makes."""

    before: str
    made: list[Change]
    text: str
    kept: Mapping[str, str]  # source -> the text of its file of kept values


def _plan(changes: Mapping[str, Any], path: Path) -> _Plan:
    load_params(path)  # a file that is already broken is reported as such, with its own keys
    before = path.read_text(encoding="utf-8")
    document = YAML().load(before)
    known = flatten(document)
    wanted, kept = {key: _plain(value) for key, value in _with_free(flatten(changes), known).items()}, {}
    if SOURCE in wanted and wanted[SOURCE] != known[SOURCE]:
        kept = _kept(path.parent / PRESETS, known)
        wanted = {**_switch(path.parent / PRESETS, known, wanted[SOURCE]), **wanted}
    if wanted.get(PATH, known[PATH]) is None:
        raise InputError(
            f"{PATH}: say where the log of source {wanted.get(SOURCE, known[SOURCE])!r} lies: "
            "make run SOURCE=... DATA=<path>."
        )
    if PATH in wanted:
        wanted[PATH] = os.path.expanduser(str(wanted[PATH]))  # DVC takes ~ for a folder's name
    wanted = {**_identity(known, wanted), **wanted}
    unknown = [_unknown(key, known) for key in wanted if key not in known and not _is_new_limit(key, path.parent)]
    if unknown:
        raise InputError(f"{path}: " + "; ".join(unknown) + ".")
    made = [Change(key, known.get(key), value) for key, value in wanted.items() if known.get(key) != value]
    for change in made:
        _put(document, change.key, change.new)
    text = _dump(document)
    check_params(_read_back(text, known | wanted), path)
    return _Plan(before, made, text, kept)


def _read_back(text: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Read back what was written before keeping it: ruamel misplaces values beside some comments."""
    try:
        values = YAML(typ="safe").load(text)
    except YAMLError:
        values = {}
    read = flatten(values)
    if any(read.get(key, key) != value and value == value for key, value in wanted.items()):  # NaN is not itself
        raise InputError("A comment beside a value would spoil the file. Change it in an editor.")
    return values


def _dump(document: Any) -> str:
    """Write as DVC does: ruamel's default style."""
    yaml = YAML()
    yaml.default_flow_style = False
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 16}} -> {"model.width": 16}; keys that are dotted already stay."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in FREE:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _with_free(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """engine.options.spark.executor.memory=2g -> engine.options with it beside what it has; null takes one out."""
    plain = dict(wanted)
    for free in FREE:
        added = {key.removeprefix(f"{free}."): plain.pop(key) for key in wanted if key.startswith(f"{free}.")}
        if added:
            together = {**known[free], **plain.get(free, {}), **added}
            plain[free] = {name: value for name, value in together.items() if value is not None}
    return plain


def _switch(folder: Path, known: Mapping[str, Any], source: object) -> dict[str, Any]:
    new, left = _preset(folder, source), _preset(folder, known[SOURCE])
    own = {key for key in new if known.get(key) != left.get(key)}
    if known[SOURCE] != NEUTRAL:
        own -= {PATH}  # the path of a log that is left
    stays = {key: value for key, value in new.items() if key not in own}
    kept = folder / KEPT / f"{source}.yaml"
    back = _read(kept) if kept.is_file() else {}
    without = {key: value for key, value in _preset(folder, NEUTRAL).items() if not read_by(key, source)}
    return {**stays, **{key: value for key, value in back.items() if key in known}, **without}


def _kept(folder: Path, known: Mapping[str, Any]) -> dict[str, str]:
    """The values that a person set for the source they leave, among those that only some sources read."""
    source, neutral = known[SOURCE], _preset(folder, NEUTRAL)
    preset = neutral | _preset(folder, source)
    own = {key: known[key] for key in neutral if _is_own_of(key, source) and known.get(key) != preset[key]}
    return {source: _dump(own) if own else "{}\n"}


def _is_own_of(key: str, source: object) -> bool:
    return read_by(key, source) and not read_by(key, None)


def _identity(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """source.id and same_as if another log is named. An id set by a person stays until source.name changes."""
    before, after = _log(known), _log({**known, **wanted})
    if fingerprint(*before) == fingerprint(*after):
        return {}
    own = before[0] == after[0] and known[ID] not in (before[0], default_id(*before))
    return {SAME_AS: None} if own else {SAME_AS: None, ID: default_id(*after)}


def _log(values: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Name, path and columns, as contracts.source_id takes them."""
    columns = {key.removeprefix(COLUMNS): value for key, value in values.items() if key.startswith(COLUMNS)}
    return str(values[SOURCE]), str(values[PATH]), columns


def _preset(folder: Path, source: object) -> dict[str, Any]:
    path = folder / f"{source}.yaml"
    if not path.is_file():
        known = sorted(preset.stem for preset in folder.glob("*.yaml"))
        close = difflib.get_close_matches(str(source), known, n=1)
        guess = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise InputError(f"{SOURCE}: no such source: {source!r} ({guess}). A log of your own is source 'table'.")
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    return flatten(YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {})


def _is_new_limit(key: str, root: Path) -> bool:
    """Whether a steward's expectation already asks for this limit of params.yaml."""
    file = root / EXPECTATIONS
    if not key.startswith(LIMITS) or not file.is_file():
        return False
    try:
        used = str(YAML(typ="safe").load(file.read_text(encoding="utf-8")))  # without the comments
    except YAMLError as error:
        raise InputError(
            f"{EXPECTATIONS} cannot be read: {error}. `git diff {EXPECTATIONS}` shows what changed."
        ) from error
    return key.removeprefix(LIMITS) in re.findall(r"\$(\w+)", used)


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    below = [name for name in known if name.startswith(f"{key}.")]
    if below:
        return f"{key}: a section; give one of {', '.join(below)}"
    names = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(key, known, n=1) or [
        names[name] for name in difflib.get_close_matches(key.rpartition(".")[2], names, n=1)
    ]
    said = f"{key}: no such parameter" + (f" (did you mean {close[0]!r}?)" if close else "")
    is_limit = key.startswith(LIMITS)
    return said + (f"; a new limit is first used as ${key.removeprefix(LIMITS)} in {EXPECTATIONS}" if is_limit else "")


def _put(document: Any, key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        document = document[parent]
    if name in document:
        document[name] = value
    else:
        document.insert(len(document) - 1, name, value)  # what follows the last one, as an empty line, belongs to it


def _plain(value: Any) -> Any:
    """A list or mapping without the style that it had, whoever gives it: DVC's has none."""
    if isinstance(value, Mapping):
        return {name: str(each) for name, each in value.items()}  # a FREE one: settings are texts
    return list(value) if isinstance(value, list | tuple) else value


def _parse(text: str) -> Any:
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError:
        return text
    if isinstance(value, str) and text.strip()[:1] not in ("'", '"'):
        return text  # "slot #" is a name, not a name and a comment
    if value is None and text.strip().lower() not in NULLS:
        return text  # and so is "#slot"
    if isinstance(value, Mapping) and not text.lstrip().startswith("{"):
        return text  # a column may well be called "time: ms"
    return value if isinstance(value, bool | int | float | str | list | dict | None) else text


def _show(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


if __name__ == "__main__":
    main()
