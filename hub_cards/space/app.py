"""The Space: a shopper's history on the left, what one model answers on the right.

python -m hub_cards.space.app                      the model in ./unimp
python -m hub_cards.space.app --model ORG/NAME     a folder, or a name on the Hub
"""

import argparse
import functools
import html
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if not __package__:  # run as a file, as a Hub Space does: the packages lie two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gradio as gr
from transformers import pipeline
from transformers.utils import cached_file

import modeling_unimp  # noqa: F401  registers the pipeline
from hub_cards.space.answers import TASKS, Answers
from hub_cards.space.panels import Panels
from hub_cards.space.shoppers import ready_shoppers

STYLE = Path(__file__).with_name("style.css")
PAGE = 24  # items of the shop at once
FEW = 12  # items to tick at once

# A press on any button of ours becomes Gradio's click event, with what its data-* attributes say. What it changes is
# drawn anew; the keyboard stays where it was.
LISTEN = """
let last = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-say]");
  if (!button) return;
  last = `button[data-say="${CSS.escape(button.dataset.say)}"][data-item="${CSS.escape(button.dataset.item)}"]`;
  trigger("click", { ...button.dataset });
});
watch("value", () => {
  if (last && document.activeElement === document.body) element.querySelector(last)?.focus();
});
"""
ESCAPE = """<script>document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelector("#close")?.click();
});</script>"""
FOCUS_SHEET = "() => setTimeout(() => document.querySelector('#close')?.focus(), 50)"

History = list[dict[str, Any]]


def load_answers(model: str) -> Answers:
    """A trained model, ready to be asked.

    Args:
        model (`str`): a folder that `train.py` wrote, or a name on the Hub.
    """
    record = cached_file(model, "results.json", _raise_exceptions_for_missing_entries=False)
    trained = json.loads(Path(record).read_text())["recipe"]["data"]["tasks"] if record else TASKS
    return Answers(pipeline("personalization", model=model), trained)


def in_words(function: Callable[..., Any]) -> Callable[..., Any]:
    """A request that cannot be answered is told in the words of its `ValueError`, not as a stack trace."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise gr.Error(
                html.escape(str(error), quote=False), title="Not like this", print_exception=False
            ) from error

    return told


def in_words_as_it_comes(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`in_words` of a generator."""

    @functools.wraps(function)
    def told(*args: Any) -> Iterator[Any]:
        parts = function(*args)
        following = in_words(lambda: next(parts, None))
        while (part := following()) is not None:
            yield part

    return told


def with_item(history: History, item_id: str, stars: str | None) -> History:
    """The history with an item at its end, or the stars of one that is there."""
    rating = float(stars) if stars and stars != "0" else None
    if stars and any(entry["item_id"] == item_id for entry in history):
        return [{**entry, "rating": rating} if entry["item_id"] == item_id else entry for entry in history]
    return [entry for entry in history if entry["item_id"] != item_id] + [{"item_id": item_id, "rating": rating}]


