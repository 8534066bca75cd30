"""The image of a Bento: built from its own Dockerfile and run as deploy/ runs it. `make image-check` runs these."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from serving.packing.locked import locked
from tests.clones import ROOT, run
from tests.doors.conftest import free_port
from tests.features.redis_server import RedisServer

CHOSEN = "LEITMOTIF_IMAGE_CHECK"
pytestmark = [
    pytest.mark.xdist_group("door-image"),
    pytest.mark.skipif(not os.environ.get(CHOSEN), reason="root, minutes and 4 GB of disk: `make image-check` runs it"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

READ, WRITE = "token-of-the-check-reads", "token-of-the-check-writes"
MOST_BYTES = 2_000_000_000
"""1.78 GB measured with torch for CPU; with BentoML's compilers it was 2.42."""


def podman(*words: str, check: bool = True) -> str:
    done = subprocess.run(["podman", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        pytest.fail(
            f"podman {' '.join(words)} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(house: Path) -> Iterator[str]:
    """The image that the documented commands make of the house's bundle."""
    if missing := [tool for tool in ("buildah", "podman") if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install buildah podman")
    told = run(house, "make", "bento", LEITMOTIF_TORCH=os.environ.get("LEITMOTIF_TORCH", "cpu")).stdout
    tag = next(line.split()[1] for line in told.splitlines() if line.startswith("Built "))
    run(house, "bentoml", "containerize", tag, "--backend", "buildah", "--opt", "format=docker", "--opt", "layers")
    yield tag
    podman("rmi", "--force", tag)


@pytest.fixture(scope="module")
def service(house: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, httpx.Client]]:
    """The image as compose.yaml runs it, over a loaded Redis: the container's name and a client."""
    port, name = free_port(), f"leitmotif-check-{os.getpid()}"
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        run(house, "make", "load", f"ONLINE={redis.address}")
        here = {"BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": str(port), "LEITMOTIF_ONLINE": redis.address}
        podman("run", "--detach", "--name", name, "--network", "host", *options(house, here), image)
        try:
            allowed = {"authorization": f"Bearer {WRITE}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=allowed) as client:
                ready(name, client)
                yield name, client
        finally:
            podman("rm", "--force", name, check=False)


def options(house: Path, here: dict[str, str]) -> list[str]:
    """podman's words for what compose.yaml says of the service, and the memory of kubernetes.yaml."""
    composed = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["leitmotif"]
    given = {"LEITMOTIF_REPOSITORY": str(house), "LEITMOTIF_TOKENS_READ": READ, "LEITMOTIF_TOKENS_WRITE": WRITE}

    def filled(text: str) -> str:
        return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: given.get(found[1], found[2]), text)

    assert composed["read_only"]
    words = ["--read-only", "--memory", "2g"]
    assert "memory: 2Gi" in (ROOT / "deploy/kubernetes.yaml").read_text()
    for key, value in (composed["environment"] | here).items():
        words += ["--env", f"{key}={filled(value)}"]
    for key in ("cap_drop", "security_opt", "tmpfs"):
        for value in composed[key]:
            words += [f"--{key.replace('_', '-')}", value.removesuffix(":true")]
    for value in composed["volumes"]:
        words += ["--volume", filled(value)]
    return words


def ready(name: str, client: httpx.Client, seconds: float = 180) -> None:
    """Wait until it is; fail with the container's output."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if podman("inspect", "--format", "{{.State.Running}}", name) != "true":
            break
        time.sleep(0.5)
    logs = subprocess.run(["podman", "logs", name], capture_output=True, text=True, check=False)
    pytest.fail(f"not ready\n{(logs.stdout + logs.stderr)[-4000:]}")


def workers(name: str) -> set[int]:
    listed = podman("top", name, "hpid", "args").splitlines()
    return {int(line.split()[0]) for line in listed if "_bentoml_impl.worker" in line}


def test_the_image_holds_the_locked_packages_and_no_compiler_and_runs_as_nobody_of_consequence(image: str) -> None:
    from serving.packing.image import health_check

    (inspected,) = json.loads(podman("image", "inspect", image))
    assert inspected["Config"]["User"] == "bentoml"
    assert json.dumps(inspected["Healthcheck"]["Test"][1:]) in health_check()
    assert inspected["Size"] < MOST_BYTES
    script = "uv pip freeze -q; echo; id -u; ls src; command -v gcc git make || true"
    told = podman("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script)
    packages, _, rest = told.partition("\n\n")
    held = {line.partition("+")[0] for line in packages.splitlines()}
    assert not set(locked(ROOT)) - held
    more = {each.partition("==")[0] for each in held - set(locked(ROOT))}
    assert more <= {"async-timeout"}  # which redis needs before Python 3.11.3, Debian 12's
    assert rest.split() == ["1034", "bentofile.yaml", "contracts", "features", "serving", "training"]


def test_it_serves_where_it_may_write_nothing(service: tuple[str, httpx.Client]) -> None:
    name, client = service
    asked = {"user_id": "u00042", "candidates": ["i00001", "i00045", "nope"]}
    assert client.post("/rank", json=asked, headers={"authorization": ""}).status_code == 401
    before = client.post("/rank", json=asked).raise_for_status().json()
    assert len(before["items"]) == 3
    assert len(client.post("/recommend", json={"user_id": "u00042", "k": 5, "preview": True}).json()["items"]) == 5
    event = {"user_id": "u00042", "item_id": "i00045", "event_id": "image 1"}
    assert client.post("/events", json={"events": [event]}).json()["num_new"] == 1
    after = client.post("/rank", json=asked).raise_for_status().json()
    assert after["history"]["length"] == before["history"]["length"] + 1
    assert "<!doctype html>" in client.get("/").text
    podman("healthcheck", "run", name)
    for place in ("/home/bentoml", "/srv/leitmotif/.state", "/srv/leitmotif/live", "/app/.venv"):
        assert not podman("exec", name, "sh", "-c", f"touch {place}/mine 2>/dev/null && echo written", check=False)


def test_a_worker_that_dies_is_restarted_meanwhile_the_other_answers(service: tuple[str, httpx.Client]) -> None:
    name, client = service
    before = workers(name)
    assert len(before) == 2
    os.kill(min(before), 9)
    limit = time.monotonic() + 90
    while len(workers(name) - before) == 0 and time.monotonic() < limit:
        with httpx.Client(base_url=client.base_url) as another:  # a connection to the dead one is reset
            assert another.get("/readyz").status_code == 200
        time.sleep(1)
    assert len(workers(name) - before) == 1


def test_on_sigterm_it_ends_in_time_and_an_acknowledged_event_is_there_after(service: tuple[str, httpx.Client]) -> None:
    name, client = service
    event = {"user_id": "u00043", "item_id": "i00045", "event_id": "image 2"}
    assert client.post("/events", json={"events": [event]}).json()["num_new"] == 1
    started_at = time.monotonic()
    podman("stop", "--time", "15", name)
    assert time.monotonic() - started_at < 14
    assert podman("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    podman("start", name)
    ready(name, client)
    assert client.post("/events", json={"events": [event]}).json()["num_new"] == 0
