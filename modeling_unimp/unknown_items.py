"""Items that the training did not have: what their rows are made from, and which known item each is most like.

The network reads an item that a request only describes by its words and picture. The closed-form scores go from item
to item: to them it stands for the one that it is most like.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .hybrid_scores import HybridScores, StandIn
from .interfaces import Catalogue, Processor, Request
from .item_embeddings import ItemContent

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

# What holds the items that a request names, for each kind of answer that closed-form scores have a part in.
NAMED = {"items": ("history",), "decisions": ("history", "candidates")}


@torch.no_grad()
def content_of(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    items: Sequence[Mapping[str, Any]],
    pictures: Iterable[torch.Tensor | None],
) -> ItemContent | None:
    """What the rows of items are made from: terms of the attributes, and pooled features of the picture.

    Args:
        items (`Sequence[Mapping]`): n of them, with their attributes.
        pictures (`Iterable[torch.FloatTensor]`): of each its pixels `(3, H, W)`, or `None`. They are asked for one by
            one, and not at all where rows are made from text alone.

    Returns:
        [`ItemContent`]: `None` with `item_rows="free"`, whose rows are made from nothing.
    """
    config = model.config
    if config.item_rows == "free":
        return None
    features = None
    if config.content_picture_size:
        features = torch.zeros(len(items), config.content_picture_size)
        for row, pixels in enumerate(pictures):
            if pixels is not None:
                seen = model.model.encode_pictures(pixels[None].to(model.device))
                features[row] = seen.float().mean(dim=1)[0].cpu()
    return ItemContent(*processor.content_terms(config.content_length, items), features)


def with_stand_ins(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    answer_group: str,
    requests: Sequence[Request],
    positions: Sequence[int] | None = None,
) -> list[Request]:
    """Requests as the closed-form scores read them: with a [`StandIn`] in the place of each item of the history, and
    each candidate, that the catalogue does not know and that is like one of its items.

    Args:
        answer_group (`str`): of these requests.
        positions (`Sequence[int]`, *optional*): their numbers in error messages.

    Raises:
        ValueError: a picture that cannot be read.
    """
    if model.hybrid_scores is None:
        return list(requests)
    read = []
    for position, request in zip(positions or range(len(requests)), requests, strict=True):
        for name in NAMED.get(answer_group, ()):
            entries = request[name]
            if all(_is_known(entry, processor.catalogue) for entry in entries):
                continue
            try:
                replaced = [_standing_in(model, processor, model.hybrid_scores, entry) for entry in entries]
            except ValueError as error:
                raise ValueError(f"request {position}: {error}") from error
            request = {**request, name: replaced}
        read.append(request)
    return read


def _is_known(entry: Any, catalogue: Catalogue) -> bool:
    item_id = entry.get("item_id") if isinstance(entry, Mapping) else entry
    return item_id is not None and str(item_id) in catalogue


def _standing_in(
    model: "UniMPForConditionalGeneration", processor: Processor, hybrid: HybridScores, entry: Any
) -> Any:
    """A described item's stand-in: the item most like it in words, or where no word of it is known in its picture."""
    if not isinstance(entry, Mapping) or _is_known(entry, processor.catalogue):
        return entry
    number, config = hybrid.most_alike(entry), model.config
    can_look = config.content_picture_size and model.model.vision_tower is not None
    if number is None and entry.get("image") is not None and can_look:
        pixels = processor(images=[entry["image"]], return_tensors="pt")["pixel_values"]
        content = content_of(model, processor, [entry], pixels)
        assert content is not None  # rows are made from pictures
        (similarity_N,) = model.model.item_embeddings.similarity_of_pictures(content)
        number = hybrid.best_known(similarity_N)
    return entry if number is None else StandIn(number, entry)
