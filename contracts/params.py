"""params.yaml -> one typed value for each section. Each package defines its own sections."""

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contracts.errors import InputError

PARAMS = Path("params.yaml")

SECTIONS: Mapping[str, str] = {
    "seed": "contracts.section:Seed",
    "source": "features.terms.params:SourceParams",
    "simulator": "features.terms.params:SimulatorParams",
    "labels": "features.terms.params:LabelParams",
    "split": "features.terms.params:SplitParams",
    "request": "features.terms.params:RequestParams",
    "validate": "features.terms.params:ValidateParams",
    "expectations": "features.terms.params:ExpectationParams",
    "history": "features.terms.params:HistoryParams",
    "statistics": "features.terms.params:StatisticsParams",
    "audit": "features.terms.params:AuditParams",
    "materialize": "features.terms.params:MaterializeParams",
    "engine": "features.terms.params:EngineParams",
    "model": "training.model.params:ModelParams",
    "train": "training.model.params:TrainParams",
    "evaluate": "training.model.params:EvaluateParams",
    "serve": "serving.params:ServeParams",
    "promote": "serving.params:PromoteParams",
    "alerts": "orchestration.params:AlertParams",
}
"""Section -> module:type, by name, so that contracts imports no package above it."""

RULES = (
    "features.terms.params:lags_below_delay",
    "features.terms.params:negatives_are_no_history",
    "features.terms.agreement:history_is_kept",
    "features.terms.agreement:split_is_in_order",
    "features.terms.agreement:counts_are_read",
    "features.terms.agreement:columns_are_distinct",
    "features.terms.agreement:calibration_is_meant",
)
"""Functions (by name) that check sections against each other. They run only if each section is valid by itself."""

READ_BY = "features.terms.params:READ_BY"
"""Keys that only some sources read -> those sources; by name as well."""


def load_params(path: Path = PARAMS) -> dict[str, Any]:
    """Read and check the whole file. Raises InputError naming every bad key."""
    return check_params(read_params(path), path)


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """The file's sections as written, unchecked. Raises InputError if they cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise InputError(f"{path} is not in {Path.cwd()}. Run from the repository's root.") from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{path} cannot be read: {error}. `git diff {path}` shows what changed.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds {type(raw).__name__}, not sections. `git checkout {path}` restores it.")
    return raw


def check_params(raw: Mapping[str, Any], path: Path = PARAMS) -> dict[str, Any]:
    """Type every section of a parsed params.yaml. Raises InputError naming every bad key."""
    problems = [f"{name}: no such section{_guess(str(name), SECTIONS)}" for name in raw if name not in SECTIONS]
    problems += [f"{name}: the section is missing" for name in SECTIONS if name not in raw]
    sections: dict[str, Any] = {}
    for name in SECTIONS.keys() & raw.keys():
        kind = section_type(name)
        try:
            sections[name] = TypeAdapter(kind).validate_python(raw[name])
        except ValidationError as error:
            problems += [_explain(name, raw[name], kind, detail) for detail in error.errors()]
    problems = problems or [problem for rule in RULES for problem in _named(rule)(sections)]
    if problems:
        raise InputError(f"{path}: " + "; ".join(sorted(problems)) + ".")
    return sections


def read_by(key: str, source: object) -> bool:
    """Whether the log of this source depends on the key. A key that no rule names is read for every source."""
    return all(
        source in sources
        for prefix, sources in _named(READ_BY).items()
        if key == prefix or key.startswith(f"{prefix}.")
    )


def section_type(name: str) -> Any:
    """The type of one section; imports the package that owns it."""
    return _named(SECTIONS[name])


def _named(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def _explain(section: str, raw: object, kind: Any, detail: Any) -> str:
    # a union's branches ("constrained-float") appear in loc; they are not keys of the file
    keys = [str(part) for part in detail["loc"] if not str(part).startswith(("constrained", "datetime", "function"))]
    key = ".".join([section, *keys])
    if detail["type"] == "extra_forbidden":
        return f"{key}: no such parameter{_guess(keys[-1], _fields(kind, keys[:-1]))}"
    if detail["type"] == "missing":
        field = getattr(kind, "model_fields", {}).get(keys[-1]) if len(keys) == 1 else None
        return f"{key}: missing" + (f" ({field.description})" if field and field.description else "")
    return f"{key}: {detail['msg'].lower()}, got {detail['input']!r}"


def _fields(kind: Any, keys: list[str]) -> list[str]:
    for key in keys:
        field = getattr(kind, "model_fields", {}).get(key)
        kind = field.annotation if field else None
    return list(getattr(kind, "model_fields", {}))


def _guess(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(sorted(known))})"
