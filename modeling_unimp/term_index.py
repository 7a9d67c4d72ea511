"""What queries are looked up in: words of the items by BM25, or whole values.

Shapes: N items, V terms.
"""

import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import regex
import torch

MAX_WORDS, MAX_CHARACTERS = 16, 2_000  # of a text that is compared
BM25_K1, BM25_B = 1.5, 0.75
MOST_EXACT = 2**53  # below it a float is every whole number that there is
TERM_ARRAYS = ("starts", "items", "weights", "idf")
# Combining marks belong to the letter before them, as vowels of Hindi do; of scripts that are written without spaces
# each character is a word.
WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[[\w\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+",
    regex.V1,
)


def normalised(text: str) -> str:
    """A query or a value as both are compared: at most 16 words in lower case, a blank between them; of ways to write
    a letter with its accent the shortest."""
    return " ".join(unicodedata.normalize("NFC", text[:MAX_CHARACTERS]).lower().split()[:MAX_WORDS])


def texts_of(item: Mapping[str, Any], attributes: Sequence[str] | None = None) -> list[str]:
    """What an item says in words: its domain and those of its attributes, of some or of all, that are text or lists
    of text."""
    read = item if attributes is None else [name for name in item if name in attributes or name == "domain"]
    cells = [item[name] for name in read if name not in ("item_id", "image")]
    parts = [part for cell in cells for part in (cell if isinstance(cell, list | tuple) else [cell])]
    return [text for part in parts if isinstance(part, str) and (text := normalised(part))]


def query_texts(value: Any) -> list[str]:
    """The query that an item answers by the shop's query attribute: of a path or list of values the last."""
    if isinstance(value, list | tuple):
        value = value[-1] if value else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            return []
        is_whole = isinstance(value, int) or (value.is_integer() and abs(value) < MOST_EXACT)
        value = str(int(value)) if is_whole else format(value, ".6g")
    text = normalised(value) if isinstance(value, str) else ""
    return [text] if text else []


class TermIndex(NamedTuple):
    """Weights of terms in items, by term: what a query finds.

    Args:
        vocabulary (`dict[str, int]`): V terms in lower case, numbered in their order.
        starts (`np.ndarray` of shape `(V + 1,)`): term `t` has the entries `starts[t]` to `starts[t + 1]`.
        items, weights (`np.ndarray` of shape `(num_entries,)`)
        idf (`np.ndarray` of shape `(V,)`): inverse document frequency; ones for whole texts.
        mean_length (`float`): words of an item, for BM25; 0 for an index of whole texts.
    """

    vocabulary: dict[str, int]
    starts: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    idf: np.ndarray
    mean_length: float

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], are_words: bool) -> "TermIndex":
        """An index of the words in the texts of each item, by BM25 with the idf of Lucene; or of the texts as wholes.

        Not by bm25s: where jax is installed, importing it starts jax, which takes three quarters of a GPU's memory.
        """
        terms = [_words(row) if are_words else row for row in texts]
        frequency = Counter(term for row in terms for term in set(row))
        vocabulary = {term: number for number, term in enumerate(sorted(frequency))}
        counts = np.array([frequency[term] for term in vocabulary], dtype=np.float64)
        idf = np.log(1 + (len(terms) - counts + 0.5) / (counts + 0.5)) if are_words else np.ones(len(counts))
        length = max(sum(map(len, terms)) / max(len(terms), 1), 1.0) if are_words else 0.0
        no_entries = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        empty = cls(vocabulary, np.zeros(len(vocabulary) + 1, dtype=np.int64), *no_entries, idf.astype("f4"), length)
        return empty.with_items(dict(enumerate(texts)))

    def with_items(self, texts: Mapping[int, Sequence[str]]) -> "TermIndex":
        """The index with the texts of some items in place of what it had of them; a new term counts as a rare one."""
        vocabulary, idf = dict(self.vocabulary), self.idf.tolist()
        terms_of_added, numbers, weights = array("q"), array("i"), array("f")
        for number, row in texts.items():
            terms = _words(row) if self.mean_length else row
            norm = BM25_K1 * (1 - BM25_B + BM25_B * len(terms) / (self.mean_length or 1.0))
            for term, count in Counter(terms).items():
                if term not in vocabulary:
                    vocabulary[term] = len(vocabulary)
                    idf.append(max(idf, default=1.0))
                weight = idf[vocabulary[term]] * (count / (count + norm) if self.mean_length else 1.0)
                terms_of_added.append(vocabulary[term])
                numbers.append(number)
                weights.append(weight)
        kept = ~np.isin(self.items, list(texts))
        starts = np.concatenate([[0], kept.cumsum()])[self.starts]
        starts = np.append(starts, np.full(len(vocabulary) - len(self.vocabulary), starts[-1]))
        # Sorted is only what was added; each goes to the end of its term.
        of_added = np.asarray(terms_of_added, dtype=np.int64)
        order = np.argsort(of_added, kind="stable")
        places = starts[of_added[order] + 1]
        return TermIndex(
            vocabulary,
            starts + np.concatenate([[0], np.bincount(of_added, minlength=len(vocabulary)).cumsum()]),
            np.insert(self.items[kept], places, np.asarray(numbers)[order]),
            np.insert(self.weights[kept], places, np.asarray(weights)[order]),
            np.array(idf, dtype=np.float32),
            self.mean_length,
        )

    def finds(self, query: str) -> bool:
        """Whether an item has something of a query."""
        return any(entries.stop > entries.start for entries in self._entries(query))

    def add_to(self, found: torch.Tensor, query: str) -> torch.Tensor:
        """Add what a query finds to `found` `(N,)`: by each of its words, or by the values that it names; returns the
        numbers of these items."""
        touched = [torch.zeros(0, dtype=torch.long)]
        for entries in self._entries(query):
            touched.append(torch.from_numpy(self.items[entries]).long())
            found[touched[-1]] += torch.from_numpy(self.weights[entries])
        return torch.cat(touched)

    def _entries(self, query: str) -> Iterator[slice]:
        """Those of each known term of a query."""
        text = normalised(query)
        for term in WORD.findall(text) if self.mean_length else self._named(text.split()):
            if (number := self.vocabulary.get(term)) is not None:
                yield slice(self.starts[number], self.starts[number + 1])

    def _named(self, words: Sequence[str]) -> list[str]:
        """The whole texts that a query names, the longest first, none of them inside another: of "teal coffee mug"
        "coffee mug" and "teal", where there are such."""
        for length in range(len(words), 0, -1):
            for start in range(len(words) - length, -1, -1):  # what is named stands last
                text = " ".join(words[start : start + length])
                if text in self.vocabulary:
                    return [text, *self._named(words[:start]), *self._named(words[start + length :])]
        return []


def _words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in WORD.findall(text)]
