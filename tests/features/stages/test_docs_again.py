"""Data Docs of a log of which a part has changed: pages of the rest are kept, and as if all were built again."""

import re
import shutil
from pathlib import Path

import pytest

from features.quality import split
from features.stages import validate
from tests.features.raw_logs import expectations, ingest_table, limits

TIME = re.compile(
    r"\d{8}T\d{6}\.\d{6}Z|\d{4}-\d\d-\d\d[ T][ \d:.]+(Z|\+00:00| UTC)?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


def day(number: int) -> list[str]:
    return [f"u{n % 3},i{n % 2},2024-01-0{number}T00:0{n}:00Z,{n % 2}" for n in range(6)]


def pages(docs: Path) -> dict[str, str]:
    """Path -> text, without times of judging and ids that Great Expectations draws."""
    return {
        TIME.sub("-", page.relative_to(docs).as_posix()): TIME.sub("-", page.read_text(encoding="utf-8"))
        for page in docs.rglob("*.html")
    }


def test_pages_of_batches_that_have_not_changed_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "BATCH_ROWS", 6)
    log, data, docs = tmp_path / "log", tmp_path / "data" / "table", tmp_path / ".state" / "table" / "data_docs"
    log.mkdir()

    def run(name: str, rows: list[str]) -> None:
        (log / f"{name}.csv").write_text("\n".join(["user,item,at,click", *rows, ""]), encoding="utf-8")
        ingest_table(data, log)
        validate.run(data, limits(), expectations())

    def of_first() -> dict[Path, str]:
        return {page: page.read_text(encoding="utf-8") for page in docs.rglob("*2024-01-01_to*/**/*.html")}

    run("one", day(1))
    before = of_first()
    assert len(before) == 2  # by the rules, and as a steward expects
    marked = {page: text.replace("</main>", "<p>kept</p></main>") for page, text in before.items()}
    for page, text in marked.items():
        page.write_text(text, encoding="utf-8")
    run("two", [*day(2), ",i1,2024-01-02T00:00:09Z,1"])
    after = of_first()
    assert after.keys() == before.keys()
    assert all(text.count("<p>kept</p>") == 1 for text in after.values())  # not built again
    assert all("of 13 rows 1 are held back" in text for text in after.values())  # the sentence is this run's
    for page, text in after.items():
        page.write_text(text.replace("<p>kept</p>", ""), encoding="utf-8")
    incremental = pages(docs)
    shutil.rmtree(docs)
    validate.run(data, limits(), expectations())
    assert pages(docs) == incremental
    for page, text in before.items():
        page.write_text(text.replace('name="generator"', 'name="another"').replace("</main>", "<p>kept</p></main>"))
    validate.run(data, limits(), expectations())
    assert not any("<p>kept</p>" in text for text in of_first().values())  # another version's pages are built again
