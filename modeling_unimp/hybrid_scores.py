"""Closed-form scores beside the network's: what goes with a history and a query, added where items are ranked.

`score(i) = w_0 * log p(i) + sum_f w_f * log1p(3 * max(q_f(i), 0) / r_f)`, where `p` is the network's distribution over
the items, `q_f(i) = sum over the history of 2^(-age / h_f) * S_f(item, i)` with the age in places, and `r_f` the size
that `q_f` has at the tenth-best item. The `S_f` are nearest neighbours of each item; in a linear model an item may
also speak against another. Weights are fitted on validation after the training: on what the network was trained on
they would come out too small.

Shapes: B requests, N items, k neighbours a row, F closed-form scores.
"""

import copy
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import cached_file

from .interfaces import Catalogue
from .manifest import HUB_ARGUMENTS, check_weights
from .star_scores import STAR_ARRAYS, StarScores
from .term_index import TERM_ARRAYS, TermIndex, query_texts, texts_of

HYBRID_FILE = "hybrid_scores.safetensors"
MAX_HISTORY = 200  # items of a history that are looked at, the latest
# Of what its stand-in has. More is better for what is new and worse for all else: with a tenth of H&M's items new,
# their NDCG@10 is .008, .054, .061 and .073 at 0, .5, .7 and 1 (text similarity: .059), and that of the others on
# validation .128, .122, .118 and .114.
SHARE_OF_NEW = 0.75
AFTER = "taken after"  # neighbours that are taken later
TEXT, PICTURES = "text", "pictures"  # neighbours that are alike in words, and in their pictures
POPULARITY, AGAIN = "popularity", "again"  # sources that are no neighbours; the second is the history itself
QUERIES = "query attribute"  # the index of whole texts of the attribute that queries mostly name


Items = Mapping[int, Mapping[str, Any]]


class Score(NamedTuple):
    """One closed-form score.

    Args:
        source (`str`): whose neighbours or terms; `"popularity"` and `"again"` have none.
        half_life (`float`): in places of the history; infinity lets all of it count alike.
        scale (`float`, *optional*): r, by which it is divided before it is squashed; `None` until it is measured.
    """

    source: str
    half_life: float = math.inf
    scale: float | None = None


class StandIn(NamedTuple):
    """An item that the catalogue does not know, in a request that closed-form scores read.

    Args:
        number (`int`): the item of the catalogue that it is most like, and stands for.
        described (`Mapping`): as the request describes it.
    """

    number: int
    described: Mapping[str, Any]


def squash(score: Score, raw: torch.Tensor) -> torch.Tensor:
    """`log1p(3 q / r)` of q, and 0 where the history speaks against an item; popularity is a logarithm already."""
    return raw if score.source == POPULARITY else torch.log1p(3 * raw.clamp(min=0) / (score.scale or 1.0))


