"""Answers end when nobody waits for them: a real server, and pictures of 4,096 codes, which take half a minute."""

import json
import shutil
import threading

import pytest
from shop import make_imagining_model

from modeling_unimp import PersonalizationPipeline

gradio = pytest.importorskip("gradio", reason='the page needs gradio: pip install -e ".[demo]"')

import httpx  # noqa: E402
from gradio_client import Client  # noqa: E402

from hub_cards.space import stopping  # noqa: E402
from hub_cards.space.answers import Answers  # noqa: E402
from hub_cards.space.app import MAX_QUEUED, launch, make_page  # noqa: E402
from hub_cards.space.panels import Panels  # noqa: E402

NUM_CODES = 4096
HISTORY = ["m1", {"item_id": "s2", "rating": 2}]
TAKEN = [{"item_id": "m1", "rating": 5.0}]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Steps:
    """Counts the forwards of a model, each of which writes at most one token; the one with number `hold` waits."""

    def __init__(self, model) -> None:
        self.done, self.hold = 0, None
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.hook = model.register_forward_hook(self.count)

    def count(self, *_) -> None:
        self.done += 1
        if self.done == self.hold:
            self.reached.set()
            assert self.go_on.wait(30)


@pytest.fixture(scope="module")
def answers() -> Answers:
    model, processor = make_imagining_model(side=256)
    assert model.image_codec.codes_per_picture == NUM_CODES
    return Answers(PersonalizationPipeline(model=model, processor=processor))


@pytest.fixture
def steps(answers):
    steps = Steps(answers.pipeline.model)
    yield steps
    steps.go_on.set()
    steps.hook.remove()


@pytest.fixture(scope="module")
def address(answers):
    page = make_page(answers, [TAKEN])
    yield launch(page, server_name="127.0.0.1", quiet=True)
    page.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def ask(address: str, task: str, *values) -> str:
    """Send a call, whose answer is fetched from the address that comes back."""
    reply = httpx.post(f"{address}gradio_api/call/{task}", json={"data": [HISTORY, *values]}).raise_for_status()
    return f"{address}gradio_api/call/{task}/{reply.json()['event_id']}"


def answer(address: str, task: str, *values):
    """The answer to a call, or the words of its error."""
    lines = httpx.get(ask(address, task, *values), timeout=60).text.split("\n")
    event, data = [line.split(": ", 1)[1] for line in lines if ": " in line][-2:]
    return json.loads(data)[0] if event == "complete" else json.loads(data)["error"]


def check_that_it_stopped(address: str, steps: Steps) -> None:
    """What is asked next is answered although the picture is not finished."""
    # Made by the same thread as the picture, so that after it the picture's last step is over.
    assert answer(address, "explain", "m2")["task"] == "explain"
    assert steps.done < NUM_CODES


def check_that_no_step_follows(address: str, steps: Steps) -> None:
    before = steps.done
    assert answer(address, "rate", "m2")["task"] == "rate"
    assert steps.done == before + 1


def test_a_picture_is_not_drawn_on_for_a_stream_that_was_left(address, steps):
    with httpx.stream("GET", ask(address, "imagine", "hat"), timeout=60) as stream:
        assert next(line for line in stream.iter_lines() if line) == "event: generating"
    check_that_it_stopped(address, steps)
    check_that_no_step_follows(address, steps)


@pytest.mark.parametrize("task", ["recommend", "rate"])
def test_nothing_is_held_up_by_an_answer_whose_stream_was_left(address, steps, task):
    steps.hold = 1
    with httpx.stream("GET", ask(address, task, *["m2"] * (task == "rate")), timeout=60) as stream:
        assert steps.reached.wait(30)
        assert next(line for line in stream.iter_lines() if line) == "event: generating"
    steps.go_on.set()
    check_that_no_step_follows(address, steps)


def test_a_picture_is_not_drawn_on_for_a_client_that_cancels(address, steps):
    client = Client(address, verbose=False)
    job = client.submit(HISTORY, "hat", api_name="/imagine")
    while not job.outputs():  # which come while it draws
        assert not job.done()
    job.cancel()
    check_that_it_stopped(address, steps)
    check_that_no_step_follows(address, steps)


