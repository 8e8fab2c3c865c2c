"""The page for people, in a real Chromium against a real `palate serve`: by keyboard, on a phone, with a key, when things fail."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from palate.serve import keys
from palate.serve.shelf import version_of

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: Debian's package is `chromium`")
PAGE = Path(__file__).parents[2] / "palate" / "serve" / "page"
VIEWS = {"recommend": ".slate > li", "stages": ".stage", "survey": ".question", "person": ".tile", "dashboard": ".tile"}
"""Each view, and what stands on it once it is drawn."""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SECONDS = 240_000  # that a sentence may take to appear on a busy machine, in milliseconds
expect.set_options(timeout=SECONDS)
Running = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def place(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of its own, `films`, and a folder to keep things in."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(films, folder / "films")
    return folder


@pytest.fixture(scope="module")
def url(place: Path, running: Running) -> Iterator[str]:
    with running(place / "films", "--store", str(place / "events.db")) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"])
        yield started
        started.close()


class Visit:
    """Pages of one visitor, and all that went wrong on them."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.expected = ""  # a pattern of what may go wrong
        page.set_default_timeout(2 * SECONDS)
        page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, hash: str = "") -> Page:
        self.page.goto(f"{self.url}/{hash}")
        return self.page

    @property
    def slate(self) -> list[str]:
        return self.page.locator("#recommend .slate > li").evaluate_all("rows => rows.map(row => row.dataset.item)")

    def said(self, text: str | re.Pattern[str]) -> None:
        """What the page says has changed, to eyes and to screen readers."""
        expect(self.page.locator("#recommend .changes")).to_contain_text(text)
        expect(self.page.locator("#announce")).to_contain_text(text)

    def known(self, user: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/v1/users/{user}", timeout=SECONDS / 1000).json())

    def slates(self, user: str, count: int) -> list[dict[str, Any]]:
        """What was shown to them, once so many slates are kept: nobody waits for that who is answered."""
        until = time.monotonic() + SECONDS / 1000
        while len(found := self.known(user)["slates"]) < count and time.monotonic() < until:
            time.sleep(0.05)
        assert len(found) == count
        return list(found)

    def kinds(self, user: str) -> list[str]:
        return [event["kind"] for event in self.known(user)["events"] if event["kind"] != "impression"]


@contextmanager
def visiting(browser: Browser, url: str, **settings: Any) -> Iterator[Visit]:
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **settings})
    visit = Visit(context.new_page(), url)
    try:
        yield visit
    finally:
        context.close()
    assert [text for text in visit.wrong if not (visit.expected and re.search(visit.expected, text))] == []
    assert {httpx.URL(asked).host for asked in visit.asked} <= {httpx.URL(url).host}, "a request left the host"


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    with visiting(browser, url) as made:
        yield made


# -- the main path ----------------------------------------------------------------------------------------------------------------


