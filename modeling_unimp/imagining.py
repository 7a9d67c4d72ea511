"""Pictures as answers: search for items, write a picture's codes after them, decode (paper, section 2.3, eq. 9).

Shapes: B requests, P codes of a picture, N items, G width of what pictures are compared by.
"""

import copy
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessor
from transformers.utils import cached_file

from .configuration_unimp import UniMPConfig
from .image_codec import ImageCodec
from .interfaces import Catalogue, PictureFeatures, Processor, Request
from .ranking import check_numbers, rank_items

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

CODEC_FOLDER = "image_codec"
# Lengths of an explanation say nothing about a picture, which has as many codes as it has.
LENGTHS = ("max_new_tokens", "min_new_tokens", "max_length", "min_length")
# A picture is drawn cautiously: among sixty codes one odd one is seen.
TEMPERATURE = 0.2
# What changes the distribution that is drawn from.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
HUB_ARGUMENTS = ("cache_dir", "revision", "token", "local_files_only", "force_download")


class SamplingByRow(LogitsProcessor):
    """Draws the next token of each row with a generator of the row's own, and rules out all others.

    `generate` would draw all rows with the one generator of the process: a row would depend on its batch, and on
    whatever other threads draw. By the Gumbel-max trick the largest of `log p + noise` is a draw from p, so that
    `generate` searches greedily for what is drawn here.

    Args:
        seeds (`Sequence[int]`): one a row.
        group (`tuple[int, int]`): first token that may be drawn, and the one after the last.
        warpers (`LogitsProcessorList`): temperature, top-k and the like, which change the distribution first.

    Raises:
        ValueError: a seed that is no whole number from 0; scores that are no numbers.
    """

    def __init__(self, seeds: Sequence[int], group: tuple[int, int], warpers: Any) -> None:
        self.generators = [torch.Generator().manual_seed(_checked_seed(seed)) for seed in seeds]
        self.first, self.stop = group
        self.warpers = warpers

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        warped = check_numbers(self.warpers(input_ids, scores))[:, self.first : self.stop]
        uniform = torch.stack([torch.rand(self.stop - self.first, generator=each) for each in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-20))).to(warped)
        drawn = (warped + noise).argmax(dim=-1, keepdim=True) + self.first
        ruled_out: Any = torch.full_like(scores, float("-inf"))
        return ruled_out.scatter(1, drawn, 0.0)


def _checked_seed(seed: Any) -> int:
    if not isinstance(seed, SupportsIndex) or not 0 <= operator.index(seed) < 2**63:
        raise ValueError(f"seed={str(seed)[:40]}: expected a whole number from 0.")
    return operator.index(seed)


def save_codec_beside(model: "UniMPForConditionalGeneration", folder: str | os.PathLike) -> None:
    """Write the codec of a model, if it has one, into the model's folder."""
    if model.image_codec is not None:
        model.image_codec.save_pretrained(os.path.join(folder, CODEC_FOLDER))


def codec_beside(
    model: "UniMPForConditionalGeneration", name: str | os.PathLike, verify: bool, /, **kwargs: Any
) -> ImageCodec | None:
    """The codec in the folder or Hub repository of a model, if there is one; `kwargs` are those of its loading."""
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
    subfolder = "/".join(part for part in (kwargs.get("subfolder"), CODEC_FOLDER) if part)
    if not model.config.num_codes or not cached_file(
        str(name), "config.json", subfolder=subfolder, _raise_exceptions_for_missing_entries=False, **hub
    ):
        return None
    return ImageCodec.from_pretrained(str(name), subfolder=subfolder, verify=verify, **hub)


def check_codec(codec: ImageCodec, config: UniMPConfig) -> None:
    """Refuse a codec that writes pictures otherwise than a model of this config."""
    came, expected = (codec.num_codes, codec.codes_per_picture), (config.num_codes, config.codes_per_picture)
    if came != expected:
        raise ValueError(
            f"the image codec writes pictures as {came[1]} of {came[0]} codes and this model as "
            f"{expected[1]} of {expected[0]}: build the model with num_codes={came[0]} and "
            f"codes_per_picture={came[1]}, or load the codec it was trained with."
        )


