"""What all parts of the page share: the shopper's history, the opened item, and what clicks on items do to them."""

import contextlib
import functools
import html
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from processing_unimp.bounds import short_repr
from processing_unimp.cell_values import readable

from .panels import Panels
from .request_limits import FAULT

MAX_HISTORY_ITEMS = 100  # on the page
MAX_ERROR = 1000  # characters of an error

# Options of an event that asks the model. There is one model: its answers are made one after the other, and of events
# that arrive meanwhile only the last counts.
ASKS_MODEL: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "trigger_mode": "always_last",
    "api_visibility": "private",
    "show_progress": "minimal",
}
# Options of an event that does not. Not `queue=False`: with it no change of a `gr.State` triggers its listeners.
NO_MODEL: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}

# A click on a button in our HTML becomes Gradio's click event with the button's data-* attributes as event data. The
# HTML is then replaced, so the focus returns to the same button.
FORWARD_CLICKS = """
let last = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  last = `button[data-action="${CSS.escape(button.dataset.action)}"][data-item="${CSS.escape(button.dataset.item)}"]`;
  if (button.dataset.stars) last += `[aria-label="${button.ariaLabel}"]`;
  if (button.dataset.action === "open") window.cameFrom = button;
  trigger("click", { ...button.dataset });
});
watch("value", () => {
  if (last && document.activeElement === document.body) element.querySelector(last)?.focus();
});
"""

History = list[dict[str, Any]]

logger = logging.getLogger(__name__)


@dataclass
class PageState:
    """One a page.

    Args:
        panels (`Panels`): what is shown.
        page (`gr.Blocks`): the page.
        history (`gr.State`): of the shopper, latest last.
        opened (`gr.State`): `{"item_id", "asked"}` of the item on the sheet, where `asked` is the request that it is
            an answer to; `None` for no item.
    """

    panels: Panels
    page: Any
    history: Any
    opened: Any

    def handle_item_clicks(self, items: Any, task: str = "", query: Any = None) -> None:
        """Open, add, rate or remove an item when its button is clicked.

        Args:
            items (`gr.HTML`): made by [`html_with_buttons`].
            task (`str`, *optional*): what the items are an answer to.
            query (`gr.Textbox`, *optional*): what was searched for.
        """

        def clicked(history: History, words: str | None, event: gr.EventData) -> Any:
            item_id, action = self.panels.item_id(button_data(event)), button_data(event, "action")
            if action == "open":
                asked = {"task": task, "query": words} if query is not None else {"task": task} if task else {}
                return gr.skip(), {"item_id": item_id, "asked": asked}
            if action == "remove":
                return [entry for entry in history if entry["item_id"] != item_id], gr.skip()
            return with_item(history, item_id, button_data(event, "stars")), None

        words = gr.State(None) if query is None else query
        items.click(with_errors_shown(clicked), [self.history, words], [self.history, self.opened], **NO_MODEL)


def html_with_buttons(value: str = "", **layout: Any) -> Any:
    """A component for HTML whose buttons can be clicked."""
    return gr.HTML(value, js_on_load=FORWARD_CLICKS, apply_default_css=False, **layout)


def button_data(event: gr.EventData, name: str = "item") -> str:
    """A data-* attribute of the clicked button; empty where it has none."""
    return str(getattr(event, name, ""))


def with_item(history: History, item_id: str, stars: str = "") -> History:
    """The history with an item as its latest, or with the stars of one that is there changed.

    Args:
        history (`list`): latest last; it stays as it is.
        item_id (`str`): the item.
        stars (`str`, *optional*): "1" to "5", "0" to take them back.

    Raises:
        ValueError: other stars, or more items than a page shows.
    """
    if stars not in ("", *"012345"):
        raise ValueError(f"stars of {short_repr(stars)}: expected 1 to 5, or 0 to take them back.")
    rating = float(stars) if stars and stars != "0" else None
    if stars and any(entry["item_id"] == item_id for entry in history):
        return [entry | {"rating": rating} if entry["item_id"] == item_id else entry for entry in history]
    others = [entry for entry in history if entry["item_id"] != item_id]
    if len(others) == MAX_HISTORY_ITEMS:
        raise ValueError(f"The history has {MAX_HISTORY_ITEMS} items, and no more fit on the page. Remove one first.")
    return [*others, {"item_id": item_id, "rating": rating}]


def inside_context(manager: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, or a generator function, that runs inside a context manager of its own each time."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with manager():
                yield from function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with manager():
                return function(*args, **kwargs)

    return inside


def with_errors_shown(function: Callable[..., Any], is_page: bool = True) -> Callable[..., Any]:
    """A function whose `ValueError` is shown as its message; of any other error only that there was one, and the log.

    Args:
        function (`Callable`): answers, or yields answers.
        is_page (`bool`, *optional*, defaults to `True`): escape the message, which a page shows as HTML.
    """
    return inside_context(functools.partial(_errors_shown, is_page), function)


@contextlib.contextmanager
def _errors_shown(is_page: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError):
            # The pipeline numbers the requests of a batch; here there is one.
            message = readable(str(error).removeprefix("request 0: "))[:MAX_ERROR]
        else:
            logger.exception("an answer failed")
            message = FAULT
        message = html.escape(message, quote=False) if is_page else message
        raise gr.Error(message, title="This cannot be answered", print_exception=False) from error
