"""What a Bento holds and how its image is made. tests/doors/test_serve.py builds one and serves it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name

from contracts.errors import InputError
from serving.bento import git_revision, tag_of
from serving.bundle.manifest import read_manifest
from serving.bundle.programs import DESCRIPTION
from serving.packing.locked import NOT_FROZEN, ROOT, locked
from serving.packing.settings import Deployment
from tests.clones import ROOT as REPOSITORY

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

LEFT_OUT = ("lightning", "dagster", "dvc", "duckdb", "ibis-framework", "great-expectations", "matplotlib", "pytest")


@pytest.fixture(scope="module")
def dockerfile(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The instructions of the image's Dockerfile, in order."""
    from serving.packing.image import serving_image

    folder = tmp_path_factory.mktemp("image")
    serving_image().freeze(folder, [])
    text = (folder / "env/docker/Dockerfile").read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_every_package_of_the_image_is_locked_and_none_is_of_training() -> None:
    pinned = dict(line.split("==") for line in locked(ROOT))
    assert ROOT == REPOSITORY
    assert {"bentoml", "feast", "torch", "starlette", "uvicorn", "numpy", "redis"} <= pinned.keys()
    assert not pinned.keys() & set(LEFT_OUT)
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    lock = {canonicalize_name(name): rest for name, _, rest in (line.partition("==") for line in lines)}
    assert {name: lock[name] for name in pinned if name not in NOT_FROZEN} == {
        name: version for name, version in pinned.items() if name not in NOT_FROZEN
    }
    assert pinned.keys() >= set(NOT_FROZEN)


def test_a_lock_that_lacks_what_a_package_needs_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kept = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("starlette")]
    (tmp_path / "requirements.lock").write_text("\n".join(kept))
    with pytest.raises(InputError, match="no version of starlette"):
        locked(tmp_path)


def test_the_image_runs_as_nobody_of_consequence_from_a_named_python(dockerfile: list[str]) -> None:
    users = [line for line in dockerfile if line.startswith("USER ")]
    assert users == ["USER bentoml"]
    assert dockerfile.index(users[0]) > max(n for n, line in enumerate(dockerfile) if line.startswith(("RUN", "COPY")))
    assert [line.split()[1] for line in dockerfile if line.startswith("FROM ")] == ["python:3.11-slim"]
    assert not [line for line in dockerfile if ":latest" in line]


def test_the_image_installs_the_lock_alone_and_copies_no_folder_of_data(dockerfile: list[str]) -> None:
    first, unless_there, all_others = [line for line in dockerfile if "pip install" in line]
    assert re.fullmatch(r"RUN pip install --no-cache-dir uv==[\d.]+", first)
    assert unless_there == "RUN command -v uv >/dev/null || pip install uv"
    assert "requirements.txt" in all_others
    copied = [line.split()[-2] for line in dockerfile if line.startswith("COPY ")]
    assert copied == ["./env/docker", "./env/python", "."]  # `.` is the Bento: the door's test says what it holds


def test_an_image_of_wheels_needs_no_compiler_and_system_packages_are_added(
    dockerfile: list[str], tmp_path: Path
) -> None:
    from serving.packing.image import serving_image

    assert not [line for line in dockerfile if "apt-get" in line]
    image = serving_image()
    image.system_packages("libsnappy1v5")
    frozen = image.freeze(tmp_path, [])
    assert frozen.python_requirements.startswith("--only-binary :all:\n")
    ours, update, added = frozen.commands
    assert ours.startswith("pip install --no-cache-dir uv==")
    assert "apt-get update" in update
    assert added.endswith("libsnappy1v5")


def test_the_torch_of_the_index_is_asked_for_by_no_variable() -> None:
    from serving.packing.image import BACKEND_VARIABLE, variables

    for torch, asked in (("index", []), ("cu130", [{"name": BACKEND_VARIABLE, "value": "cu130"}])):
        assert [each for each in variables(torch) if each["name"] == BACKEND_VARIABLE] == asked


def test_an_image_reports_nothing_to_the_makers_of_its_tools() -> None:
    from serving.packing.image import SILENT, variables

    exported = dict(re.findall(r"^export (\w+) := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert SILENT.items() <= exported.items()
    assert {each["name"]: each["value"] for each in variables("cpu")}.items() >= SILENT.items()


def test_the_health_check_of_the_image_tells_a_service_from_none(server: httpx.Client, dockerfile: list[str]) -> None:
    (check,) = [line for line in dockerfile if line.startswith("HEALTHCHECK ")]
    asked = json.loads(check.partition("CMD ")[2])
    assert asked[:2] == ["python", "-c"]
    for port, code in ((server.base_url.port, 0), (1, 1)):
        told = os.environ | {"BENTOML_PORT": str(port)}
        done = subprocess.run([sys.executable, *asked[1:]], env=told, capture_output=True, check=False)
        assert done.returncode == code


def test_what_a_deployment_sets() -> None:
    assert Deployment.read({}) == Deployment(1, 0, "cpu")
    told = Deployment.read({"LEITMOTIF_WORKERS": "4", "LEITMOTIF_GPU": "1", "LEITMOTIF_TORCH": "cu130"})
    assert told == Deployment(4, 1, "cu130")
    assert told.resources() == {"cpu": "4", "gpu": 1}
    assert (told.in_flight, Deployment.read({"LEITMOTIF_IN_FLIGHT": "64"}).in_flight) == (16, 64)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKERS", "0"),
        ("WORKERS", "two"),
        ("WORKERS", "９"),
        ("GPU", "2"),
        ("TORCH", "cuda"),
        ("IN_FLIGHT", "0"),
        ("TORCH", "cpu; rm"),
    ],
)
def test_what_a_deployment_cannot_set_is_named(variable: str, value: str) -> None:
    with pytest.raises(InputError, match=f"LEITMOTIF_{variable} is '{value}'"):
        Deployment.read({f"LEITMOTIF_{variable}": value}).check()


