"""Which bundle and which state a machine serves."""

import shutil
from pathlib import Path

import pytest

from contracts.errors import InputError
from serving.locations import champion_path, find_bundle, find_snapshot, find_state, newest_path
from tests.clones import ROOT


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository with the default params."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for variable in ("LEITMOTIF_BUNDLE", "LEITMOTIF_STATE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_the_champion_is_preferred_over_the_newest_bundle() -> None:
    newest_path("simulator").mkdir(parents=True)
    assert find_bundle() == newest_path("simulator")
    champion_path("simulator").mkdir(parents=True)
    assert find_bundle() == champion_path("simulator")


def test_the_environment_is_preferred_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    champion_path("simulator").mkdir(parents=True)
    monkeypatch.setenv("LEITMOTIF_BUNDLE", "elsewhere")
    monkeypatch.setenv("LEITMOTIF_STATE", "mounted")
    assert find_bundle() == Path("elsewhere")
    assert find_state("simulator") == Path("mounted")
    assert find_snapshot("simulator") is None


def test_where_there_is_no_bundle_it_says_what_makes_one() -> None:
    with pytest.raises(InputError, match="make run"):
        find_bundle()
