"""`make bento`: `bentoml build` with a tag of model version and git revision.

bentofile.yaml, serving/service.py and serving/packing define what is built and with which packages. The Bento contains
its bundle; the online state is mounted at run time, at LEITMOTIF_STATE. `bentoml containerize <tag>` makes the image,
for which it needs Docker or buildah; this program needs neither.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from contracts.arguments import none_taken
from contracts.errors import InputError
from contracts.files import scratch
from serving.bundle.manifest import read_manifest
from serving.locations import find_bundle

NAME = "leitmotif"
DIRTY = "-dirty"


def build_bento(bundle: Path, root: Path) -> str:
    """Build the Bento of a bundle with the code at root; return its tag. A Bento of the same tag is replaced."""
    import bentoml

    revision = git_revision(root)
    tag = tag_of(read_manifest(bundle).model_version, revision)
    with _replacing(next((Path(old.path) for old in bentoml.list() if str(old.tag) == tag), None)):
        bento = bentoml.bentos.build_bentofile(
            version=tag.partition(":")[2], labels={"git_revision": revision}, build_ctx=str(root)
        )
    return str(bento.tag)


@contextmanager
def _replacing(old: Path | None) -> Iterator[None]:
    """Move the old Bento out of the store, which has each tag once; restore it if the build fails."""
    if old is None:
        yield
        return
    with scratch(old.parents[2] / "replaced") as folder:  # on the store's file system
        aside = old.rename(folder / old.name)
        try:
            yield
        except BaseException:
            shutil.rmtree(old, ignore_errors=True)
            aside.rename(old)
            raise


def tag_of(model_version: str, revision: str) -> str:
    """A Bento's tag; one that was built from what no commit has ends with -dirty. revision: of git_revision."""
    commit = revision.removesuffix(DIRTY)
    return f"{NAME}:{model_version}-{commit[:8]}{revision.removeprefix(commit)}"


def git_revision(root: Path) -> str:
    """The commit, with -dirty if files differ from it or a Bento would hold one that it lacks; `unversioned` outside
    git."""
    revision = _git(root, "describe", "--always", "--abbrev=40", f"--dirty={DIRTY}", "--exclude=*")
    if revision is None:
        return "unversioned"
    held = YAML(typ="safe").load(root / "bentofile.yaml").get("include", [])
    paths = [f":(glob){pattern.removeprefix('/')}" for pattern in held]
    is_new = paths and _git(root, "ls-files", "--others", "--", *paths)
    return revision + DIRTY if is_new and not revision.endswith(DIRTY) else revision


def _git(root: Path, *command: str) -> str | None:
    """Git's output; None if it fails."""
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def main() -> None:
    """Build the Bento of the bundle that `make serve` would serve, and print how to run it."""
    os.environ.setdefault("BENTOML_HOME", str(Path(".bentoml").resolve()))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    Path(os.environ["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
    from bentoml.exceptions import BentoMLException

    try:
        bundle = find_bundle()
        tag = build_bento(bundle, Path.cwd())
    except (InputError, BentoMLException) as error:
        print(f"No Bento: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    print(f"Built {tag} from {bundle}. Serve it:\n  LEITMOTIF_STATE=<folder of the online store> bentoml serve {tag}")
    print(f"As an image, by Docker (by buildah: --backend buildah --opt format=docker):\n  bentoml containerize {tag}")
    print("It listens on loopback only, also in a container, unless BENTOML_HOST is set; others need tokens:")
    print("  docker run --env BENTOML_HOST=0.0.0.0 --env LEITMOTIF_TOKENS_READ=... --env LEITMOTIF_TOKENS_WRITE=...")
    print("deploy/ has the configuration, docs/deployment.md the instructions.")


if __name__ == "__main__":
    none_taken("make bento")
    main()
