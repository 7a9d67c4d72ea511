"""The Space: a shopper's history on the left, what one model answers on the right.

python -m hub_cards.space.app                      the model in ./unimp
python -m hub_cards.space.app --model ORG/NAME     a folder, or a name on the Hub
"""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if not __package__:  # run as a file, as a Hub Space does: the packages lie two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gradio as gr
from gradio.context import LocalContext
from mcp.types import CallToolRequest
from starlette.middleware import Middleware
from transformers import pipeline

import modeling_unimp  # noqa: F401  registers the pipeline
from hub_cards.space.answers import Answers
from hub_cards.space.page_state import (
    ASKS_MODEL,
    MAX_ERROR,
    NO_MODEL,
    History,
    PageState,
    button_data,
    html_with_buttons,
    inside_context,
    with_errors_shown,
)
from hub_cards.space.panels import Panels
from hub_cards.space.request_limits import RequestLimits
from hub_cards.space.shoppers import ready_shoppers
from hub_cards.space.stopping import stoppable
from hub_cards.space.tabs import choose_tab, imagine_tab, recommend_tab, search_tab, shop_tab

STYLE = Path(__file__).with_name("style.css")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Arial", "sans-serif"]
TABS = {
    "recommend": ("For you", recommend_tab),
    "search": ("Search", search_tab),
    "select": ("Choose", choose_tab),
    "imagine": ("Imagine", imagine_tab),
}
MAX_QUEUED = 32  # requests that wait for the model; fewer than the 40 threads, of which a waiting MCP call holds one
MAX_SESSIONS = 1_000  # open pages whose state is kept; beyond it the oldest lose theirs
ESCAPE = """<script>document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelector("#close")?.click();
});</script>"""
# Moves the focus as soon as the element is there and visible.
FOCUS = """() => {
  let tries = 0;
  const wait = setInterval(() => {
    const there = [...document.querySelectorAll("SELECTOR")].find((each) => each.checkVisibility());
    there?.focus();
    if (there || ++tries > 40) clearInterval(wait);
  }, 50);
}"""
FOCUS_SHEET = FOCUS.replace("SELECTOR", "#close")
FOCUS_SHOP = FOCUS.replace("SELECTOR", "#filter textarea, #filter input")
FOCUS_BACK = "() => { setTimeout(() => window.cameFrom?.focus(), 100); }"


def load_answers(model: str) -> Answers:
    """A trained model, ready to be asked.

    Args:
        model (`str`): a folder that `train.py` wrote, or a name on the Hub.
    """
    # transformers lists its own tasks
    return Answers(pipeline("personalization", model=model))  # type: ignore[call-overload]


def make_page(answers: Answers, shoppers: list[History]) -> gr.Blocks:
    """The page over one model, and its endpoints.

    Args:
        answers (`Answers`): the model.
        shoppers (`list`): histories to choose from; the first is there at the start.
    """
    panels = Panels(answers)
    start = shoppers[0] if shoppers else []
    with gr.Blocks(title="UniMP", fill_width=True) as page:
        state = PageState(panels, page, history=gr.State(start), opened=gr.State(None))
        masthead = gr.HTML(elem_id="masthead")
        page.load(panels.masthead, None, masthead, **NO_MODEL)
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="shopper", scale=0, min_width=300):
                add = _shopper_column(state, shoppers)
                for task, reason in answers.missing.items():
                    gr.HTML(f'<p class="note">This model cannot {task}: {reason}.</p>')
            with gr.Column(elem_id="answers", min_width=320):
                with gr.Tabs(selected=None if start else "shop") as tabs:
                    for task, (name, fill) in TABS.items():
                        if task in answers.tasks:
                            with gr.Tab(name, id=task):
                                fill(state)
                    with gr.Tab("The shop", id="shop"):
                        shop_tab(state)
        add.click(lambda: gr.Tabs(selected="shop"), None, tabs, **NO_MODEL).then(
            None, None, None, js=FOCUS_SHOP, api_visibility="private"
        )
        _sheet(state)
        for task in answers.tasks:
            answer = getattr(answers, task)
            checked = with_errors_shown(stoppable(answer), is_page=False)
            endpoint = inside_context(functools.partial(_without_session, page), checked)
            gr.api(endpoint, api_name=task, concurrency_limit=1, concurrency_id="model")
    page.queue(max_size=MAX_QUEUED, api_open=False)
    return page


@contextlib.contextmanager
def _without_session(page: gr.Blocks) -> Iterator[None]:
    """Forget what a call sent: Gradio keeps it for the session, but a program does not come back to it."""
    session: Any = LocalContext.request.get().session_hash  # type: ignore[union-attr]  # there is one in a call
    try:
        yield
    finally:
        page.state_holder.session_data.pop(session, None)
        page.state_holder.time_last_used.pop(session, None)


