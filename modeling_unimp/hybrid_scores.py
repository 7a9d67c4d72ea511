"""Closed-form scores beside the network's: what goes with a history and a query, added where items are ranked.

`score(i) = w_0 * log p(i) + sum_f w_f * log1p(3 * q_f(i) / r_f)`, where `p` is the network's distribution over the
items, `q_f(i) = sum over the history of 2^(-age / h_f) * S_f(item, i)` with the age in places, and `r_f` the size that
`q_f` has at the tenth-best item. The `S_f` are nearest neighbours of each item. Weights are fitted on validation after
the training: on what the network was trained on they would come out too small.

Shapes: B requests, N items, k neighbours a row, F closed-form scores.
"""

import hashlib
import json
import math
import os
import re
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
STAR_ARRAYS = ("biases", "neighbours", "similarities", "intercepts")
WORD = re.compile(r"\w+")


class Score(NamedTuple):
    """One closed-form score.

    Args:
        source (`str`): whose neighbours or terms; `"popularity"` has none.
        half_life (`float`): in places of the history; infinity lets all of it count alike.
        scale (`float`): r, by which it is divided before it is squashed.
    """

    source: str
    half_life: float = math.inf
    scale: float = 1.0


class TermIndex(NamedTuple):
    """Weights of terms in items, by term: what a query finds.

    Args:
        vocabulary (`dict[str, int]`): V terms in lower case.
        starts (`np.ndarray` of shape `(V + 1,)`): term `t` has the entries `starts[t]` to `starts[t + 1]`.
        items, weights (`np.ndarray` of shape `(num_entries,)`)
        are_words (`bool`): whether terms are single words, or whole values of an attribute.
    """

    vocabulary: dict[str, int]
    starts: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    are_words: bool

    def add_to(self, found: torch.Tensor, query: str) -> None:
        """Add what a query finds to `found` `(N,)`."""
        for term in WORD.findall(query.lower()) if self.are_words else [query.strip().lower()]:
            if (number := self.vocabulary.get(term)) is not None:
                entries = slice(self.starts[number], self.starts[number + 1])
                found[self.items[entries]] += torch.from_numpy(self.weights[entries])