@torch.no_grad()
def fit_codes_to_codec(model: "UniMPForConditionalGeneration") -> None:
    """See [`UniMPForConditionalGeneration.fit_codes_to_codec`]."""
    codebook = codec_of(model).vq_model.quantize.embedding.weight.float().to(model.device)
    codebook = torch.nn.functional.layer_norm(codebook - codebook.mean(dim=0), codebook.shape[1:])
    offset = model.config.text_config.vocab_size
    first, stop = (end - offset for end in model.config.group_slices["codes"])
    embeddings = model.model.item_embeddings
    for rows in dict.fromkeys((embeddings.input_rows, embeddings.output_rows)):
        drawn = rows.tokens[first:stop].float()
        projection = torch.randn(codebook.shape[1], drawn.shape[1], device=model.device)
        alike = codebook @ projection * codebook.shape[1] ** -0.5 * drawn.std() + drawn.mean(dim=0)
        rows.tokens[first:stop] = alike.to(rows.tokens.dtype)


def imagine(
    model: "UniMPForConditionalGeneration", seed: int, generation_config: Any, inputs_and_options: dict[str, Any]
) -> torch.Tensor:
    """See [`UniMPForConditionalGeneration.imagine`]."""
    codec = codec_of(model)
    options = {name: value for name, value in inputs_and_options.items() if name not in LENGTHS}
    length = {"max_new_tokens": codec.codes_per_picture, "eos_token_id": None}
    chosen: Any = copy.deepcopy(generation_config)
    if chosen is None:
        given = {name: options.pop(name) for name in list(options) if hasattr(GenerationConfig(), name)}
        given.setdefault("do_sample", given.get("num_beams", 1) == 1)
        chosen = GenerationConfig(**({"temperature": TEMPERATURE, "top_k": 0} if given["do_sample"] else {}) | given)
    if chosen.do_sample and (chosen.num_beams or 1) == 1:
        model._prepare_special_tokens(chosen, True, device=model.device)  # type: ignore[misc]
        warpers = model._get_logits_processor(chosen)  # type: ignore[misc]
        seeds = [seed] * len(inputs_and_options["input_ids"])
        drawing = SamplingByRow(seeds, model.config.group_slices["codes"], warpers)
        options["logits_processor"] = [*(options.get("logits_processor") or ()), drawing]
        chosen.update(do_sample=False, **dict.fromkeys(SAMPLING))
    chosen.update(**length, max_length=None)
    written = model.generate(answer_group="codes", generation_config=chosen, **options)
    if (came := written.shape[1] - inputs_and_options["input_ids"].shape[1]) < codec.codes_per_picture:
        raise ValueError(
            f"a picture was stopped after {came} of its {codec.codes_per_picture} codes (max_time, "
            "stopping_criteria): expected to write all of them. Leave these out."
        )
    return written[:, -codec.codes_per_picture :] - model.config.group_slices["codes"][0]


def codec_of(model: "UniMPForConditionalGeneration") -> ImageCodec:
    """The image codec of a model; a `ValueError` where it has none."""
    codec: ImageCodec | None = model.image_codec
    if codec is None:
        raise ValueError(
            "this model has no image codec, so it cannot imagine pictures: train it with image_codec and the task "
            "imagine in the recipe, or set model.image_codec."
        )
    return codec


@torch.no_grad()
def picture_features(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    pictures: Iterable[Image.Image | None],
    batch_size: int = 32,
) -> np.ndarray:
    """What pictures are compared by `(n, G)`, zeros where there is none: see `config.picture_features`.

    No more than `batch_size` of the pictures are held at a time.
    """
    look = _looking(model, processor)
    parts = [look([])]
    pictures = iter(pictures)
    while batch := list(itertools.islice(pictures, batch_size)):
        parts.append(np.zeros((len(batch), parts[0].shape[1]), dtype=np.float32))
        if present := [picture for picture in batch if picture is not None]:
            parts[-1][[picture is not None for picture in batch]] = look(present)
    return np.concatenate(parts)


def _looking(
    model: "UniMPForConditionalGeneration", processor: Processor
) -> Callable[[list[Image.Image]], np.ndarray]:
    """From pictures, perhaps none, to what they are compared by `(n, G)`."""
    if model.config.picture_features == "codec":
        codec = codec_of(model)
        return lambda pictures: codec.vectors(codec.encode(pictures)).numpy()
    if model.model.vision_tower is None:
        raise ValueError(
            "this model has no vision tower to compare pictures by: set config.picture_features = 'codec'."
        )

    def patches(pictures: list[Image.Image]) -> np.ndarray:
        if not pictures:
            return np.zeros((0, model.config.vision_feature_size), dtype=np.float32)
        pixels = torch.stack([processor.pixels_of(picture) for picture in pictures]).to(model.device)
        features: np.ndarray = model.model.encode_pictures(pixels).float().mean(dim=1).cpu().numpy()
        return features

    return patches


