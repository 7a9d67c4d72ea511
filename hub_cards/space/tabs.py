"""The answers on the right: a function a tab, for its layout and events."""

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from .answers import MAX_TYPED
from .page_state import ASKS_MODEL, NO_MODEL, History, PageState, button_data, html_with_buttons, with_errors_shown
from .panels import DRAWING
from .stopping import stoppable

PAGE = 24  # items of the shop at once
FEW = 12  # items to tick at once


def recommend_tab(state: PageState) -> None:
    """Answers whenever the history changes."""
    _heading("What comes next", "Out of the whole shop, the likeliest first. Press an item to know why.")
    for_you = html_with_buttons(elem_id="for-you")
    state.handle_item_clicks(for_you, "recommend")
    gr.on(
        [state.page.load, state.history.change],
        with_errors_shown(state.panels.recommended),
        state.history,
        for_you,
        **ASKS_MODEL,
    )


def search_tab(state: PageState) -> None:
    """Answers to Enter, to a click on a query, and again when the history changes."""
    _heading("Search", "What fits both the words and the shopper.")
    query, quick = _words_box(state, "Search")
    found = html_with_buttons(state.panels.found([], ""), elem_id="found")
    state.handle_item_clicks(found, "search", query)
    asked: dict[str, Any] = {
        "fn": with_errors_shown(state.panels.found),
        "inputs": [state.history, query],
        "outputs": found,
    } | ASKS_MODEL
    gr.on([query.submit, state.history.change], **asked)
    quick.click(with_errors_shown(button_data), None, query, **NO_MODEL).then(**asked)


def choose_tab(state: PageState) -> None:
    """Ticks stay while the items to tick are filtered."""
    panels, ticked = state.panels, gr.State([])
    _heading("Which of these suit?", "Tick some items; the model chooses among them.")
    with gr.Row(elem_id="choosing"):
        words = _filter_box("Filter the items to tick", "filter-ticks")
        choose = gr.Button("Choose", variant="primary", scale=0, min_width=120, elem_id="choose")
    selected = html_with_buttons(elem_id="selected")
    candidates = html_with_buttons(elem_id="candidates")
    state.handle_item_clicks(selected)

    def tick(ticked: list[str], words: str, event: gr.EventData) -> tuple[list[str], str]:
        item_id = panels.item_id(button_data(event))
        others = [each for each in ticked if each != item_id]
        ticked = others if item_id in ticked else [*ticked, item_id]
        return ticked, panels.candidates(words, ticked, FEW)

    candidates.click(with_errors_shown(tick), [ticked, words], [ticked, candidates], **NO_MODEL)
    filtered = with_errors_shown(functools.partial(panels.candidates, most=FEW))
    filtering: dict[str, Any] = {"fn": filtered, "inputs": [words, ticked], "outputs": candidates} | NO_MODEL
    state.page.load(**filtering)
    words.input(**filtering, trigger_mode="always_last")
    choose.click(with_errors_shown(panels.selected), [state.history, ticked], selected, **ASKS_MODEL)
    # What was chosen for one history says nothing about another; nor does what was drawn.
    state.history.change(lambda: "", None, selected, **NO_MODEL)


def imagine_tab(state: PageState) -> None:
    """The first picture of a wish has seed 0; each click on "Another picture" takes the next seed."""
    _heading(
        "Imagine",
        "A picture of something that fits both the wish and the shopper, and what the shop has most like it. "
        "It takes a few seconds.",
    )
    wish, quick = _words_box(state, "Imagine")
    again = gr.Button("Another picture", size="sm", scale=0, min_width=140, visible=False, elem_id="again")
    with gr.Row(visible=False, elem_id="drawing") as busy:
        gr.HTML(DRAWING)
        stop = gr.Button("Stop", size="sm", scale=0, min_width=70, elem_id="stop")
    seed = gr.State(0)
    nothing = state.panels.imagined([], "", 0)
    imagined = html_with_buttons(nothing, elem_id="imagined")
    state.handle_item_clicks(imagined)
    hidden, visible = gr.update(visible=False), gr.update(visible=True)

    def draw(history: History, wish: str, seed: int) -> Iterator[tuple[Any, ...]]:
        can_draw = bool(history and wish.strip())
        if can_draw:
            yield gr.skip(), gr.skip(), visible, gr.skip()
        try:
            drawn = state.panels.imagined(history, wish, seed)
        except Exception:
            yield nothing, hidden, hidden, seed
            raise
        yield drawn, visible if can_draw else hidden, hidden, seed

    def draw_another(history: History, wish: str, seed: int) -> Iterator[tuple[Any, ...]]:
        yield from draw(history, wish, seed + 1)

    def drawn_by(function: Any, *inputs: Any) -> dict[str, Any]:
        steps, outputs = with_errors_shown(stoppable(function, meanwhile=gr.skip())), [imagined, again, busy, seed]
        return {"fn": steps, "inputs": [state.history, wish, *inputs], "outputs": outputs} | ASKS_MODEL

    first = drawn_by(functools.partial(draw, seed=0))
    drawings = [
        wish.submit(**first),
        quick.click(with_errors_shown(button_data), None, wish, **NO_MODEL).then(**first),
        again.click(**drawn_by(draw_another, seed)),
    ]
    stop.click(lambda: hidden, None, busy, cancels=drawings, **NO_MODEL)
    state.history.change(
        lambda: (nothing, hidden, hidden), None, [imagined, again, busy], cancels=drawings, **NO_MODEL
    )


def shop_tab(state: PageState) -> None:
    """The whole catalogue, a page at a time."""
    panels, answers, most = state.panels, state.panels.answers, gr.State(PAGE)
    _heading("The shop", "Press + to add an item to the history, or press the item to know more.")
    words = _filter_box("Filter the items", "filter")
    items = html_with_buttons(elem_id="shop-items")
    more = gr.Button("Show more", size="sm", visible=False, elem_id="more")
    state.handle_item_clicks(items)

    @with_errors_shown
    def show(words: str, most: int) -> tuple[int, str, Any]:
        return most, panels.products(words, most), gr.update(visible=len(answers.find(words, most + 1)) > most)

    first: dict[str, Any] = {"fn": functools.partial(show, most=PAGE), "inputs": words, "outputs": [most, items, more]}
    state.page.load(**first | NO_MODEL)
    words.input(**first | NO_MODEL, trigger_mode="always_last")
    more.click(lambda words, most: show(words, most + PAGE), [words, most], [most, items, more], **NO_MODEL)


def _heading(heading: str, words: str) -> None:
    gr.HTML(f'<h2>{heading}</h2><p class="note">{words}</p>')


def _filter_box(placeholder: str, elem_id: str) -> Any:
    return gr.Textbox("", show_label=False, placeholder=placeholder, max_length=MAX_TYPED, elem_id=elem_id)


def _words_box(state: PageState, verb: str) -> tuple[Any, Any]:
    """A text box that is submitted with Enter, and under it common queries to click."""
    box = gr.Textbox(
        "",  # not None, as it would be before anything is typed
        show_label=False,
        placeholder=verb,
        submit_btn=verb,
        max_length=MAX_TYPED,
        elem_id=verb.lower(),
    )
    quick = html_with_buttons()

    def offered() -> tuple[Any, str]:
        queries = state.panels.answers.quick_queries()
        example = f"{verb}, e.g. {queries[0]}" if queries else verb
        return gr.update(placeholder=example), state.panels.queries(queries)

    state.page.load(with_errors_shown(offered), None, [box, quick], **NO_MODEL)
    return box, quick