def press_until(page: Page, key: str, label: str, most: int = 60) -> None:
    """Presses a key until what has the focus is called so."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent").startswith(label):
            return
    raise AssertionError(f"{label!r} was not reached")


def test_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.open()
    expect(page.get_by_text("Choose a person above")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "combobox":
            break
    page.keyboard.type("p1")
    expect(page.get_by_role("option", name="p1", exact=True)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("combobox", name="Person")).to_have_attribute("aria-activedescendant", re.compile("."))
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="For person p1")).to_be_visible()
    expect(page.locator(".slate > li")).to_have_count(10)
    before = visit.slate
    press_until(page, "Tab", "Open ")
    first = page.evaluate("document.activeElement.closest('li').dataset.item")
    assert first == before[0]
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Similar to it")
    expect(dialog.locator(".near li").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    visit.said(re.compile(r"After you opened .*: .*gone"))
    assert first not in visit.slate  # what was opened is known now
    expect(page.locator(".slate button:focus")).to_have_count(1)  # the focus stays in the slate
    press_until(page, "Tab", "Rate ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    rated = page.evaluate("document.activeElement.closest('li').dataset.item")
    page.keyboard.press("Enter")
    visit.said("After you rated ")
    press_until(page, "Tab", "Hide ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Not for me").first).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Not for me").first).to_be_focused()
    page.keyboard.press("Enter")
    visit.said("After you hid ")
    assert visit.kinds("p1") == ["click", "rating", "hide"]
    known = {event["kind"]: event for event in visit.known("p1")["events"]}
    assert (known["rating"]["item"], known["rating"]["value"]) == (rated, 3.0)
    assert known["hide"]["reason"] == "not for me"
    assert known["click"]["position"] == 0
    slates = {slate["recommendation"] for slate in visit.slates("p1", 4)}
    assert {event["recommendation"] for event in known.values()} <= slates


def test_what_is_hidden_never_comes_back(visit: Visit) -> None:
    page = visit.open("#/recommend?user=p2")
    expect(page.locator(".slate > li")).to_have_count(10)
    hidden = visit.slate[2]
    page.locator(".slate > li").nth(2).locator("summary").click()
    page.locator(".slate > li").nth(2).get_by_role("button", name="Not now").click()
    visit.said(re.compile("After you hid .*: .* gone"))
    assert hidden not in visit.slate
    page.reload()
    expect(page.locator(".slate > li")).to_have_count(10)
    page.get_by_label("Show again what they know").check()
    page.get_by_label("How many", exact=True).fill("60")
    expect(page.locator(".slate > li").nth(40)).to_be_attached()
    assert hidden not in visit.slate


def test_somebody_new(visit: Visit) -> None:
    page = visit.open()
    page.get_by_label("Somebody new").check()
    box = page.get_by_role("combobox", name="Add a title")
    for text in ("film 3,", "film 11,"):
        box.fill(text)
        expect(page.get_by_role("option").first).to_contain_text(text, ignore_case=True)
        box.press("Enter")
    expect(page.locator("#recommend .rests")).to_contain_text("Film 11, or")
    expect(page.locator("#recommend .rests")).to_contain_text("Film 3, or")
    both = visit.slate
    page.locator(".slate > li").first.get_by_role("button", name=re.compile("^Like")).click()
    visit.said("After you liked ")
    assert visit.slate != both
    page.get_by_role("button", name=re.compile("^Remove Film 11")).click()
    expect(page.locator("#recommend .rests")).not_to_contain_text("Film 11, or")
    expect(box).not_to_be_focused()
    page.get_by_role("button", name="Start afresh").click()
    expect(page.get_by_text("Choose a person above")).to_be_visible()
    page.get_by_role("button", name="Go without any").click()
    expect(page.locator(".slate > li")).to_have_count(10)
    expect(page.locator("#recommend .rests")).to_contain_text("Nothing is known of them yet")


def test_impressions_are_what_was_on_the_screen(visit: Visit) -> None:
    page = visit.open("#/recommend?user=p3")
    expect(page.locator(".slate > li")).to_have_count(10)
    until = time.monotonic() + 240
    while not (found := [event for event in visit.known("p3")["events"] if event["kind"] == "impression"]):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert [event["item"] for event in found] == visit.slate[: len(found)]
    assert 0 < len(found) < 10  # the last ones are below the edge
    page.locator(".slate > li").last.scroll_into_view_if_needed()
    while len(found) < 10:
        assert time.monotonic() < until
        time.sleep(0.1)
        found = [event for event in visit.known("p3")["events"] if event["kind"] == "impression"]
    assert sorted(event["position"] for event in found) == list(range(10))
    assert len({event["recommendation"] for event in found}) == 1


# -- knobs ------------------------------------------------------------------------------------------------------------------------


def test_knobs_change_the_slate_at_once_and_record_nothing(visit: Visit) -> None:
    page = visit.open("#/recommend?user=p4")
    expect(page.locator(".slate > li")).to_have_count(10)
    before = visit.slate
    page.get_by_label("beta", exact=True).fill("0.95")
    visit.said(re.compile(r"With these knobs: \d+ (new|moved)"))
    expect(page.get_by_text("Preview, not recorded")).to_be_visible()
    diverse = visit.slate
    assert diverse != before
    assert page.locator(".slate .badge").count() > 0
    page.get_by_role("switch", name="mmr").uncheck()
    expect(page.get_by_label("beta", exact=True)).to_be_hidden()
    page.wait_for_function(
        "before => before.join() !== [...document.querySelectorAll('.slate > li')].map(row => row.dataset.item).join()", arg=diverse
    )
    page.get_by_role("button", name="As the bundle has them").click()
    visit.said("nothing changed")
    assert visit.slate == before
    expect(page.get_by_label("beta", exact=True)).to_have_value("0.2")
    visit.slates("p4", 1)
    page.get_by_label("beta, as a slider").fill("1")
    page.get_by_role("button", name="Serve it").click()
    visit.said("Served with these knobs")
    expect(page.get_by_text("Preview, not recorded")).to_be_hidden()
    visit.slates("p4", 2)
    expect(page.locator(".lacks")).to_have_text(
        'This bundle has no reranker for freshness, nor for exploration. Add use = "freshness", use = "epsilon_greedy" under [[rerank]] '
        "in its recipe to have it here."
    )


def test_filters_are_built_from_columns(visit: Visit) -> None:
    page = visit.open("#/recommend?user=p5")
    expect(page.locator(".slate > li")).to_have_count(10)
    page.get_by_label("Column").select_option("year")
    expect(page.get_by_label("Comparison")).to_have_value(">=")
    page.get_by_label("Value").fill("soon")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("year holds numbers; write one.")).to_be_visible()
    page.get_by_label("Value").fill("1990")
    page.get_by_label("Value").press("Enter")
    expect(page.locator(".group .chips code")).to_have_text("year >= 1990")
    visit.said("With these knobs")
    page.get_by_label("Column").select_option("genres")
    page.get_by_label("Value").fill('Horror"')  # a quotation mark is part of the value
    page.get_by_label("Value").press("Enter")
    expect(page.locator("#recommend .changes")).to_contain_text("Nothing passes these filters.")
    page.get_by_role("button", name=re.compile("Remove the filter genres")).click()
    page.get_by_label("Value").fill("Horror")
    page.get_by_label("Value").press("Enter")
    expect(page.locator(".slate > li").first.locator(".columns")).to_contain_text("Horror")
    items = [httpx.get(f"{visit.url}/v1/items/{item}", timeout=240).json() for item in visit.slate]
    assert items
    assert all(item["year"] >= 1990 and "Horror" in item["genres"] for item in items)


def test_an_answer_that_comes_late_is_not_shown(visit: Visit) -> None:
    page = visit.open("#/recommend?user=p6")
    expect(page.locator(".slate > li")).to_have_count(10)
    held: list[Route] = []

    def three(request: Request) -> bool:
        return request.url.endswith("/v1/recommend") and json.loads(request.post_data or "{}")["k"] == 3

    def slow(route: Route) -> None:
        if three(route.request):
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/recommend", slow)
    with page.expect_request(three):
        page.get_by_label("How many", exact=True).fill("3")
    page.get_by_label("How many", exact=True).fill("7")
    expect(page.locator(".slate > li")).to_have_count(7)
    with suppress(PlaywrightError):  # the page has given it up
        held[0].continue_()
    page.wait_for_timeout(500)
    expect(page.locator(".slate > li")).to_have_count(7)
    page.unroute_all(behavior="ignoreErrors")


# -- the other views ----------------------------------------------------------------------------------------------------------------


def test_stages(visit: Visit) -> None:
    page = visit.open("#/stages?user=p7")
    stages = page.locator("#stages .stage")
    expect(stages).to_have_count(7)
    assert stages.locator("h2").all_text_contents() == ["popular", "item knn", "ease", "merged", "ranked by gbdt", "mmr", "slate"]
    assert stages.nth(3).locator("li small").first.text_content()  # which retrievers brought it
    expect(stages.nth(5).locator(".did")).to_have_text(re.compile(r"(\d+ (new|moved|gone)|Nothing changed)"))
    expect(stages.nth(6).locator(".did")).to_have_text("Nothing changed.")  # the last reranker made the slate
    shown = stages.nth(6).locator("li .name").all_text_contents()
    page.get_by_role("button", name="Show up to 50").click()
    assert stages.nth(4).locator("li").count() > 10
    assert visit.known("p7")["slates"] == []  # looking is not showing
    page.get_by_role("link", name="Recommend").click()
    expect(page.locator(".slate > li")).to_have_count(10)
    assert [text.strip() for text in page.locator(".slate h2 > span:first-child").all_text_contents()] == [text.strip() for text in shown]


def test_survey(visit: Visit) -> None:
    page = visit.open("#/survey?user=p8")
    expect(page.get_by_text("1 of 10")).to_be_visible()
    for place in range(8):
        expect(page.get_by_text(f"{place + 1} of 10")).to_be_visible()
        page.keyboard.press(str(1 + place % 5))
    expect(page.get_by_text("9 of 10")).to_be_visible()
    page.get_by_role("button", name="Leave it out").click()
    page.get_by_role("button", name="5 Very much").click()
    expect(page.get_by_role("heading", name="Thank you")).to_be_focused()
    expect(page.locator(".mean")).to_have_text("Their mean is 2.9 of 5, from 9 answers.")  # 1 2 3 4 5 1 2 3 5
    events = [event for event in visit.known("p8")["events"] if event["kind"] == "survey"]
    assert [event["value"] for event in events] == [1, 2, 3, 4, 5, 1, 2, 3, 5]
    assert [event["position"] for event in events] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    (slate,) = visit.slates("p8", 1)
    assert (slate["placement"], {event["recommendation"] for event in events}) == ("survey", {slate["recommendation"]})


def test_what_is_known_and_forgetting_it(visit: Visit) -> None:
    page = visit.open("#/recommend?user=p9")
    page.locator(".slate > li").first.get_by_role("button", name=re.compile("^Like")).click()
    visit.said("After you liked ")
    page.get_by_role("link", name="Person").click()
    expect(page.get_by_role("heading", name="What is known of person p9")).to_be_visible()
    expect(page.locator("#person table").first.locator("tbody tr").first).to_contain_text("like")
    page.get_by_role("button", name="Forget …").click()
    page.get_by_role("button", name="Leave it as it is").click()
    assert visit.kinds("p9") == ["like"]
    page.get_by_role("button", name="Forget …").click()
    page.get_by_role("button", name="Forget for good").click()
    expect(page.locator("#person .note", has_text=re.compile(r"Forgotten: \d+ events? and \d+ slates? removed\."))).to_be_visible()
    assert visit.known("p9")["events"] == []
    page.get_by_role("link", name="Recommend").click()
    page.locator(".slate > li").first.get_by_role("button", name=re.compile("^Like")).click()
    visit.said("This person was forgotten: what they do is not kept.")


@pytest.mark.parametrize("trouble", [None, "it is full"])
def test_what_is_said_of_an_event_stays_though_a_slate_was_asked_for_before(visit: Visit, trouble: str | None) -> None:
    """The slate comes late: after the click on the one before, and after what became of that."""
    visit.expected = "status of 503"
    page, held = visit.open("#/recommend?user=p17"), list[Route]()
    expect(page.locator(".slate > li")).to_have_count(10)
    if trouble is None:
        assert httpx.delete(f"{visit.url}/v1/users/p17", timeout=SECONDS / 1000).status_code == 200
        said = page.locator("#recommend .changes").get_by_text("This person was forgotten: what they do is not kept.")
    else:
        page.route("**/v1/events", lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": trouble}))
        said = page.locator("#recommend .problem").get_by_text("It is full. Try again in 1 s.")
    page.route("**/v1/recommend", lambda route: held.append(route), times=1)
    with page.expect_request("**/v1/recommend"):
        page.get_by_label("How many", exact=True).fill("7")
    page.locator(".slate > li").first.get_by_role("button", name=re.compile("^Like")).click()
    expect(said).to_be_visible()
    with suppress(PlaywrightError):  # the page has given it up
        held[0].continue_()
    page.wait_for_timeout(500)
    expect(said).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")


def test_dashboard_and_roll_back(visit: Visit, place: Path) -> None:
    page = visit.open("#/recommend?user=p10")
    page.locator(".slate > li").first.get_by_role("button", name=re.compile("^Like")).click()
    visit.said("After you liked ")
    old = page.locator("#version code").text_content()
    fresh = Path(shutil.copytree(place / "films", place / "fresh"))
    manifest = json.loads((fresh / "manifest.json").read_text())
    (fresh / "manifest.json").write_text(json.dumps({**manifest, "metrics": {"note": 1}}))
    newer = fresh.rename(place / f"films@{version_of(fresh)}").name
    assert httpx.post(f"{visit.url}/v1/bundles", json={"bundle": newer}, timeout=240).status_code == 200
    page.get_by_role("link", name="Dashboard").click()
    expect(page.locator("#dashboard .tile").first).to_contain_text("slates shown")
    for heading in (
        "Traffic",
        "Clicks by place",
        "Calibration",
        "Events by kind",
        "Versions",
        "A/B tests",
        "What exploring costs",
        "Return visits",
        "Decisions",
    ):
        expect(page.locator("#dashboard").get_by_role("heading", name=heading, exact=True)).to_be_visible()
    assert page.locator("#dashboard svg[role=img]").count() >= 4
    for plot in page.locator("#dashboard .figure").all():
        assert plot.locator("table tbody tr").count() > 0, "every plot has its table"
    expect(page.locator("#dashboard .refused").first).to_contain_text("No estimate: no slate of this version is older than 24 hours")
    expect(page.locator("#dashboard")).to_contain_text("promote")
    page.get_by_role("button", name="Roll back …").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#dashboard .badge", has_text="in service")).to_be_visible()
    expect(page.locator("#dashboard table", has_text="roll back")).to_be_visible()
    expect(page.locator("#version code")).to_have_text(str(old))
    page.locator("label", has_text="A day").click()
    expect(page.get_by_text("By hour, in UTC.")).to_be_visible()


# -- keys, errors, hostile data ---------------------------------------------------------------------------------------------------


def test_with_a_key(browser: Browser, films: Path, tmp_path: Path, running: Running) -> None:
    file = tmp_path / "keys.json"
    _, everything = keys.create(file, "all", ["recommend", "events", "admin"])
    _, little = keys.create(file, "shop", ["recommend"])
    with (
        running(films, "--store", str(tmp_path / "events.db"), "--keys", str(file)) as server,
        visiting(browser, server.url) as visit,
    ):
        visit.expected = "status of 40[13]"
        page = visit.open("#/dashboard")
        field = page.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        field.fill("palate_no")
        field.press("Enter")
        expect(page.locator("#trouble .problem")).to_be_visible()
        field.fill(everything)
        field.press("Enter")
        expect(page.get_by_text("Nothing happened in the last 28 days.")).to_be_visible()  # and what to do about it
        expect(page.locator("#dashboard .empty")).to_contain_text("Choose a person under Recommend and open a few things")
        assert everything not in page.content()
        page.evaluate("sessionStorage.clear()")
        page.reload()
        field.fill(little)
        field.press("Enter")
        expect(page.locator("#dashboard .problem")).to_be_visible()  # this one may not look at everything
        page.get_by_role("link", name="Recommend").click()
        page.get_by_role("combobox", name="Person").fill("p1")
        page.get_by_role("option", name="Take “p1” as an id").click()  # nor list people
        expect(page.locator(".slate > li")).to_have_count(10)
        assert not any(little in asked or everything in asked for asked in visit.asked)


def test_errors_stand_in_words_where_they_belong(visit: Visit) -> None:
    visit.expected = "status of (429|500)|ERR_FAILED|ERR_CONNECTION"
    page = visit.open("#/recommend?user=p11")
    expect(page.locator(".slate > li")).to_have_count(10)
    page.route(
        "**/v1/events", lambda route: route.fulfill(status=429, headers={"Retry-After": "7"}, json={"error": "too many requests at once"})
    )
    like = page.locator(".slate > li").first.get_by_role("button", name=re.compile("^Like"))
    like.click()
    expect(page.locator("#recommend .problem")).to_contain_text("Too many requests at once. Try again in 7 s.")
    page.unroute("**/v1/events")
    page.get_by_role("button", name="Try again").click()
    visit.said("After you liked ")
    page.route("**/v1/recommend", lambda route: route.abort())
    page.get_by_label("beta", exact=True).fill("0.5")
    expect(page.locator("#recommend .problem")).to_contain_text("The service cannot be reached. Is it still running?")
    page.unroute("**/v1/recommend")
    page.get_by_role("button", name="Try again").click()
    visit.said("With these knobs")
    page.get_by_role("link", name="Dashboard").click()
    expect(page.locator("#dashboard .tile").first).to_be_visible()
    page.route("**/v1/dashboard*", lambda route: route.fulfill(status=500, body="<h1>oops</h1>"))
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#dashboard .problem")).to_contain_text("The service met an error of its own")


def test_opened_while_the_bundle_is_loaded(visit: Visit) -> None:
    visit.expected = "status of 503"
    page, calls = visit.page, []

    def loading(route: Route) -> None:
        calls.append(1)
        if len(calls) == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": "no bundle is loaded yet"})
        else:
            route.continue_()

    page.route("**/v1/about", loading)
    visit.open("#/recommend?user=p16")
    expect(page.locator("#trouble")).to_contain_text("No bundle is loaded yet. Try again in 1 s.")
    expect(page.locator(".slate > li")).to_have_count(10)  # it came by itself
    expect(page.locator("#trouble")).to_be_empty()


def test_titles_and_reasons_are_text_and_nothing_else(visit: Visit) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>" + "very" * 60

    def spoilt(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for one in body["items"]:
            one["title"] = one["reason"] = hostile
        for stage in body["stages"] or []:
            for one in stage["items"]:
                one["title"] = hostile
        route.fulfill(response=answer, json=body)

    page = visit.page
    page.set_viewport_size(NARROW)
    page.route("**/v1/recommend", spoilt)
    visit.open("#/recommend?user=p12")
    expect(page.locator(".slate > li h2").first).to_contain_text(hostile)
    for view in ("stages", "survey"):
        page.goto(f"{visit.url}/#/{view}?user=p12")
        expect(page.locator(f"#{view} h2").last).to_be_visible()
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert "taken" not in page.title()
    page.unroute_all(behavior="ignoreErrors")


def test_the_source_keeps_the_rules() -> None:
    """No HTML from text, no inline style or script, nothing from elsewhere: what the Content-Security-Policy forbids is not tried."""
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), file.name
        assert not re.search(r"""https?://(?!www\.w3\.org/2000/svg)""", text), file.name
        assert not re.search(r"\sstyle=|<style|\son\w+=\"", text), file.name