def open_page(browser, address: str):
    """A page that has its first answers: while it loads, a slow machine may lose a click."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#for-you .product")
    return page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")
@pytest.mark.parametrize("leave", ["close the page", "press stop", "change the history"])
def test_a_picture_is_not_drawn_on_for_a_page_that_does_not_want_it(address, browser, steps, leave):
    page = open_page(browser, address)
    page.get_by_role("tab", name="Imagine").click()
    page.locator("#imagine textarea, #imagine input").fill("hat")
    page.keyboard.press("Enter")
    page.locator("#drawing").get_by_text("drawing").wait_for()
    if leave == "press stop":
        page.get_by_role("button", name="Stop").click()
    elif leave == "change the history":
        page.locator("#history").get_by_label("1 star", exact=True).click()
    if leave != "close the page":
        page.locator("#drawing").wait_for(state="hidden")
        check_that_it_stopped(address, steps)
    page.close()
    check_that_it_stopped(address, steps)
    check_that_no_step_follows(address, steps)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")
def test_a_sheet_is_not_filled_on_when_it_is_closed(address, browser, steps):
    page = open_page(browser, address)
    steps.hold = steps.done + 4  # one forward for the stars, then one a word
    page.locator("#for-you .face").first.click()
    assert steps.reached.wait(30)
    with page.expect_response("**/cancel"):
        page.get_by_role("button", name="Close").click()
    steps.go_on.set()
    page.locator("#about .top").wait_for(state="detached")
    assert steps.done == steps.hold
    page.locator("#for-you .face").last.click()
    page.locator("#about .reasons").wait_for()
    page.close()


def test_more_requests_than_can_wait_are_refused_in_words(address, answers, steps):
    steps.hold = 1
    picture = ask(address, "imagine", "hat")
    assert steps.reached.wait(30)
    url, waiting = f"{address}gradio_api/call/recommend", []
    while (reply := httpx.post(url, json={"data": [HISTORY, 1]})).status_code == 200:
        waiting.append(f"{url}/{reply.json()['event_id']}")
    assert reply.status_code == 503 and "Queue is full" in reply.json()["detail"]
    assert 0 < len(waiting) <= MAX_QUEUED
    steps.go_on.set()
    with httpx.stream("GET", picture, timeout=60):  # and leave it
        pass
    for each in waiting:
        assert "event: complete" in httpx.get(each, timeout=60).text


def test_an_answer_that_takes_too_long_ends_in_words(address, steps, monkeypatch):
    monkeypatch.setattr(stopping, "MAX_SECONDS", 1.0)
    assert answer(address, "imagine", "hat").startswith("The answer takes longer than 1 seconds here.")
    assert 0 < steps.done < NUM_CODES


def test_words_are_not_written_on_when_the_sheet_is_closed(answers, steps):
    steps.hold = 4  # one forward for the stars, then one a word
    sheet = stopping.stoppable(Panels(answers).sheet, meanwhile="nothing new")(TAKEN, "h1", {})
    shown = []
    while not steps.reached.is_set():
        shown.append(next(sheet))
    assert "In words" in shown[1] and shown[-1] == "nothing new"
    sheet.close()
    steps.go_on.set()
    # Made by the same thread, so after the word that was being written.
    assert list(stopping.stoppable(lambda: "next")()) == ["next"]
    assert steps.done == steps.hold
    *_, whole = stopping.stoppable(Panels(answers).sheet)(TAKEN, "h1", {})
    assert "Why?" in whole and "thinking" not in whole


def test_what_is_stoppable_gives_what_the_function_gives(answers):
    assert list(stopping.stoppable(answers.rate)(["m1"], "h1")) == [answers.rate(["m1"], "h1")]
    *_, explained = stopping.stoppable(answers.explain)(["m1"], "h1")
    assert explained == answers.explain(["m1"], "h1")
    with pytest.raises(ValueError, match="m9"):
        list(stopping.stoppable(answers.rate)(["m1"], "m9"))
