"""The bundle that would be served -> a BentoML model, which a Bento references and its image contains.

Only `bentoml build` makes it. A service that runs from the repository reads the bundle in place, so that a promoted one
is served without a build.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException, NotFound
from bentoml.models import BentoModel

from contracts.errors import InputError
from serving.bundle.manifest import Manifest, read_manifest
from serving.bundle.programs import DESCRIPTION, are_programs_of
from serving.locations import BUNDLE_OF_MODEL, PROGRAMS_OF_MODEL, find_bundle, find_programs

NAME = "leitmotif-bundle"
LABEL_LENGTH = 63
"""Characters of a label's value."""


class BundleModel(BentoModel):
    """The bundle as a dependency of the service class."""

    def to_info(self, alias: str | None = None) -> Any:
        """At `bentoml build`: copy the bundle to BentoML's model store and reference it in the Bento."""
        try:
            return BentoModel(keep(find_bundle())).to_info(alias)
        except InputError as error:
            raise BentoMLException(str(error)) from error

    def resolve(self, base_path: Any = None, **_: Any) -> Any:
        """At a start from the repository: nothing to copy. A Bento resolves the model that it references."""
        return None


def bundle_model() -> BundleModel:
    """The newest bundle at the time of a build."""
    return BundleModel(f"{NAME}:latest")


def keep(bundle: Path) -> str:
    """Copy a bundle, with its model as programs if any, to BentoML's store unless it is there. Returns its tag.

    Raises InputError if the bundle is damaged.
    """
    manifest = read_manifest(bundle)
    programs = find_programs(manifest.source)
    exported = are_programs_of(programs, manifest.bundle_hash)
    tag = f"{NAME}:{manifest.model_version}{f'-{digest_of(programs)}' if exported else ''}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        with bentoml.models.create(tag, labels=labels(manifest)) as model:
            shutil.copytree(bundle, model.path_of(BUNDLE_OF_MODEL), copy_function=shutil.copyfile)
            if exported:
                shutil.copytree(programs, model.path_of(PROGRAMS_OF_MODEL), copy_function=shutil.copyfile)
    return tag


def digest_of(programs: Path) -> str:
    """Eight characters that identify programs: machine code differs by processor and torch version."""
    digest = hashlib.sha256((programs / DESCRIPTION).read_bytes())
    for path in sorted(programs.glob("*.pt2")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:8]


def labels(manifest: Manifest) -> dict[str, str]:
    """A bundle's identity, as labels of the model."""
    return {
        "source": manifest.source,
        "bundle_hash": manifest.bundle_hash[:LABEL_LENGTH],
        "feature_spec_hash": manifest.feature_spec_hash[:LABEL_LENGTH],
    }
