"""Closed-form scores beside the network's: what goes with a history and a query, added where items are ranked.

`score(i) = w_0 * log p(i) + sum_f w_f * log1p(3 * q_f(i) / r_f)`, where `p` is the network's distribution over the
items, `q_f(i) = sum over the history of 2^(-age / h_f) * S_f(item, i)` with the age in places, and `r_f` the size that
`q_f` has at the tenth-best item. The `S_f` are nearest neighbours of each item. Weights are fitted on validation after
the training: on what the network was trained on they would come out too small.

Shapes: B requests, N items, k neighbours a row, F closed-form scores.
"""

import copy
import hashlib
import json
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import cached_file

from .interfaces import Catalogue
from .manifest import HUB_ARGUMENTS, check_weights

HYBRID_FILE = "hybrid_scores.safetensors"
MAX_HISTORY = 200  # items of a history that are looked at, the latest
POPULARITY = "popularity"
QUERIES = "query attribute"  # the index of whole texts of the attribute that queries mostly name
MAX_WORDS, MAX_CHARACTERS = 16, 2_000  # of a text that is compared
BM25_K1, BM25_B = 1.5, 0.75
TERM_ARRAYS = ("starts", "items", "weights", "idf")
STAR_ARRAYS = ("biases", "neighbours", "similarities", "factors", "intercepts")
WORD = re.compile(r"\w+")


Items = Mapping[int, Mapping[str, Any]]


class Score(NamedTuple):
    """One closed-form score.

    Args:
        source (`str`): whose neighbours or terms; `"popularity"` has none.
        half_life (`float`): in places of the history; infinity lets all of it count alike.
        scale (`float`, *optional*): r, by which it is divided before it is squashed; `None` until it is measured.
    """

    source: str
    half_life: float = math.inf
    scale: float | None = None


def normalised(text: str) -> str:
    """A query or a value as both are compared: at most 16 words in lower case, a blank between them."""
    return " ".join(text[:MAX_CHARACTERS].lower().split()[:MAX_WORDS])


def texts_of(item: Mapping[str, Any]) -> list[str]:
    """What an item says in words: its attributes that are text or lists of text."""
    cells = [value for name, value in item.items() if name not in ("item_id", "image")]
    parts = [part for cell in cells for part in (cell if isinstance(cell, list | tuple) else [cell])]
    return [text for part in parts if isinstance(part, str) and (text := normalised(part))]


def squash(score: Score, raw: torch.Tensor) -> torch.Tensor:
    """`log1p(3 q / r)` of q; popularity is a logarithm already."""
    return raw if score.source == POPULARITY else torch.log1p(3 * raw / (score.scale or 1.0))


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
        vocabulary, idf = dict(self.vocabulary), list(self.idf)
        of_added, numbers, weights = array("q"), array("i"), array("f")
        for number, row in texts.items():
            terms = _words(row) if self.mean_length else row
            norm = BM25_K1 * (1 - BM25_B + BM25_B * len(terms) / (self.mean_length or 1.0))
            for term, count in Counter(terms).items():
                if term not in vocabulary:
                    vocabulary[term] = len(vocabulary)
                    idf.append(max(idf, default=1.0))
                weight = idf[vocabulary[term]] * (count / (count + norm) if self.mean_length else 1.0)
                of_added.append(vocabulary[term])
                numbers.append(number)
                weights.append(weight)
        kept = ~np.isin(self.items, list(texts))
        of_term = np.repeat(np.arange(len(self.vocabulary)), np.diff(self.starts))[kept]
        of_term = np.concatenate([of_term, np.asarray(of_added)]).astype(np.int64)
        order = np.argsort(of_term, kind="stable")
        return TermIndex(
            vocabulary,
            np.concatenate([[0], np.bincount(of_term, minlength=len(vocabulary)).cumsum()]).astype(np.int64),
            np.concatenate([self.items[kept], np.asarray(numbers)]).astype(np.int32)[order],
            np.concatenate([self.weights[kept], np.asarray(weights)]).astype(np.float32)[order],
            np.array(idf, dtype=np.float32),
            self.mean_length,
        )

    def add_to(self, found: torch.Tensor, query: str) -> torch.Tensor:
        """Add what a query finds to `found` `(N,)`: by each of its words, or by the values that it names; returns the
        numbers of these items."""
        text, touched = normalised(query), [torch.zeros(0, dtype=torch.long)]
        for term in WORD.findall(text) if self.mean_length else self._named(text.split()):
            if (number := self.vocabulary.get(term)) is not None:
                entries = slice(self.starts[number], self.starts[number + 1])
                touched.append(torch.from_numpy(self.items[entries]).long())
                found[touched[-1]] += torch.from_numpy(self.weights[entries])
        return torch.cat(touched)

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


