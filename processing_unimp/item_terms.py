"""Weighted terms of items: what their content rows are made from, and what compares their texts.

A term is `attribute=value`, a name or a code as a whole, or `attribute: word`, a word of a text. Weights are
`(1 + log tf) * idf`; the idf of a catalogue is kept, so that an item of tomorrow is weighed as those of today.
"""

import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import regex

from .bounds import MAX_VALUES
from .catalogue import Catalogue
from .item_text import clean_value

TERMS_FILE = "item_terms.json"
MOST_TERMS = 50_000
MOST_SHARE = 0.5  # of the items; what more have tells nothing
MAX_WORDS = 256  # of a value
MAX_KEPT = 64  # characters of a text whose terms are kept: brands and kinds come again and again, descriptions do not
# Combining marks belong to the letter before them, as vowels of Hindi do; of scripts that are written without spaces
# each character is a word.
WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[[\w\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+",
    regex.V1,
)


class ItemTerms:
    """The terms of a catalogue and how much each tells.

    Args:
        idf (`Mapping[str, float]`): inverse document frequency of each term, in the order of their numbers.
        attributes (`Sequence[str]`): what is read of an item.
    """

    def __init__(self, idf: Mapping[str, float], attributes: Sequence[str]) -> None:
        self.attributes = list(attributes)
        self.idf = np.array(list(idf.values()), dtype=np.float32)
        self._numbers = {term: number for number, term in enumerate(idf)}

    @classmethod
    def of(cls, catalogue: Catalogue, attributes: Sequence[str] | None = None) -> "ItemTerms":
        """The terms that at least two items have and at most half of them; of more than 50,000 the commonest.

        Args:
            catalogue (`Catalogue`): the shop.
            attributes (`Sequence[str]`, *optional*): what is read of an item; the whole schema without it.
        """
        read = list(attributes or catalogue.attributes)
        frequency: Counter[str] = Counter()
        for item in catalogue.items():
            frequency.update(terms_of(item, read).keys())
        most = max(2, MOST_SHARE * len(catalogue))
        kept = sorted(term for term, count in frequency.items() if 2 <= count <= most)
        kept = sorted(sorted(kept, key=lambda term: -frequency[term])[:MOST_TERMS])
        return cls({term: math.log(max(len(catalogue), 3) / frequency[term]) for term in kept}, read)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def terms(self) -> list[str]:
        """In the order of their numbers."""
        return list(self._numbers)

    def has_value(self, attribute: str, value: str) -> bool:
        """Whether a value is a term as a whole."""
        return f"{attribute}={value.lower()}" in self._numbers

    def weights_of(self, item: Mapping[str, Any]) -> dict[int, float]:
        """Weight of each term of an item, by its number, as a vector of length 1; unknown terms are left out."""
        found = {
            number: (1 + math.log(count)) * float(self.idf[number])
            for term, count in terms_of(item, self.attributes).items()
            if (number := self._numbers.get(term)) is not None
        }
        norm = math.sqrt(sum(weight * weight for weight in found.values())) or 1.0
        return {number: weight / norm for number, weight in found.items()}

    def encode(self, items: Iterable[Mapping[str, Any]], most: int) -> tuple[np.ndarray, np.ndarray]:
        """Terms of items as arrays, those of the largest weight first.

        Args:
            items (`Iterable[Mapping]`): n of them.
            most (`int`): C, the most terms of an item that are kept.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: numbers of terms `(n, C)`, -1 where there is none, and weights `(n, C)`.
        """
        rows = [sorted(self.weights_of(item).items(), key=lambda each: -each[1])[:most] for item in items]
        numbers = np.full((len(rows), most), -1, dtype=np.int32)
        weights = np.zeros((len(rows), most), dtype=np.float32)
        for place, row in enumerate(rows):
            norm = math.sqrt(sum(weight * weight for _, weight in row)) or 1.0
            numbers[place, : len(row)] = [number for number, _ in row]
            weights[place, : len(row)] = [weight / norm for _, weight in row]
        return numbers, weights

    def num_unknown(self, items: Iterable[Mapping[str, Any]]) -> int:
        """How many terms of items are unknown and add nothing to their rows."""
        return sum(term not in self._numbers for item in items for term in terms_of(item, self.attributes))

    def save(self, folder: str | os.PathLike) -> None:
        """Write `item_terms.json`."""
        content = {"attributes": self.attributes, "idf": dict(zip(self._numbers, self.idf.tolist(), strict=True))}
        Path(folder, TERMS_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: str | os.PathLike) -> "ItemTerms":
        """Read what [`ItemTerms.save`] wrote.

        Raises:
            ValueError: a file that is damaged.
        """
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
            idf = {str(term): float(value) for term, value in content["idf"].items()}
            return cls(idf, [str(name) for name in content["attributes"]])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{file} cannot be read: {error!r}. Copy, download or save the processor again."
            ) from error


def terms_of(item: Mapping[str, Any], attributes: Sequence[str]) -> Counter[str]:
    """What an item's attributes say: `attribute=value` as a whole, and `attribute: word` for each word of a text."""
    terms: Counter[str] = Counter()
    for name in attributes:
        value = item.get(name)
        for part in islice(value, MAX_VALUES) if isinstance(value, list | tuple) else [value]:
            if isinstance(part, str):
                terms.update(_terms_of_text(name, part) if len(part) > MAX_KEPT else _kept_terms_of_text(name, part))
            elif (text := clean_value(part, MAX_WORDS)) is not None:
                terms[f"{name}={text.lower()}"] += 1
    return terms


def _terms_of_text(name: str, value: str) -> list[str]:
    text = unicodedata.normalize("NFC", clean_value(value, MAX_WORDS) or "").lower()
    words = WORD.findall(text)
    return ([f"{name}={text}"] if text else []) + ([f"{name}: {word}" for word in words] if len(words) > 1 else [])


_kept_terms_of_text = lru_cache(maxsize=2**14)(_terms_of_text)