class StarScores(NamedTuple):
    """Stars from the mean, the item's bias, the shopper's bias, and what the shopper gave to items rated alike.

    `log p(s)` is, up to a constant, `network * log p_network(s) + s * (expected * e + alike * c) + intercepts[s]`.

    Args:
        mean (`float`): of all stars.
        biases (`np.ndarray` of shape `(N,)`): of each item.
        strength (`float`): the shopper's bias is drawn to 0 as if by so many more ratings.
        neighbours (`np.ndarray` of shape `(N, k)`), similarities (`np.ndarray` of shape `(N, k)`): items rated alike.
        intercepts (`np.ndarray` of shape `(5,)`)
        network, expected, alike (`float`): weights.
    """

    mean: float
    biases: np.ndarray
    strength: float
    neighbours: np.ndarray
    similarities: np.ndarray
    intercepts: np.ndarray
    network: float = 1.0
    expected: float = 0.0
    alike: float = 0.0

    def estimate(self, history: Sequence[tuple[int, float | None]], item: int) -> tuple[float, float]:
        """Expected stars `e` of an item (-1: none of the catalogue) by the biases, and the correction `c`."""
        residuals = {number: stars - self.mean - self._bias(number) for number, stars in history if stars is not None}
        of_shopper = sum(residuals.values()) / (len(residuals) + self.strength)
        estimate = self.mean + of_shopper + self._bias(item)
        if not 0 <= item < len(self.neighbours):
            return estimate, 0.0
        near = zip(self.neighbours[item].tolist(), self.similarities[item].tolist(), strict=True)
        found = [(similarity, residuals[number] - of_shopper) for number, similarity in near if number in residuals]
        total = 1.0 + sum(similarity for similarity, _ in found)
        return estimate, sum(similarity * residual for similarity, residual in found) / total

    def probabilities(self, network: np.ndarray, estimate: tuple[float, float]) -> np.ndarray:
        """The distribution `(5,)`, from the network's own and what [`StarScores.estimate`] found."""
        stars = np.arange(1, len(network) + 1)
        slope = self.expected * estimate[0] + self.alike * estimate[1]
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
    """

    def __init__(
        self,
        neighbours: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        terms: Mapping[str, TermIndex],
        popularity: torch.Tensor,
        scores: Sequence[Score],
        weights: Mapping[str, Sequence[float]] | None = None,
        stars: StarScores | None = None,
    ) -> None:
        # Rounded to the 16 bits that a file holds: a loaded model answers as the one that was evaluated.
        self.neighbours = {name: (items.long(), values.half().float()) for name, (items, values) in neighbours.items()}
        self.terms = dict(terms)
        self.popularity = popularity.float()
        self.scores = list(scores)
        self.weights = {task: list(each) for task, each in (weights or {}).items()}
        self.stars = stars

    def with_weights(self, weights: Mapping[str, Sequence[float]], stars: StarScores | None) -> "HybridScores":
        """The same scores, weighted otherwise."""
        return HybridScores(self.neighbours, self.terms, self.popularity, self.scores, weights, stars)

    @property
    def num_items(self) -> int:
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
            num_items (`int`, *optional*): N, where it has grown since the fit; later items get 0.
        """
        size = max(self.num_items, num_items or 0)
        found = torch.zeros(len(histories), size)
        if score.source == POPULARITY:
            found[:, : self.num_items] = self.popularity - self.popularity.min()
        elif score.source in self.terms:
            for row, query in enumerate(queries or []):
                if query is not None:
                    self.terms[score.source].add_to(found[row], query)
        else:
            items, values = self.neighbours[score.source]
            for row, history in enumerate(histories):
                numbers = torch.tensor(list(history)[-MAX_HISTORY:], dtype=torch.long)
                weights = torch.exp2(torch.arange(1 - len(numbers), 1) / score.half_life)
                known = (numbers >= 0) & (numbers < len(items))
                near, weights = numbers[known], weights[known]
                found[row].index_add_(0, items[near].flatten(), (values[near] * weights[:, None]).flatten())
        return found

    def squashed(self, score: Score, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`log1p(3 q / r)`, which is what is weighted; popularity is a logarithm already. Arguments as of `raw`."""
        raw = self.raw(score, *args, **kwargs)
        return raw if score.source == POPULARITY else torch.log1p(3 * raw / score.scale)

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
        for weight, score in zip(weights, self.scores, strict=True):
            if weight:
                total += weight * self.squashed(score, histories, queries, logits.shape[-1])
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
        values = described.values() if isinstance(described, Mapping) else [described]
        text = " ".join(value for value in values if isinstance(value, str))
        found = torch.zeros(self.num_items)
        for index in self.terms.values():
            index.add_to(found, text)
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
        """16 hex digits that change with any weight or neighbour."""
        found = hashlib.sha256(repr((self.scores, self.weights)).encode())
        for items, values in self.neighbours.values():
            found.update(items.numpy().tobytes())
            found.update(values.numpy().tobytes())
        return found.hexdigest()[:16]

    # ------------------------------------------------------------------------------------------------------- on disk

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write hybrid_scores.safetensors; similarities as 16-bit numbers."""
        tensors = {POPULARITY: self.popularity}
        for name, (items, values) in self.neighbours.items():
            tensors |= {f"neighbours.{name}.items": items.int(), f"neighbours.{name}.values": values.half()}
        described: dict[str, Any] = {"scores": [_finite(each) for each in self.scores], "weights": self.weights}
        for name, index in self.terms.items():
            text = "\n".join(index.vocabulary).encode()
            tensors[f"terms.{name}.vocabulary"] = torch.frombuffer(bytearray(text or b"\n"), dtype=torch.uint8)
            for part in ("starts", "items", "weights"):
                tensors[f"terms.{name}.{part}"] = torch.from_numpy(getattr(index, part))
        described["terms"] = {name: index.are_words for name, index in self.terms.items()}
        if self.stars is not None:
            of_stars = self.stars._asdict()
            tensors |= {f"stars.{name}": torch.from_numpy(of_stars.pop(name)) for name in STAR_ARRAYS}
            described["stars"] = of_stars
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
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
            names = {name.split(".")[1] for name in tensors if name.startswith("neighbours.")}
            terms = {}
            for name, are_words in described["terms"].items():
                text = bytes(tensors[f"terms.{name}.vocabulary"].tolist()).decode()
                starts, items, weights = (
                    tensors[f"terms.{name}.{part}"].numpy() for part in ("starts", "items", "weights")
                )
                vocabulary = {term: number for number, term in enumerate(text.split("\n"))}
                terms[name] = TermIndex(vocabulary, starts, items, weights, are_words)
            stars = None
            if "stars" in described:
                arrays = {name: tensors[f"stars.{name}"].numpy() for name in STAR_ARRAYS}
                stars = StarScores(**arrays, **described["stars"])
            return cls(
                {n: (tensors[f"neighbours.{n}.items"], tensors[f"neighbours.{n}.values"]) for n in sorted(names)},
                terms,
                tensors[POPULARITY],
                [Score(source, _half_life(life), scale) for source, life, scale in described["scores"]],
                described["weights"],
                stars,
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


def hybrid_beside(name: str | os.PathLike, verify: bool, **kwargs: Any) -> HybridScores | None:
    """The closed-form scores in the folder or Hub repository of a model, if there are some."""
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
    file = cached_file(str(name), HYBRID_FILE, _raise_exceptions_for_missing_entries=False, **hub)
    if file is None:
        return None
    if verify:
        check_weights(name, stem=HYBRID_FILE.removesuffix(".safetensors"), **kwargs)
    return HybridScores.load(file)


def _finite(score: Score) -> list[Any]:
    """JSON has no infinity."""
    return [score.source, None if math.isinf(score.half_life) else score.half_life, score.scale]


def _half_life(value: float | None) -> float:
    return math.inf if value is None else value


def numbers_of(history: Sequence[Any], catalogue: Catalogue) -> list[int]:
    """Item numbers of a request's history; -1 for items that are only described."""
    return [_number_of(entry, catalogue) for entry in history]


def stars_of_history(history: Sequence[Any], catalogue: Catalogue) -> list[tuple[int, float | None]]:
    """Item number and stars of each item of a request's history."""
    given = [entry.get("rating") if isinstance(entry, Mapping) else None for entry in history]
    return [
        (_number_of(entry, catalogue), None if stars is None else float(stars))
        for entry, stars in zip(history, given, strict=True)
    ]


def _number_of(entry: Any, catalogue: Catalogue) -> int:
    item_id = entry.get("item_id") if isinstance(entry, Mapping) else entry
    return catalogue.number(str(item_id)) if item_id is not None and str(item_id) in catalogue else -1