def test_programs_of_the_bundle_go_into_its_bento_and_those_of_another_do_not(data: Path, tmp_path: Path) -> None:
    manifest = read_manifest(data / "bundle")
    programs = tmp_path / "exported" / manifest.source
    programs.mkdir(parents=True)
    told = os.environ | {"BENTOML_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    codes = (b"1", b"2")  # machine code, and then without --compile
    made = [("another", b"1"), *((manifest.bundle_hash, code) for code in codes)]
    described = [(json.dumps({"compiled": code == b"1", "bundle_hash": name}), code) for name, code in made]
    script = f"""
from pathlib import Path
from serving.packing.model import keep
for described, code in {described!r}:
    Path({str(programs / DESCRIPTION)!r}).write_text(described)
    Path({str(programs / "score.pt2")!r}).write_bytes(code)
    print("kept", keep(Path({str(data / "bundle")!r})))
"""
    said = subprocess.check_output([sys.executable, "-c", script], env=told, cwd=tmp_path, text=True)
    tags = [line.removeprefix("kept ") for line in said.splitlines() if line.startswith("kept ")]

    def kept(tag: str) -> tuple[str, set[str]]:
        name, _, version = tag.partition(":")
        return version, {path.name for path in (tmp_path / "home/models" / name / version).iterdir() if path.is_dir()}

    assert kept(tags[0]) == (manifest.model_version, {"bundle"})
    versions = set()
    for tag, code in zip(tags[1:], codes, strict=True):
        version, folders = kept(tag)
        assert (version[:-8], folders) == (f"{manifest.model_version}-", {"bundle", "programs"})
        assert (tmp_path / "home/models/leitmotif-bundle" / version / "programs/score.pt2").read_bytes() == code
        versions.add(version)
    assert len(versions) == 2


def test_a_bento_of_what_no_commit_has_says_so_in_its_tag(data: Path, tmp_path: Path) -> None:
    root, home = tmp_path / "root", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    (root / "plain.py").write_text("import bentoml\n@bentoml.service\nclass Plain:\n    pass\n")
    (root / "bentofile.yaml").write_text("service: plain:Plain\nname: leitmotif\ninclude: [/plain.py, /more/**/*.py]\n")
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qam"]
    for command in (["git", "init", "-q"], ["git", "add", "-A"], [*commit, "first"]):
        subprocess.run(command, cwd=root, check=True)
    clean = git_revision(root)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    assert tag_of("m1", clean) == f"leitmotif:m1-{clean[:8]}"
    (root / "notes.txt").write_text("no part of a Bento")
    assert git_revision(root) == clean
    (root / "more" / "deep").mkdir(parents=True)
    (root / "more" / "deep" / "new.py").touch()
    assert git_revision(root) == f"{clean}-dirty"
    (root / "more" / "deep" / "new.py").unlink()
    with (root / "plain.py").open("a") as file:
        file.write("# changed\n")
    script = "import sys; from pathlib import Path; from serving.bento import build_bento\n"
    script += "print('built', build_bento(*map(Path, sys.argv[1:])))"
    told = os.environ | {"BENTOML_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(data / "bundle"), str(root)]
    said = subprocess.check_output(command, env=told, cwd=root, text=True)
    tag = f"{read_manifest(data / 'bundle').model_version}-{clean[:8]}-dirty"
    assert f"built leitmotif:{tag}\n" in said
    assert f"git_revision: {clean}-dirty" in (home / "bentos/leitmotif" / tag / "bento.yaml").read_text()


def test_a_build_that_fails_leaves_the_bento_before_it(data: Path, tmp_path: Path) -> None:
    root, home = tmp_path / "root", tmp_path / "home"  # apart: a build walks all of its root
    root.mkdir()
    home.mkdir()
    (root / "plain.py").write_text("import bentoml\n@bentoml.service\nclass Plain:\n    pass\n")
    script = (
        "import sys; from pathlib import Path; import bentoml; from serving.bento import build_bento\n"
        "bundle, root = map(Path, sys.argv[1:])\n"
        "for wanted in ('name: leitmotif', 'name: leitmotif', 'no_such_key: 1'):\n"
        "    (root / 'bentofile.yaml').write_text(f'service: plain:Plain\\ninclude: [plain.py]\\n{wanted}\\n')\n"
        "    try: print('built', build_bento(bundle, root))\n"
        "    except Exception as error: print('failed'); print(repr(error), file=sys.stderr)\n"
        "print('kept', *(each.tag for each in bentoml.list()), bentoml.get('leitmotif').tag)\n"
    )
    told = os.environ | {"BENTOML_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(data / "bundle"), str(root)]
    said = subprocess.check_output(command, env=told, cwd=root, text=True).split("\n")
    tag = f"leitmotif:{read_manifest(data / 'bundle').model_version}-unversio"
    assert [line for line in said if line] == [f"built {tag}", f"built {tag}", "failed", f"kept {tag} {tag}"]
    assert not list((tmp_path / "home").glob(".replaced.*"))
