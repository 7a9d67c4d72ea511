"""UniMPProcessor: requests to tensors, and the words of an answer back to text.

One processor serves training, evaluation and serving, so that requests are encoded as in training. It
carries the catalogue: a saved model folder answers without any training data.
"""

import dataclasses
import inspect
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BatchFeature,
    CLIPImageProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import PROCESSOR_NAME, cached_file, logging

from .all_tasks import TASKS, task_of
from .batch_pictures import BatchPictures, PixelCache, VisionFeatures
from .bounds import short_repr
from .byte_level_bpe import SCRATCH_VOCABULARY_SIZE, train_byte_level_bpe
from .call_arguments import WITH_PICTURES, check_arguments, check_spelling, sorted_arguments
from .catalogue import Catalogue
from .catalogue_file import CATALOGUE_FILE
from .control_tokens import ControlTokens
from .grounds import Ground, grounds_of
from .item_terms import TERMS_FILE, ItemTerms
from .item_text import ID, RATING, ItemEntry, ItemText, attributes_to_read, describe
from .picture import open_picture
from .processor_manifest import PROCESSOR_MANIFEST, check_all, check_present, hash_of, write_hashes
from .request_reading import picture_of_request, read_request
from .request_sequence import sequence_of
from .sequence_rows import IGNORED, left_padded, padded_inputs
from .task import TASK_NAMES, ItemSlot, Request, ShopperText
from .task_imagine import expand_query
from .task_search import in_shop_spelling

logger = logging.get_logger(__name__)

TOKENIZER_FILE = "tokenizer.json"
EXACT = (TOKENIZER_FILE, CATALOGUE_FILE, TERMS_FILE)  # have to be what was saved
SETTINGS = (PROCESSOR_NAME, "tokenizer_config.json")  # people write these by hand
HASHED = (*EXACT, *SETTINGS)
# The least of each whole number.
LEAST = {"first_token_id": 1, "num_codes": 0, "num_retrieved": 1, "num_image_tokens": 0}
LEAST |= {"history_length": 1, "max_words": 1, "max_length": 1}
# Of a processor; each has a file of its own, or is made anew.
HIDDEN = ("_catalogue", "_item_text", "_pixel_cache", "control", "item_terms")
SCRATCH_SIZES = ("nano", "mini", "micro", "tiny", "small", "base")