@dataclass(frozen=True)
class PictureIndex:
    """A catalogue's pictures as `picture_features` sees them, for comparing others with them.

    Args:
        features (`np.ndarray` of shape `(N, G)`): of every picture, less their mean; zeros where there is none.
            Features all point much the same way, and what tells pictures apart is what is left without it.
        mean (`np.ndarray` of shape `(G,)`)
    """

    features: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(
        cls,
        model: "UniMPForConditionalGeneration",
        processor: Processor,
        vision_features: PictureFeatures | None = None,
    ) -> "PictureIndex":
        """Of the processor's catalogue, from what is known of its pictures already: a feature store of the tower, or
        the codes that the catalogue keeps."""
        catalogue, by = processor.catalogue, model.config.picture_features
        if by == "tower" and vision_features is not None:
            features = vision_features.pooled().float().numpy()
        else:
            known = np.array([by == "codec" and _is_coded(catalogue, item_id) for item_id in catalogue.item_ids])
            pictures = (
                None if is_known else catalogue.picture(item_id)
                for is_known, item_id in zip(known, catalogue.item_ids, strict=True)
            )
            features = picture_features(model, processor, pictures)
            if known.any():
                features[known] = codec_of(model).vectors(catalogue.picture_codes[known]).numpy()
        has_picture = features.any(axis=1)
        if not has_picture.any():
            raise ValueError("no item of this catalogue has a picture: imagine has nothing to start from.")
        mean = features[has_picture].mean(axis=0)
        features[has_picture] -= mean
        return cls(features, mean)

    @property
    def has_picture(self) -> np.ndarray:
        """`(N,)` of bool."""
        return np.asarray(self.features.any(axis=1))

    def similarity(self, features: np.ndarray) -> np.ndarray:
        """Cosine similarity of one picture `(G,)`, less the mean, to all `(N,)`; -1 to items without a picture."""
        norms = np.linalg.norm(self.features, axis=1)
        cosine = self.features @ features / np.maximum(norms * np.linalg.norm(features), 1e-12)
        return np.where(norms > 0, cosine, -1.0)


def _is_coded(catalogue: Catalogue, item_id: str) -> bool:
    """Whether an item has a picture and its codes; one that was added after the training has the picture alone."""
    return bool(catalogue.has_picture(item_id) and catalogue.has_picture_codes(item_id))


def retrieve(
    search: Callable[[Sequence[Request]], torch.Tensor],
    processor: Processor,
    requests: Sequence[Request],
    has_picture: np.ndarray,
) -> list[dict[str, Any]]:
    """The first stage: requests of imagine, with the items that the model's own search finds for them.

    A query that says too little for a picture is completed first, from a search of its own; see `expand_query`.

    Args:
        search (`Callable`): from requests to search to logits of the items `(B, N)`.
        processor (`UniMPProcessor`)
        requests (`Sequence[Mapping]`): those that name their `"retrieved"` items or `"wish"` keep these.
        has_picture (`np.ndarray` of shape `(N,)`): which items may be found.
    """
    catalogue = processor.catalogue
    allowed = torch.from_numpy(catalogue.available & has_picture)
    if not allowed.any():
        raise ValueError("no item with a picture is on sale: imagine has nothing to start from; see catalogue.retire.")

    def search_for(queries: Sequence[Any]) -> torch.Tensor:
        asked = [
            {"task": "search", "history": request.get("history"), "query": query}
            for request, query in zip(requests, queries, strict=True)
        ]
        return search(asked).float().cpu().masked_fill(~allowed, float("-inf"))

    queries = [request.get("query") for request in requests]
    logits_BN = search_for(queries)
    wishes = [
        request.get("wish") or processor.wish_of(request, scores)
        for request, scores in zip(requests, logits_BN.softmax(dim=-1).numpy(), strict=True)
    ]
    # Processes that share a model's weights go through it together, whether or not their own queries were completed.
    if wishes != queries or torch.distributed.is_initialized():
        logits_BN = search_for(wishes)
    _, numbers = rank_items(logits_BN, processor.num_retrieved, allowed)
    found = [[catalogue.item_id(number) for number in row if number >= 0] for row in numbers.tolist()]
    return [
        {"retrieved": own} | dict(request) | {"wish": wish}
        for request, own, wish in zip(requests, found, wishes, strict=True)
    ]
