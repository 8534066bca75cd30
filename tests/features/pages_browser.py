"""A page of a run in a real browser: console errors, requests, and issues found by axe-core."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
AXE = Path(__file__).parents[1] / "serving" / "axe" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
MOST_BYTES = 600_000


def launched() -> Iterator[Browser]:
    """A real browser; the test is skipped without one."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def check(browser: Browser, page: Path) -> str:
    """Open a page at both widths, light and dark: nothing is complained of, asked for, cut off or hard to read.

    Returns its text.
    """
    assert page.stat().st_size < MOST_BYTES
    text = ""
    for width, scheme in ((1280, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab, complaints, asked = context.new_page(), list[str](), list[str]()
        tab.on("pageerror", lambda error, kept=complaints: kept.append(str(error)))
        tab.on("console", lambda said, kept=complaints: kept.append(said.text))
        tab.on("request", lambda request, kept=asked: kept.append(request.url))
        tab.goto(page.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert complaints == []
        assert asked == [page.as_uri()]
        assert violations(tab) == []
        text = tab.inner_text("body")
        context.close()
    return text


def violations(tab: Page) -> list[str]:
    """What axe-core finds. It is put there by the debugger: the page itself allows no script."""
    session = tab.context.new_cdp_session(tab)
    session.send("Page.setBypassCSP", {"enabled": True})
    tab.reload()
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found["violations"]]
