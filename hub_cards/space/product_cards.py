"""Items as the page shows them; their HTML is in products.html."""

import functools
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from hub_cards.html_pieces import TEMPLATES, TITLES, thumbnail, title_of
from hub_cards.untrusted_text import one_line

PICTURE_SIDE = 288  # pixels; a card is half as wide, which is sharp on a phone
MAX_TITLE, MAX_VALUE, MAX_VALUES = 60, 28, 4  # characters of a title and of a value; values that a card shows
MAX_PRICE = 1e12  # what is larger is written as a value like any other
CACHED_PICTURES = 4096
PRODUCTS: Any = TEMPLATES.get_template("space/products.html").module


class ProductCards:
    """Draws items of a catalogue; each picture is read once, and again when the catalogue has changed.

    Args:
        catalogue (`Catalogue`): the shop.
    """

    def __init__(self, catalogue: Any) -> None:
        self.catalogue = catalogue
        self.picture_of = functools.lru_cache(CACHED_PICTURES)(self._picture_of)

    def view(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """What the templates show of an item with an `item_id` and attributes."""
        item_id = str(item["item_id"])
        return {
            "number": self.catalogue.number(item_id),
            "title": title_of(item, self.catalogue.attributes, MAX_TITLE),
            "facts": self._facts(item),
            "price": self._price(item),
            "picture": self.picture_of(item_id, self.catalogue.version),
        }

    def view_of(self, item_id: str) -> dict[str, Any]:
        return self.view(self.catalogue.item(str(item_id)))

    def card(self, item: Mapping[str, Any]) -> Markup:
        """One product as HTML."""
        return PRODUCTS.card(self.view(item))

    def event(self, entry: Mapping[str, Any]) -> Markup:
        """One line of the history as HTML."""
        return PRODUCTS.event(self.view_of(entry["item_id"]), entry.get("rating"))

    def _facts(self, item: Mapping[str, Any]) -> str:
        """The other attributes on one line, but for the price."""
        title = title_of(item, self.catalogue.attributes, MAX_TITLE)
        names = [name for name in self.catalogue.attributes if name not in (*TITLES, "price")]
        values = [one_line(item.get(name), MAX_VALUE) for name in names]
        return " \u00b7 ".join([value for value in values if value and value != title][:MAX_VALUES])

    def _price(self, item: Mapping[str, Any]) -> str:
        price = item.get("price")
        if isinstance(price, int | float) and not isinstance(price, bool) and abs(price) < MAX_PRICE:
            return f"{price:,.0f}" if price == int(price) else f"{price:,.2f}"
        return one_line(price, MAX_VALUE)

    def _picture_of(self, item_id: str, version: Any) -> str:
        picture = self.catalogue.picture(item_id) if item_id in self.catalogue else None
        return thumbnail(picture, PICTURE_SIDE) if picture is not None else ""
