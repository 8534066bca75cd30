"""The page at / in a real browser: a user is found, a click turns ranking and theme, and everybody can follow it."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from ruamel.yaml import YAML

from serving.answering.predictor import Predictor
from serving.http.page import FILES
from tests.clones import ROOT
from tests.features.pages_browser import launched

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

AXE = Path(__file__).parent / "axe" / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
FOCUSED = "['id', 'className', 'tagName'].map((name) => document.activeElement[name]).find(Boolean)"
MOST_TRIES, LISTED = 6, 10  # of serving/page/main.js; of the gauge
MAX_BYTES = 100_000
MOST_S = 20_000
"""Milliseconds that a busy machine may take for one step."""


class Opened:
    """A tab, with its console errors and its requests to other hosts."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | context
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(MOST_S)
        self.url = url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, user: str) -> Page:
        """The page of a user, its ranking and its reasons there."""
        self.page.goto(f"{self.url}/?user={user}")
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until all that is shown has come: the reasons are the last."""
        expect(self.page.locator(".item .why").first).not_to_be_empty(timeout=MOST_S)
        self.page.wait_for_load_state("networkidle")

    def items(self) -> list[str]:
        """The ranking that is shown."""
        return self.page.locator(".item").evaluate_all("rows => rows.map((row) => row.dataset.item)")

    def says(self, pattern: str) -> None:
        """Wait until the live region says this."""
        expect(self.page.locator("#live")).to_contain_text(re.compile(pattern), timeout=MOST_S)
        self.settle()

    def violations(self) -> list[str]:
        """What axe-core finds."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found["violations"]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture
def opened(browser: Browser, server: httpx.Client) -> Iterator[Opened]:
    """A tab of the service that is left as it was. Nothing may be complained of, nobody else asked."""
    yield from tab(browser, server)


@pytest.fixture
def kept(browser: Browser, keeping: httpx.Client) -> Iterator[Opened]:
    """A tab of the service that takes events."""
    yield from tab(browser, keeping)


def tab(browser: Browser, service: httpx.Client, **context: Any) -> Iterator[Opened]:
    """A tab that is checked and closed afterwards."""
    url = str(service.base_url).rstrip("/")
    found = Opened(browser, url, **context)
    yield found
    found.context.close()
    assert not found.complaints
    assert [each for each in found.asked if not each.startswith(f"{url}/")] == []


@pytest.fixture(scope="module")
def hopper(predictor: Predictor) -> str:
    """A user with many sessions in several themes, the newest turn of which can be replayed."""
    from serving.answering.users import ThemesRequest, UsersRequest, user_themes, users

    for user in users(predictor, UsersRequest(limit=300)).users:
        told = user_themes(predictor, ThemesRequest(user_id=user))
        fit = [each for each in told.sessions[-4:] if each.hopped and each.num_events >= 5 and each.share >= 0.6]
        if len(told.sessions) >= 8 and fit and sum(each.num_events for each in told.sessions[-4:]) < 200:
            return user
    pytest.fail("no user of the small log hops between themes")


def other_theme(server: httpx.Client, user: str) -> str:
    """Of the themes in which the user is not, the one to which the list turns most with three clicks on its best item.

    The small model learnt little, and some of its lists hardly turn.
    """

    def listed(clicked: list[str]) -> dict[str, Any]:
        asked = {"user_id": user, "k": 100, "preview": True, "suppose": clicked}
        return server.post("/recommend", json=asked).json()

    def offered(items: list[dict[str, Any]]) -> list[int]:
        return list(dict.fromkeys(item["theme"] for item in items if item["theme"] is not None))[:MOST_TRIES]

    def gain(theme: int) -> int:
        clicked: list[str] = []
        counts = []
        for _ in range(4):
            items = listed(clicked)["items"]
            if theme not in offered(items):
                return -LISTED
            counts.append(sum(item["theme"] == theme for item in items[:LISTED]))
            clicked += [item["item_id"] for item in items if item["theme"] == theme][:1]
        return counts[-1] - counts[0]

    told = listed([])
    others = [theme for theme in offered(told["items"]) if theme != told["themes"][0]["theme"]]
    return str(max(others, key=gain))


