"""The bundle that would be served -> a model of BentoML, which a Bento names and an image holds.

Only `bentoml build` makes it. A service that runs from the repository reads the bundle where it stands, so that a
promoted one takes over without a build.
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
from serving.bundle.programs import DESCRIPTION, is_machine_code_of
from serving.locations import BUNDLE_OF_MODEL, PROGRAMS_OF_MODEL, find_bundle, find_programs

NAME = "leitmotif-bundle"
LABEL_LENGTH = 63
"""Characters of a label's value."""


class BundleModel(BentoModel):
    """In the service's class scope."""

    def to_info(self, alias: str | None = None) -> Any:
        """At `bentoml build`: kept in BentoML's store, named in the Bento."""
        try:
            return BentoModel(keep(find_bundle())).to_info(alias)
        except InputError as error:
            raise BentoMLException(str(error)) from error

    def resolve(self, base_path: Any = None, **_: Any) -> Any:
        """At a start from the repository: nothing is copied. A Bento resolves the model that it names."""
        return None


def bundle_model() -> BundleModel:
    """The newest at the time of a build."""
    return BundleModel(f"{NAME}:latest")


def keep(bundle: Path) -> str:
    """The tag of a bundle in BentoML's store, where it stands once, and once more with each machine code.

    Raises InputError where the bundle is damaged.
    """
    manifest = read_manifest(bundle)
    programs = find_programs(manifest.source)
    compiled = is_machine_code_of(programs, manifest.bundle_hash)
    tag = f"{NAME}:{manifest.model_version}{f'-{digest_of(programs)}' if compiled else ''}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        with bentoml.models.create(tag, labels=labels(manifest)) as model:
            shutil.copytree(bundle, model.path_of(BUNDLE_OF_MODEL), copy_function=shutil.copyfile)
            if compiled:
                shutil.copytree(programs, model.path_of(PROGRAMS_OF_MODEL), copy_function=shutil.copyfile)
    return tag


def digest_of(programs: Path) -> str:
    """Eight characters that tell machine code from that for another processor or torch."""
    digest = hashlib.sha256((programs / DESCRIPTION).read_bytes())
    for path in sorted(programs.glob("*.pt2")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:8]


def labels(manifest: Manifest) -> dict[str, str]:
    """What is known of a bundle, as labels."""
    return {
        "source": manifest.source,
        "bundle_hash": manifest.bundle_hash[:LABEL_LENGTH],
        "feature_spec_hash": manifest.feature_spec_hash[:LABEL_LENGTH],
    }