class HybridScores:
    """
    Args:
        neighbours (`Mapping[str, tuple[torch.Tensor, torch.Tensor]]`): by name, items `(N, k)` and values `(N, k)`.
        terms (`Mapping[str, TermIndex]`): by name, what queries are looked up in.
        popularity (`torch.Tensor` of shape `(N,)`): log of each item's share of the interactions.
        scores (`Sequence[Score]`): F of them.
        weights (`Mapping[str, Sequence[float]]`): by task, `1 + F`: of the network's log-probability, then of the
            scores. For `"select"` one number: by what the scores of the candidates are multiplied, 1 without it.
        stars (`StarScores`, *optional*): where shoppers give stars.
        query_attribute (`str`, *optional*): what queries of the shop mostly name.
        stand_ins (`Mapping[int, int]`, *optional*): items added since the fit or new in it, and the item of the fit
            that each is most like in words (of pictures, where words find none), whose neighbours it has.
        catalogue_size (`int`, *optional*): N with the items added since.
        attributes (`Sequence[str]`, *optional*): what is read of an item; all that it has without it.
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
        attributes: Sequence[str] | None = None,
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
        self.attributes = None if attributes is None else list(attributes)

    def with_weights(
        self, weights: Mapping[str, Sequence[float]], stars: StarScores | None, search_reads: str = "search"
    ) -> "HybridScores":
        """The same scores, weighted otherwise."""
        weighted = copy.copy(self)
        weighted.search_reads = search_reads
        weighted.weights, weighted.stars = {task: list(each) for task, each in weights.items()}, stars
        return weighted

    def with_items(
        self, items: Items, similarity: Mapping[str, Iterable[torch.Tensor | None]] | None = None
    ) -> "HybridScores":
        """The same scores for a catalogue in which some items are new or described anew; neighbours among the items of
        the fit wait for the next one.

        Queries find all of these items by their words as they are now. An item that the fit did not have goes with
        what the item goes with that is most like it in words, and with that item itself as its nearest neighbour does;
        where no word of it is known, that is the item whose picture is most like its own. It is taken to be as
        popular.

        Args:
            items (`Mapping[int, Mapping]`): with their attributes, by their numbers; those from N on are not of the
                fit.
            similarity (`Mapping[str, Iterable[torch.Tensor]]`, *optional*): by the name of neighbours, `"text"` and
                `"pictures"`, and of each item that is not of the fit: how much each item is like it, by the measure of
                these neighbours `(N,)`. It is one of them, then. `None` for one that is as it was.
        """
        grown = copy.copy(self)
        grown.stand_ins = dict(self.stand_ins)
        grown.catalogue_size = max([self.catalogue_size, *(number + 1 for number in items)])
        later = {number: item for number, item in items.items() if number >= self.num_items}
        measures = dict(similarity or {})
        copied = {
            name: (near.clone(), values.clone())
            for name, (near, values) in self.neighbours.items()
            if later and name in measures
        }
        grown.neighbours = self.neighbours | copied
        for number, item, *alike in zip(later, later.values(), *measures.values(), strict=True):
            by_measure = {name: each for name, each in zip(measures, alike, strict=True) if each is not None}
            for name in copied.keys() & by_measure.keys():
                if number < self.catalogue_size:
                    _remove(*copied[name], number)
                _insert(*copied[name], number, by_measure[name])
            other = self.most_alike(item)
            for each in by_measure.values():
                other = self.best_known(each) if other is None else other
            if other is not None:
                grown.stand_ins[number] = other
        grown.terms = {}
        for name, index in self.terms.items():
            texts = {number: texts_of(item, self.attributes) for number, item in items.items()}
            if name == QUERIES:
                texts = {number: query_texts(item.get(str(self.query_attribute))) for number, item in items.items()}
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
            self.add_raw(found[row : row + 1], [score], history, queries[row] if queries else None)
        return found[:, : num_items or size]

    def by_source(self) -> list[tuple[slice, list[Score]]]:
        """The scores that follow one another and are of one source, and their places: they find the same items."""
        found, start = [], 0
        for _, group in itertools.groupby(self.scores, key=lambda score: score.source):
            scores = list(group)
            found.append((slice(start, start + len(scores)), scores))
            start += len(scores)
        return found

    def add_raw(
        self, found: torch.Tensor, scores: Sequence[Score], history: Sequence[int], query: str | None = None
    ) -> torch.Tensor:
        """Add q of some scores of one source to `found` `(S, N)`; returns the numbers of the items that may have got
        some, many of them repeatedly.

        The work is that of the neighbours of a history, and not of a catalogue, but for popularity, which all have.
        """
        source = scores[0].source
        if source in self.terms:
            touched = [self.terms[source].add_to(row, query or "") for row in found]
            return touched[0]
        if source == POPULARITY:
            found[:, : self.num_items] += self.popularity - self.popularity.min()
            added = torch.tensor([*self.stand_ins], dtype=torch.long)
            found[:, added] = found[:, list(self.stand_ins.values())]
            return torch.cat([torch.arange(self.num_items), added])
        numbers = torch.tensor(list(history)[-MAX_HISTORY:], dtype=torch.long)
        half_lives = torch.tensor([score.half_life for score in scores])
        weights_SK = torch.exp2(torch.arange(1 - len(numbers), 1) / half_lives[:, None])
        if source == AGAIN:
            known = (numbers >= 0) & (numbers < found.shape[1])
            found.index_add_(1, numbers[known], weights_SK[:, known])
            return numbers[known]
        items, values = self.neighbours[source]
        if self.stand_ins:
            # An item that nobody took has neighbours of its own where words or pictures make some, and those of its
            # stand-in where they would come from who took it.
            is_of_fit = (numbers >= 0) & (numbers < len(items))
            has_own = is_of_fit & (values[numbers.where(is_of_fit, 0), 0] != 0)
            stood_for = [self.stand_ins.get(number, number) for number in numbers.tolist()]
            numbers = numbers.where(has_own, torch.tensor(stood_for, dtype=torch.long))
        known = (numbers >= 0) & (numbers < len(items))
        near, weights_SK = numbers[known], weights_SK[:, known]
        near_items = items[near].flatten().long()
        found.index_add_(1, near_items, (values[near].float() * weights_SK[:, :, None]).flatten(1))
        if not self.stand_ins:
            return near_items
        added, others = torch.tensor([*self.stand_ins.items()], dtype=torch.long).T
        # No item is its own neighbour, but an added one is near to whoever has the item that it is most like.
        has_it_AK = (others[:, None] == near).float()
        nearest_A = values[others].float().amax(dim=1)
        borrowed = found[:, others] + (weights_SK @ has_it_AK.T) * nearest_A
        # Of one that was new in the fit nobody said that anyone wants it; but what its words and picture tell counts.
        borrowed *= torch.where(added < self.num_items, SHARE_OF_NEW, 1.0)
        found[:, added] = torch.maximum(found[:, added], borrowed)
        return torch.cat([near_items, added])

    def squashed(self, score: Score, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`log1p(3 q / r)` of q above 0, which is what is weighted. Arguments as of `raw`."""
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
        asked = queries or [None] * len(histories)
        weights_of_rows = [self.weights_of(task, query) for query in asked]
        network, size = self.weights[task][0], logits.shape[-1]
        total = network * logits.log_softmax(dim=-1)
        knows_nothing = torch.full((len(histories),), network == 0)
        for places, scores in self.by_source():
            weighted_of_rows = [
                [each for each in zip(weights[1:][places], scores, strict=True) if each[0]]
                for weights in weights_of_rows
            ]
            if scores[0].source == POPULARITY or not any(weighted_of_rows):
                continue
            raw = torch.zeros(max(map(len, weighted_of_rows)), max(self.catalogue_size, size))
            for row, (history, query, weighted) in enumerate(zip(histories, asked, weighted_of_rows, strict=True)):
                if not weighted:
                    continue
                of_row = raw[: len(weighted)]
                touched = self.add_raw(of_row, [score for _, score in weighted], history, query)
                ranked = touched[touched < size]
                for (weight, score), of_score in zip(weighted, of_row, strict=True):
                    # An item that is named twice is written twice, and alike.
                    total[row, ranked] = total[row, ranked] + weight * squash(score, of_score[ranked])
                knows_nothing[row] &= not (raw[:, ranked] > 0).any()
                raw[:, touched] = 0
        # Where nothing is known of a shopper, what is usual in the shop is left.
        of_popularity = torch.where(knows_nothing, 1.0, self.popularity_weight(task))
        if of_popularity.any():
            total += of_popularity[:, None] * self.raw(Score(POPULARITY), [()], num_items=size)
        return total

    def weights_of(self, task: str, query: str | None) -> list[float]:
        """Weights for a request `(1 + F,)`.

        They were fitted on queries that name a value, such as a category, which the words of the items find too. Of
        another query the words count for all: what values that it does not name would have had is theirs.
        """
        weights = list(self.weights[task])
        sources = [score.source for score in self.scores]
        places = {name: 1 + place for place, name in enumerate(sources) if name in self.terms}
        of_words = [place for name, place in places.items() if self.terms[name].mean_length]
        for name, place in places.items():
            if query and of_words and place not in of_words and not self.terms[name].finds(query):
                weights[of_words[0]], weights[place] = weights[of_words[0]] + weights[place], 0.0
        return weights

    def popularity_weight(self, task: str) -> float:
        """The weight of popularity in a task to rank."""
        of_scores = zip(self.weights[task][1:], self.scores, strict=True)
        return sum(weight for weight, score in of_scores if score.source == POPULARITY)

    @property
    def ranks_candidates(self) -> bool:
        """Whether a selection is made by the scores of a recommendation, which it then never contradicts; also where
        no selection was asked for in the fit."""
        return "recommend" in self.weights

    def finds(self, query: str) -> bool:
        """Whether any item has a word of a query, or is what it names."""
        return any(index.finds(query) for index in self.terms.values())

    def answers(self, task: str) -> bool:
        """Whether these scores have a part in the answers of a task."""
        return (
            task in self.weights
            or (task == "select" and self.ranks_candidates)
            or (task == "rate" and self.stars is not None)
        )

    def candidate_probabilities(
        self, logits: torch.Tensor, requests: Sequence[Mapping[str, Any]], catalogue: Catalogue
    ) -> torch.Tensor:
        """How likely each candidate is the shopper's choice among them.

        Args:
            logits (`torch.FloatTensor` of shape `(B, N)`): of the network, for recommendations from the histories.
            requests (`Sequence[Mapping]`): to select, as the tasks read them, perhaps with stand-ins.
            catalogue (`Catalogue`): a candidate that it does not know and that is like none of its items has the
                lowest score of them all.

        Returns:
            `torch.FloatTensor` of shape `(B, K)`, the probabilities of a row at its end.
        """
        scores = self.add("recommend", logits, [numbers_of(request["history"], catalogue) for request in requests])
        found = torch.zeros(len(requests), max(len(request["candidates"]) for request in requests))
        (sharpness,) = self.weights.get("select", [1.0])
        for row, request in enumerate(requests):
            of_candidates = []
            for candidate in request["candidates"]:
                number = _number_of(candidate, catalogue)
                of_candidates.append(scores[row].min() if number == -1 else scores[row, number])
            probabilities = (sharpness * torch.stack(of_candidates)).softmax(dim=0)
            found[row, -len(of_candidates) :] = probabilities
        return found

    def most_alike(self, described: Mapping[str, Any]) -> int | None:
        """The item whose words are most like those of an item that is described, of those that the fit knew well."""
        found = torch.zeros(self.catalogue_size)
        for text in texts_of(described, self.attributes):
            for index in self.terms.values():
                index.add_to(found, text)
        return self.best_known(found)

    def best_known(self, alike: torch.Tensor) -> int | None:
        """The number of the largest entry above 0, of the items that the fit knew well."""
        of_fit = alike[: self.num_items].clone()
        of_fit[[number for number in self.stand_ins if number < len(of_fit)]] = 0
        return int(of_fit.argmax()) if (of_fit > 0).any() else None

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
            "attributes": self.attributes,
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
            ValueError: a damaged file, or one of another version.
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
                # A buffer holds at least one character, also where no item has a text.
                vocabulary = (
                    {term: number for number, term in enumerate(text.split("\n"))} if len(arrays["idf"]) else {}
                )
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
                described.get("attributes"),  # files of earlier read all of them
            )
        except Exception as error:
            raise ValueError(
                f"{file} cannot be read ({type(error).__name__}: {error}). It may be damaged, or of another version "
                "of UniMP: copy, download or train it again."
            ) from error


