"""A dirty log with planted faults: the page says exactly how many rows were lost, why, and shows them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from contracts.errors import CheckFailed
from features.pages.document import GOOD
from features.pages.quality import judged
from features.stages import describe, histories, validate
from features.tables.ledger import JOINED
from tests.features import pages_browser
from tests.features.raw_logs import COLUMNS, expectations, ingest_table, limits, read, source
from tests.features.small_log import history, request

PLANTED = {
    ("ingest", "bad time"): 3,
    ("ingest", "wrong number of fields"): 2,
    ("validate", "user_id missing"): 4,
    ("validate", "occurred_at outside validate.earliest to latest"): 5,
    ("validate", "duplicated"): 6,
}
DAYS, ROWS = 6, 600
QUIET, DULL = 3, 4  # a day with a fifth of the rows; one with hardly a click


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from pages_browser.launched()


def lines() -> list[str]:
    """The log's rows: six days, one with few rows, one with few clicks; the faults are at the end."""
    rows = []
    for day in range(DAYS):
        num = ROWS // 5 if day == QUIET else ROWS
        for place in range(num):
            at = f"2024-01-{day + 1:02}T{place * 24 // num:02}:{place % 60:02}:{place // 60 % 60:02}Z"
            clicked = int(place % 3 == 0) if day != DULL else int(place == 0)
            rows.append(f"u{place % 40},i{place % 25},{at},{clicked}")
    twice = rows[: PLANTED["validate", "duplicated"]]
    rows += [f"u1,i1,yesterday {n},1" for n in range(PLANTED["ingest", "bad time"])]
    rows += ["u1,i1"] * PLANTED["ingest", "wrong number of fields"]
    rows += [f",i{n},2024-01-02T10:00:{n:02}Z,0" for n in range(PLANTED["validate", "user_id missing"])]
    rows += [f"u{n},i{n},2201-01-01T00:00:00Z,0" for n in range(5)]
    return rows + twice


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run over that log, up to the page."""
    root = tmp_path_factory.mktemp("dirty")
    (root / "log.csv").write_text("\n".join(["user,item,at,click", *lines(), ""]))
    data = root / "data" / "table"
    ingest_table(data, root / "log.csv")
    validate.run(data, limits(), expectations(min_partition_rows=100))
    histories.run(data, request(), history())
    describe.run(data, source("table", root / "log.csv", COLUMNS))
    return root


def test_every_planted_row_is_in_the_figures_by_its_reason(dirty: Path) -> None:
    told = json.loads((dirty / "data" / "table" / "quality" / "quality.json").read_text())
    lost = {(line["stage"], line["what"]): line["rows"] for line in told["ledger"] if line["stage"] != "histories"}
    assert lost == PLANTED
    assert told["rows_read"] == len(lines()) == sum(line["rows"] for line in told["ledger"])
    assert told["ledger"] == read(dirty / "data" / "table" / "ledger")


def test_the_page_has_the_ledgers_numbers_and_the_original_rows(dirty: Path, browser: Browser) -> None:
    text = pages_browser.check(browser, dirty / "reports" / "table" / "quality.html")
    for line in read(dirty / "data" / "table" / "ledger"):
        assert f"{line['what']}\t{line['rows']:,}\t" in text
    assert f"{len(lines()):,}" in text
    assert ",i0,2024-01-02T10:00:00Z,0" in text  # as it stands in the file
    line = 1 + len(lines()) - PLANTED["validate", "duplicated"] - 5 - PLANTED["validate", "user_id missing"]
    assert f"log.csv, line {line + 1:,}" in text


def test_a_row_that_joined_its_show_is_not_counted_as_lost() -> None:
    ledger = [("ingest", JOINED, 7), ("validate", "duplicated", 2), ("histories", "in a request", 91)]
    report = {
        "ledger": [dict(zip(("stage", "what", "rows"), line, strict=True)) for line in ledger],
        "rows_read": 100,
        "expectations": [],
        "refused": None,
    }
    state, sentence = judged(report)
    assert state == GOOD
    assert sentence.startswith(
        "91 of 100 rows read (91.0 %) are valid; 7 joined another row of the same item and request; "
    )
    assert "2 (2.0 %) are not used, most often: duplicated (2)." in sentence


def test_the_first_sentence_of_a_clean_log_is_that_all_is_well_and_of_another_what_does_not_hold() -> None:
    holds = {"of": "partitions", "passed": True, "why": "few rows repeat another", "num_unexpected": 0, "num_judged": 9}
    ledger = [{"stage": "histories", "what": "in a request", "rows": 1234}]
    report = {"ledger": ledger, "rows_read": 1234, "expectations": [holds, holds], "refused": None}
    assert judged(report) == (GOOD, "All 1,234 rows read are valid. All 2 expectations hold.")
    report["expectations"] = [holds, holds | {"passed": False, "num_unexpected": 1}]
    assert judged(report)[1] == (
        "All 1,234 rows read are valid. 1 of 2 expectations does not hold: “few rows repeat another” fails in 1 of 9 "
        "partitions."
    )


def test_data_docs_are_read_without_a_network(dirty: Path, browser: Browser) -> None:
    docs = dirty / ".state" / "table" / "data_docs"
    text = pages_browser.check(browser, docs / "index.html")
    assert "9 are held back in quarantine" in text
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, asked, complaints = context.new_page(), list[str](), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda said: complaints.append(said.text))
    tab.goto((docs / "index.html").as_uri())
    tab.get_by_role("link", name="partitions of the log").click()
    assert tab.get_by_role("cell", name="✕").count() == 2  # the quiet day and the dull one
    assert "rows_of_trailing" in tab.inner_text("body")
    assert tab.locator(".alert").first.evaluate("each => getComputedStyle(each).borderRadius") == "6px"
    tab.get_by_role("link", name="Home").click()
    tab.get_by_role("link", name="interactions", exact=True).click()
    assert "user_id missing" in tab.inner_text("body")
    assert complaints == []
    assert {url.split(":")[0] for url in asked} == {"file"}
    context.close()
    for page in docs.rglob("*.html"):
        assert not re.search(r"<script|(?:src|href)=.https?:", page.read_text()), page


def test_a_quiet_and_a_dull_day_are_named_and_nothing_else(dirty: Path) -> None:
    told = json.loads((dirty / "data" / "table" / "quality" / "quality.json").read_text())
    failed = {
        each["column"]: [one["where"] for one in each["examples"]]
        for each in told["expectations"]
        if not each["passed"] and each["of"] != "rule"
    }
    assert failed == {"rows_of_trailing": ["2024-01-04"], "click_rate_of_trailing": ["2024-01-05"]}


def test_the_page_lists_changes_since_the_last_run_and_a_repetition_is_not_a_run(dirty: Path) -> None:
    page, data = dirty / "reports" / "table" / "quality.html", dirty / "data" / "table"
    told = source("table", dirty / "log.csv", COLUMNS)
    assert "There is no earlier run of this log on this machine" in page.read_text()
    first = page.read_bytes()
    describe.run(data, told)
    assert page.read_bytes() == first
    validate.run(data, limits(), expectations(min_partition_rows=100, min_rows_of_trailing=0.1))
    describe.run(data, told)
    changed = page.read_text()
    assert "<td>expected: a partition has about as many rows as those before it</td>" in changed
    assert "1 failing</td>" in changed
    assert "<td>rows read</td>" not in changed
    assert "2 runs of this log on this machine, each different from the one before" in changed
    runs = re.search(r">The runs so far</caption>.*?</table>", changed, re.S)
    assert runs is not None
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", runs[0])
    newest, first = cells[:8], cells[8:16]
    assert [newest[0], first[0]] == ["2", "1"]
    assert newest[2:5] == first[2:5]  # the same rows read, and used
    assert int(newest[5]) == int(first[5]) - 1  # a quieter day is let pass


def test_a_refused_log_has_its_page_with_the_attempt(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(["user,item,at,click", *lines(), ""]))
    data = tmp_path / "data" / "table"
    ingest_table(data, tmp_path / "log.csv")
    with pytest.raises(CheckFailed, match="rows are quarantined"):
        validate.run(data, limits(max_quarantined_share=0.001), expectations())
    page = (tmp_path / "attempts" / "validate" / "quality.html").read_text()
    assert "✕ blocked" in page
    assert "user_id missing" in page
    assert not (data / "profile").exists()


def test_a_critical_expectation_blocks_and_names_its_partition(tmp_path: Path) -> None:
    rows = [*lines(), *(f",i{n % 9},2024-01-09T{n // 60:02}:{n % 60:02}:00Z,0" for n in range(700))]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,at,click", *rows, ""]))
    data = tmp_path / "data" / "table"
    ingest_table(data, tmp_path / "log.csv")
    with pytest.raises(CheckFailed, match=r"1 critical expectation of .*mostly held back.*2024-01-09: 1"):
        validate.run(data, limits(), expectations())
    assert (tmp_path / "attempts" / "validate" / "quality.html").is_file()
