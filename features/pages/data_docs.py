"""Great Expectations' Data Docs -> the same pages without network or scripts, with our stylesheet and index page.

Great Expectations' own pages load styles, tables and symbols from other servers, and without them the index is empty.
Parts that need a script are removed: filters, sorting, an invitation to a newsletter.
"""

import hashlib
import html
import os
import re
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from contracts.files import write_text
from features.pages import document
from features.pages.document import BAD, CSS, GOOD, WARNS, Html, escape, number, section, table, verdict, write_page

OWN_CSS = (Path(__file__).parent / "data_docs.css").read_text(encoding="utf-8")
SHEET = "static/styles/leitmotif.css"
NOTE = re.compile(r'<p role="note" class="note">.*?</p>\n', re.DOTALL)
HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
)
LEFT_OUT = {"script", "style", "footer", "button", "label", "input", "img"}
LEFT_OUT_CLASSES = {"ge-walkthrough-modal", "modal"}
LEFT_OUT_IDS = {"ge-cta-footer"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
SUITES = {
    "log": "the log as a whole",
    "partitions": "figures of every partition",
    "rows": "rows, as a steward expects them",
    "interactions": "rows, by the rules that hold them back",
}


class Result(NamedTuple):
    """One page of results."""

    path: str  # relative to the docs' folder
    suite: str
    batch: str
    num: int
    held: int


def make_readable(docs: Path, sentence: str, *, is_refused: bool = False) -> None:
    """Rewrite every page of the docs that is not rewritten yet, and the index; of the others, the sentence.

    sentence: shown on top; says how many rows are held back. Great Expectations does not say it: an expectation holds
        if few enough rows fail it, so "19 of 19 succeeded" also appears for a log with rows held back.
    is_refused: whether validate refuses the log.
    """
    write_text(docs / SHEET, CSS + OWN_CSS)
    results = sorted((docs / "validations").rglob("*.html"))
    for page in [*results, *sorted((docs / "expectations").rglob("*.html"))]:
        text, note = (
            page.read_text(encoding="utf-8"),
            _note(sentence) if page.is_relative_to(docs / "validations") else "",
        )
        if SHEET not in text:
            write_text(page, _page(text, os.path.relpath(docs, page.parent), note))
        elif (again := NOTE.sub(lambda _, new=note: new, text, count=1)) != text:
            write_text(page, again)  # a page of the last run, which had another sentence
    _write_index(docs, [_result(docs, page) for page in results], sentence, is_refused)


@cache
def maker() -> str:
    """What a page that is made by this code and this version of Great Expectations has in its head."""
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return f'<meta name="generator" content="Great Expectations {version("great_expectations")}, {code}">'


@cache
def code() -> str:
    """A hash of the code and styles that make the pages."""
    made_by = [Path(__file__), Path(__file__).with_name("data_docs.css"), Path(document.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_by)).hexdigest()


def _note(sentence: str) -> str:
    return f'<p role="note" class="note">{html.escape(sentence)}</p>\n' if sentence else ""


def _page(text: str, up: str, note: str) -> str:
    kept = _Readable()
    kept.feed(text)
    kept.close()
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    named = title[1].strip() if title else "Data Docs"
    head = f'{HEAD}{maker()}<title>{named}</title><link rel="stylesheet" href="{up}/{SHEET}">'
    body = f"<main>\n{note}{''.join(kept.parts)}\n</main>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


class _Readable(HTMLParser):
    """Keeps the body's elements, except those that need a script or another server."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._inside = False
        self._removed: list[str] = []  # open elements within a removed one

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._removed:
            if tag not in VOID:
                self._removed.append(tag)
        elif tag == "body":
            self._inside = True
        elif self._inside and _is_left_out(tag, dict(attrs)):
            if tag not in VOID:
                self._removed.append(tag)
        elif self._inside:
            self.parts.append(self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._inside and not self._removed and not _is_left_out(tag, dict(attrs)):
            self.parts.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if self._removed:
            if tag in self._removed:  # an unclosed element ends with its parent
                del self._removed[len(self._removed) - 1 - self._removed[::-1].index(tag) :]
        elif tag == "body":
            self._inside = False
        elif self._inside:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self._keep(data)

    def handle_entityref(self, name: str) -> None:
        self._keep(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._keep(f"&#{name};")

    def _keep(self, text: str) -> None:
        if self._inside and not self._removed:
            self.parts.append(text)


def _is_left_out(tag: str, attrs: dict[str, str | None]) -> bool:
    classes = set((attrs.get("class") or "").split())
    return tag in LEFT_OUT or bool(classes & LEFT_OUT_CLASSES) or attrs.get("id") in LEFT_OUT_IDS


def _result(docs: Path, page: Path) -> Result:
    """The numbers on a page of results."""
    text = re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))
    counts = {
        name: int(found[1].replace(",", "")) if (found := re.search(rf"{name} Expectations\s+([\d,]+)", text)) else 0
        for name in ("Evaluated", "Successful")
    }
    path = page.relative_to(docs)
    return Result(path.as_posix(), path.parts[1], path.parts[2], counts["Evaluated"], counts["Successful"])


def _write_index(docs: Path, pages: Sequence[Result], sentence: str, is_refused: bool) -> None:
    of_suite = list(SUITES)
    pages = sorted(pages, key=lambda each: (of_suite.index(each.suite) if each.suite in SUITES else 9, each.batch))
    failed = [each for each in pages if each.held < each.num]
    warns = any(each.suite != "interactions" for each in failed)
    state = BAD if is_refused else WARNS if warns else GOOD
    facts = [("results", number(len(pages))), ("with a failure", number(len(failed)))]
    rows = [
        (
            _link(each.path, _named(each.batch)),
            SUITES.get(each.suite, each.suite),
            number(each.num),
            number(each.num - each.held),
        )
        for each in pages
    ]
    suites = [
        (_link(page.relative_to(docs).as_posix(), page.stem), SUITES.get(page.stem, ""))
        for page in sorted((docs / "expectations").glob("*.html"))
    ]
    body = [
        verdict("Great Expectations’ Data Docs", "All results of this run", state, sentence, facts),
        section(
            "Results",
            table(("result", "of", "expectations", "failed"), rows, (2, 3), "One line per result"),
            lead="A rule fails in a batch that has rows breaking it. These rows are held back, and the log passes if "
            "they are few. The expectations of the log as a whole and of its partitions decide.",
        ),
        section("Suites", table(("suite", "of"), suites, (), "One line per suite")),
    ]
    write_page(docs / "index.html", "Data Docs", body, "Pages of results: Great Expectations. Times are UTC.")


def _named(batch: str) -> str:
    """A batch as text: thousands separated, one date where it is of one."""
    text = re.sub(r"\b\d{5,}\b", lambda found: f"{int(found[0]):,}", batch.replace("_", " "))
    return re.sub(r"^(\S+) to \1$", r"\1", text)


def _link(path: str, name: str) -> Html:
    return Html(f'<a href="{escape(path)}">{escape(name)}</a>')