def test_it_is_small_names_its_version_and_is_kept_by_browsers(server: httpx.Client) -> None:
    first = server.get("/")
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["content-security-policy"].startswith("default-src 'self';")
    assert first.headers["cache-control"] == "no-cache"
    assert server.get("/", headers={"if-none-match": first.headers["etag"]}).status_code == 304
    parts = re.findall(r'(?:href|src)="(page/[^"]+)"', first.text)
    assert len(parts) == 3
    for part in parts:
        answer = server.get(f"/{part}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    other = re.sub(r"page/\w+/", "page/0123456789abcdef/", parts[0])
    assert server.get(f"/{other}").status_code == 404
    assert server.get(f"/{parts[0].rpartition('/')[0]}/..%2F..%2Fservice.py").status_code == 404
    assert sum(path.stat().st_size for path in FILES.iterdir()) < MAX_BYTES


def test_it_holds_no_style_or_script_that_its_policy_forbids() -> None:
    text = (FILES / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)|https?://", text)
    scripts = "".join(path.read_text(encoding="utf-8") for path in FILES.glob("*.js"))
    imported = re.findall(r'import .* from "([^"]+)"', scripts)
    assert imported
    assert all(name.startswith("./") for name in imported)
    assert "url(" not in (FILES / "page.css").read_text(encoding="utf-8")


def test_a_bento_and_an_installed_package_carry_it() -> None:
    carried = {path.name for path in FILES.iterdir()}
    told = YAML(typ="safe").load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))
    (included,) = [pattern for pattern in told["include"] if pattern.startswith("/serving/page/")]
    assert {path.name for path in ROOT.glob(included.lstrip("/"))} == carried
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (pattern,) = told["tool"]["setuptools"]["package-data"]["serving"]
    assert {path.name for path in (ROOT / "serving").glob(pattern)} == carried


