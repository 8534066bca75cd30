"""EB-NeRD taken up to train and a Redis server, once for all tests of features: servers end with them."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from features.encoding.encode import FeatureSpec
from tests import ebnerd_log
from tests.clones import real_data
from tests.features import published
from tests.features.redis_cluster import redis_cluster  # noqa: F401
from tests.features.redis_server import RedisServer
from training.requests.reader import Requests, load_events, load_requests


@pytest.fixture(scope="session")
def ebnerd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ebnerd of the whole log under its preset."""
    folder = tmp_path_factory.mktemp("ebnerd")
    sections = ebnerd_log.sections_of(real_data("ebnerd-demo"), folder / "params")
    return ebnerd_log.make(folder / "data", sections)


@pytest.fixture(scope="session")
def ebnerd_spec(tmp_path_factory: pytest.TempPathFactory) -> FeatureSpec:
    sections = ebnerd_log.sections_of(real_data("ebnerd-demo"), tmp_path_factory.mktemp("params"))
    return FeatureSpec.of(sections["history"], sections["statistics"], sections["model"].history_length)


@pytest.fixture(scope="session")
def published_log() -> duckdb.DuckDBPyConnection:
    """The published files, for SQL."""
    return published.read_log(real_data("ebnerd-demo"))


@pytest.fixture(scope="session")
def ebnerd_requests(ebnerd: Path) -> Requests:
    return load_requests(ebnerd, load_events(ebnerd))


@pytest.fixture(scope="package")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Durable, never killed or paused: whoever writes takes a prefix or a database of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
