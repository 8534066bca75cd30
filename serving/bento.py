"""The bundle to serve, the code that serves it -> a Bento in BENTOML_HOME. Beside the graph: `make bento`.

The Bento holds its bundle; the online state is mounted where it runs, at LEITMOTIF_STATE. `bentoml containerize <tag>`
builds the image from it and needs a Docker engine, which this program does not.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from contracts.errors import InputError
from serving.bundle.manifest import Manifest, read_manifest
from serving.locations import find_bundle

SERVICE = "serving.service:Leitmotif"
NAME = "leitmotif"
CODE = (
    "contracts/*.py",
    "features/**/*.py",
    "training/__init__.py",
    "training/model/**/*.py",
    "serving/**/*.py",
    "serving/page/*",
)
INCLUDE = [
    "/contracts/",
    "/features/",
    "/training/",
    "/serving/",
    "/bundle/",
]  # anchored: data/ has folders named alike
DOCKER = {"distro": "debian", "python_version": "3.11"}
"""Serves on a GPU as on a CPU: torch brings the CUDA libraries, `docker run --gpus all` the driver."""

log = logging.getLogger("leitmotif")


def build_bento(bundle: Path, root: Path) -> str:
    """Build the Bento of a bundle with the code at root; return its tag. A Bento of the same name is replaced."""
    import bentoml

    manifest = read_manifest(bundle)
    revision = git_revision(root)
    tag = f"{NAME}:{manifest.model_version}-{revision[:8]}"
    if any(str(old.tag) == tag for old in bentoml.list()):
        bentoml.delete(tag)
    with tempfile.TemporaryDirectory(prefix="leitmotif-bento-") as context:
        _copy_code(root, Path(context))
        shutil.copytree(bundle, Path(context) / "bundle")
        bento = bentoml.build(
            SERVICE,
            name=NAME,
            version=tag.partition(":")[2],
            labels=_labels(manifest, revision),
            include=INCLUDE,
            python={"packages": requirements(root), "lock_packages": False},
            docker=DOCKER,
            build_ctx=context,
        )
    return str(bento.tag)


def requirements(root: Path) -> list[str]:
    """What the service needs, at the versions of requirements.lock."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    locked = {}
    for line in (root / "requirements.lock").read_text(encoding="utf-8").splitlines():
        name, equals, version = line.partition("==")
        if equals and not line.startswith("#"):
            locked[_canonical(name)] = version.split()[0]
    names = sorted({_canonical(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in wanted})  # type: ignore[index]
    if missing := [name for name in names if name not in locked]:
        raise InputError(
            f"requirements.lock pins no version of {', '.join(missing)}; pyproject.toml wants it. Lock again."
        )
    return [f"{name}=={locked[name]}" for name in names]


def git_revision(root: Path) -> str:
    """The commit, with -dirty where files differ from it; `unversioned` outside git."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unversioned"


def main() -> None:
    """Build the Bento of the bundle that `make serve` would serve and say how to run it."""
    os.environ.setdefault("BENTOML_HOME", str(Path(".bentoml").resolve()))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    Path(os.environ["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
    try:
        bundle = find_bundle()
        tag = build_bento(bundle, Path.cwd())
    except InputError as error:
        print(f"No Bento: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"Built {tag} from {bundle}. Serve it:\n  LEITMOTIF_STATE=<folder of the online store> bentoml serve {tag}")
    print(f"As an image, where a Docker engine runs:\n  bentoml containerize {tag}")
    print("It listens on loopback alone, in a container too, until told, and elsewhere only with tokens:")
    print("  docker run --env BENTOML_HOST=0.0.0.0 --env LEITMOTIF_TOKENS_READ=... --env LEITMOTIF_TOKENS_WRITE=...")


def _copy_code(root: Path, target: Path) -> None:
    for pattern in CODE:
        for path in sorted(root.glob(pattern)):
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _labels(manifest: Manifest, revision: str) -> dict[str, Any]:
    return {
        "git_revision": revision,
        "source": manifest.source,
        "bundle_hash": manifest.bundle_hash[:63],  # a label has at most 63 characters
        "feature_spec_hash": manifest.feature_spec_hash[:63],
    }


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
