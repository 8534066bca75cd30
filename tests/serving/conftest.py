"""A small simulated log taken through the real stages up to a bundle, once for all tests of serving."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from contracts.params import load_params
from orchestration.configure import configure
from serving import package
from serving.answering.predictor import Predictor
from tests.clones import surroundings
from tests.prepared import copied, prepared

SERVICE = "serving.service:Leitmotif"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of one's own in which the small pipeline has run."""
    return copied(prepared(tmp_path_factory), tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def data(made: Path) -> Path:
    """Its data/simulator."""
    return made / "data" / "simulator"


@pytest.fixture(scope="session")
def state(made: Path) -> Path:
    """Its online state."""
    return made / ".state" / "simulator" / "feast"


@pytest.fixture(scope="session")
def predictor(data: Path, state: Path) -> Predictor:
    """Its bundle, opened."""
    return Predictor.open(data / "bundle", state, data / "feature_snapshot")


@pytest.fixture(scope="session")
def house(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone whose bundle stores rankings as shown."""
    repository = copied(made, tmp_path_factory.mktemp("house"))
    configure({"serve.log_exposures": True}, repository / "params.yaml")
    package.run(repository / "data" / "simulator", load_params(repository / "params.yaml")["serve"])
    return repository


@pytest.fixture
def fresh(house: Path) -> Iterator[Predictor]:
    """A predictor over the house, without live events."""
    for left in (house / "live").glob("simulator.db*"):
        left.unlink()
    opened = opened_in(house)
    yield opened
    opened.store.tail.close()


def opened_in(house: Path) -> Predictor:
    """Its bundle over its store."""
    data = house / "data" / "simulator"
    return Predictor.open(data / "bundle", house / ".state" / "simulator" / "feast", data / "feature_snapshot")


@pytest.fixture
def bundle(data: Path, tmp_path: Path) -> Path:
    """A copy of its bundle, to be spoiled."""
    return Path(shutil.copytree(data / "bundle", tmp_path / "bundle", copy_function=shutil.copyfile))


def own_home(repository: Path, target: str, port: int) -> dict[str, str]:
    """BentoML deletes the metrics of every other server of its home when one starts. A Bento needs its own."""
    return {"BENTOML_HOME": str(repository / f".bentoml-{port}")} if target == SERVICE else {}


@contextmanager
def serving(repository: Path, target: str = SERVICE, **environment: str) -> Iterator[httpx.Client]:
    """`bentoml serve` in a folder on a free port, until it is ready; ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = repository / f"serve-{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "bentoml", "serve", target, "--port", str(port)],
            cwd=repository,
            env=surroundings(repository) | own_home(repository, target, port) | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        host = environment.get("BENTOML_HOST", "127.0.0.1")
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
            for _ in range(600):
                if process.poll() is not None:
                    pytest.fail(f"the server ended with {process.returncode}\n{log.read_text()[-4000:]}")
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            else:
                pytest.fail(f"the server was not ready\n{log.read_text()[-4000:]}")
            yield client
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="package")
def server(made: Path) -> Iterator[httpx.Client]:
    """One server for all tests that do not change it. It ends with them: idle it takes a hundredth of a core."""
    with serving(made) as client:
        yield client


@pytest.fixture(scope="session")
def lived(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `keeping` serves. No live event came yet."""
    repository = copied(house, tmp_path_factory.mktemp("lived"))
    for left in (repository / "live").glob("simulator.db*"):
        left.unlink()
    return repository


@pytest.fixture(scope="package")
def keeping(lived: Path) -> Iterator[httpx.Client]:
    """One server for all tests that post events or spoil its store. It remembers what it shows, is told an address and
    names, and is left able to answer."""
    with serving(lived, BENTOML_HOST="127.0.0.2", LEITMOTIF_ALLOWED_HOSTS="shop.example, *.inner") as client:
        yield client


def is_refusal(answer: httpx.Response) -> bool:
    """Whether an answer refuses in the one form, and says when to ask again where that helps."""
    told = answer.json()["error"]
    assert answer.json().keys() == {"error"}
    assert told.keys() == {"code", "message", "field"}
    assert told["code"].isidentifier()
    assert told["message"]
    assert "\n" not in told["message"]
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))
    return True


Refusing = Callable[..., str]


@pytest.fixture
def refusing(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusing:
    """What the service says instead of starting, in this process: the first that `bentoml serve` runs."""

    def said(**environment: str) -> str:
        from serving.service import Leitmotif

        monkeypatch.chdir(made)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            Leitmotif.inner.refuse_what_cannot_be_served()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return said


def refused(repository: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`bentoml serve` in a situation in which it must not start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return subprocess.run(
        [Path(sys.executable).parent / "bentoml", "serve", SERVICE, "--port", str(port)],
        cwd=repository,
        env=surroundings(repository) | own_home(repository, SERVICE, port) | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
