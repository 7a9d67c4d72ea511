"""Items that the training did not have: what their rows are made from, and which known item each is most like.

The network reads an item that a request only describes by its words and picture. The closed-form scores go from item
to item: to them it stands for the one that it is most like.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .hybrid_scores import MAX_HISTORY, StandIn, numbers_of
from .interfaces import Processor, Request
from .item_embeddings import ItemContent

if TYPE_CHECKING:
    from .modeling_unimp import UniMPForConditionalGeneration

# What holds the items that a request names, for each kind of answer that closed-form scores have a part in.
NAMED = {"items": ("history",), "decisions": ("history", "candidates")}
BATCH_SIZE = 32  # pictures that are looked at together


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
        pictures (`Iterable[torch.FloatTensor]`): of each its pixels `(3, H, W)`, or `None`. They are asked for as
            they are looked at, and not at all where rows are made from text alone.

    Returns:
        [`ItemContent`]: `None` with `item_rows="free"`, whose rows are made from nothing.
    """
    config = model.config
    if config.item_rows == "free":
        return None
    features = None
    if config.content_picture_size:
        features = torch.zeros(len(items), config.content_picture_size)
        given = ((row, pixels) for row, pixels in enumerate(pictures) if pixels is not None)
        while batch := list(itertools.islice(given, BATCH_SIZE)):
            rows, pixels_BCHW = [row for row, _ in batch], torch.stack([pixels for _, pixels in batch])
            features[rows] = model.model.encode_pictures(pixels_BCHW.to(model.device)).float().mean(dim=1).cpu()
    return ItemContent(*processor.content_terms(config.content_length, items), features)


def with_stand_ins(
    model: "UniMPForConditionalGeneration",
    processor: Processor,
    answer_group: str,
    requests: Sequence[Request],
    positions: Sequence[int] | None = None,
) -> list[Request]:
    """Requests as the closed-form scores read them: with a [`StandIn`] in the place of each item of the history, and
    each candidate, that the catalogue does not know and that is like one of its items: most like it in words, or where
    no word of it is known in its picture. Of a history that are the items which the scores look at, the latest.

    Args:
        answer_group (`str`): of these requests.
        positions (`Sequence[int]`, *optional*): their numbers in error messages.

    Raises:
        ValueError: a picture that cannot be read.
    """
    hybrid = model.hybrid_scores
    if hybrid is None:
        return list(requests)
    can_look = model.config.content_picture_size and model.model.vision_tower is not None
    # By place: request, list and entry; pictures by what tells them apart.
    alike: dict[tuple[int, str, int], int | None] = {}
    in_pictures: dict[tuple[int, str, int], bytes | int] = {}
    to_look_at: dict[bytes | int, tuple[int, Mapping[str, Any]]] = {}
    for row, (position, request) in enumerate(zip(positions or range(len(requests)), requests, strict=True)):
        for name in NAMED.get(answer_group, ()):
            first = max(len(request[name]) - MAX_HISTORY, 0) if name == "history" else 0
            numbers = numbers_of(request[name], processor.catalogue)
            for place, entry in enumerate(request[name][first:], start=first):
                if not isinstance(entry, Mapping) or numbers[place] >= 0:
                    continue
                number, image = hybrid.most_alike(entry), entry.get("image")
                if number is not None:
                    alike[row, name, place] = number
                elif image is not None and can_look:
                    key = image if isinstance(image, bytes) else id(image)
                    in_pictures[row, name, place] = key
                    to_look_at.setdefault(key, (position, entry))
    if to_look_at:
        content = content_of(
            model, processor, [entry for _, entry in to_look_at.values()], _pixels(processor, to_look_at.values())
        )
        assert content is not None  # rows are made from pictures
        similarity = model.model.item_embeddings.similarity_of_pictures(content)
        of_pictures = dict(zip(to_look_at, map(hybrid.best_known, similarity), strict=True))
        alike |= {place: of_pictures[key] for place, key in in_pictures.items()}
    read = [dict(request) for request in requests]
    for (row, name, place), number in alike.items():
        if number is not None:
            if read[row][name] is requests[row][name]:
                read[row][name] = list(requests[row][name])
            read[row][name][place] = StandIn(number, requests[row][name][place])
    return read


def _pixels(processor: Processor, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[torch.Tensor]:
    """Of described items, one after the other; with each the number of a request in error messages."""
    for position, entry in entries:
        try:
            yield processor(images=[entry["image"]], return_tensors="pt")["pixel_values"][0]
        except ValueError as error:
            raise ValueError(f"request {position}: {error}") from error