def _remove(items: torch.Tensor, values: torch.Tensor, number: int) -> None:
    """Take an item from neighbours `(N, k)`; what is left over is 0 at item 0."""
    rows = (items == number).any(dim=1).nonzero()[:, 0]
    gone = items[rows] == number
    items[rows], values[rows] = items[rows].masked_fill(gone, 0), values[rows].masked_fill(gone, 0)
    _put_in_order(items, values, rows)


def _insert(items: torch.Tensor, values: torch.Tensor, number: int, alike: torch.Tensor) -> None:
    """Put an item among neighbours `(N, k)`, the nearest first, in the place of the last of each row that is less
    alike."""
    of_fit = alike[: len(items)].half()
    rows = (of_fit > values[:, -1]).nonzero()[:, 0]
    rows = rows[of_fit[rows].argsort(descending=True)[: items.shape[1]]]
    items[rows, -1], values[rows, -1] = number, of_fit[rows]
    _put_in_order(items, values, rows)


def _put_in_order(items: torch.Tensor, values: torch.Tensor, rows: torch.Tensor) -> None:
    values[rows], order = values[rows].sort(dim=1, descending=True, stable=True)
    items[rows] = items[rows].gather(1, order)


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
    if verify:
        # Nothing else would tell of it, and the model would answer otherwise.
        check_weights(name, stem=HYBRID_FILE.removesuffix(".safetensors"), **kwargs | {"may_lack": False})
    if file is None:
        return None
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


def numbers_of(history: Sequence[Any], catalogue: Catalogue) -> list[int]:
    """Item numbers of a request's history; -1 for items that are only described and have no stand-in."""
    return [_number_of(entry, catalogue) for entry in history]


def stars_of_history(history: Sequence[Any], catalogue: Catalogue) -> list[tuple[int, float | None]]:
    """Item number and stars of each item of a request's history."""
    found = []
    for entry in history:
        stars = entry.get("rating") if isinstance(entry, Mapping) else None
        found.append((_number_of(entry, catalogue), None if stars is None else float(stars)))
    return found


def _number_of(entry: Any, catalogue: Catalogue) -> int:
    if isinstance(entry, StandIn):
        return entry.number
    item_id = entry.get("item_id") if isinstance(entry, Mapping) else entry
    return catalogue.number(str(item_id)) if item_id is not None and str(item_id) in catalogue else -1