# -- for everybody ----------------------------------------------------------------------------------------------------------------

UNSOUND = """() => {
  const wrong = [];
  for (const { id } of document.querySelectorAll('[id]'))
    if (document.querySelectorAll('#' + CSS.escape(id)).length > 1) wrong.push('id twice: ' + id);
  for (const name of ['aria-controls', 'aria-describedby', 'aria-labelledby'])
    for (const node of document.querySelectorAll(`[${name}]`))
      for (const id of node.getAttribute(name).split(' '))
        if (node.checkVisibility() && !document.getElementById(id)) wrong.push(`${name} of ${node.outerHTML.slice(0, 80)} names nothing`);
  const headings = [...document.querySelectorAll('main h1')].filter((node) => node.checkVisibility());
  if (headings.length !== 1) wrong.push(headings.length + ' first headings');
  return wrong;
}"""

FAINT = """() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
  const linear = (value) => value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const light = ({ rgb: [r, g, b] }) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const found = parse(getComputedStyle(node).backgroundColor);
      if (found.a === 1) return found;
    }
    return { rgb: [255, 255, 255] };
  };
  const wrong = new Set();
  for (const node of document.querySelectorAll('body *')) {
    if (!node.checkVisibility({ opacityProperty: true }) || node.closest('.hidden, .skip, :disabled, option')) continue;
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
    const drawn = node instanceof SVGElement, style = getComputedStyle(node);
    const one = light(parse(drawn ? style.fill : style.color)), other = light(ground(drawn ? node.closest('figure') : node));
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) wrong.add(`${node.getAttribute('class')} "${node.textContent.slice(0, 20)}" ${ratio.toFixed(2)}`);
  }
  return [...wrong];
}"""

CONTROLS = {"button", "link", "textbox", "combobox", "checkbox", "switch", "radio", "slider", "spinbutton", "image", "dialog", "listbox"}


def unnamed(page: Page) -> list[str]:
    """Controls without a name in the accessibility tree: what a screen reader would be silent about."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    shown = [node for node in nodes if not node["ignored"]]
    focusable = [node for node in shown if any(one["name"] == "focusable" and one["value"]["value"] for one in node.get("properties", []))]
    controls = [node for node in shown if node["role"]["value"] in CONTROLS]
    assert len(controls) > 10
    silent = [node["role"]["value"] for node in controls + focusable if not node.get("name", {}).get("value", "").strip()]
    return [role for role in silent if role != "main"]  # which takes the focus from the skip link, and is known by its role


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_for_everybody(browser: Browser, url: str, scheme: str) -> None:
    """Names for all controls, contrast, one first heading, no sideways scrolling at 360 pixels, and light enough."""
    with visiting(browser, url, color_scheme=scheme, viewport=NARROW if scheme == "dark" else WIDE) as visit:
        page = visit.page
        bodies: list[int] = []
        page.on(
            "response",
            lambda response: bodies.append(int(response.headers.get("content-length", 0))) if "/v1/" not in response.url else None,
        )
        for view, drawn in VIEWS.items():
            bodies.clear()
            page.goto("about:blank")
            visit.open(f"#/{view}?user=p13")
            expect(page.locator(f"#{view} {drawn}").first).to_be_visible()
            page.wait_for_load_state("networkidle")
            assert 30_000 < sum(bodies) < 100_000, f"{view}: {sum(bodies)} bytes"
            if scheme == "dark":
                page.evaluate("document.querySelectorAll('details:not(.menu)').forEach((one) => (one.open = true))")
                page.wait_for_timeout(50)
            assert unnamed(page) == [], view
            assert page.evaluate(UNSOUND) == [], view
            assert page.evaluate(FAINT) == [], view
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), view
            assert page.get_by_role("main").count() == page.get_by_role("banner").count() == page.get_by_role("navigation").count() == 1


def test_the_first_slate_takes_few_requests(visit: Visit) -> None:
    visit.open("#/recommend?user=p14")
    expect(visit.page.locator(".slate > li")).to_have_count(10)
    asked = [httpx.URL(one).path for one in visit.asked]
    assert [asked.count(path) for path in ("/v1/about", "/v1/recommend")] == [1, 1]
    assert asked.index("/v1/recommend") <= 20  # what it is made of, and nobody asks for anything twice
    assert not any(path.startswith("/v1/items/") for path in asked[: asked.index("/v1/recommend")])
