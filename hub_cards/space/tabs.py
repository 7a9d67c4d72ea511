"""The answers on the right: a function a tab, which lays it out and says what happens when."""

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from .answers import MAX_TYPED
from .desk import ASKING, AT_ONCE, Desk, History, in_words, said
from .panels import DRAWING
from .stopping import stoppable

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
    quick.click(in_words(said), None, query, **AT_ONCE).then(**asked)


def choose_tab(desk: Desk) -> None:
    """Ticks stay while the items to tick are filtered."""
    panels, ticked = desk.panels, gr.State([])
    _heading("Which of these suit?", "Tick some items; the model chooses among them.")
    with gr.Row(elem_id="choosing"):
        words = _filter_box("Filter the items to tick", "filter-ticks")
        choose = gr.Button("Choose", variant="primary", scale=0, min_width=120, elem_id="choose")
    selected = desk.board(elem_id="selected")
    candidates = desk.board(elem_id="candidates")
    desk.listen(selected)

    def tick(ticked: list[str], words: str, event: gr.EventData) -> tuple[list[str], str]:
        item_id = panels.item_id(said(event))
        others = [each for each in ticked if each != item_id]
        ticked = others if item_id in ticked else [*ticked, item_id]
        return ticked, panels.candidates(words, ticked, FEW)

    candidates.click(in_words(tick), [ticked, words], [ticked, candidates], **AT_ONCE)
    filtered = in_words(functools.partial(panels.candidates, most=FEW))
    shown: dict[str, Any] = {"fn": filtered, "inputs": [words, ticked], "outputs": candidates} | AT_ONCE
    desk.page.load(**shown)
    words.input(**shown, trigger_mode="always_last")
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
    with gr.Row(visible=False, elem_id="drawing") as busy:
        gr.HTML(DRAWING)
        stop = gr.Button("Stop", size="sm", scale=0, min_width=70, elem_id="stop")
    seed = gr.State(0)
    nothing = desk.panels.imagined([], "", 0)
    imagined = desk.board(nothing, elem_id="imagined")
    desk.listen(imagined)
    hidden, visible = gr.update(visible=False), gr.update(visible=True)

    def draw(history: History, wish: str, seed: int) -> Iterator[tuple[Any, ...]]:
        can_draw = bool(history and wish.strip())
        if can_draw:
            yield gr.skip(), gr.skip(), visible, gr.skip()
        try:
            drawn = desk.panels.imagined(history, wish, seed)
        except Exception:
            yield nothing, hidden, hidden, seed
            raise
        yield drawn, visible if can_draw else hidden, hidden, seed

    def draw_another(history: History, wish: str, seed: int) -> Iterator[tuple[Any, ...]]:
        yield from draw(history, wish, seed + 1)

    def drawn_by(function: Any, *inputs: Any) -> dict[str, Any]:
        steps, outputs = in_words(stoppable(function, meanwhile=gr.skip())), [imagined, again, busy, seed]
        return {"fn": steps, "inputs": [desk.history, wish, *inputs], "outputs": outputs} | ASKING

    first = drawn_by(functools.partial(draw, seed=0))
    drawings = [
        wish.submit(**first),
        quick.click(in_words(said), None, wish, **AT_ONCE).then(**first),
        again.click(**drawn_by(draw_another, seed)),
    ]
    stop.click(lambda: hidden, None, busy, cancels=drawings, **AT_ONCE)
    desk.history.change(lambda: (nothing, hidden, hidden), None, [imagined, again, busy], cancels=drawings, **AT_ONCE)


def shop_tab(desk: Desk) -> None:
    """The whole catalogue, a page at a time."""
    panels, answers, most = desk.panels, desk.panels.answers, gr.State(PAGE)
    _heading("The shop", "Press + to add an item to the history, or press the item to know more.")
    words = _filter_box("Filter the items", "filter")
    shelf = desk.board(elem_id="shelf")
    more = gr.Button("Show more", size="sm", visible=False, elem_id="more")
    desk.listen(shelf)

    @in_words
    def show(words: str, most: int) -> tuple[int, str, Any]:
        return most, panels.shelf(words, most), gr.update(visible=len(answers.find(words, most + 1)) > most)

    first: dict[str, Any] = {"fn": functools.partial(show, most=PAGE), "inputs": words, "outputs": [most, shelf, more]}
    desk.page.load(**first | AT_ONCE)
    words.input(**first | AT_ONCE, trigger_mode="always_last")
    more.click(lambda words, most: show(words, most + PAGE), [words, most], [most, shelf, more], **AT_ONCE)


def _heading(heading: str, words: str) -> None:
    gr.HTML(f'<h2>{heading}</h2><p class="note">{words}</p>')


def _filter_box(placeholder: str, elem_id: str) -> Any:
    return gr.Textbox("", show_label=False, placeholder=placeholder, max_length=MAX_TYPED, elem_id=elem_id)


def _words_box(desk: Desk, verb: str) -> tuple[Any, Any]:
    """A box that answers to Enter, and under it the commonest queries to press."""
    box = gr.Textbox(
        "",  # not None, as it would be before anything is typed
        show_label=False,
        placeholder=verb,
        submit_btn=verb,
        max_length=MAX_TYPED,
        elem_id=verb.lower(),
    )
    quick = desk.board()

    def offered() -> tuple[Any, str]:
        queries = desk.panels.answers.quick_queries()
        example = f"{verb}, e.g. {queries[0]}" if queries else verb
        return gr.update(placeholder=example), desk.panels.queries(queries)

    desk.page.load(in_words(offered), None, [box, quick], **AT_ONCE)
    return box, quick
