"""Changes to params.yaml in, a checked params.yaml out: comments kept, one rename, old and new values said.

Two doors lead here: `python -m contracts.configure key=value ...` (make run, make set) and Dagster's Launchpad.
"""

import difflib
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from contracts.errors import InputError
from contracts.params import PARAMS, check_params, load_params
from contracts.source_id import default_id, fingerprint

PRESETS = Path("presets")
SOURCE = "source.name"
PATH = "source.path"
ID = "source.id"
SAME_AS = "source.same_as"
COLUMNS = "source.columns."


@dataclass(frozen=True)
class Change:
    """One parameter that got another value."""

    key: str  # section.name
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_show(self.old)} -> {_show(self.new)}"


def main() -> None:
    """Apply key=value arguments to params.yaml; exit 2 with one message where that cannot be."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("python -m contracts.configure section.name=value ... changes params.yaml: model.num_themes=8")
        sys.exit(0 if arguments else 2)
    try:
        changes = configure(parse_assignments(arguments))
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
        changes[key.strip()] = _parse(text)
    return changes


def configure(changes: Mapping[str, Any], path: Path = PARAMS) -> list[Change]:
    """Write changes into the file at path, whole or not at all, and say what changed.

    changes: values by section.name; a nested mapping means its leaves. Where source.name changes,
        presets/<source>.yaml is applied first: it replaces what the source that is left had preset, a value of
        one's own stays, and the given values win over both. Where another log is named, it gets an id of its own.
    Raises InputError for an unknown key (with the closest known one) and for a value that its section refuses.
    """
    load_params(path)  # a file that is already broken is reported as such, with its own keys
    text = path.read_text(encoding="utf-8")
    yaml = _yaml()
    document = yaml.load(text)
    known = flatten(document)
    wanted = flatten(changes)
    if SOURCE in wanted and wanted[SOURCE] != known[SOURCE]:
        wanted = {**_switch(path.parent / PRESETS, known, wanted[SOURCE]), **wanted}
    if wanted.get(PATH, known[PATH]) is None:
        raise InputError(
            f"{PATH}: say where the log of source {wanted.get(SOURCE, known[SOURCE])!r} lies: "
            "make run SOURCE=... DATA=<path>."
        )
    if PATH in wanted:
        wanted[PATH] = os.path.expanduser(str(wanted[PATH]))  # DVC takes ~ for a folder's name
    wanted = {**_identity(known, wanted), **wanted}
    unknown = [_unknown(key, known) for key in wanted if key not in known]
    if unknown:
        raise InputError(f"{path}: " + "; ".join(unknown) + ".")
    made = [Change(key, known[key], value) for key, value in wanted.items() if known[key] != value]
    if not made:
        return []
    for change in made:
        _put(document, change.key, change.new)
    out = io.StringIO()
    yaml.dump(document, out)
    check_params(YAML(typ="safe").load(out.getvalue()), path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(out.getvalue(), encoding="utf-8")
    os.replace(temporary, path)
    return made


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 16}} -> {"model.width": 16}; keys that are dotted already stay."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _switch(folder: Path, known: Mapping[str, Any], source: object) -> dict[str, Any]:
    new, left = _preset(folder, source), _preset(folder, known[SOURCE])
    own = {key for key in new if known.get(key) != left.get(key)}
    if known[SOURCE] != "simulator":
        own -= {PATH}  # the path of a log that is left
    return {key: value for key, value in new.items() if key not in own}


def _identity(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """source.id and same_as, where another log is named. An id of one's own stays until source.name changes."""
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
    return flatten(YAML(typ="safe").load(path.read_text(encoding="utf-8")))


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    below = [name for name in known if name.startswith(f"{key}.")]
    if below:
        return f"{key}: a section; give one of {', '.join(below)}"
    names = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(key, known, n=1) or [
        names[name] for name in difflib.get_close_matches(key.rpartition(".")[2], names, n=1)
    ]
    return f"{key}: no such parameter" + (f" (did you mean {close[0]!r}?)" if close else "")


def _put(document: Any, key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        document = document[parent]
    if isinstance(value, list | tuple):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    document[name] = value


def _parse(text: str) -> Any:
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError:
        return text
    if isinstance(value, str) and text.strip()[:1] not in ("'", '"'):
        return text  # "slot #" is a name, not a name and a comment
    if isinstance(value, Mapping) and not text.lstrip().startswith("{"):
        return text  # a column may well be called "time: ms"
    return value if isinstance(value, bool | int | float | str | list | dict | None) else text


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _show(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


if __name__ == "__main__":
    main()
