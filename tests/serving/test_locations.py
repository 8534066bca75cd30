"""Which bundle and which state a machine serves."""

import shutil
from pathlib import Path

import pytest

import serving.locations
from contracts.errors import InputError
from contracts.params import load_params
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


def test_params_are_parsed_again_only_if_they_changed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing holds the interpreter for 13 ms; done at each look for a new champion, some requests waited for it."""
    champion_path("simulator").mkdir(parents=True)
    champion_path("another").mkdir(parents=True)
    parsed: list[str] = []
    monkeypatch.setattr(serving.locations, "load_params", lambda: parsed.append("") or load_params())
    assert {find_bundle() for _ in range(5)} == {champion_path("simulator")}
    assert len(parsed) == 1
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("id: simulator", "id: another", 1))
    assert {find_bundle() for _ in range(5)} == {champion_path("another")}
    assert len(parsed) == 2


def test_params_that_went_away_are_told(repository: Path) -> None:
    champion_path("simulator").mkdir(parents=True)
    find_bundle()
    (repository / "params.yaml").unlink()
    with pytest.raises(InputError, match="Run from the repository's root"):
        find_bundle()