def make_page(answers: Answers, shoppers: list[History]) -> gr.Blocks:
    """The page over one model.

    Args:
        answers (`Answers`): the model.
        shoppers (`list`): histories to choose from; the first is there at the start.
    """
    panels = Panels(answers)
    start = shoppers[0] if shoppers else []
    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
    at_once = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}

    with gr.Blocks(title="UniMP", fill_width=True) as page:
        history = gr.State(start)
        opened = gr.State(None)  # {"item_id", "asked"}: the item on the sheet
        ticked = gr.State([])
        most = gr.State(PAGE)
        board = functools.partial(gr.HTML, js_on_load=LISTEN, apply_default_css=False)

        def words_box(verb: str) -> tuple[Any, Any]:
            """A box that answers to Enter, and under it the commonest queries to press."""
            quick = answers.quick_queries()
            example = f"{verb}, e.g. {quick[0]}" if quick else verb
            box = gr.Textbox(show_label=False, placeholder=example, submit_btn=verb, elem_id=verb.lower())
            return box, board(panels.queries(quick), visible=bool(quick))

        gr.HTML(
            "<h1>UniMP</h1><p>One model reads what a shopper took, in pictures, words and stars, "
            f"and answers over a shop of {len(answers.catalogue):,} items.</p>",
            elem_id="masthead",
        )
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="shopper", scale=0, min_width=300):
                who = None
                if shoppers:
                    gr.HTML("<h2>Who is shopping?</h2>")
                    who = board(panels.shoppers(shoppers, 0))
                with gr.Row(elem_id="history-head"):
                    gr.HTML("<h2>History</h2><p class='note'>The latest first. Press the stars to change them.</p>")
                    clear = gr.Button("Clear", size="sm", scale=0, min_width=70)
                taken = board(panels.history(start), elem_id="history")
            with gr.Column(elem_id="answers", min_width=320):
                with gr.Tabs():
                    if "recommend" in answers.tasks:
                        with gr.Tab("For you"):
                            gr.HTML("<h2>What comes next</h2><p class='note'>Ranked over the whole shop.</p>")
                            for_you = board(elem_id="for-you")
                    if "search" in answers.tasks:
                        with gr.Tab("Search"):
                            gr.HTML("<h2>Search</h2><p class='note'>What fits the words and the shopper.</p>")
                            query, queries = words_box("Search")
                            found = board(panels.found(start, ""), elem_id="found")
                    if "select" in answers.tasks:
                        with gr.Tab("Choose"):
                            gr.HTML(
                                "<h2>Which of these suit?</h2><p class='note'>Tick some items; the model chooses.</p>"
                            )
                            choose = gr.Button("Choose among the ticked items", variant="primary", elem_id="choose")
                            selected = board(elem_id="selected")
                            filter_ticks = gr.Textbox(
                                show_label=False, placeholder="Filter the items to tick", elem_id="filter-ticks"
                            )
                            candidates = board(panels.candidates("", [], FEW), elem_id="candidates")
                    if "imagine" in answers.tasks:
                        with gr.Tab("Imagine"):
                            gr.HTML(
                                "<h2>Imagine</h2><p class='note'>A picture of something that fits the wish and the "
                                "shopper, and what the shop has most like it. Takes a few seconds.</p>"
                            )
                            wish, wishes = words_box("Imagine")
                            again = gr.Button("Another picture", size="sm", scale=0, min_width=140, visible=False)
                            seed = gr.State(0)
                            imagined = board(panels.imagined(start, "", 0), elem_id="imagined")
                    with gr.Tab("The shop"):
                        gr.HTML(
                            "<h2>The shop</h2><p class='note'>Press + to add an item to the history, "
                            "or the item to know more.</p>"
                        )
                        words = gr.Textbox(show_label=False, placeholder="Filter the items", elem_id="filter")
                        shelf = board(panels.shelf("", PAGE), elem_id="shelf")
                        more = gr.Button("Show more", size="sm", visible=len(answers.catalogue) > PAGE)
                for task, reason in answers.missing.items():
                    gr.HTML(f"<p class='note'>This model cannot {task}: {reason}.</p>", elem_classes="missing")
        with gr.Column(elem_id="sheet", visible=False) as sheet:
            close = gr.Button("Close", size="sm", elem_id="close")
            about = board(elem_id="about")

        def pressed(history: History, words: str, event: gr.EventData, *, task: str = "") -> Any:
            """A press on an item anywhere: what becomes of the history, and what the sheet shows."""
            item_id, stars = event.item, getattr(event, "stars", None)
            if event.say == "open":
                asked = {"task": task} | ({"query": words} if task == "search" else {}) if task else {}
                return gr.skip(), {"item_id": item_id, "asked": asked}
            if event.say == "remove":
                return [entry for entry in history if entry["item_id"] != item_id], gr.skip()
            return with_item(history, item_id, stars), None

        def listen(component: Any, words: Any = None, task: str = "") -> None:
            def handler(history: History, words: str, event: gr.EventData) -> Any:
                return pressed(history, words, event, task=task)

            component.click(handler, [history, words or opened], [history, opened], **at_once)

        def said(event: gr.EventData) -> str:
            return str(event.item)

        listen(taken)
        listen(shelf)
        listen(about)
        if who is not None:

            def chosen(event: gr.EventData) -> Any:
                number = int(event.item)
                return shoppers[number], panels.shoppers(shoppers, number)

            who.click(chosen, None, [history, who], **at_once)
        clear.click(lambda: [], None, history, **at_once)
        history.change(panels.history, history, taken, **at_once)

        if "recommend" in answers.tasks:
            listen(for_you, task="recommend")
            recommended = in_words(panels.recommended)
            gr.on([page.load, history.change], recommended, history, for_you, **one_at_a_time, show_progress="minimal")
        if "search" in answers.tasks:
            listen(found, query, task="search")
            looked_up = in_words(panels.found)
            queries.click(said, None, query, **at_once).then(
                looked_up, [history, query], found, **one_at_a_time, show_progress="minimal"
            )
            gr.on(
                [query.submit, history.change],
                looked_up,
                [history, query],
                found,
                **one_at_a_time,
                show_progress="minimal",
            )
        if "select" in answers.tasks:
            listen(selected)

            def tick(ticked: list[str], words: str, event: gr.EventData) -> Any:
                ticked = [each for each in ticked if each != event.item] + [event.item] * (event.item not in ticked)
                return ticked, panels.candidates(words, ticked, FEW)

            candidates.click(tick, [ticked, filter_ticks], [ticked, candidates], **at_once)
            filter_ticks.input(
                lambda words, ticked: panels.candidates(words, ticked, FEW),
                [filter_ticks, ticked],
                candidates,
                **at_once,
            )
            choose.click(
                in_words(panels.selected), [history, ticked], selected, **one_at_a_time, show_progress="minimal"
            )
        if "imagine" in answers.tasks:
            listen(imagined)

            @in_words
            def draw(history: History, wish: str, seed: int) -> Any:
                return panels.imagined(history, wish, seed), gr.update(visible=bool(history and wish.strip())), seed

            first = functools.partial(draw, seed=0)
            drawn = [imagined, again, seed]
            wish.submit(first, [history, wish], drawn, **one_at_a_time)
            wishes.click(said, None, wish, **at_once).then(first, [history, wish], drawn, **one_at_a_time)
            again.click(
                lambda *values: draw(*values[:2], values[2] + 1),
                [history, wish, seed],
                drawn,
                **one_at_a_time,
            )

        def filtered(words: str) -> Any:
            return PAGE, panels.shelf(words, PAGE), gr.update(visible=len(answers.find(words, PAGE + 1)) > PAGE)

        def longer(words: str, most: int) -> Any:
            most += PAGE
            return most, panels.shelf(words, most), gr.update(visible=len(answers.find(words, most + 1)) > most)

        words.input(filtered, words, [most, shelf, more], **at_once)
        more.click(longer, [words, most], [most, shelf, more], **at_once)

        @in_words_as_it_comes
        def show(opened: dict[str, Any] | None, history: History) -> Iterator[Any]:
            if opened is None:
                yield gr.update(visible=False), ""
                return
            yield gr.update(visible=True), ""
            for so_far in panels.sheet(history, opened["item_id"], opened["asked"]):
                yield gr.skip(), so_far

        opened.change(show, [opened, history], [sheet, about], **one_at_a_time, show_progress="hidden")
        opened.change(None, None, None, js=FOCUS_SHEET, api_visibility="private")
        close.click(lambda: None, None, opened, **at_once)

        for task in answers.tasks:
            gr.api(in_words(getattr(answers, task)), api_name=task, concurrency_limit=1, concurrency_id="model")
    return page


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The page over one trained model, its REST and its MCP endpoints.")
    parser.add_argument("--model", default=os.environ.get("UNIMP_MODEL", "unimp"), help="a folder, or a Hub name")
    parser.add_argument("--port", type=int, help="the first free one from 7860 on by default")
    given = parser.parse_args(arguments)
    answers = load_answers(given.model)
    page = make_page(answers, ready_shoppers(answers.catalogue, answers.num_read))
    page.launch(server_port=given.port, **look())


def look() -> dict[str, Any]:
    """Theme, style and endpoints, as `launch` takes them."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Arial", "sans-serif"]
    return {
        "theme": gr.themes.Base(primary_hue="blue", neutral_hue="stone", font=fonts, font_mono=["monospace"]),
        "css_paths": STYLE,
        "head": ESCAPE,
        "footer_links": ["api"],
        "mcp_server": True,
    }


if __name__ == "__main__":
    main()
