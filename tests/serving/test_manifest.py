"""A bundle's manifest lets no byte change unseen."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from serving.bundle.manifest import MANIFEST, Manifest, hash_folder, read_manifest, write_manifest
from serving.params import ServeParams
from tests.serving.limits import RETRIEVAL

LIMITS = ServeParams(
    clock="log_end",
    num_golden_requests=1,
    max_candidates=3,
    max_id_length=5,
    max_events=3,
    max_future_s=60,
    log_exposures=False,
    allowed_hosts=[],
    max_exposed=3,
    max_live_rows=3,
    num_threads=1,
    retrieval=RETRIEVAL,
)


def write(folder: Path, **files: bytes) -> Manifest:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return write_manifest(
        folder,
        source="simulator",
        feature_spec_hash="s",
        snapshot_id="n",
        num_golden_requests=1,
        limits=LIMITS.model_dump(mode="json"),
        training_data={"user_histories": "h"},
        code={"a.py": "c"},
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "bundle", one=b"1", two=b"2")
    assert read_manifest(tmp_path / "bundle") == written


def test_equal_content_has_the_equal_hash_and_another_content_another(tmp_path: Path) -> None:
    hashes = {
        name: write(tmp_path / name, one=content).bundle_hash
        for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items()
    }
    assert hashes["a"] == hashes["b"] != hashes["c"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(content=st.binary(min_size=1, max_size=20), position=st.integers(0, 19), flip=st.integers(1, 255))
def test_one_changed_byte_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, position: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("spoiled") / "bundle"
    write(folder, weights=content)
    spoiled = bytearray(content)
    spoiled[position % len(content)] ^= flip
    (folder / "weights").write_bytes(spoiled)
    with pytest.raises(InputError, match="weights changed"):
        read_manifest(folder)


def test_a_changed_limit_in_the_manifest_is_found(tmp_path: Path) -> None:
    write(tmp_path / "bundle", one=b"1")
    path = tmp_path / "bundle" / MANIFEST
    content = json.loads(path.read_text())
    content["limits"]["max_candidates"] = 10**9
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"bundle\.json changed"):
        read_manifest(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "one").unlink(), "lacks one"),
        (lambda folder: (folder / "two").write_bytes(b""), "holds two"),
        (lambda folder: (folder / MANIFEST).unlink(), "not a bundle"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 99}'), "format 99"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 1}'), "format 1"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 2}'), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "cannot be read"),
    ],
)
def test_a_spoiled_folder_is_refused_with_what_to_do(tmp_path: Path, spoil: object, says: str) -> None:
    write(tmp_path / "bundle", one=b"1")
    spoil(tmp_path / "bundle")  # type: ignore[operator]
    with pytest.raises(InputError, match=f"{says}.*make run"):
        read_manifest(tmp_path / "bundle")


def test_a_folder_s_hash_covers_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    before = hash_folder(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    renamed = hash_folder(tmp_path)
    (tmp_path / "a" / "y").write_bytes(b"2")
    assert len({before, renamed, hash_folder(tmp_path)}) == 3