class UniMPProcessor(ProcessorMixin):
    """Turns requests into model inputs.

    Args:
        image_processor: of the vision tower; any transformers image processor.
        tokenizer (`PreTrainedTokenizerBase`): of the language model, unchanged: added tokens are ids beyond it.
        first_token_id (`int`): V, rows of the language model's embedding; the first added id.
        num_codes (`int`, *optional*, defaults to 0): size of the picture codebook.
        num_retrieved (`int`, *optional*, defaults to 2): items that are searched before a picture is imagined.
        num_image_tokens (`int`, *optional*, defaults to 1): `[IMG]` tokens a picture takes; 0 for no vision, the
            number of latents for early fusion.
        attributes (`list[str]`, *optional*): what is read of an item, in this order; the whole schema without it.
        history_format (`str`, *optional*, defaults to `"full"`): `"full"` writes an item of the history with its
            attributes (the paper); `"compact"` one of the catalogue as `[IMG] <item> [EOC]`, its stars before the
            `[EOC]`: its words and picture are in its row. What a request asks about is written in full all the same;
            recommend asks nothing, and its answer follows the last `[EOC]`, as each item follows the one before.
        history_length (`int`, *optional*, defaults to 5): items of a history that the network reads, the latest ones.
        max_words (`int`, *optional*, defaults to 12): words kept of each attribute value.
        max_length (`int`, *optional*, defaults to 2048): tokens of a sequence; older items give way.
        query_attribute (`str`, *optional*): attribute the search queries of training were made from.
        wish_attributes (`list[str]`, *optional*): attributes that the wishes of imagine name beside the query.
        tell_grounds (`bool`, *optional*, defaults to `False`): whether the prompt of explain says what the history has
            in common with the item, counted (see `grounds.py`); the paper's does not.
        exclude_seen (`bool`, *optional*, defaults to `True`): whether a recommendation leaves out what the history
            has, where a call does not say: `False` for a shop whose shoppers buy things again.
        catalogue (`Catalogue`, *optional*): the shop; loaded from the folder by `from_pretrained`.
        item_terms (`ItemTerms`, *optional*): for content rows; loaded likewise.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: PreTrainedTokenizerBase,
        first_token_id: int,
        num_codes: int = 0,
        num_retrieved: int = 2,
        num_image_tokens: int = 1,
        attributes: list[str] | None = None,
        history_format: str = "full",
        history_length: int = 5,
        max_words: int = 12,
        max_length: int = 2048,
        query_attribute: str | None = None,
        wish_attributes: list[str] | None = None,
        tell_grounds: bool = False,
        exclude_seen: bool = True,
        catalogue: Catalogue | None = None,
        item_terms: ItemTerms | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        given = {name: value for name, value in locals().items() if name in LEAST}
        for name, value in given.items():
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < LEAST[name]:
                raise ValueError(f"{name}={short_repr(value)}: expected a whole number, at least {LEAST[name]}.")
        for name, value in (("tell_grounds", tell_grounds), ("exclude_seen", exclude_seen)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}={short_repr(value)}: expected True or False.")
        for name, names in (("attributes", attributes), ("wish_attributes", wish_attributes)):
            if names is not None and (isinstance(names, str) or not all(isinstance(each, str) for each in names)):
                raise ValueError(f"{name}={short_repr(names)}: expected a list of names, or None.")
        if not isinstance(query_attribute, str | None):
            raise ValueError(f"query_attribute={short_repr(query_attribute)}: expected a name, or None.")
        if first_token_id < len(tokenizer):
            raise ValueError(
                f"first_token_id={first_token_id} lies inside the tokenizer's {len(tokenizer)} tokens; expected the "
                "number of rows of the language model's embedding (config.vocab_size)."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no eos token, which ends an explanation; set eos_token.")
        if history_format not in ("full", "compact"):
            raise ValueError(f"history_format={history_format!r}: expected 'full' or 'compact'.")
        self.first_token_id = first_token_id
        self.num_codes = num_codes
        self.num_retrieved = num_retrieved
        self._num_image_tokens = num_image_tokens
        self.attributes = attributes or None
        self.history_format = history_format
        self.history_length = history_length
        self.max_words = max_words
        self.max_length = max_length
        self.query_attribute = query_attribute
        self.wish_attributes = wish_attributes or None
        self.tell_grounds = tell_grounds
        self.exclude_seen = exclude_seen
        self.control = ControlTokens(first_token_id, num_codes)
        self.item_terms = item_terms
        self._catalogue: Catalogue | None = None
        self._item_text: ItemText | None = None
        self._pixel_cache: PixelCache | None = None
        if catalogue is not None:
            self.catalogue = catalogue

    @classmethod
    def from_backbones(
        cls,
        text_model: str,
        image_processor: Any,
        catalogue: Catalogue,
        *,
        extra_texts: Iterable[str] = (),
        **kwargs: Any,
    ) -> "UniMPProcessor":
        """The processor of a new model.

        Args:
            text_model (`str`): name or folder of a causal LM, whose tokenizer is taken; or a from-scratch size
                (`"micro"`, `"tiny"`, `"small"`, `"base"`), for which a byte-level BPE is trained on the catalogue.
            image_processor: of the vision tower (`modeling_unimp.load_image_processor`); `None` for no vision.
            catalogue (`Catalogue`): the shop.
            extra_texts (`Iterable[str]`, *optional*): more text for the BPE, such as training explanations.
            kwargs (*optional*): the other arguments of the class.
        """
        if image_processor is None:
            # ProcessorMixin wants one; nothing is ever given to it.
            image_processor, kwargs["num_image_tokens"] = CLIPImageProcessor(), 0
        kwargs.setdefault("item_terms", ItemTerms.of(catalogue, kwargs.get("attributes")))
        if text_model in SCRATCH_SIZES:
            instructions = [
                piece
                for task in TASKS.values()
                for piece in task.prompt({"task": task.name, "query": "query", "item": "", "candidates": [""]})
                if isinstance(piece, str)
            ]
            read = attributes_to_read(catalogue, kwargs.get("attributes"))
            items = (
                describe({name: item[name] for name in read}, kwargs.get("max_words", 12))
                for item in catalogue.items()
            )
            tokenizer: PreTrainedTokenizerBase = train_byte_level_bpe(
                [RATING, ID, *instructions, *items, *extra_texts]
            )
            first_token_id = SCRATCH_VOCABULARY_SIZE
        else:
            try:
                tokenizer = AutoTokenizer.from_pretrained(text_model)
                first_token_id = AutoConfig.from_pretrained(text_model).get_text_config().vocab_size
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"text_model={text_model!r} has no tokenizer that could be loaded ({error}). Expected a folder or "
                    f"a Hub name of a causal language model, or a size from scratch: {', '.join(SCRATCH_SIZES)}."
                ) from error
        return cls(image_processor, tokenizer, first_token_id, catalogue=catalogue, **kwargs)

    @property
    def catalogue(self) -> Catalogue:
        if self._catalogue is None:
            raise ValueError("this processor has no catalogue; set processor.catalogue = Catalogue.load(...) first.")
        return self._catalogue

    @catalogue.setter
    def catalogue(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._pixel_cache = PixelCache(catalogue)
        self._item_text = ItemText(
            self.tokenizer,
            self.control,
            catalogue,
            attributes=self.attributes,
            max_words=self.max_words,
            num_image_tokens=self.num_image_tokens,
        )

    @property
    def num_image_tokens(self) -> int:
        return self._num_image_tokens

    @num_image_tokens.setter
    def num_image_tokens(self, number: int) -> None:
        self._num_image_tokens = number
        if self._item_text is not None:
            self._item_text.num_image_tokens = number

    @property
    def item_text(self) -> ItemText:
        self.catalogue  # noqa: B018  (raises when there is none)
        assert self._item_text is not None
        return self._item_text

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "media_index", "pixel_values"]

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        requests: Sequence[Request] | None = None,
        *,
        labels: bool = False,
        context: str = "none",
        next_item: bool = False,
        vision_features: VisionFeatures | None = None,
        positions: Sequence[int] | None = None,
        latents: Mapping[str, torch.Tensor] | None = None,
        own_latents: Sequence[Mapping[str, torch.Tensor] | None] | None = None,
        history_only: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Encode a batch of requests.

        Args:
            images, text (*optional*): instead of `requests`, texts for the language model to go on with, and pictures
                for them: see `_free`.
            requests (`Sequence[dict]`): `{"task": ..., "history": [...], ...}`; tasks may be mixed.
            labels (`bool`, *optional*, defaults to `False`): also encode each request's `"answer"`.
            context (`str`, *optional*, defaults to `"none"`): history tokens that are labels too: `"attributes"`
                (all but pictures), `"id"` (item tokens) or `"none"`.
            next_item (`bool`, *optional*, defaults to `False`): after every `[EOC]` of the history the label is the
                next history item's token, after the last one `request["next"]`, where it is given, and after `[CLS]`
                the first one; and the stars in the history are labels too: what the shopper does next, at every step.
            vision_features (`FeatureStore`, *optional*): take frozen features of catalogue pictures from here
                instead of opening the pictures.
            positions (`Sequence[int]`, *optional*): numbers of the requests in error messages, by default from 0.
            latents (`Mapping[str, torch.Tensor]`, *optional*): what a model made of pictures that it has looked at, by
                digest of the picture; these are not opened again.
            own_latents (`Sequence[Mapping[str, torch.Tensor]]`, *optional*): with `latents`, of each request what it
                came with itself, or `None`: it is taken for this request alone.
            history_only (`bool`, *optional*, defaults to `False`): whether to end after the history: `[CLS]` and its
                items, with which every request of that shopper begins.
            kwargs (*optional*): `return_tensors="pt"` and `padding=True`, which are what is done anyway; for `images`
                and `text` also those of tokenizer and image processor, flat or in `text_kwargs`, `images_kwargs`.

        Returns:
            `BatchFeature` with `input_ids`, `attention_mask`, `media_index` `(B, T)`, left-padded; `pixel_values`
            `(U, 3, H, W)` or `vision_features` `(U, P, F)`, each distinct picture once, absent when there is none;
            `task_ids` `(B,)`; with labels also `labels` and `label_kinds` `(B, T)`: 1 answer, 2 context, 3 next item.
            `media_index` is 0 where a token sees no picture, else 1 + the picture's row. With `latents` there is a
            list of that name, for each of the U pictures its digest and latents; pixels and features are then of those
            pictures alone whose latents are `None`.

        Raises:
            ValueError: unknown task or item, no history (an empty one is legal), a query, item or candidates that are
                missing, a request over a bound (see `bounds.py`), or an argument that does not exist.
        """
        if (requests is None) == (text is None and images is None):
            raise ValueError("pass requests, or text and images for a model to go on with; not both and not neither.")
        if requests is None:
            given = images if isinstance(images, list | tuple) else [images]
            if any(isinstance(each, Mapping) for each in given):
                raise ValueError("a dict came as a picture: requests are given by name, processor(requests=[...]).")
            return self._free(text, images, kwargs)
        known = [name for name in inspect.signature(type(self).__call__).parameters if name not in ("self", "kwargs")]
        check_arguments(kwargs, known)
        item_text, cache = self.item_text, self._pixel_cache
        assert cache is not None  # there is one where there is a catalogue
        cache.belong_to(self.picture_settings)
        pictures = BatchPictures(item_text, self.pixels_of, cache, vision_features, latents)
        if isinstance(requests, (Mapping, str)) or not len(requests):
            raise ValueError(f"requests came as {short_repr(requests)}: expected a list of at least one dict.")
        rows, task_ids = [], []
        own = own_latents or [None] * len(requests)
        for position, request, pictures.own_latents in zip(
            positions or range(len(requests)), requests, own, strict=True
        ):
            try:
                request = self.read_request(request)
                rows.append(
                    sequence_of(
                        self,
                        request,
                        pictures,
                        labels=labels,
                        context=context,
                        next_item=next_item,
                        history_only=history_only,
                    )
                )
                task_ids.append(TASK_NAMES.index(request["task"]))
            except ValueError as error:
                raise ValueError(f"request {position}: {error}") from error
        sequences = [(row.ids, [pictures.index(key) for key in row.pictures]) for row in rows]
        batch = padded_inputs(sequences, self.control.pad) | {"task_ids": torch.tensor(task_ids)}
        if labels:
            batch["labels"] = left_padded([row.labels for row in rows], IGNORED)
            batch["label_kinds"] = left_padded([row.kinds for row in rows], 0)
        return BatchFeature(batch | pictures.tensors())

    def _free(self, text: Any, images: Any, kwargs: dict[str, Any]) -> BatchFeature:
        """Texts or pictures by themselves, as tokenizer and image processor make them; or texts that have pictures.

        Before a text that has one stands `[IMG]`, and all of its tokens see it: from "title" or "category" a model
        trained with the context loss goes on with what it sees. Nothing in a text becomes a control token.

        Args:
            text (`str` or `list[str]`, *optional*)
            images (`PIL.Image.Image`, `bytes`, `Path` or a list of these, *optional*): as many as texts; `None` or an
                empty list for a text without one.
        """
        for_text, for_images = sorted_arguments(kwargs, self.tokenizer, self.image_processor)
        if images is None:
            return BatchFeature(self.tokenizer(text, **for_text))
        opened = [_opened(each) for each in (images if isinstance(images, list | tuple) else [images])]
        if text is None:
            if any(each is None for each in opened):
                raise ValueError("an image without a text came as None: expected a picture.")
            return BatchFeature(self.image_processor(opened, **for_images))
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or len(texts) != len(opened) or not all(isinstance(words, str) for words in texts):
            raise ValueError(
                f"{len(texts)} texts and {len(opened)} images came: expected texts, and no images or one for each; "
                "None in the list for a text without one."
            )
        check_arguments(for_text, WITH_PICTURES, {"return_tensors": ("pt", None)})
        for_text.pop("return_tensors", None)
        padding, max_length = for_text.pop("padding", True), for_text.pop("max_length", None)
        check_arguments({"padding": padding}, (), {"padding": (True, "longest", "max_length", None)})
        for_text = {"add_special_tokens": False, "split_special_tokens": True} | for_text
        pictures, rows = [], []
        for words, picture in zip(texts, opened, strict=True):
            ids = [] if picture is None else [self.control.image] * self.num_image_tokens
            room = None if max_length is None else max(max_length - len(ids), 0)
            ids += self.tokenizer(words, max_length=room, **for_text)["input_ids"]
            if picture is not None:
                pictures.append(picture)
            rows.append((ids, [0 if picture is None else len(pictures)] * len(ids)))
        length = max_length if padding == "max_length" and max_length is not None else 0
        batch = padded_inputs(rows, self.control.pad, length)
        if pictures:
            for_images["return_tensors"] = "pt"
            batch["pixel_values"] = self.image_processor(pictures, **for_images)["pixel_values"]
        return BatchFeature(batch)

    def read_request(self, request: Any) -> Request:
        """A request in the form that the tasks read, as a copy; see `request_reading.py`. One to explain gets its
        `"grounds"`, see `grounds.py`."""
        read = read_request(request)
        if read.get("task") == "explain":
            read["grounds"] = self._grounds(read)
        if "retrieved" in read:
            read["retrieved"] = [
                self._retrieved(item, f"retrieved item {place}") for place, item in enumerate(read["retrieved"])
            ]
        return read

    def _retrieved(self, item: Any, where: str) -> str:
        """The id of an item that a picture is made from."""
        number = self.item_text.resolve(item, where).number
        if number is None:
            raise ValueError(
                f"{where} is {short_repr(item)}: expected an item of the catalogue, whose picture is known."
            )
        return self.catalogue.item_id(number)

    def _grounds(self, request: Request) -> list[Ground]:
        """Of the item that a request is about, in the part of its history that is read; none where something is
        missing, which is refused where it is needed."""
        history = request.get("history")
        if self.item_terms is None or not isinstance(history, list | tuple) or request.get("item") is None:
            return []
        item = self._attributes(request["item"], "the item")
        numbered = list(enumerate(history))[-self.history_length :]
        shown = [self._attributes(entry, f"history item {number}") for number, entry in numbered]
        return grounds_of(item, shown, self.item_terms)

    def _attributes(self, item: Any, where: str) -> dict[str, Any]:
        """What is known of an item of a request, with its id and stars."""
        entry = self.item_text.resolve(item, where)
        named = item.get("item_id") if isinstance(item, Mapping) else str(item)
        known = {} if entry.number is None else self.catalogue.item(self.catalogue.item_id(entry.number))
        return {**known, **entry.attributes, "item_id": named, "rating": entry.rating}

    def question_of(self, request: Request) -> list[str | ShopperText | ItemEntry]:
        """What a request asks beside its history, with the items looked up that it names.

        Raises:
            ValueError: a query, an item or candidates that are missing, or an item that does not exist.
        """
        task = self.task_of(request)
        where = {"select": "a candidate", "imagine": "a retrieved item"}.get(task.name, "the item")
        if not self.tell_grounds:
            request = {name: value for name, value in request.items() if name != "grounds"}
        if self.query_attribute is not None and isinstance(query := request.get("query"), str):
            request = {**request, "query": in_shop_spelling(query, self.catalogue, self.query_attribute)}
        # A row of a table may bring the stars that are asked for.
        return [
            dataclasses.replace(self.item_text.resolve(piece.entry, where), rating=None)
            if isinstance(piece, ItemSlot)
            else piece
            for piece in task.prompt(request)
        ]

    def wish_of(self, request: Request, scores: Any) -> str:
        """What a request to imagine is understood to ask for; see `expand_query`.

        Args:
            scores (`np.ndarray` of shape `(N,)`): probability of each item in the model's search.
        """
        return expand_query(
            request, self.catalogue, scores, self.wish_attributes or (), self.query_attribute or "item_id"
        )

    def task_of(self, request: Any) -> Any:
        """The task a request names; a `ValueError` lists the tasks there are."""
        return task_of(dict(request) if isinstance(request, Mapping) else self.read_request(request))

    def leaves_out_seen(self, task: str) -> bool:
        """Whether a ranking leaves out what the history has, where a call does not say."""
        return task == "recommend" and self.exclude_seen

    @property
    def term_texts(self) -> list[str]:
        """The terms that content rows know, in the order of their numbers."""
        return [] if self.item_terms is None else self.item_terms.terms

    def content_terms(
        self, length: int, items: Iterable[Mapping[str, Any]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What items say, for content rows.

        Args:
            length (`int`): C, the most terms of an item.
            items (`Iterable[Mapping]`, *optional*): n items with their attributes; without it the whole catalogue.

        Returns:
            `tuple[torch.IntTensor, torch.FloatTensor]`: numbers of terms `(n, C)`, -1 where there is none, and their
            weights `(n, C)`.
        """
        if self.item_terms is None:
            raise ValueError(
                "this processor has no item terms, from which content rows are made: load it from the "
                "folder of the model, or make it with UniMPProcessor.from_backbones."
            )
        if items is None:
            items = self.catalogue.items()
        else:
            items = list(items)
            if unknown := self.item_terms.num_unknown(items):
                logger.info(
                    f"{unknown} terms of {len(items)} items are unknown to the model and left out of their rows."
                )
        numbers, weights = self.item_terms.encode(items, length)
        return torch.from_numpy(numbers), torch.from_numpy(weights)

    def words(self, token_ids: Sequence[int]) -> str:
        """The text of an answer up to its eos token; added tokens cannot occur in it and are left out."""
        ids = [int(token) for token in token_ids]
        if self.tokenizer.eos_token_id in ids:
            ids = ids[: ids.index(self.tokenizer.eos_token_id)]
        text = self.tokenizer.decode([token for token in ids if token < self.first_token_id], skip_special_tokens=True)
        return str(text).strip()

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, save_pictures: bool = True, **kwargs: Any
    ) -> Any:
        """Save with the catalogue. `save_pictures=False` leaves the pictures out, as training checkpoints do."""
        os.makedirs(save_directory, exist_ok=True)
        if self._catalogue is not None:
            self._catalogue.save(save_directory, images=save_pictures)
        if self.item_terms is not None:
            self.item_terms.save(save_directory)
        written = super().save_pretrained(save_directory, **kwargs)
        files = [Path(save_directory, name) for name in HASHED]
        write_hashes(Path(save_directory), {file.name: [hash_of(file)] for file in files if file.is_file()})
        if push_to_hub:
            known = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
            given = {name: kwargs[name] for name in known if name in kwargs}
            self.push_to_hub(kwargs.get("repo_id", Path(save_directory).name), **given)
        return written

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, verify: bool = True, **kwargs: Any
    ) -> Any:
        """As `ProcessorMixin.from_pretrained`, with the catalogue.

        Args:
            verify (`bool`, *optional*, defaults to `True`): whether catalogue, tokenizer and terms have to be what was
                saved; settings that are not are told.

        Raises:
            ValueError: one of them was damaged or exchanged, or a setting whose name is misspelt.
            FileNotFoundError: one of them is not there.
        """
        _, _, *settings_of_ours = inspect.signature(cls).parameters  # after image processor and tokenizer
        check_spelling(kwargs, settings_of_ours)
        hub = {
            name: kwargs[name]
            for name in ("cache_dir", "revision", "subfolder", "token", "local_files_only")
            if name in kwargs
        }

        def found(name: str) -> Path | None:
            file = cached_file(
                str(pretrained_model_name_or_path), name, _raise_exceptions_for_missing_entries=False, **hub
            )
            return None if file is None else Path(file)

        manifest = found(PROCESSOR_MANIFEST)  # from the Hub, to beside the files that it is about
        files = {file_name: found(file_name) for file_name in HASHED}
        tokenizer, catalogue, terms, *settings = files.values()
        if verify:
            check_present(files, manifest)
            check_all((tokenizer, terms), settings)  # the catalogue looks at its own
        name = str(pretrained_model_name_or_path)
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, ImportError):
            raise
        except Exception as error:  # as of which tokenizers raises its own
            if isinstance(error, ValueError) and name in str(error):
                raise
            raise ValueError(
                f"the processor in {name!r} cannot be loaded ({type(error).__name__}: {error}). It may be damaged: "
                "copy, download or save it again."
            ) from error
        if catalogue is not None:
            processor.catalogue = Catalogue.load(catalogue, verify=verify)
        processor.item_terms = None if terms is None else ItemTerms.load(terms)
        return processor

    def to_dict(self) -> dict[str, Any]:
        """What processor_config.json holds; the catalogue has a file of its own."""
        # Hidden from the deep copy that super makes: a catalogue can be large.
        hidden = {name: self.__dict__.pop(name) for name in HIDDEN}
        try:
            output: dict[str, Any] = super().to_dict()
        finally:
            self.__dict__.update(hidden)
        return output | {"num_image_tokens": self.num_image_tokens}

    @property
    def picture_settings(self) -> str:
        """How `pixels_of` makes pixels; the same for as long as no setting of the image processor is changed."""
        return f"{type(self.image_processor)} {vars(self.image_processor)}"

    def pixels_of(self, picture: Any) -> torch.Tensor:
        """A picture as the vision tower wants it, `(3, H, W)`."""
        pixels: torch.Tensor = self.image_processor(images=[picture], return_tensors="pt")["pixel_values"][0]
        return pixels


def _opened(image: Any) -> Any:
    """A picture given beside a text; transformers puts those of each text into a list of their own."""
    if isinstance(image, list | tuple):
        if len(image) > 1:
            raise ValueError(f"{len(image)} images came for one text: expected at most one.")
        image = image[0] if image else None
    # Arrays and tensors are pictures that are open already.
    return image if image is None or hasattr(image, "shape") else open_picture(picture_of_request(image, "an image"))
