"""An item as tokens: `[IMG] k1 v1 k2 v2 ... rating <rate_4> id <item_17> [EOC]` (paper, eq. 1).

Everything a merchant writes goes through `clean_value` and through the tokenizer with its special tokens split into
plain text; the control tokens around it are ids that no text can spell (see `control_tokens.py`).
"""

import math
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .bounds import MAX_CHARACTERS, MAX_VALUES, short_repr
from .catalogue import Catalogue
from .cell_values import readable
from .control_tokens import NUM_STARS, ControlTokens
from .table_columns import has_name

MAX_WORD_CHARACTERS = 40
MOST_EXACT = 2**53  # below it a float is every whole number that there is
# Our own words inside an item's block.
RATING, ID = " rating", " id"
# Keys of a request's item that are not attributes, and so not part of its text.
NOT_ATTRIBUTES = frozenset(
    {"item_id", "image", "domain", "retired", "picture_codes", "user_id", "rating", "timestamp", "explanation"}
)


@dataclass
class TokenSequence:
    """Token ids and, token for token, the key of the picture each may look at (`None`: no picture)."""

    ids: list[int] = field(default_factory=list)
    pictures: list[Hashable | None] = field(default_factory=list)

    def extend(self, ids: Sequence[int], picture: Hashable | None = None) -> None:
        self.ids.extend(ids)
        self.pictures.extend([picture] * len(ids))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ItemEntry:
    """An item as a request names it: resolved against the catalogue.

    Args:
        attributes (`Mapping[str, Any]`): what the text of the item holds, in schema order.
        number (`int`, *optional*): row in the catalogue; `None` for an item the catalogue does not know.
        rating (`int`, *optional*): stars this shopper gave it, 1 to 5; only items of a history carry one.
        image (*optional*): picture of an item that is not in the catalogue, as a path, bytes or `PIL.Image`.
    """

    attributes: Mapping[str, Any]
    number: int | None = None
    rating: int | None = None
    image: Any = None


def clean_value(value: Any, max_words: int) -> str | None:
    """An attribute value as one line of at most `max_words` words, or `None` when there is nothing to read.

    Lists are joined with commas; whole numbers have all their digits, others six; control characters and line breaks
    become spaces; a word is cut after 40 characters, so that 50,000 characters without a space stay one word. Of a
    list no more parts are looked at than could be read.
    """
    if value is None:
        return None
    if isinstance(value, str):  # as nearly all are
        pass
    elif isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    elif isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            return None
        # A code of many digits that an empty cell of its column made a float of stays what it was.
        is_whole = float(value).is_integer() and abs(value) < MOST_EXACT
        return str(int(value)) if is_whole else format(float(value), ".6g")
    elif isinstance(value, Mapping):
        parts = ((str(key), clean_value(part, max_words)) for key, part in islice(value.items(), MAX_VALUES))
        value = ", ".join(f"{key} {part}" for key, part in islice((part for part in parts if part[1]), max_words))
    elif isinstance(value, Iterable):
        read = (clean_value(part, max_words) for part in islice(value, MAX_VALUES))
        value = ", ".join(islice(filter(None, read), max_words))
    text = readable(str(value)[:MAX_CHARACTERS].strip()[: 2 * max_words * MAX_WORD_CHARACTERS])
    if not text.isprintable():  # of which all but the space is in other categories
        text = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    return " ".join([word[:MAX_WORD_CHARACTERS] for word in text.split()[:max_words]]) or None


def describe(attributes: Mapping[str, Any], max_words: int) -> str:
    """`k1 v1 k2 v2 ...` as text; a missing attribute is left out."""
    cleaned = ((name, clean_value(value, max_words)) for name, value in attributes.items())
    return " ".join(f"{clean_value(name, 4)} {value}" for name, value in cleaned if value)


def attributes_to_read(catalogue: Catalogue, attributes: Sequence[str] | None) -> list[str]:
    """The chosen attributes, or the whole schema when none are; a `ValueError` names those that do not exist."""
    unknown = [name for name in attributes or () if name not in catalogue.attributes]
    if unknown:
        raise ValueError(f"attributes to read {unknown}: expected some of {', '.join(catalogue.attributes)}.")
    return list(attributes or catalogue.attributes)


def stars_of(rating: Any) -> int | None:
    """Whole stars of a rating between 1 and 5, or `None` when it is missing; halves round up."""
    if rating is None or (isinstance(rating, float) and math.isnan(rating)):
        return None
    if isinstance(rating, bool) or not isinstance(rating, (int, float, np.integer, np.floating)):
        raise ValueError(f"a rating of {short_repr(rating)}: expected a number from 1 to {NUM_STARS}.")
    if not 1 <= rating <= NUM_STARS:
        raise ValueError(f"a rating of {short_repr(rating)}: expected a number from 1 to {NUM_STARS}.")
    return math.floor(rating + 0.5)


