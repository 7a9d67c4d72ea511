"""Items as the page shows them: HTML in which whatever a merchant or a shopper wrote is text and never markup.

A button says what it wants in `data-say` and of which item in `data-item`, by its number, since an id may have any
length and characters that HTML would not give back; `desk.py` listens.
"""

import functools
import html
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from hub_cards.html_pieces import data_uri
from hub_cards.untrusted_text import one_line

PICTURE_SIDE = 288  # pixels; a card is half as wide, which is sharp on a phone
MAX_TITLE, MAX_VALUE, MAX_VALUES, MAX_TEXT = 60, 28, 4, 600  # characters; values a card shows
MAX_PRICE = 1e12  # what is larger is written as a value like any other
CACHED_PICTURES = 4096
STAR, NO_STAR = "&#9733;", "&#9734;"
TITLES = ("title", "name")


class ProductCards:
    """Draws items of a catalogue; each picture is read once, and again when the catalogue has changed.

    Args:
        catalogue (`Catalogue`): the shop.
    """

    def __init__(self, catalogue: Any) -> None:
        self.catalogue = catalogue
        self.picture_of = functools.lru_cache(CACHED_PICTURES)(self._picture_of)

    def title(self, item: Mapping[str, Any]) -> str:
        """The attribute called title or name, else the first text in the order of the shop's columns, else the id."""
        for name in (*TITLES, *self.catalogue.attributes):
            if isinstance(item.get(name), str) and (title := one_line(item[name], MAX_TITLE)):
                return title
        return one_line(item.get("item_id"), MAX_TITLE) or "item without a title"

    def facts(self, item: Mapping[str, Any]) -> str:
        """The other attributes on one line, but for the price."""
        title = self.title(item)
        names = [name for name in self.catalogue.attributes if name not in (*TITLES, "price")]
        values = [one_line(item.get(name), MAX_VALUE) for name in names]
        return escaped(" \u00b7 ".join([value for value in values if value and value != title][:MAX_VALUES]))

    def price(self, item: Mapping[str, Any]) -> str:
        price = item.get("price")
        if isinstance(price, int | float) and not isinstance(price, bool) and abs(price) < MAX_PRICE:
            return f"{price:,.0f}" if price == int(price) else f"{price:,.2f}"
        return escaped(one_line(price, MAX_VALUE))

    def picture(self, item: Mapping[str, Any]) -> str:
        """An item's picture, or the first letter of its title where it has none."""
        source = self.picture_of(str(item.get("item_id")), self.catalogue.version)
        if source:
            return f'<span class="picture"><img src="{source}" alt=""></span>'
        return f'<span class="picture blank" aria-hidden="true">{escaped(self.title(item)[:1].upper())}</span>'

    def card(
        self, item: Mapping[str, Any], below: str = "", state: str = "", say: str = "open", can_add: bool = True
    ) -> str:
        """One product. `below`, `state` and `say` are our own HTML.

        Args:
            item (`Mapping`): with an `item_id` and attributes.
            below (`str`, *optional*): what stands under the attributes, such as a score.
            state (`str`, *optional*): class of the card: `"ticked"`, `"chosen"` or `"quiet"`.
            say (`str`, *optional*, defaults to `"open"`): what a press on the card means; `"tick"`: it is a checkbox.
            can_add (`bool`, *optional*, defaults to `True`): whether a corner adds the item to the history.
        """
        number, title = self.catalogue.number(str(item["item_id"])), escaped(self.title(item))
        checked = f' role="checkbox" aria-checked="{str(state == "ticked").lower()}"' if say == "tick" else ""
        corner = (
            f'<button class="corner" data-say="add" data-item="{number}" title="Add to the history" '
            f'aria-label="Add {title} to the history">+</button>'
        )
        price = self.price(item)
        return (
            f'<article class="product {state}"><button class="face" data-say="{say}" data-item="{number}"{checked}>'
            f'{self.picture(item)}<span class="title" dir="auto">{title}</span>'
            f'<span class="facts" dir="auto">{self.facts(item)}</span>'
            f'<span class="price">{price}</span>{below}</button>{corner if can_add else ""}</article>'
        )

    def entry(self, entry: Mapping[str, Any], is_read: bool = True) -> str:
        """One line of the history: picture, words, stars to press, a cross to remove it."""
        item = self.catalogue.item(str(entry["item_id"]))
        number, title = self.catalogue.number(str(item["item_id"])), escaped(self.title(item))
        return (
            f'<li class="{"" if is_read else "unread"}"><button class="face" data-say="open" data-item="{number}" '
            f'aria-label="Open {title}">{self.picture(item)}</button>'
            f'<div><span class="title" dir="auto">{title}</span>'
            f'<span class="facts" dir="auto">{self.facts(item)}</span>'
            f"{star_buttons(number, entry.get('rating'))}</div>"
            f'<button class="remove" data-say="remove" data-item="{number}" title="Remove" '
            f'aria-label="Remove {title}">&#215;</button></li>'
        )

    def _picture_of(self, item_id: str, version: Any) -> str:
        picture = self.catalogue.picture(item_id) if item_id in self.catalogue else None
        return as_data(picture, PICTURE_SIDE) if picture is not None else ""


def grid(cards: Sequence[str]) -> str:
    return f'<div class="products">{"".join(cards)}</div>'


def star_buttons(number: int, rating: float | None, say: str = "stars") -> str:
    """Five stars to press, of the item with this number. The given stars once more take them back."""
    given = 0 if rating is None else round(rating)
    buttons = "".join(
        f'<button data-say="{say}" data-item="{number}" data-stars="{0 if stars == given else stars}" '
        f'aria-label="{stars} star{"s" * (stars > 1)}" aria-pressed="{str(stars == given).lower()}">'
        f"{STAR if stars <= given else NO_STAR}</button>"
        for stars in range(1, 6)
    )
    return f'<span class="stars">{buttons}</span>'


def bar(share: float, words: str, kind: str = "") -> str:
    """A thin bar of a share from 0 to 1 with words of our own beside it."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<span class="score {kind}"><span class="bar"><i style="width:{width:.1f}%"></i></span><b>{words}</b></span>'
    )


def percent(share: float) -> str:
    digits = 0 if share >= 0.0995 else 1
    return f"{100 * share:.{digits}f}%" if share >= 0.001 else "&lt;0.1%"


def note(words: str) -> str:
    """A line in words where there is nothing to show; `words` are our own HTML."""
    return f'<p class="note">{words}</p>'


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def as_data(picture: Image.Image, side: int, exact: bool = False) -> str:
    """A picture as a data URI, at most `side` pixels large; `exact` keeps every pixel as it is."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(small, "png") if exact else data_uri(small, "jpeg", quality=88)
