"""What all parts of the page share: the shopper's history, the item that is looked at, and how presses are heard."""

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

MAX_TAKEN = 100  # items of a history on the page
MAX_WORDS = 1000  # characters of an error

# Of the model there is one: its answers come one after the other, the last to what was asked last.
ASKING: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "trigger_mode": "always_last",
    "api_visibility": "private",
    "show_progress": "minimal",
}
# Nothing is computed. Not `queue=False`: then no change of a `gr.State` would be heard.
AT_ONCE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}

# A press on a button of ours becomes Gradio's click, with what its data-* attributes say. What it changes is drawn
# anew, and the keyboard stays where it was.
LISTEN = """
let last = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-say]");
  if (!button) return;
  last = `button[data-say="${CSS.escape(button.dataset.say)}"][data-item="${CSS.escape(button.dataset.item)}"]`;
  if (button.dataset.stars) last += `[aria-label="${button.ariaLabel}"]`;
  if (button.dataset.say === "open") window.cameFrom = button;
  trigger("click", { ...button.dataset });
});
watch("value", () => {
  if (last && document.activeElement === document.body) element.querySelector(last)?.focus();
});
"""

History = list[dict[str, Any]]

logger = logging.getLogger(__name__)


@dataclass
class Desk:
    """Made once a page.

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

    def board(self, value: str = "", **layout: Any) -> Any:
        """A place for HTML with buttons."""
        return gr.HTML(value, js_on_load=LISTEN, apply_default_css=False, **layout)

    def listen(self, board: Any, task: str = "", query: Any = None) -> None:
        """Hear what is pressed on items: to open one, to add one with or without stars, to remove one.

        Args:
            board (`gr.HTML`): where they are.
            task (`str`, *optional*): what the items are an answer to.
            query (`gr.Textbox`, *optional*): what was searched for.
        """

        def pressed(history: History, words: str | None, event: gr.EventData) -> Any:
            item_id, wish = self.panels.item_id(said(event)), said(event, "say")
            if wish == "open":
                asked = {"task": task, "query": words} if query is not None else {"task": task} if task else {}
                return gr.skip(), {"item_id": item_id, "asked": asked}
            if wish == "remove":
                return [entry for entry in history if entry["item_id"] != item_id], gr.skip()
            return with_item(history, item_id, said(event, "stars")), None

        words = gr.State(None) if query is None else query
        board.click(in_words(pressed), [self.history, words], [self.history, self.opened], **AT_ONCE)


def said(event: gr.EventData, name: str = "item") -> str:
    """What a pressed button says in one of its data-* attributes; nothing where it has none."""
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
    if len(others) == MAX_TAKEN:
        raise ValueError(f"The history has {MAX_TAKEN} items, and no more fit on the page. Remove one first.")
    return [*others, {"item_id": item_id, "rating": rating}]


def within(manager: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
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


def in_words(function: Callable[..., Any], is_page: bool = True) -> Callable[..., Any]:
    """What cannot be answered is told in the words of its `ValueError`, not as a stack trace.

    Args:
        function (`Callable`): answers, or yields answers.
        is_page (`bool`, *optional*, defaults to `True`): a page shows the words as HTML, a program as they are.
    """
    return within(functools.partial(_telling, is_page), function)


@contextlib.contextmanager
def _telling(is_page: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError):
            # Of a batch it would say which request; here there is one.
            words = readable(str(error).removeprefix("request 0: "))[:MAX_WORDS]
        else:
            logger.exception("an answer failed")
            words = FAULT
        words = html.escape(words, quote=False) if is_page else words
        raise gr.Error(words, title="This cannot be answered", print_exception=False) from error
