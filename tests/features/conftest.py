"""EB-NeRD taken up to train, once for all tests of features."""

from pathlib import Path

import pytest

from tests import ebnerd_log
from tests.clones import real_data


@pytest.fixture(scope="session")
def ebnerd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ebnerd of the whole log under its preset."""
    folder = tmp_path_factory.mktemp("ebnerd")
    sections = ebnerd_log.sections_of(real_data("ebnerd-demo"), folder / "params")
    return ebnerd_log.make(folder / "data", sections)