class ItemText:
    """Writes items as tokens, and remembers those of the catalogue.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the language model's own.
        tokens (`ControlTokens`): the added ids.
        catalogue (`Catalogue`): where ids are looked up.
        attributes (`Sequence[str]`, *optional*): what is read of an item, in this order; the whole schema without it.
        max_words (`int`): words kept of each attribute value.
        num_image_tokens (`int`): `[IMG]` tokens a picture takes: 1, or as many as latents when these replace the
            tokens (early fusion), or 0 for a model without vision.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tokens: ControlTokens,
        catalogue: Catalogue,
        *,
        attributes: Sequence[str] | None,
        max_words: int,
        num_image_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.catalogue = catalogue
        self.attributes = attributes_to_read(catalogue, attributes)
        self.max_words = max_words
        self.num_image_tokens = num_image_tokens
        self._of_item: dict[int, list[int]] = {}
        self._num_updates = catalogue.num_updates
        self._of_phrase: dict[str, list[int]] = {}

    def resolve(self, entry: Any, where: str) -> ItemEntry:
        """Look up an item of a request.

        Args:
            entry (`str` or `Mapping`): an item id, or a dict with an `item_id`, attributes, or both. An id alone is
                looked up; attributes given beside a known id replace the catalogue's.
            where (`str`): how to call this place in an error, e.g. `"history item 3"`.

        Raises:
            ValueError: an id that is not in the catalogue and comes without any attribute, or neither id nor text.
        """
        if isinstance(entry, (int, np.integer)) and not isinstance(entry, bool):
            entry = str(entry)
        if isinstance(entry, str):
            entry = {"item_id": entry}
        if not isinstance(entry, dict | Mapping):
            raise ValueError(
                f"{where} is a {type(entry).__name__}: expected an item id, or a dict with an 'item_id', attributes "
                "or both."
            )
        rating = stars_of(entry.get("rating"))
        given = {}
        if not entry.keys() <= NOT_ATTRIBUTES:
            given = {name: value for name, value in entry.items() if name not in NOT_ATTRIBUTES and has_name(name)}
        item_id = entry.get("item_id")
        item_id = None if item_id is None else str(item_id)
        if item_id is not None and item_id in self.catalogue:
            number = self.catalogue.number(item_id)
            if not given:
                return ItemEntry({}, number=number, rating=rating, image=entry.get("image"))
            return ItemEntry(self._in_schema_order(given), number=number, rating=rating, image=entry.get("image"))
        if not given and entry.get("image") is None:
            if item_id is None:
                raise ValueError(
                    f"{where} is {short_repr(dict(entry))}: it has no 'item_id', no attributes and no 'image'."
                )
            try:
                self.catalogue.number(item_id)
            except ValueError as error:
                raise ValueError(f"{where}: {error} Or describe it: {{'item_id': ..., 'title': ...}}.") from None
        return ItemEntry(self._in_schema_order(given), rating=rating, image=entry.get("image"))

    def _in_schema_order(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: given[name] for name in self.attributes if name in given}
        # An attribute that the model was not taught to read is left out; one the shop does not know is read last.
        return known | {name: value for name, value in given.items() if name not in self.catalogue.attributes}

    def picture_key(self, entry: ItemEntry) -> Hashable | None:
        """Key under which the batch holds this item's picture once: the catalogue row, or the given picture."""
        if self.num_image_tokens == 0:
            return None
        if entry.image is not None:
            return ("given", entry.image if isinstance(entry.image, bytes) else id(entry.image))
        if entry.number is not None and self.catalogue.has_picture(self.catalogue.item_id(entry.number)):
            return entry.number
        return None

    def write(
        self, sequence: TokenSequence, entry: ItemEntry, picture: Hashable | None, is_compact: bool = False
    ) -> None:
        """Append an item's block to a sequence; all of its tokens see its picture only.

        A compact block is `[IMG] <item> [EOC]`, with the stars before the `[EOC]`; of an item that is not the
        catalogue's, or has attributes of its own, there is a full one alone.
        """
        if picture is not None:
            sequence.extend([self.tokens.image] * self.num_image_tokens, picture)
        if is_compact and entry.number is not None and not entry.attributes:
            stars = [] if entry.rating is None else [self.tokens.star(entry.rating)]
            sequence.extend([self.tokens.item(entry.number), *stars, self.tokens.eoc], picture)
            return
        sequence.extend(self.attribute_ids(entry), picture)
        if entry.rating is not None:
            sequence.extend([*self.phrase(RATING), self.tokens.star(entry.rating)], picture)
        if entry.number is not None:
            sequence.extend([*self.phrase(ID), self.tokens.item(entry.number)], picture)
        sequence.extend([self.tokens.eoc], picture)

    def attribute_ids(self, entry: ItemEntry) -> list[int]:
        """Token ids of `k1 v1 k2 v2 ...`; those of a catalogue item are kept."""
        if entry.attributes or entry.number is None:
            return self.untrusted(describe(entry.attributes, self.max_words))
        if self._num_updates != self.catalogue.num_updates:
            self._of_item, self._num_updates = {}, self.catalogue.num_updates
        if entry.number not in self._of_item:
            item = self.catalogue.item(self.catalogue.item_id(entry.number))
            attributes = {name: item[name] for name in self.attributes}
            self._of_item[entry.number] = self.untrusted(describe(attributes, self.max_words))
        return self._of_item[entry.number]

    def phrase(self, text: str) -> list[int]:
        """Token ids of our own words, kept: instructions repeat in every row."""
        if text not in self._of_phrase:
            self._of_phrase[text] = self.untrusted(text)
        return self._of_phrase[text]

    def untrusted(self, text: str) -> list[int]:
        """Token ids of untrusted text: special tokens of the tokenizer in it are split into plain text."""
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids
