"""The Space as people and programs meet it: the real app over a tiny real model of the made-up shop, in a Chromium.

The model is untrained: what is checked is that every answer arrives and is shown, not that it is good.
"""

import json
import re
import shutil
import urllib.request

import pytest
import torch
from shop import encode_pictures, make_codec

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration, load_image_processor
from processing_unimp import Catalogue, UniMPProcessor, make_demo_shop

gradio = pytest.importorskip("gradio", reason='the page needs gradio: pip install -e ".[demo]"')
playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright: pip install it")

from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from hub_cards.space.app import launch, load_answers, main, make_page  # noqa: E402
from hub_cards.space.shoppers import ready_shoppers  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
TASKS = ("recommend", "search", "rate", "explain", "select", "imagine")
HISTORY = ["mug-001", {"item_id": "lamp-002", "rating": 2}]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 48 items, as `train.py` saves one."""
    catalogue = Catalogue.from_items(make_demo_shop(num_items=48, num_shoppers=1)[0])
    codec = make_codec()
    encode_pictures(catalogue, codec)
    processor = UniMPProcessor.from_backbones(
        "tiny", load_image_processor("tiny"), catalogue, query_attribute="category", num_codes=codec.num_codes
    )
    torch.manual_seed(0)
    model = UniMPForConditionalGeneration.from_backbones(
        text_model="tiny",
        vision_model="tiny",
        catalogue=catalogue,
        processor=processor,
        num_codes=codec.num_codes,
        codes_per_picture=codec.codes_per_picture,
        num_latents=2,
        resampler_depth=1,
        initial_gate=0.5,
    )
    model.image_codec = codec
    target = tmp_path_factory.mktemp("space") / "unimp"
    PersonalizationPipeline(model=model.eval(), processor=processor).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def answers(folder):
    return load_answers(str(folder))


@pytest.fixture(scope="module")
def address(answers):
    page = make_page(answers, ready_shoppers(answers.catalogue, answers.history_length))
    yield launch(page, server_name="127.0.0.1", quiet=True)
    page.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A visitor at a desk, who has the first recommendations before her; nothing may go wrong in the console."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.set_default_timeout(20_000)
    page.wait_for_selector("#for-you .product")
    yield page
    page.close()
    assert not wrong


def titles(page, where: str) -> list[str]:
    return page.locator(f"{where} .title").all_inner_texts()


def wait_until(page, what: str) -> None:
    """`what` is JavaScript that becomes true."""
    page.wait_for_function(what)


def test_another_shopper_gets_other_recommendations(page):
    before, taken = page.locator("#for-you").inner_text(), page.locator("#history").inner_text()
    assert len(titles(page, "#for-you")) == 12 and page.locator("#for-you .bar").count() == 12
    page.get_by_role("button", name="Shopper 2").click()
    page.locator("#who button[aria-pressed=true]", has_text="Shopper 2").wait_for()
    for part, old in (("#history", taken), ("#for-you", before)):
        page.wait_for_function(f"old => document.querySelector('{part}').innerText !== old", arg=old)
    assert page.locator("#for-you .product").count() == 12


def test_a_history_is_built_from_pictures_and_stars(page):
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Nothing yet. Press + on any item").wait_for()
    page.locator("#who button[aria-pressed=true]").wait_for(state="detached")  # nobody's history
    page.locator("#for-you").get_by_text("Pick a shopper").wait_for()
    page.get_by_role("button", name="Add items").click()
    wait_until(page, "() => document.activeElement.closest('#filter')")
    page.keyboard.type("mug")
    wait_until(page, "() => [...document.querySelectorAll('#shop-items .title')].every(e => /mug/.test(e.innerText))")
    first, second = titles(page, "#shop-items")[:2]
    page.locator("#shop-items .corner").nth(0).click()
    page.locator("#history li").wait_for()
    page.locator("#shop-items .corner").nth(1).click()
    wait_until(page, "() => document.querySelectorAll('#history li').length === 2")
    assert titles(page, "#history") == [second, first], "the latest first"
    page.locator("#history li").first.get_by_label("4 stars").click()
    page.locator("#history li").first.locator("[aria-pressed=true][aria-label='4 stars']").wait_for()
    page.locator("#history li").last.get_by_label(f"Remove {first}").click()
    wait_until(page, "() => document.querySelectorAll('#history li').length === 1")
    page.get_by_role("tab", name="For you").click()
    page.locator("#for-you .product").first.wait_for()
    assert second not in titles(page, "#for-you")


def test_an_item_tells_its_stars_and_an_explanation_and_why(page):
    name = titles(page, "#for-you")[0]
    page.locator("#for-you .face").first.click()
    page.locator("#about .reasons").wait_for()
    sheet = page.locator("#about")
    assert sheet.get_by_role("heading", name=name).is_visible()
    shares = [float(share) for share in re.findall(r"([\d.]+)%", sheet.locator(".levels").inner_text())]
    assert len(shares) == 5 and 99 <= sum(shares) <= 101
    assert 1 <= float(sheet.locator(".rating p b").inner_text()) <= 5
    assert sheet.locator("blockquote").inner_text()
    assert sorted(titles(page, "#about")) == sorted(titles(page, "#history"))
    assert re.search("likel|no effect", sheet.locator(".reasons").inner_text())
    wait_until(page, "() => document.activeElement.id === 'close'")
    page.keyboard.press("Escape")
    page.locator("#sheet").wait_for(state="hidden")
    wait_until(page, "() => document.activeElement.matches('#for-you .face')")


def test_an_item_is_added_with_stars_from_its_sheet(page):
    name = titles(page, "#for-you")[1]
    page.locator("#for-you .face").nth(1).click()
    page.locator("#about").get_by_label("5 stars").click()
    page.locator("#sheet").wait_for(state="hidden")
    page.locator("#history li", has_text=name).wait_for()
    assert page.locator("#history li").first.locator("[aria-pressed=true]").get_attribute("aria-label") == "5 stars"


def test_search_is_reached_and_asked_by_keyboard_alone(page):
    page.get_by_role("tab", name="For you").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#search").wait_for()
    for _ in range(12):
        if page.evaluate("document.activeElement.closest('#search') !== null"):
            break
        page.keyboard.press("Tab")
    page.keyboard.type("hat")
    page.keyboard.press("Enter")
    page.locator("#found .product").first.wait_for()
    page.locator(".chips button:visible", has_text="mug").click()
    playwright.expect(page.locator("#search textarea, #search input")).to_have_value("mug")
    page.locator("#found .face").first.press("Enter")
    page.locator("#about .reasons").wait_for()
    assert "chance" in page.locator("#about").inner_text()


def test_ticked_candidates_are_chosen_from(page):
    page.get_by_role("tab", name="Choose").click()
    page.get_by_role("button", name="Choose", exact=True).click()
    page.get_by_text("Nothing is ticked yet").wait_for()
    names = [titles(page, "#candidates")[place] for place in (2, 5)]
    for number, name in enumerate(names, start=1):
        page.get_by_role("checkbox", name=name).first.click()
        page.get_by_text(f"{number} ticked").wait_for()
    page.get_by_role("button", name="Choose", exact=True).click()
    page.locator("#selected .product").first.wait_for()
    assert sorted(titles(page, "#selected")) == sorted(names)
    assert page.locator("#selected .verdict", has_text="suits").count() >= 1


def test_a_wish_becomes_a_picture(page):
    page.get_by_role("tab", name="Imagine").click()
    page.locator("#imagine textarea, #imagine input").fill("teal mug")
    page.keyboard.press("Enter")
    page.locator("#imagined figure img").wait_for()
    assert page.locator("#imagined figcaption b").inner_text() == "teal mug"
    assert page.evaluate("document.querySelector('#imagined figure img').naturalWidth") == 8
    assert page.locator("#imagined .product").count() == 2 + 6
    drawn = page.locator("#imagined figure img").get_attribute("src")
    page.get_by_role("button", name="Another picture").click()
    page.wait_for_function("old => document.querySelector('#imagined figure img').src !== old", arg=drawn)
    page.get_by_role("button", name="Shopper 3").click()  # for whom nothing was drawn
    page.locator("#imagined figure").wait_for(state="detached")


def test_what_cannot_be_answered_is_told_in_words(page):
    """Characters that no word is left of: the pipeline refuses such a query."""
    page.get_by_role("tab", name="Search").click()
    page.locator("#search textarea, #search input").fill("\u200b\u2060")
    page.keyboard.press("Enter")
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    assert "expected a text such as" in toast.inner_text() and "Traceback" not in toast.inner_text()


def test_a_page_shows_what_is_on_sale_when_it_is_loaded(page, answers):
    first = "#shop-items [data-action=open][data-item='0']"
    page.get_by_role("tab", name="The shop").click()
    page.locator(first).wait_for()
    answers.catalogue.retire([answers.catalogue.item_id(0)])
    try:
        page.reload()
        page.wait_for_selector("#for-you .product")
        page.get_by_role("tab", name="The shop").click()
        page.locator(first.replace("'0'", "'1'")).wait_for()
        assert page.locator(first).count() == 0
    finally:
        answers.catalogue.unretire([answers.catalogue.item_id(0)])


def test_a_phone_shows_all_without_scrolling_sideways(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(address)
    page.wait_for_selector("#for-you .product")
    for name in ("For you", "Search", "Choose", "Imagine", "The shop"):
        page.get_by_role("tab", name=name).click(timeout=5_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#shop-items .face").first.tap()
    page.locator("#about .levels").wait_for()
    box = page.locator("#sheet").bounding_box()
    assert box["x"] == 0 and box["width"] <= 390
    page.close()


def test_every_task_is_a_rest_endpoint(address):
    client = Client(address, verbose=False)
    given = {
        task: client.predict(HISTORY, *more, api_name=f"/{task}")
        for task, more in {
            "recommend": [3],
            "search": ["hat", 2],
            "rate": ["mug-003"],
            "explain": ["mug-003"],
            "select": [["mug-003", {"title": "Tin mug", "category": "mug"}]],
            "imagine": ["mug"],
        }.items()
    }
    assert {task: answer["task"] for task, answer in given.items()} == {task: task for task in TASKS}
    assert len(given["recommend"]["items"]) == 3 and len(given["search"]["items"]) == 2
    assert sum(given["rate"]["probabilities"].values()) == pytest.approx(1)
    assert [item["selected"] for item in given["select"]["items"]].count(True) >= 1
    assert given["imagine"]["picture"].startswith("data:image/png;base64,")
    with pytest.raises(AppError, match="^the item: item 'mug-999' is not among the 48 items"):
        client.predict(HISTORY, "mug-999", api_name="/rate")
    assert client.predict([], 3, api_name="/recommend")["without_history"] is True
    with pytest.raises(AppError, match="history"):
        client.predict("mug", 3, api_name="/recommend")


def test_a_model_that_is_not_there_is_told_in_words(tmp_path):
    with pytest.raises(SystemExit, match="(?s)no model at .*nowhere.*make demo"):
        main(["--model", str(tmp_path / "nowhere")])


def test_every_task_is_a_tool_and_nothing_else_is(address):
    with urllib.request.urlopen(f"{address}gradio_api/mcp/schema") as reply:
        tools = {tool["name"].split("_")[-1]: tool for tool in json.load(reply)}
    assert set(tools) == set(TASKS)
    assert "best first" in tools["recommend"]["description"]
    arguments = tools["search"]["inputSchema"]["properties"]
    assert set(arguments) == {"history", "query", "top_k"} and "latest last" in arguments["history"]["description"]
    with urllib.request.urlopen(f"{address}gradio_api/info") as reply:
        assert set(json.load(reply)["named_endpoints"]) == {f"/{task}" for task in TASKS}
