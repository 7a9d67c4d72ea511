"""The answers on the right: a function a tab, which lays it out and says what happens when."""

import functools
from typing import Any

import gradio as gr

from .desk import ASKING, AT_ONCE, Desk, History, in_words, said

PAGE = 24  # items of the shop at once
FEW = 12  # items to tick at once


def recommend_tab(desk: Desk) -> None:
    """Answers as soon as the history is another."""
    _heading("What comes next", "Out of the whole shop, the likeliest first. Press an item to know why.")
    for_you = desk.board(elem_id="for-you")
    desk.listen(for_you, "recommend")
    gr.on([desk.page.load, desk.history.change], in_words(desk.panels.recommended), desk.history, for_you, **ASKING)


def search_tab(desk: Desk) -> None:
    """Answers to Enter, to a word that is pressed, and again to another history."""
    _heading("Search", "What fits both the words and the shopper.")
    query, quick = _words_box(desk, "Search")
    found = desk.board(desk.panels.found([], ""), elem_id="found")
    desk.listen(found, "search", query)
    asked: dict[str, Any] = {
        "fn": in_words(desk.panels.found),
        "inputs": [desk.history, query],
        "outputs": found,
    } | ASKING
    gr.on([query.submit, desk.history.change], **asked)
    quick.click(said, None, query, **AT_ONCE).then(**asked)


def choose_tab(desk: Desk) -> None:
    """Ticks stay while the items to tick are filtered."""
    panels, ticked = desk.panels, gr.State([])
    _heading("Which of these suit?", "Tick some items; the model chooses among them.")
    with gr.Row(elem_id="choosing"):
        words = gr.Textbox("", show_label=False, placeholder="Filter the items to tick", elem_id="filter-ticks")
        choose = gr.Button("Choose", variant="primary", scale=0, min_width=120, elem_id="choose")
    selected = desk.board(elem_id="selected")
    candidates = desk.board(panels.candidates("", [], FEW), elem_id="candidates")
    desk.listen(selected)

    def tick(ticked: list[str], words: str, event: gr.EventData) -> tuple[list[str], str]:
        others = [each for each in ticked if each != event.item]
        ticked = others if event.item in ticked else [*ticked, event.item]
        return ticked, panels.candidates(words, ticked, FEW)

    candidates.click(tick, [ticked, words], [ticked, candidates], **AT_ONCE)
    filtered = functools.partial(panels.candidates, most=FEW)
    words.input(filtered, [words, ticked], candidates, **AT_ONCE, trigger_mode="always_last")
    choose.click(in_words(panels.selected), [desk.history, ticked], selected, **ASKING)
    # What was chosen for one history says nothing about another; nor does what was drawn.
    desk.history.change(lambda: "", None, selected, **AT_ONCE)


def imagine_tab(desk: Desk) -> None:
    """A wish's first picture is always the same; each press on "Another picture" is one further seed."""
    _heading(
        "Imagine",
        "A picture of something that fits both the wish and the shopper, and what the shop has most like it. "
        "It takes a few seconds.",
    )
    wish, quick = _words_box(desk, "Imagine")
    again = gr.Button("Another picture", size="sm", scale=0, min_width=140, visible=False, elem_id="again")
    seed = gr.State(0)
    imagined = desk.board(desk.panels.imagined([], "", 0), elem_id="imagined")
    desk.listen(imagined)

    @in_words
    def draw(history: History, wish: str, seed: int) -> tuple[str, Any, int]:
        return desk.panels.imagined(history, wish, seed), gr.update(visible=bool(history and wish.strip())), seed

    drawing: dict[str, Any] = (
        {"outputs": [imagined, again, seed]} | ASKING | {"show_progress": "full", "show_progress_on": imagined}
    )
    first: dict[str, Any] = {"fn": functools.partial(draw, seed=0), "inputs": [desk.history, wish]} | drawing
    wish.submit(**first)
    quick.click(said, None, wish, **AT_ONCE).then(**first)
    again.click(lambda history, wish, seed: draw(history, wish, seed + 1), [desk.history, wish, seed], **drawing)
    nothing = desk.panels.imagined([], "", 0)
    desk.history.change(lambda: (nothing, gr.update(visible=False)), None, [imagined, again], **AT_ONCE)


def shop_tab(desk: Desk) -> None:
    """The whole catalogue, a page at a time."""
    panels, answers, most = desk.panels, desk.panels.answers, gr.State(PAGE)
    _heading("The shop", "Press + to add an item to the history, or press the item to know more.")
    words = gr.Textbox("", show_label=False, placeholder="Filter the items", elem_id="filter")
    shelf = desk.board(panels.shelf("", PAGE), elem_id="shelf")
    more = gr.Button("Show more", size="sm", visible=len(answers.catalogue) > PAGE, elem_id="more")
    desk.listen(shelf)

    def show(words: str, most: int) -> tuple[int, str, Any]:
        return most, panels.shelf(words, most), gr.update(visible=len(answers.find(words, most + 1)) > most)

    show_first = functools.partial(show, most=PAGE)
    words.input(show_first, words, [most, shelf, more], **AT_ONCE, trigger_mode="always_last")
    more.click(lambda words, most: show(words, most + PAGE), [words, most], [most, shelf, more], **AT_ONCE)


def _heading(heading: str, words: str) -> None:
    gr.HTML(f'<h2>{heading}</h2><p class="note">{words}</p>')


def _words_box(desk: Desk, verb: str) -> tuple[Any, Any]:
    """A box that answers to Enter, and under it the commonest queries to press."""
    queries = desk.panels.answers.quick_queries()
    box = gr.Textbox(
        "",  # not None, as it would be before anything is typed
        show_label=False,
        placeholder=f"{verb}, e.g. {queries[0]}" if queries else verb,
        submit_btn=verb,
        max_length=200,
        elem_id=verb.lower(),
    )
    return box, desk.board(desk.panels.queries(queries), visible=bool(queries))