def _shopper_column(state: PageState, shoppers: list[History]) -> gr.Button:
    """Shoppers to choose from, and the history; returns the button that leads to more items."""
    panels, history = state.panels, state.history
    if shoppers:
        gr.HTML("<h2>Who is shopping?</h2>")
        who = html_with_buttons(elem_id="who")

        def chosen(event: gr.EventData) -> History:
            return shoppers[int(button_data(event))]

        def marked(history: History) -> str:
            return panels.shoppers(shoppers, shoppers.index(history) if history in shoppers else None)

        who.click(with_errors_shown(chosen), None, history, **NO_MODEL)
        # A history that was changed belongs to none of them.
        gr.on([state.page.load, history.change], with_errors_shown(marked), history, who, **NO_MODEL)
    with gr.Row(elem_id="history-head"):
        gr.HTML('<h2>History</h2><p class="note">The latest first</p>')
        add = gr.Button("Add items", size="sm", scale=0, min_width=96, elem_id="add")
        clear = gr.Button("Clear", size="sm", scale=0, min_width=70, elem_id="clear")
    taken = html_with_buttons(elem_id="history")
    state.handle_item_clicks(taken)
    clear.click(lambda: [], None, history, **NO_MODEL)
    gr.on([state.page.load, history.change], with_errors_shown(panels.history), history, taken, **NO_MODEL)
    return add


def _sheet(state: PageState) -> None:
    """All about one item, over the page; it fills as the answers come."""
    with gr.Column(elem_id="sheet", visible=False) as sheet:
        with gr.Row(elem_id="sheet-head"):
            close = gr.Button("Close", size="sm", elem_id="close")
        about = html_with_buttons(elem_id="about")

    def fill(opened: dict[str, Any] | None, history: History) -> Iterator[str]:
        yield ""
        if opened is not None:
            yield from state.panels.sheet(history, opened["item_id"], opened["asked"])

    def show(opened: dict[str, Any] | None) -> Any:
        return gr.update(visible=opened is not None)

    state.handle_item_clicks(about)
    state.opened.change(show, state.opened, sheet, **NO_MODEL).then(
        None, None, None, js=FOCUS_SHEET, api_visibility="private"
    )
    steps = with_errors_shown(stoppable(fill, meanwhile=gr.skip()))
    filling = state.opened.change(
        steps, [state.opened, state.history], about, **ASKS_MODEL | {"show_progress": "hidden"}
    )
    close.click(lambda: None, None, state.opened, js=FOCUS_BACK, cancels=filling, **NO_MODEL)
    about.click(None, None, None, cancels=filling, api_visibility="private")


def appearance() -> dict[str, Any]:
    """Theme and style, as `launch` takes them; nothing is fetched from elsewhere."""
    return {
        "theme": gr.themes.Base(primary_hue="blue", neutral_hue="stone", font=FONTS, font_mono=["monospace"]),
        # Not as `css`: Gradio would put its own selectors before ours.
        "head": f"<style>{STYLE.read_text(encoding='utf-8')}</style>{ESCAPE}",
        "footer_links": ["api"],
    }


def launch(page: gr.Blocks, **options: Any) -> str:
    """Serve a page to anybody, inside_context `request_limits`, and go on; returns its address.

    Args:
        page (`gr.Blocks`): of [`make_page`].
        options: of `Blocks.launch`, such as `server_port`.
    """
    _, address, _ = page.launch(
        prevent_thread_lock=True,
        mcp_server=True,
        # No further servers of files and pages, whatever environment variables say.
        num_workers=0,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=MAX_SESSIONS,
        app_kwargs={"middleware": [Middleware(RequestLimits, page=page)]},
        **appearance() | options,
    )
    assert page.mcp_server_obj is not None
    _shorten_errors(page.mcp_server_obj.mcp_server.request_handlers)
    return address


def _shorten_errors(handlers: dict[Any, Any]) -> None:
    """Gradio's MCP server repeats wrong arguments in full in its errors."""
    answer = handlers[CallToolRequest]

    async def with_short_errors(request: CallToolRequest) -> Any:
        result = await answer(request)
        if result.root.isError:
            for block in result.root.content:
                block.text = block.text[:MAX_ERROR]
        return result

    handlers[CallToolRequest] = with_short_errors


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A page over one trained model, with REST and MCP endpoints.")
    parser.add_argument("--model", default=os.environ.get("UNIMP_MODEL", "unimp"), help="a folder, or a Hub name")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    given = parser.parse_args(arguments)
    try:
        answers = load_answers(given.model)
    except OSError as error:
        raise SystemExit(
            f"no model at {given.model!r}: {error}\nExpected a folder that train.py wrote "
            "(`make demo` makes ./unimp), or a name on the Hub."
        ) from error
    page = make_page(answers, ready_shoppers(answers.catalogue, answers.history_length))
    launch(page, server_port=given.port)
    page.block_thread()


if __name__ == "__main__":
    main()