class StarScores(NamedTuple):
    """Stars from the mean, the biases of item and shopper, what the shopper gave to items rated alike, and factors.

    `log p(s)` is, up to a constant, `network * log p_network(s) + s * (expected * e + alike * c + factored * f) +
    intercepts[s]`.

    Args:
        mean (`float`): of all stars.
        biases (`np.ndarray` of shape `(N,)`): of each item.
        strength (`float`): the shopper's bias is drawn to 0 as if by so many more ratings.
        neighbours (`np.ndarray` of shape `(N, k)`), similarities (`np.ndarray` of shape `(N, k)`): items rated alike.
        factors (`np.ndarray` of shape `(N, R)`): of a matrix factorisation; a shopper's are fitted to the history.
        penalty (`float`): of the squares of a shopper's factors.
        intercepts (`np.ndarray` of shape `(5,)`)
        network, expected, alike, factored (`float`): weights.
    """

    mean: float
    biases: np.ndarray
    strength: float
    neighbours: np.ndarray
    similarities: np.ndarray
    factors: np.ndarray
    penalty: float
    intercepts: np.ndarray
    network: float = 1.0
    expected: float = 0.0
    alike: float = 0.0
    factored: float = 0.0

    def estimate(self, history: Sequence[tuple[int, float | None]], item: int) -> tuple[float, float, float]:
        """Expected stars `e` of an item (-1: none of the catalogue) by the biases, and what is to be added to them by
        items rated alike, `c`, and by factors, `f`."""
        residuals = {number: stars - self.mean - self._bias(number) for number, stars in history if stars is not None}
        of_shopper = sum(residuals.values()) / (len(residuals) + self.strength)
        estimate = self.mean + of_shopper + self._bias(item)
        if not 0 <= item < len(self.neighbours):
            return estimate, 0.0, 0.0
        near = zip(self.neighbours[item].tolist(), self.similarities[item].tolist(), strict=True)
        found = [(similarity, residuals[number] - of_shopper) for number, similarity in near if number in residuals]
        total = 1.0 + sum(similarity for similarity, _ in found)
        alike = sum(similarity * residual for similarity, residual in found) / total
        return estimate, alike, self._by_factors(residuals, item) - of_shopper

    def _by_factors(self, residuals: Mapping[int, float], item: int) -> float:
        """Bias and factors of a shopper by ridge regression on what the history has beyond the items' biases."""
        known = [number for number in residuals if 0 <= number < len(self.factors)]
        of_items = self.factors[[*known, item]]
        described = np.concatenate([np.ones((len(of_items), 1)), of_items], axis=1)
        x, y = described[:-1], np.array([residuals[number] for number in known])
        ridge = np.diag([self.strength] + [self.penalty] * self.factors.shape[1])
        return float(described[-1] @ np.linalg.solve(x.T @ x + ridge, x.T @ y))

    def probabilities(self, network: np.ndarray, estimate: tuple[float, float, float]) -> np.ndarray:
        """The distribution `(5,)`, from the network's own and what [`StarScores.estimate`] found."""
        stars = np.arange(1, len(network) + 1)
        slope = self.expected * estimate[0] + self.alike * estimate[1] + self.factored * estimate[2]
        logits = self.network * np.log(np.clip(network, 1e-6, None)) + slope * stars + self.intercepts
        exponentials = np.exp(logits - logits.max())
        return np.asarray(exponentials / exponentials.sum(), dtype=np.float32)

    def _bias(self, number: int) -> float:
        return float(self.biases[number]) if 0 <= number < len(self.biases) else 0.0


