"""`pipeline("personalization")`: a shopper's history and a wish in, plain dicts out."""

import copy
import difflib
import inspect
import itertools
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeAlias, cast

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin, Pipeline

from .answering import answer, answering, as_read, finds_nothing, split, warn_if_untrained
from .attribution import because as parts_of_scores
from .hybrid_scores import PICTURES, TEXT, HybridScores
from .imagining import PictureIndex, retrieve
from .interfaces import PictureFeatures, Processor, Request
from .item_embeddings import ItemContent
from .picture_latents import PictureLatents
from .ranking import highest, rank_items
from .unknown_items import content_of, with_stand_ins
from .user_state import UserState, cache_of, chooses_cache, read_histories, tokens_of
from .weights_version import WeightsVersion, weights_fingerprint

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

# Of `preprocess`, of `_forward` and of `postprocess`.
Arguments: TypeAlias = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


class PersonalizationPipeline(Pipeline):
    """Answers requests about a shopper.

    ```python
    >>> import modeling_unimp
    >>> from transformers import pipeline

    >>> unimp = pipeline("personalization")  # the model in ./unimp
    >>> unimp({"task": "recommend", "history": ["mug-014", "lamp-003"]}, top_k=3)["items"][0]["item_id"]
    ```

    A request is a dict with a `"task"` and a `"history"`, latest item last. An item is an id of the catalogue, a dict
    with an `"item_id"` and perhaps a `"rating"`, or a dict that describes an item the catalogue does not know. A key
    that its task does not read is an error.

    A history that several requests of a call share is read once. For several calls [`~PersonalizationPipeline.read`]
    it, and pass the [`UserState`] in its place: the answers are the same.

    By task:

    - `"recommend"`: `{"items": [{"item_id", attributes..., "score"}]}`, best first.
    - `"search"` with `"query"`: the same.
    - `"rate"` with `"item"`: `{"stars", "most_likely", "probabilities": {1: ..}, "entropy"}`.
    - `"explain"` with `"item"`: `{"text"}`.
    - `"imagine"` with `"query"`: `{"picture", "retrieved", "nearest": [{"item_id", attributes..., "similarity"}]}`: a
      `PIL.Image.Image`, the items it was made from, and what the shop has that looks most like it.
    - `"select"` with `"candidates"`: `{"items": [{"item_id", attributes..., "score", "selected"}]}`, in their order.

    Scores are probabilities: among the items allowed, or of a candidate to suit. A list of requests is a batch, tasks
    may be mixed; a generator or a dataset is answered lazily.

    Answers that rest on little are marked: `"without_history": True` is what is usual in the shop, `"without_match":
    True` where no item has a word of the query, `"untrained": True` of a task that the model was not trained for.

    Call arguments:
        top_k (`int`, *optional*, defaults to 10): items of a ranking, or nearest to a picture.
        exclude_seen (`bool`, *optional*): leave the history's items out of a ranking. By default recommend does what
            the model was trained for (`processor.exclude_seen`), and search finds what the shopper has, too.
        allowed (`Iterable[str]`, *optional*): rank these item ids only, such as those in stock.
        because (`int`, *optional*): say of each item of recommend and search why it is there, by so many items of the
            history at most: it gets `"because": [{"item_id", "source", "share"}]`, see `attribution.py`; an item
            without an id is told as `"item"`, as the request describes it.
        batch_size (`int`, *optional*, defaults to 32): requests a forward.
        vision_features (`FeatureStore`, *optional*): features of the catalogue's pictures, instead of the pictures.
        seed (`int`, *optional*, defaults to 0): another seed, another picture.
        Arguments of `generate`, such as `max_new_tokens`, `num_beams`, `temperature` or `do_sample`, shape
        explanations and pictures; of pictures not their length. For the top-k of sampling pass a `generation_config`.

    Raises:
        ValueError: a request that is not of this form; the message says which, and what was expected.
    """

    model: "UniMPForConditionalGeneration"
    processor: Processor
    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _pipeline_calls_generate = True
    _non_generation_params = ("top_k",)

    def __init__(self, model: "UniMPForConditionalGeneration", *args: Any, **kwargs: Any) -> None:
        if hasattr(model, "merge_and_unload"):
            model = cast(Any, model).get_base_model()  # with its adapters in it
        placed = getattr(model, "hf_device_map", {})
        if model.device.type == "meta" or "disk" in placed.values():
            # Hooks bring each part when it is called: nothing is to be moved. transformers would take the map's first
            # place for a device, and "disk" is none.
            kwargs.setdefault("device", model.device)
            vars(model).pop("hf_device_map", None)
        super().__init__(model, *args, **kwargs)
        if placed:
            model.hf_device_map = placed
        self.model.check_processor(self.processor)
        self.model.model.item_embeddings.keeps_rows = not placed
        self._picture_index: tuple[Any, PictureIndex] | None = None
        self._latents = PictureLatents()
        self._fingerprint: tuple[WeightsVersion | None, Any] = (None, None)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and processor, with its catalogue: a folder that this pipeline loads. What ran the code of a
        published folder saves that code too. Items that are added or changed meanwhile wait; answers do not.

        Raises:
            ValueError: a model with adapters of peft; nothing is saved then. Build the pipeline on what
                `merge_and_unload()` returns.
        """
        with self.processor.catalogue.lock.preparing:
            self.model.save_pretrained(save_directory, **kwargs)
            self.processor.save_pretrained(save_directory, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PersonalizationPipeline":
        memo[id(self)] = copied = type(self).__new__(type(self))
        with self.processor.catalogue.lock.preparing:
            vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def push_to_hub(self, *args: Any, **kwargs: Any) -> str:
        """As `Pipeline.push_to_hub`; what cannot be saved is refused before a repository is made."""
        self.model.check_can_be_saved()
        return super().push_to_hub(*args, **kwargs)

    def add_items(self, items: Iterable[Mapping[str, Any]]) -> list[int]:
        """Add items to the catalogue and give them a token; they can be read and ranked at once, without training.

        All or none are added. Others may ask meanwhile: they are answered with the items as they were, or as they are.

        Args:
            items (`Iterable[Mapping]`): as rows of the items table.

        Returns:
            `list[int]`: their rows. Logits of the other items stay as they are. With `item_rows="free"` a new item is
            read by its text and picture, but ranks like an average item until the model is trained again.

        Raises:
            ValueError: see [`Catalogue.add`]; nothing is added then.
        """
        catalogue = self.processor.catalogue
        with catalogue.lock.preparing:
            added = catalogue.checked_additions(items)
            if added is None:
                return []
            new = [added.item(item_id) for item_id in added.item_ids]
            content = self._content(new, map(added.picture, added.item_ids))
            hybrid = self.model.hybrid_scores
            if hybrid is not None:
                told = range(len(catalogue), len(catalogue) + len(new))
                hybrid = self._closed_form_with(hybrid, told, new, content, [False] * len(new))
            with catalogue.lock.changing():
                # First what could fail.
                self.model.add_items(len(new), content, catalogue_fingerprint=catalogue.fingerprint_with(added))
                self.model.hybrid_scores = hybrid
                numbers: list[int] = catalogue.append(added)
        return numbers

    def update_items(self, items: Iterable[Mapping[str, Any]]) -> list[int]:
        """Change attributes, prices or pictures of items; the next answers read and rank them as they are then.

        All or none are changed, and answers meanwhile are as of [`PersonalizationPipeline.add_items`]. Features of
        pictures that are passed as `vision_features` stay those of the old picture: build the store again, which looks
        at the new ones alone. A picture file that is exchanged under its old name is looked at again once it is named
        here as an item's `"image"`.

        Args:
            items (`Iterable[Mapping]`): each with an `item_id` and what is to change, see [`Catalogue.update`].

        Returns:
            `list[int]`: their rows.

        Raises:
            ValueError: see [`Catalogue.update`]; nothing is changed then.
        """
        catalogue = self.processor.catalogue
        with catalogue.lock.preparing:
            changes = catalogue.checked_changes(items)
            if changes is None:
                return []
            exchanged = (catalogue.picture_of(changes.sources.get(number)) for number in changes.numbers)
            content = self._content(changes.rows, exchanged)
            kept = [number not in changes.sources for number in changes.numbers]
            hybrid = self.model.hybrid_scores
            if hybrid is not None:
                hybrid = self._closed_form_with(hybrid, changes.numbers, changes.rows, content, kept)
            with catalogue.lock.changing():
                self.model.hybrid_scores = hybrid
                if content is not None:
                    self.model.update_items(torch.tensor(changes.numbers), content, keep_pictures=torch.tensor(kept))
                numbers: list[int] = catalogue.change(changes)
        return numbers

    def _closed_form_with(
        self,
        hybrid: HybridScores,
        numbers: Sequence[int],
        items: Sequence[Mapping[str, Any]],
        content: ItemContent | None,
        kept: Sequence[bool],
    ) -> HybridScores:
        """Closed-form scores that know of items, and what goes with them; `kept` says whose picture is as it was."""
        rows, config = self.model.model.item_embeddings, self.model.config
        later = [place for place, number in enumerate(numbers) if number >= hybrid.num_items]
        similarity: dict[str, Iterable[torch.Tensor | None]] = {}
        if content is not None:
            pictures = None if content.pictures is None else content.pictures[later]
            own = ItemContent(content.term_ids[later], content.term_weights[later], pictures)
            if config.num_terms:
                similarity[TEXT] = rows.similarity_of_terms(own)
            if config.content_picture_size:
                seen = zip(later, rows.similarity_of_pictures(own), strict=True)
                similarity[PICTURES] = (None if kept[place] else alike for place, alike in seen)
        return hybrid.with_items(dict(zip(numbers, items, strict=True)), similarity)

    def _content(self, items: Sequence[Mapping[str, Any]], pictures: Iterable[Any]) -> ItemContent | None:
        """What item rows are made from; pictures are opened one by one."""
        pixels = (None if picture is None else self.processor.pixels_of(picture) for picture in pictures)
        return content_of(self.model, self.processor, items, pixels)

    def read(self, history: Any, *, vision_features: PictureFeatures | None = None) -> UserState:
        """Read a shopper's history once, for any number of requests about it.

        ```python
        >>> state = unimp.read(["mug-014", "lamp-003"])
        >>> unimp({"task": "recommend", "history": state})
        >>> unimp({"task": "search", "history": state, "query": "chair"})
        ```

        Args:
            history (`list`): as in a request.
            vision_features (`FeatureStore`, *optional*): see the class; the same as in the calls that follow.

        Returns:
            [`UserState`]: also of a model or catalogue that is changed later; it is then read again in every call.

        Raises:
            ValueError: no history.
        """
        return self._read_state(history, None, vision_features)

    def extend(self, state: UserState, event: Any, *, vision_features: PictureFeatures | None = None) -> UserState:
        """The state after one more event, an item as a history has it; nothing but this item is read.

        A history longer than the processor's `history_length`, or than its `max_length`, loses its first item, which
        moves all others: it is read as a whole then.

        Args:
            state ([`UserState`]): stays as it is.
            event (`str` or `dict`): what the shopper took last.
            vision_features (`FeatureStore`, *optional*): see the class.
        """
        if not isinstance(state, UserState):
            raise ValueError(f"a state came as {type(state).__name__}: expected what `read` or `extend` returned.")
        return self._read_state([*state.history, event], state, vision_features)

    def _read_state(self, history: Any, after: UserState | None, vision_features: PictureFeatures | None) -> UserState:
        with self.processor.catalogue.lock.answering():
            self.model.check_processor(self.processor)
            self._latents.belong_to(self.model)
            read = self.processor.read_request({"task": "recommend", "history": history})
            reading, _, _ = self.call_arguments(vision_features=vision_features)
            valid = self._still_valid(after)
            return self._read([read], [0], self._weights_fingerprint(), after=[valid], **reading)[0]

    def _read(
        self, requests: Sequence[Request], positions: Sequence[int], fingerprint: Any = None, **options: Any
    ) -> list[UserState]:
        """States of the histories of requests that were read; without a fingerprint for this call alone."""
        histories = [request.get("history") for request in requests]
        with answering(self.model):
            return read_histories(
                self.model, self.processor, histories, self._latents, fingerprint, positions=positions, **options
            )

    def _still_valid(self, state: UserState | None) -> UserState | None:
        """The state, unless the weights are no longer those that read it. Words and pictures that have changed are
        seen where a request is compared with it."""
        if state is None or state.fingerprint != self._weights_fingerprint():
            return None
        return state

    def _weights_fingerprint(self) -> Any:
        version = WeightsVersion(self.model)
        if self._fingerprint[0] != version:
            self._fingerprint = (version, weights_fingerprint(self.model))
        return self._fingerprint[1]

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        exclude_seen: bool | None = None,
        allowed: Iterable[str] | None = None,
        because: int | None = None,
        vision_features: PictureFeatures | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        ranking: dict[str, Any] = {}
        if top_k is not None:
            ranking["top_k"] = _at_least_one(top_k, "top_k")
        if exclude_seen is not None:
            if not isinstance(exclude_seen, bool | np.bool_):
                raise ValueError(f"exclude_seen={exclude_seen!r}: expected True or False.")
            ranking["exclude_seen"] = bool(exclude_seen)
        if allowed is not None:
            if isinstance(allowed, str) or not isinstance(allowed, Iterable):
                raise ValueError(f"allowed={allowed!r}: expected a list of item ids.")
            ranking["allowed"] = list(allowed)
        if because is not None:
            ranking["because"] = _at_least_one(because, "because")
        for name in ("max_new_tokens", "num_beams"):
            if generate_kwargs.get(name) is not None:
                generate_kwargs[name] = _at_least_one(generate_kwargs[name], name)
        for name in ("logits_processor", "stopping_criteria"):
            if isinstance(generate_kwargs.get(name), Iterator):
                generate_kwargs[name] = list(generate_kwargs[name])
        own = ["top_k", "exclude_seen", "allowed", "because", "batch_size", "vision_features", "seed"]
        known = [*own, *vars(GenerationConfig()), *inspect.signature(GenerationMixin.generate).parameters]
        if "num_workers" in generate_kwargs:
            raise ValueError("num_workers has no effect: requests are read by the process that answers. Leave it out.")
        for name in generate_kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(own)}, or of `generate`."
                raise ValueError(f"unknown argument {name!r}: {hint}")
        reading = {} if vision_features is None else {"vision_features": vision_features}
        return reading, generate_kwargs, ranking

    def __call__(self, requests: Any, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        if isinstance(requests, Mapping):
            return self([requests], batch_size=1, **kwargs)[0]
        if hasattr(requests, "__getitem__") and hasattr(requests, "__len__") and not isinstance(requests, Iterable):
            # A map-style dataset of torch, such as transformers' KeyDataset.
            requests = map(requests.__getitem__, range(len(requests)))
        if isinstance(requests, (str, bytes)) or not isinstance(requests, Iterable):
            raise ValueError(
                f"a request of type {type(requests).__name__}: expected a dict such as "
                "{'task': 'recommend', 'history': [...]}, or a list of them."
            )
        size = _at_least_one(batch_size if batch_size is not None else self._batch_size or 32, "batch_size")
        # Once a call, also where it is answered lazily: what is an iterator can be read only once.
        arguments = self.call_arguments(**kwargs)
        if isinstance(requests, (list, tuple)):
            return self._answer_all(requests, size, arguments)
        return self._answer_lazily(iter(requests), size, arguments)

    def _answer_lazily(self, requests: Iterator[Any], size: int, arguments: Arguments) -> Iterator[dict[str, Any]]:
        first = 0
        while chunk := list(itertools.islice(requests, size)):
            yield from self._answer_all(chunk, size, arguments, first)
            first += len(chunk)

    def _answer_all(
        self, requests: Sequence[Any], size: int, arguments: Arguments, first: int = 0
    ) -> list[dict[str, Any]]:
        """Batches of equal answer group, answers in the order of the requests, which errors count from `first`."""
        with self.processor.catalogue.lock.answering():
            return self._answer_consistently(requests, size, arguments, first)

    def _answer_consistently(
        self, requests: Sequence[Any], size: int, arguments: Arguments, first: int
    ) -> list[dict[str, Any]]:
        # Also a catalogue that grew since: the model would have no token for its new items.
        self.model.check_processor(self.processor)
        self._latents.belong_to(self.model)
        asked = []
        for number, request in enumerate(requests, start=first):
            try:
                group, read = self.processor.task_of(request).answer_group, self.processor.read_request(request)
            except ValueError as error:
                raise ValueError(f"request {number}: {error}") from error
            given = request["history"] if isinstance(request.get("history"), UserState) else None
            asked.append(_Asked(number, group, read, self._still_valid(given)))
        answers: dict[int, dict[str, Any]] = {}
        for part in self._parts(asked, size, arguments[0]):
            for group in dict.fromkeys(each.group for each in part):
                of_group = [each for each in part if each.group == group]
                for start in range(0, len(of_group), size):
                    batch = of_group[start : start + size]
                    work: dict[str, Any] = {
                        "group": group,
                        "requests": [each.request for each in batch],
                        "positions": [each.number for each in batch],
                        "states": [each.state for each in batch],
                    }
                    if group == "codes":
                        work = self._with_retrieved(work, **arguments[0])
                    answered = self.run_single(work, *arguments)
                    answers.update(zip(work["positions"], answered, strict=True))
        return [answers[each.number] for each in asked]

    def _parts(self, asked: Sequence["_Asked"], size: int, reading: dict[str, Any]) -> Iterator[list["_Asked"]]:
        """Requests that came with a state, those alone with their history, and those that share theirs: with its
        state, which is read here, of `size` histories at a time."""
        by_history: dict[str, list[_Asked]] = {}
        for each in asked:
            if each.state is None:
                # Two that look alike and are not share less than was read, and are answered all the same.
                by_history.setdefault(repr(each.request.get("history")), []).append(each)
        # Imagine asks about a history several times itself.
        shared = {
            key: alike
            for key, alike in by_history.items()
            if alike[0].request.get("history") and (len(alike) > 1 or alike[0].group == "codes")
        }
        yield [each for each in asked if each.state is not None]
        yield [each for key, alike in by_history.items() if key not in shared for each in alike]
        several = list(shared.values())
        for start in range(0, len(several), size):
            together = several[start : start + size]
            firsts = [alike[0] for alike in together]
            states = self._read([each.request for each in firsts], [each.number for each in firsts], **reading)
            yield [each._replace(state=state) for alike, state in zip(together, states, strict=True) for each in alike]

    def _with_retrieved(self, work: dict[str, Any], vision_features: PictureFeatures | None = None) -> dict[str, Any]:
        """Requests of imagine with the items that the model's own search finds for them: a pass before theirs."""
        index = self.picture_index(vision_features)

        def search(asked: Sequence[Request]) -> torch.Tensor:
            searched = self.preprocess(work | {"group": "items", "requests": asked}, vision_features)
            logits_BN: torch.Tensor = self.forward(searched)["outputs"]
            return logits_BN

        return work | {
            "requests": retrieve(search, self.processor, work["requests"], index.has_picture),
            "index": index,
        }

    def call_arguments(self, **kwargs: Any) -> Arguments:
        """Arguments of a call, with those of the pipeline's construction: of `preprocess` (`vision_features`), of
        `_forward` (those of `generate`), of `postprocess` (`top_k`, `exclude_seen`, `allowed`, `because`)."""
        reading, generating, ranking = self._sanitize_parameters(**kwargs)
        return (
            self._preprocess_params | reading,
            self._generate_kwargs | self._forward_params | generating,
            self._postprocess_params | ranking,
        )

    def preprocess(self, work: dict[str, Any], vision_features: PictureFeatures | None = None) -> dict[str, Any]:
        """Requests of one answer group to tensors; `work` holds `group`, `requests`, `states` and, for errors,
        `positions`."""
        inputs = self.processor(
            requests=as_read(self.model, self.processor, work["group"], work["requests"], work["positions"]),
            vision_features=vision_features,
            positions=work["positions"],
            latents=self._latents,
            own_latents=[None if state is None else state.latents for state in work["states"]],
        )
        if all(state is None for state in work["states"]):
            return work | {"inputs": inputs, "states": None}
        return work | {"inputs": inputs, "tokens": tokens_of(inputs)}

    def _forward(self, work: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        with answering(self.model):
            inputs = self._latents.media_states(self.model, work["inputs"])
            if work["states"] is not None and not chooses_cache(self.model, generate_kwargs):
                num_answers = max(len(request.get("candidates", ())) for request in work["requests"])
                cache = cache_of(self.model, inputs, work["tokens"], work["states"], max(num_answers, 1))
                inputs |= {} if cache is None else {"cache": cache}
            scored = with_stand_ins(self.model, self.processor, work["group"], work["requests"], work["positions"])
            outputs = answer(
                self.model,
                self.processor,
                work["group"],
                scored,
                inputs,
                index=work.get("index"),
                **generate_kwargs,
            )
        return {"group": work["group"], "requests": work["requests"], "scored": scored, "outputs": outputs}

    def postprocess(
        self,
        work: dict[str, Any],
        top_k: int = 10,
        exclude_seen: bool | None = None,
        allowed: list[str] | None = None,
        because: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank what has to be ranked, and say it in plain dicts."""
        group, requests = work["group"], work["requests"]
        outputs = split(self.processor, group, requests, work["outputs"])
        if group == "items":
            masks = torch.stack([self.allowed_items(request, exclude_seen, allowed) for request in requests])
            scores, numbers = rank_items(work["outputs"], top_k, masks)
            outputs = []
            for request, logits, own, of_own in zip(work["scored"], work["outputs"], numbers, scores, strict=True):
                items, results = own[own >= 0].tolist(), {"score": of_own[own >= 0].tolist()}
                if because is not None:
                    hybrid, catalogue = self.model.hybrid_scores, self.processor.catalogue
                    results["because"] = parts_of_scores(hybrid, request, logits, items, catalogue, because)
                outputs.append((items, results))
        elif group == "codes":
            outputs = [
                (output, self._nearest(request, output["similarity"], top_k, bool(exclude_seen), allowed))
                for request, output in zip(requests, outputs, strict=True)
            ]
        answers = []
        for request, output in zip(requests, outputs, strict=True):
            answered = self.processor.task_of(request).answer(request, output, self.processor.catalogue)
            answers.append(answered | self._marks(request))
        return answers

    def _marks(self, request: Request) -> dict[str, bool]:
        """What a caller should know of an answer: on how little it rests."""
        marks = {
            "without_history": not request["history"],
            "without_match": finds_nothing(self.model, request),
            "untrained": warn_if_untrained(self.model, request["task"]),
        }
        return {name: is_so for name, is_so in marks.items() if is_so}

    def _nearest(
        self,
        request: Request,
        similarity: np.ndarray,
        top_k: int,
        exclude_seen: bool,
        allowed: list[str] | None,
    ) -> list[int]:
        """Rows of the allowed items whose pictures are most like one, the likest first."""
        mask = self.allowed_items(request, exclude_seen, allowed).numpy() & (similarity > -1)
        scores = torch.from_numpy(np.where(mask, similarity, -np.inf))
        nearest: list[int] = highest(scores[None], min(top_k, int(mask.sum())))[0].tolist()
        return nearest

    def allowed_items(
        self, request: Mapping[str, Any], exclude_seen: bool | None = None, allowed: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Which items may be ranked `(N,)` of bool; the arguments are those of a call."""
        catalogue = self.processor.catalogue
        mask = np.array(catalogue.available[: self.model.config.num_items])
        if allowed is not None:
            wanted = np.zeros_like(mask)
            wanted[[catalogue.number(item_id) for item_id in allowed]] = True
            mask &= wanted
        if exclude_seen is None:
            exclude_seen = self.processor.leaves_out_seen(request["task"])
        if exclude_seen:
            for entry in request["history"]:
                item_id = entry.get("item_id") if isinstance(entry, Mapping) else entry
                if item_id is not None and str(item_id) in catalogue:
                    mask[catalogue.number(str(item_id))] = False
        return torch.from_numpy(mask)

    def picture_index(self, vision_features: PictureFeatures | None = None) -> PictureIndex:
        """What pictures are compared with: those of the catalogue, read once, and again when they or what looks at
        them have changed."""
        model, codec = self.model, self.model.image_codec
        lookers = [model.model.vision_tower, None if codec is None else codec.vq_model]
        made_from = (
            self.processor.catalogue.version,
            self.processor.picture_settings,
            model.config.picture_features,
            vision_features,
            WeightsVersion(*(each for each in lookers if each is not None)),
        )
        if self._picture_index is None or self._picture_index[0] != made_from:
            with answering(model):
                self._picture_index = (made_from, PictureIndex.of(model, self.processor, vision_features))
        return self._picture_index[1]

    def get_inference_context(self) -> Any:
        return torch.inference_mode

    def _ensure_tensor_on_device(self, inputs: Any, device: torch.device) -> Any:
        # Of an offloaded model the hooks decide where inputs go.
        if device.type == "meta":
            return inputs
        # What is plain Python in the work is long, and looking for tensors in it takes as long as a small network.
        names = ("requests", "scored", "tokens")
        plain = {name: inputs[name] for name in names if isinstance(inputs, dict) and name in inputs}
        rest = {name: value for name, value in inputs.items() if name not in plain} if plain else inputs
        moved = super()._ensure_tensor_on_device(rest, device)
        return moved | plain if plain else moved


class _Asked(NamedTuple):
    """A request that was read, its number in error messages, and the state of its history, if there is one."""

    number: int
    group: str
    request: Request
    state: UserState | None


def _at_least_one(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < 1:
        raise ValueError(f"{name}={repr(value)[:40]}: expected a whole number of at least 1.")
    return operator.index(value)
