"""A remembered hash is that of the file's bytes, whatever is done to it; an unchanged file is not read for it."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

import contracts.known_hashes as known_hashes
from contracts.files import hash_file
from contracts.known_hashes import YOUNG_NS, hash_of, note_hash, remembering

OLD_NS = 10 * YOUNG_NS


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read."""
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(known_hashes, "hash_file", counted)
    return read


def write(path: Path, content: bytes, age_ns: int = OLD_NS) -> None:
    path.write_bytes(content)
    then = time.time_ns() - age_ns
    os.utime(path, ns=(then, then))


def test_a_file_is_read_once_by_all_processes_together(tmp_path: Path, reads: list[Path]) -> None:
    write(tmp_path / "a", b"one")
    for _ in range(3):
        with remembering(tmp_path):
            assert hash_of(tmp_path / "a") == hash_of(tmp_path / "a") == hash_file(tmp_path / "a")
    assert reads == [tmp_path / "a"]
    os.replace(tmp_path / "a", tmp_path / "b")
    with remembering(tmp_path):
        hash_of(tmp_path / "b")
    assert len(reads) == 1  # a rename changes nothing of it
    assert hash_of(tmp_path / "b") == hash_file(tmp_path / "b")  # outside of the block every file is read
    assert len(reads) == 2


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path, reads: list[Path]) -> None:
    write(tmp_path / "a", b"one", age_ns=0)
    at = (tmp_path / "a").stat().st_mtime_ns
    with remembering(tmp_path):
        before = hash_of(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"two")
        os.utime(tmp_path / "a", ns=(at, at))  # a clock too coarse to tell the two writes apart
        assert hash_of(tmp_path / "a") == hash_file(tmp_path / "a") != before
    assert len(reads) == 2


def test_a_file_of_our_own_is_not_read_at_all(tmp_path: Path, reads: list[Path]) -> None:
    with remembering(tmp_path):
        write(tmp_path / "a", b"one", age_ns=0)
        note_hash(tmp_path / "a", hash_file(tmp_path / "a"))
    with remembering(tmp_path):
        assert hash_of(tmp_path / "a") == hash_file(tmp_path / "a")
    assert reads == []


def test_a_record_that_is_damaged_or_cannot_be_written_costs_a_read_and_no_more(
    tmp_path: Path, reads: list[Path]
) -> None:
    write(tmp_path / "a", b"one")
    for content in (b"{", b"[]", b'{"x": 1}', b'{"x": ["y"]}'):
        (tmp_path / ".cache").mkdir(exist_ok=True)
        (tmp_path / ".cache" / "hashes.json").write_bytes(content)
        with remembering(tmp_path):
            assert hash_of(tmp_path / "a") == hash_file(tmp_path / "a")
    assert len(reads) == 4
    (tmp_path / "elsewhere").write_text("no folder")
    with remembering(tmp_path / "elsewhere"):
        assert hash_of(tmp_path / "a") == hash_file(tmp_path / "a")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_to_files_a_hash_is_that_of_their_bytes(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    names = [tmp_path / name for name in "abc"]
    for name in names:
        write(name, bytes(random.integers(3, size=2, dtype=np.uint8)), OLD_NS + int(random.integers(5)))
    for step in range(1, 41):
        with remembering(tmp_path):
            for _ in range(random.integers(4)):
                path, other = (names[place] for place in random.choice(3, 2, replace=False))
                content = bytes(random.integers(3, size=random.integers(1, 3), dtype=np.uint8))
                match random.integers(4):
                    case 0:  # in place, at a time that can be told from the one before
                        write(path, content, OLD_NS - step * 1000 - int(random.integers(999)))
                    case 1:
                        other.with_name("made").write_bytes(content)
                        note_hash(other.with_name("made"), hash_file(other.with_name("made")))
                        os.replace(other.with_name("made"), path)
                    case 2:
                        path.write_bytes(other.read_bytes())
                        note_hash(path, hash_of(other))
                    case _:
                        path.unlink()
                        os.link(other, path)
                assert [hash_of(name) for name in names] == [hash_file(name) for name in names]