def test_a_letter_is_read_on_every_tone() -> None:
    """axe-core does not judge a text on a pattern. WCAG: 4.5 : 1."""
    text = (FILES / "page.css").read_text(encoding="utf-8")
    tones = re.findall(r"\.tone-\d \{ --tone: (#\w{6}); --on: (#\w{6}); \}", text)
    assert len(tones) == 8
    for tone, on in tones:
        light, dark = sorted((luminance(tone), luminance(on)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (tone, on)


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_shows_what_the_service_answers(opened: Opened, server: httpx.Client, hopper: str) -> None:
    page = opened.open(hopper)
    items = opened.items()
    assert len(items) == 20
    themes = server.get(f"/users/{hopper}/themes").json()
    assert page.locator(".block").count() == min(48, len(themes["sessions"]))
    expect(page.locator("#now-title")).to_contain_text(themes["current"][0]["name"])
    assert page.locator("#chips").inner_text().split("\n")[1].endswith(" ms")
    assert all(page.locator(".item .why").all_inner_texts())


def test_without_a_name_it_begins_with_someone_who_has_a_past(opened: Opened) -> None:
    opened.page.goto(opened.url)
    opened.settle()
    assert opened.page.locator("#user").input_value()
    assert opened.page.locator(".block").count()


def test_a_user_is_found_by_typing_and_keys(opened: Opened, hopper: str) -> None:
    page = opened.open(hopper)
    page.locator("#user").focus()
    page.keyboard.type("u0000")
    expect(page.get_by_role("option").first).to_have_text(re.compile("^u0000"))
    names = page.get_by_role("option").all_inner_texts()
    assert opened.violations() == []
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("#user").get_attribute("aria-activedescendant") == "user-1"
    page.keyboard.press("Enter")
    expect(page.locator("#as")).to_have_text(f"for {names[1]}, now")
    assert f"user={names[1]}" in page.url
    page.locator("#user").fill("nobody at all")
    page.keyboard.press("Enter")
    expect(page.locator("#now-since")).to_contain_text("Nothing is known of this user")
    opened.settle()


def test_a_tried_click_turns_the_ranking_and_the_theme_and_nothing_is_kept(
    opened: Opened, server: httpx.Client, hopper: str
) -> None:
    page = opened.open(hopper)
    known = server.get(f"/users/{hopper}/themes").json()["sessions"]
    before, theme = opened.items(), other_theme(server, hopper)
    had = None
    for click in (1, 2, 3):
        page.locator(f'.try[data-theme="{theme}"]').click()
        opened.says("clicked, not kept")
        expect(page.locator(".steps li").last).to_contain_text(f"click {click}")
        numbers = [int(text) for text in page.locator(".steps b").all_inner_texts()]
        had = numbers[0] if had is None else had
        assert numbers[0] == had
        assert int(page.get_by_role("meter").get_attribute("aria-valuenow") or -1) == numbers[-1]
    shown = page.locator(".item").evaluate_all("rows => rows.map((row) => row.dataset.theme)")
    assert numbers[-1] == shown[:LISTED].count(theme)  # how far it turns is the small model's affair
    assert page.locator("#now").get_attribute("data-theme") == theme
    expect(page.locator("#now-over")).to_have_text(f"{hopper} would now be in")
    assert opened.items() != before
    assert page.locator(".tried").count() == 3
    assert server.get(f"/users/{hopper}/themes").json()["sessions"] == known
    with page.expect_response("**/recommend") as told:
        page.locator("#undo").click()
    opened.says("forgotten")
    assert not json.loads(told.value.request.post_data or "")["suppose"]
    shown = opened.items()
    assert shown == [item["item_id"] for item in told.value.json()["items"]][: len(shown)]
    assert shown[:5] == before[:5]  # the rest is of now: what is popular moves with the minutes


def test_a_kept_click_is_an_event_of_what_was_shown(kept: Opened, keeping: httpx.Client, hopper: str) -> None:
    page = kept.open(hopper)
    asked = {"user_id": hopper, "candidates": ["a"], "preview": True}
    length = keeping.post("/rank", json=asked).json()["history"]["length"]
    with page.expect_response("**/recommend"):
        page.get_by_label("kept", exact=True).check(force=True)
    kept.settle()
    item = kept.items()[1]
    with page.expect_request("**/events") as told:
        page.locator(".item .pick").nth(1).click()
    kept.says(f"^{item} clicked, kept")
    (event,) = json.loads(told.value.post_data or "")["events"]
    assert event["item_id"] == item
    assert event["position"] == 1
    assert event["impression_id"]
    assert keeping.post("/rank", json=asked).json()["history"]["length"] == length + 1
    newest = keeping.get(f"/users/{hopper}/themes").json()["events"][-1]
    assert newest["item_id"] == item


def test_everything_goes_by_keyboard_and_the_focus_is_never_lost(opened: Opened, hopper: str) -> None:
    page = opened.open(hopper)
    met = []
    for _ in range(12):
        page.keyboard.press("Tab")
        met.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert met[:10] == ["skip", "SUMMARY", "user", "another", "INPUT", "replay", "as-of", "SUMMARY", "beside", "pick"]
    first = opened.items()[0]
    page.locator(".pick").first.focus()
    page.keyboard.press("Enter")
    opened.says(f"^{first} clicked")
    expect(page.locator('.item[data-rank="1"] .pick')).to_be_focused()
    page.locator("#undo").focus()
    page.keyboard.press("Enter")
    opened.says("forgotten")
    expect(page.locator('.item[data-rank="1"] .pick')).to_be_focused()


def test_two_models_stand_side_by_side_on_the_same_clicks(opened: Opened, server: httpx.Client, hopper: str) -> None:
    page = opened.open(hopper)
    assert page.get_by_label("Beside").locator("option").all_inner_texts() == ["no other model", "DIN, of the same run"]
    page.get_by_label("Beside").select_option("runner_up")
    opened.says("^Another model is shown beside")
    theme = other_theme(server, hopper)
    for _ in range(2):
        with page.expect_response(lambda answer: '"model":"runner_up"' in (answer.request.post_data or "")) as told:
            page.locator(f'.try[data-theme="{theme}"]').click()
        opened.says("clicked, not kept")
    asked, found = json.loads(told.value.request.post_data or ""), told.value.json()
    assert len(asked["suppose"]) == 2
    assert found["model_version"].endswith("-din")
    expect(page.locator("#other-gauge .steps li")).to_have_count(3)  # both lists are drawn
    lists = [page.locator(f"{each} .item") for each in ("#items", "#other-items")]
    mine, theirs = (each.evaluate_all("rows => rows.map((row) => row.dataset.item)") for each in lists)
    again = server.post("/recommend", json=asked | {"model": None}).json()["items"]
    assert mine[:5] == [item["item_id"] for item in again][:5]  # the rest is of now
    assert theirs == [item["item_id"] for item in found["items"]][:20]
    assert page.locator(".thread").count() == len(set(mine) & set(theirs))
    common = len(set(mine[:LISTED]) & set(theirs[:LISTED]))
    expect(page.locator("#common")).to_have_text(re.compile(f"^{common or 'No'} item"))
    expect(page.locator("#live")).to_contain_text(re.compile(r"DIN has \d+ of that theme"))
    themes = lists[1].evaluate_all("rows => rows.map((row) => row.dataset.theme)")
    expect(page.locator("#other-gauge").get_by_role("meter")).to_have_attribute(
        "aria-valuenow", str(themes[:LISTED].count(theme))
    )


def test_how_each_item_of_the_other_list_moved_is_told(opened: Opened, server: httpx.Client, hopper: str) -> None:
    page = opened.page
    with page.expect_response(
        lambda answer: answer.url.endswith("/recommend") and "model" not in (answer.request.post_data or "")
    ) as told:
        page.goto(f"{opened.url}/?user={hopper}&beside=runner_up")
    opened.settle()
    served = [item["item_id"] for item in told.value.json()["items"]]
    for place, row in enumerate(page.locator("#other-items .item").all()):
        item, said = row.get_attribute("data-item"), row.locator(".versus").inner_text()
        moved = served.index(item) - place if item in served else None
        wanted = "only here" if moved is None else "=" if not moved else f"{'▲' if moved > 0 else '▼'}{abs(moved)}"
        assert said == wanted
    row = page.locator("#other-items .item").first
    row.locator(".pick").focus()
    item = row.get_attribute("data-item")
    assert page.locator(".item.same").count() == 1 + (
        item in page.locator("#items .item").evaluate_all("rows => rows.map((row) => row.dataset.item)")
    )
    page.keyboard.press("Enter")
    opened.says(f"^{item} clicked, not kept")
    expect(page.locator("#other-items .item").first.locator(".pick")).to_be_focused()
    assert "beside=runner_up" in page.url
    page.get_by_label("Beside").select_option("")
    opened.says("^One model is shown")
    assert page.locator("#other-list, #other-head, #threads").locator("visible=true").count() == 0
    assert "beside" not in page.url


def test_a_kept_click_on_the_other_list_cites_no_ranking(kept: Opened, hopper: str) -> None:
    page = kept.page
    page.goto(f"{kept.url}/?user={hopper}&beside=runner_up")
    kept.settle()
    with page.expect_response("**/recommend"):
        page.get_by_label("kept", exact=True).check(force=True)
    kept.settle()
    with page.expect_request("**/events") as told:
        page.locator("#other-items .pick").first.click()
    kept.says("clicked, kept")
    (event,) = json.loads(told.value.post_data or "")["events"]
    assert event.keys() == {"user_id", "item_id"}


def test_the_slider_goes_back_event_by_event_and_ranks_as_of_then(
    opened: Opened, server: httpx.Client, hopper: str
) -> None:
    page = opened.open(hopper)
    slider = page.locator("#as-of")
    assert slider.get_attribute("aria-valuetext") == "now"
    slider.focus()
    with page.expect_request("**/recommend") as told:
        page.keyboard.press("ArrowLeft")
    opened.says("^As of after click")
    newest = server.get(f"/users/{hopper}/themes").json()["events"][-1]
    asked = json.loads(told.value.post_data or "")
    assert asked["at"] > newest["occurred_at"]
    shown = server.post("/recommend", json=asked).json()
    assert opened.items() == [item["item_id"] for item in shown["items"][:20]]
    assert shown["history"]["newest_event_at"] == newest["occurred_at"]
    for key, words in (("PageDown", "after click"), ("Home", "after click"), ("End", "now")):
        page.keyboard.press(key)
        expect(slider).to_have_attribute("aria-valuetext", re.compile(words))
    opened.settle()


def test_the_last_turn_is_replayed_click_by_click(opened: Opened, hopper: str) -> None:
    page = opened.open(hopper)
    page.get_by_role("button", name="Replay the last turn").click()
    expect(page.locator(".steps .when").last).to_have_text("click 2")
    page.get_by_role("button", name="Stop").click()
    opened.settle()
    expect(page.locator("#now-over")).to_have_text(f"{hopper} was then in")
    assert page.locator(".block.later").count()
    page.get_by_role("button", name="Back to now").click()
    expect(page.locator("#as")).to_have_text(f"for {hopper}, now")
    opened.settle()


def test_an_item_lights_up_the_clicks_that_carried_it(opened: Opened, server: httpx.Client, hopper: str) -> None:
    page = opened.open(hopper)
    items = opened.items()
    explained = server.post(
        "/rank", json={"user_id": hopper, "candidates": items, "explain": True, "preview": True}
    ).json()
    place = next(at for at, item in enumerate(items) if reasons_of(explained, item))
    page.locator(".pick").nth(place).focus()
    assert page.locator(".note.lit").count() > 0
    assert 0 < page.locator(".block.carries").count() <= len(reasons_of(explained, items[place]))
    page.locator("#user").focus()
    assert page.locator(".note.lit, .carries").count() == 0


def reasons_of(explained: dict[str, Any], item_id: str) -> list[dict[str, Any]]:
    return next(item["reasons"]["history"] for item in explained["items"] if item["item_id"] == item_id)


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_ranks_glide_unless_less_motion_is_wanted(
    browser: Browser, server: httpx.Client, hopper: str, motion: str
) -> None:
    for glided in tab(browser, server, reduced_motion=motion):
        glided.page.add_init_script(
            "window.glides = 0; const animate = Element.prototype.animate;"
            "Element.prototype.animate = function (...given) { window.glides++; return animate.apply(this, given); };"
        )
        page = glided.open(hopper)
        page.locator(f'.try[data-theme="{other_theme(server, hopper)}"]').click()
        glided.says("clicked")
        assert (page.evaluate("window.glides") > 0) == (motion == "no-preference")


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_and_nothing_is_cut_off(
    browser: Browser, server: httpx.Client, hopper: str, scheme: str, width: int
) -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == AXE_SHA256
    for seen in tab(browser, server, color_scheme=scheme, viewport={"width": width, "height": 900}):
        page = seen.open(hopper)
        assert seen.violations() == []
        page.locator(f'.try[data-theme="{other_theme(server, hopper)}"]').click()
        seen.says("clicked")
        for summary in page.locator("summary").all():
            summary.click()
        page.locator(".pick").first.focus()
        assert seen.violations() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_label("Beside").select_option("runner_up")
        seen.says("^Another model")
        page.locator("#other-items .pick").first.focus()
        assert seen.violations() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_where_nothing_is_recommended_that_is_said_and_nothing_is_at_fault(opened: Opened, hopper: str) -> None:
    def emptied(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"items": []})

    opened.page.route("**/recommend", emptied)
    opened.page.goto(f"{opened.url}/?user={hopper}")
    expect(opened.page.locator("#empty")).to_be_visible(timeout=MOST_S)
    opened.page.wait_for_load_state("networkidle")
    expect(opened.page.get_by_role("alert")).to_be_hidden()


def test_no_more_is_asked_for_than_the_bundle_recommends(opened: Opened, hopper: str) -> None:
    def lower(route: Route) -> None:
        told = route.fetch().json()
        told["limits"]["retrieval"]["num_candidates"] = 30
        route.fulfill(json=told)

    opened.page.route("**/info", lower)
    with opened.page.expect_request("**/recommend") as asked:
        opened.open(hopper)
    assert json.loads(asked.value.post_data or "")["k"] == 30


def test_a_past_that_comes_late_is_not_shown_as_somebody_else_s(
    opened: Opened, server: httpx.Client, hopper: str
) -> None:
    names = [name for name in server.get("/users").json()["users"] if name != hopper]
    other = next(name for name in names if server.get(f"/users/{name}/themes").json()["sessions"])
    page, held = opened.page, list[Route]()
    page.route(f"**/users/{hopper}/themes", lambda route: held.append(route))
    with page.expect_request(f"**/users/{hopper}/themes"):
        page.goto(f"{opened.url}/?user={hopper}")
    page.locator("#user").fill(other)
    page.keyboard.press("Enter")
    expect(page.locator(".item .why").first).not_to_be_empty(timeout=MOST_S)
    with page.expect_response(f"**/users/{hopper}/themes"):
        held[0].continue_()
    page.wait_for_load_state("networkidle")
    expect(page.locator("#as")).to_have_text(f"for {other}, now")
    expect(page.locator(".field")).to_have_attribute("aria-label", re.compile(f"of {other}, oldest first"))


def test_a_service_that_takes_long_is_waited_for_in_words(opened: Opened, hopper: str) -> None:
    page, held = opened.open(hopper), list[Route]()
    expect(page.locator("#waiting")).to_be_empty()
    page.route("**/recommend", lambda route: held.append(route))
    page.locator(".pick").last.click()
    expect(page.locator("#waiting")).to_have_text("Waiting for the service …")
    expect(page.locator("#waiting")).to_be_in_viewport()
    held[0].continue_()
    opened.says("clicked, not kept")
    expect(page.locator("#waiting")).to_be_empty()


def test_a_service_that_stops_is_seen_where_one_reads_and_asked_again_with_the_same_clicks(
    browser: Browser, server: httpx.Client, hopper: str
) -> None:
    stopped = Opened(browser, str(server.base_url).rstrip("/"))
    page = stopped.open(hopper)
    page.route("**/recommend", lambda route: route.abort())
    item = stopped.items()[-1]
    page.locator(".pick").last.click()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    page.unroute("**/recommend")
    with page.expect_response("**/recommend") as told:
        page.get_by_role("button", name="Try again").click()
    assert json.loads(told.value.request.post_data or "")["suppose"] == [item]
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#undo")).to_have_text("Undo 1 click")
    stopped.settle()
    stopped.context.close()
    assert all("net::ERR_FAILED" in each for each in stopped.complaints)


def test_the_longest_titles_widen_nothing(browser: Browser, server: httpx.Client, hopper: str) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnungsentwurf " * 3

    def named(route: Route) -> None:
        told = route.fetch().json()
        for item in told["items"]:
            item["title"] = long
        route.fulfill(json=told)

    for width in (1280, 390):
        for seen in tab(browser, server, viewport={"width": width, "height": 900}):
            seen.page.route("**/items?*", named)
            page = seen.open(hopper)
            assert page.locator(".pick").first.get_attribute("title") == long
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            tall = page.locator(".pick").first.evaluate("pick => pick.clientHeight > 40")
            assert tall == (width == 390)  # there it has three lines, or nobody would know which item it is


def test_who_was_here_once_did_not_turn(kept: Opened, keeping: httpx.Client, hopper: str) -> None:
    items = keeping.post("/recommend", json={"user_id": hopper, "k": 1, "preview": True}).json()["items"]
    event = {"user_id": "was here once", "item_id": items[0]["item_id"]}
    assert keeping.post("/events", json={"events": [event]}).status_code == 200
    page = kept.open("was here once")
    expect(page.locator("#now-since")).to_have_text(
        re.compile("^Their sessions began with .*; 1 click known in 1 session.$")
    )
    assert page.locator(".dates span").all_inner_texts()[0] != "now"


def test_a_log_of_another_time_has_its_own_now_and_years_are_told(opened: Opened, hopper: str) -> None:
    """The simulated log ended in 2024."""

    def earlier(route: Route) -> None:
        told = route.fetch().json()
        for place, session in enumerate(told["sessions"]):
            session["started_at"] = f"{2001 + place}{session['started_at'][4:]}"
        route.fulfill(json=told)

    page = opened.open(hopper)
    assert re.search(r"now in simulator\n\d+ \w+ 2024 \d\d:\d\d UTC", page.locator("#chips").inner_text())
    assert re.fullmatch(r"\d+ Jan", page.locator(".dates span").first.inner_text())
    page.route("**/themes", earlier)
    opened.open(hopper)
    assert page.locator(".dates span").first.inner_text() == "Jan 2001"


def test_a_refusal_is_said_in_the_services_words(browser: Browser, server: httpx.Client) -> None:
    url = str(server.base_url).rstrip("/")
    refused = Opened(browser, url)
    refused.page.goto(f"{url}/?user={'u' * 300}")
    expect(refused.page.get_by_role("alert")).to_contain_text("at most 256 characters")
    refused.context.close()
    assert refused.complaints  # the browser's own line about a status of 400, and no more
    assert all("400" in each for each in refused.complaints)
