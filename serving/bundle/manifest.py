"""A bundle's folder <-> its manifest, bundle.json: the hash of every file and of the whole, verified at each start."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.errors import InputError
from contracts.files import hash_file
from contracts.publish import write_json
from contracts.section import Section
from serving.params import ServeParams

MANIFEST = "bundle.json"
FORMAT = 2
"""2: includes the index for retrieval."""
AGAIN = "`make run` packages the newest again; `dvc checkout --force champions/<id>.dvc` restores a champion."
"""`make pull` restores what is not there: of a file that was changed it says that everything is up to date."""
SHORT = 12  # characters of the hash in a model's version


class Manifest(Section):
    """bundle.json. bundle_hash covers every other key and, through `files`, every byte of the bundle."""

    format: int
    source: str
    bundle_hash: str
    feature_spec_hash: str
    log: str | None = None  # the identity of the training data's log; None: packaged by a version without identities
    snapshot_id: str  # the feature snapshot of the training data; newer ones may be served
    num_golden_requests: int
    limits: ServeParams
    files: dict[str, str]
    training_data: dict[str, str]
    code: dict[str, str]

    @property
    def model_version(self) -> str:
        """The model's version in replies."""
        return self.bundle_hash[:SHORT]


def write_manifest(folder: Path, **described: Any) -> Manifest:
    """Hash the files of a finished bundle and write bundle.json beside them."""
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    content = {"format": FORMAT, "files": files, "log": None, **described}
    manifest = Manifest(bundle_hash=_hash(content), **content)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read bundle.json and verify all files. Raises InputError that says what differs."""
    content, manifest = _parse(folder)
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if missing := sorted(manifest.files.keys() - present):
        raise InputError(f"{folder} lacks {', '.join(missing)}. {AGAIN}")
    if extra := sorted(present - manifest.files.keys()):
        raise InputError(f"{folder} holds {', '.join(extra)}, which {MANIFEST} does not list. {AGAIN}")
    changed = [name for name, digest in manifest.files.items() if _hash_of(folder / name) != digest]
    if _hash({key: value for key, value in content.items() if key != "bundle_hash"}) != manifest.bundle_hash:
        changed.append(MANIFEST)
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since the bundle was packaged. {AGAIN}")
    return manifest


def hash_folder(folder: Path) -> str:
    """A SHA-256 over the names and bytes of all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return _hash({path.relative_to(folder).as_posix(): hash_file(path) for path in paths})


def _hash_of(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}. {AGAIN}") from error


def _parse(folder: Path) -> tuple[dict[str, Any], Manifest]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {MANIFEST}: it is not a bundle. {AGAIN}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__} {error}. {AGAIN}") from error
    if version != FORMAT:
        raise InputError(f"{folder} has bundle format {version}; this code reads {FORMAT}. {AGAIN}")
    try:
        return content, Manifest(**content)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise InputError(f"{path} cannot be read: {keys} missing or invalid. {AGAIN}") from error


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