class HybridScores:
    """
    Args:
        neighbours (`Mapping[str, tuple[torch.Tensor, torch.Tensor]]`): by name, items `(N, k)` and values `(N, k)`.
        terms (`Mapping[str, TermIndex]`): by name, what queries are looked up in.
        popularity (`torch.Tensor` of shape `(N,)`): log of each item's share of the interactions.
        scores (`Sequence[Score]`): F of them.
        weights (`Mapping[str, Sequence[float]]`): by task, `1 + F`: of the network's log-probability, then of the
            scores. For `"select"` one number: by what the scores of the candidates are multiplied.
        stars (`StarScores`, *optional*): where shoppers give stars.
        query_attribute (`str`, *optional*): what queries of the shop mostly name.
        stand_ins (`Mapping[int, int]`, *optional*): items added since the fit, and the item of the fit that each is
            most like in words, whose neighbours it has.
        catalogue_size (`int`, *optional*): N with the items added since.
        search_reads (`str`, *optional*, defaults to `"search"`): what the network is asked where a query is searched:
            to search, or to `"recommend"`, where its taste serves better and the scores of the query find what fits.
    """

    def __init__(
        self,
        neighbours: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        terms: Mapping[str, TermIndex],
        popularity: torch.Tensor,
        scores: Sequence[Score],
        weights: Mapping[str, Sequence[float]] | None = None,
        stars: StarScores | None = None,
        query_attribute: str | None = None,
        stand_ins: Mapping[int, int] | None = None,
        catalogue_size: int = 0,
        search_reads: str = "search",
    ) -> None:
        # In the 16 bits that a file holds: a loaded model answers as the one that was evaluated.
        self.neighbours = {name: (items.int(), values.half()) for name, (items, values) in neighbours.items()}
        self.terms = dict(terms)
        self.popularity = popularity.float()
        self.scores = list(scores)
        self.weights = {task: list(each) for task, each in (weights or {}).items()}
        self.stars = stars
        self.query_attribute = query_attribute
        self.stand_ins = dict(stand_ins or {})
        self.catalogue_size = max(catalogue_size, len(popularity))
        self.search_reads = search_reads

    def with_weights(
        self, weights: Mapping[str, Sequence[float]], stars: StarScores | None, search_reads: str = "search"
    ) -> "HybridScores":
        """The same scores, weighted otherwise."""
        weighted = copy.copy(self)
        weighted.search_reads = search_reads
        weighted.weights, weighted.stars = {task: list(each) for task, each in weights.items()}, stars
        return weighted

    def with_items(self, added: Items | None = None, changed: Items | None = None) -> "HybridScores":
        """The same scores for a catalogue that has changed; the neighbours themselves wait for the next fit.

        Queries find all of these items by their words as they are now. An item that was added goes with what the item
        goes with that is most like it in words; nothing says yet how popular it is.

        Args:
            added, changed (`Mapping[int, Mapping]`, *optional*): items with their attributes, by their numbers.
        """
        changes = dict(added or {}) | dict(changed or {})
        grown = copy.copy(self)
        alike = {number: self._most_alike(item) for number, item in (added or {}).items()}
        grown.stand_ins = self.stand_ins | {number: other for number, other in alike.items() if other is not None}
        grown.catalogue_size = max([self.catalogue_size, *(number + 1 for number in changes)])
        grown.terms = {}
        for name, index in self.terms.items():
            texts = {number: texts_of(item) for number, item in changes.items()}
            if name == QUERIES:
                texts = {number: query_texts(item.get(str(self.query_attribute))) for number, item in changes.items()}
            grown.terms[name] = index.with_items(texts)
        return grown

    @property
    def num_items(self) -> int:
        """N of the fit."""
        return len(self.popularity)

    def raw(
        self,
        score: Score,
        histories: Sequence[Sequence[int]],
        queries: Sequence[str | None] | None = None,
        num_items: int | None = None,
    ) -> torch.Tensor:
        """q of each item, `(B, N)`.

        Args:
            score (`Score`)
            histories (`Sequence[Sequence[int]]`): B lists of item numbers, the latest last; -1 for what is no item of
                the catalogue.
            queries (`Sequence[str]`, *optional*): B texts.
            num_items (`int`, *optional*): N, where it has grown since the fit.
        """
        size = max(self.catalogue_size, num_items or 0)
        found = torch.zeros(len(histories), size)
        for row, history in enumerate(histories):
            self.add_raw(found[row], score, history, queries[row] if queries else None)
        return found[:, : num_items or size]

    def add_raw(
        self, found: torch.Tensor, score: Score, history: Sequence[int], query: str | None = None
    ) -> torch.Tensor:
        """Add q to `found` `(N,)`; returns the numbers of the items that may have got some, many of them repeatedly.

        The work is that of the neighbours of a history, and not of a catalogue, but for popularity, which all have.
        """
        if score.source == POPULARITY:
            found[: self.num_items] += self.popularity - self.popularity.min()
            return torch.arange(self.num_items)
        if score.source in self.terms:
            return self.terms[score.source].add_to(found, query or "")
        items, values = self.neighbours[score.source]
        latest = [self.stand_ins.get(number, number) for number in list(history)[-MAX_HISTORY:]]
        numbers = torch.tensor(latest, dtype=torch.long)
        weights = torch.exp2(torch.arange(1 - len(numbers), 1) / score.half_life)
        known = (numbers >= 0) & (numbers < len(items))
        near, weights = numbers[known], weights[known]
        touched = items[near].flatten().long()
        found.index_add_(0, touched, (values[near].float() * weights[:, None]).flatten())
        if self.stand_ins:
            added = torch.tensor(list(self.stand_ins), dtype=torch.long)
            found[added] = found[list(self.stand_ins.values())]
            touched = torch.cat([touched, added])
        return touched

    def squashed(self, score: Score, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`log1p(3 q / r)`, which is what is weighted. Arguments as of `raw`."""
        return squash(score, self.raw(score, *args, **kwargs))

    def add_to_requests(
        self, logits: torch.Tensor, requests: Sequence[Mapping[str, Any]], catalogue: Catalogue
    ) -> torch.Tensor:
        """[`HybridScores.add`] for requests to recommend and to search."""
        added = logits.float().cpu().clone()
        for task in dict.fromkeys(request["task"] for request in requests):
            rows = [row for row, request in enumerate(requests) if request["task"] == task]
            histories = [numbers_of(requests[row]["history"], catalogue) for row in rows]
            added[rows] = self.add(task, logits[rows], histories, [requests[row].get("query") for row in rows])
        return added

    def add(
        self,
        task: str,
        logits: torch.Tensor,
        histories: Sequence[Sequence[int]],
        queries: Sequence[str | None] | None = None,
    ) -> torch.Tensor:
        """Scores of all items, whose softmax is the distribution over them.

        Args:
            task (`str`): its weights are taken; a task without any keeps the network's logits.
            logits (`torch.FloatTensor` of shape `(B, N)`): of the network.
            histories, queries: as for [`HybridScores.raw`].

        Returns:
            `torch.FloatTensor` of shape `(B, N)`, on the CPU.
        """
        logits = logits.float().cpu()
        if task not in self.weights:
            return logits
        network, *weights = self.weights[task]
        total = network * logits.log_softmax(dim=-1)
        size = logits.shape[-1]
        raw = torch.zeros(max(self.catalogue_size, size))
        for weight, score in zip(weights, self.scores, strict=True):
            if weight and score.source == POPULARITY:
                total += weight * self.raw(score, [()], num_items=size)
            elif weight:
                for row, history in enumerate(histories):
                    touched = self.add_raw(raw, score, history, queries[row] if queries else None)
                    ranked = touched[touched < size]
                    # An item that is named twice is written twice, and alike.
                    total[row, ranked] = total[row, ranked] + weight * squash(score, raw[ranked])
                    raw[touched] = 0
        return total

    @property
    def ranks_candidates(self) -> bool:
        """Whether a selection is made by the scores of a recommendation, which it then never contradicts."""
        return "select" in self.weights and "recommend" in self.weights

    def candidate_probabilities(
        self, logits: torch.Tensor, requests: Sequence[Mapping[str, Any]], catalogue: Catalogue
    ) -> torch.Tensor:
        """How likely each candidate is the shopper's choice among them.

        Args:
            logits (`torch.FloatTensor` of shape `(B, N)`): of the network, for recommendations from the histories.
            requests (`Sequence[Mapping]`): to select, as the tasks read them.
            catalogue (`Catalogue`): a candidate that it does not know has the score of its item that is most like it
                in words.

        Returns:
            `torch.FloatTensor` of shape `(B, K)`, the probabilities of a row at its end.
        """
        scores = self.add("recommend", logits, [numbers_of(request["history"], catalogue) for request in requests])
        found = torch.zeros(len(requests), max(len(request["candidates"]) for request in requests))
        for row, request in enumerate(requests):
            of_candidates = []
            for candidate in request["candidates"]:
                number: int | None = _number_of(candidate, catalogue)
                if number == -1:
                    number = self._most_alike(candidate)
                of_candidates.append(scores[row].min() if number is None else scores[row, number])
            probabilities = (self.weights["select"][0] * torch.stack(of_candidates)).softmax(dim=0)
            found[row, -len(of_candidates) :] = probabilities
        return found

    def _most_alike(self, described: Any) -> int | None:
        """The item of the fit whose words are most like those of an item that is described."""
        found = torch.zeros(self.catalogue_size)
        for text in texts_of(described) if isinstance(described, Mapping) else []:
            for index in self.terms.values():
                index.add_to(found, text)
        found = found[: self.num_items]
        return int(found.argmax()) if found.any() else None

    def star_probabilities(
        self, network: torch.Tensor, requests: Sequence[Mapping[str, Any]], catalogue: Catalogue
    ) -> torch.Tensor:
        """The distribution over the stars `(B, 5)` for requests to rate, from the network's `(B, 5)`."""
        if self.stars is None:
            return network
        rows = []
        for own, request in zip(network.float().cpu().numpy(), requests, strict=True):
            history = stars_of_history(request["history"], catalogue)
            rows.append(
                self.stars.probabilities(own, self.stars.estimate(history, _number_of(request["item"], catalogue)))
            )
        return torch.from_numpy(np.stack(rows))

    def digest(self) -> str:
        """16 hex digits that change with anything that changes an answer."""
        tensors, described = self._on_disk()
        found = hashlib.sha256(json.dumps(described).encode())
        for tensor in tensors.values():
            found.update(tensor.numpy().tobytes())
        return found.hexdigest()[:16]

    # ------------------------------------------------------------------------------------------------------- on disk

    def _on_disk(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {POPULARITY: self.popularity}
        tensors["stand_ins"] = torch.tensor(list(self.stand_ins.items()), dtype=torch.int32).reshape(-1, 2)
        for name, (items, values) in self.neighbours.items():
            tensors |= {f"neighbours.{name}.items": items.int(), f"neighbours.{name}.values": values.half()}
        for name, index in self.terms.items():
            text = "\n".join(index.vocabulary).encode("utf-8", "backslashreplace")
            tensors[f"terms.{name}.vocabulary"] = torch.frombuffer(bytearray(text or b"\n"), dtype=torch.uint8)
            tensors |= {f"terms.{name}.{part}": torch.from_numpy(getattr(index, part)) for part in TERM_ARRAYS}
        described: dict[str, Any] = {
            "scores": [_finite(each) for each in self.scores],
            "weights": self.weights,
            "terms": {name: index.mean_length for name, index in self.terms.items()},
            "query_attribute": self.query_attribute,
            "catalogue_size": self.catalogue_size,
            "search_reads": self.search_reads,
        }
        if self.stars is not None:
            of_stars = self.stars._asdict()
            tensors |= {f"stars.{name}": torch.from_numpy(of_stars.pop(name)) for name in STAR_ARRAYS}
            described["stars"] = of_stars
        return {name: tensor.contiguous() for name, tensor in tensors.items()}, described

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write hybrid_scores.safetensors; similarities as 16-bit numbers."""
        tensors, described = self._on_disk()
        save_file(tensors, Path(folder) / HYBRID_FILE, metadata={"hybrid": json.dumps(described), "format": "pt"})

    @classmethod
    def load(cls, file: str | os.PathLike) -> "HybridScores":
        """Read what [`HybridScores.save_pretrained`] wrote.

        Raises:
            ValueError: a damaged file.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                described = json.loads(opened.metadata()["hybrid"])
            names = sorted({name.split(".")[1] for name in tensors if name.startswith("neighbours.")})
            terms = {}
            for name, mean_length in described["terms"].items():
                text = tensors[f"terms.{name}.vocabulary"].numpy().tobytes().decode()
                arrays = {part: tensors[f"terms.{name}.{part}"].numpy() for part in TERM_ARRAYS}
                vocabulary = {term: number for number, term in enumerate(text.split("\n"))}
                terms[name] = TermIndex(vocabulary=vocabulary, mean_length=mean_length, **arrays)
            stars = None
            if "stars" in described:
                arrays = {name: tensors[f"stars.{name}"].numpy() for name in STAR_ARRAYS}
                stars = StarScores(**arrays, **described["stars"])
            return cls(
                {name: (tensors[f"neighbours.{name}.items"], tensors[f"neighbours.{name}.values"]) for name in names},
                terms,
                tensors[POPULARITY],
                [Score(source, _half_life(life), scale) for source, life, scale in described["scores"]],
                described["weights"],
                stars,
                described["query_attribute"],
                dict(tensors["stand_ins"].tolist()),
                described["catalogue_size"],
                described["search_reads"],
            )
        except Exception as error:
            raise ValueError(
                f"{file} cannot be read ({type(error).__name__}: {error}). It may be damaged: copy, download or save "
                "it again."
            ) from error


def save_hybrid_beside(hybrid: HybridScores | None, folder: str | os.PathLike) -> None:
    """Write a model's closed-form scores into its folder; without any, those of an earlier save go."""
    if hybrid is None:
        Path(folder, HYBRID_FILE).unlink(missing_ok=True)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        hybrid.save_pretrained(folder)


def hybrid_beside(name: str | os.PathLike, verify: bool, num_items: int, /, **kwargs: Any) -> HybridScores | None:
    """The closed-form scores in the folder or Hub repository of a model of `num_items`, if there are some; `kwargs`
    are those of its loading, which may name any value of its config."""
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
    file = cached_file(str(name), HYBRID_FILE, _raise_exceptions_for_missing_entries=False, **hub)
    if file is None:
        return None
    if verify:
        check_weights(name, stem=HYBRID_FILE.removesuffix(".safetensors"), **kwargs)
    hybrid = HybridScores.load(file)
    if hybrid.catalogue_size > num_items:
        raise ValueError(
            f"{file} is of a catalogue of {hybrid.catalogue_size} items, and the model of one of {num_items}."
        )
    return hybrid


def _finite(score: Score) -> list[Any]:
    """JSON has no infinity."""
    return [score.source, None if math.isinf(score.half_life) else score.half_life, score.scale]


def _half_life(value: float | None) -> float:
    return math.inf if value is None else value


def query_texts(value: Any) -> list[str]:
    """The query that an item answers by the shop's query attribute: of a path or list of values the last."""
    if isinstance(value, list | tuple):
        value = value[-1] if value else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = format(value, ".6g") if isinstance(value, float) else str(value)
    text = normalised(value) if isinstance(value, str) else ""
    return [text] if text else []


def numbers_of(history: Sequence[Any], catalogue: Catalogue) -> list[int]:
    """Item numbers of a request's history; -1 for items that are only described."""
    return [_number_of(entry, catalogue) for entry in history]


def stars_of_history(history: Sequence[Any], catalogue: Catalogue) -> list[tuple[int, float | None]]:
    """Item number and stars of each item of a request's history."""
    found = []
    for entry in history:
        stars = entry.get("rating") if isinstance(entry, Mapping) else None
        found.append((_number_of(entry, catalogue), None if stars is None else float(stars)))
    return found


def _number_of(entry: Any, catalogue: Catalogue) -> int:
    item_id = entry.get("item_id") if isinstance(entry, Mapping) else entry
    return catalogue.number(str(item_id)) if item_id is not None and str(item_id) in catalogue else -1
