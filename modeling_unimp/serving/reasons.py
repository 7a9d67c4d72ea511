"""Why the model answers as it does: what each item of the history did for an answer, and which part of its picture.

A number for each item (`leave_one_out`), a heat map for each picture (`picture_heat`), and the map over the picture
(`blend`).

Shapes: B variants of a request, T text tokens, U pictures, P tokens of a picture, L latents, D width of a latent.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..answering import outputs_of
from ..image_codec import on_white
from ..interfaces import Catalogue, PictureFeatures, Processor
from ..modeling_unimp import UniMPForConditionalGeneration
from ..perceiver import UniMPPerceiverResampler
from ..pipeline_unimp import PersonalizationPipeline

# Other items that take the place of the only item of a history.
NUM_STAND_INS = 8
# What a tower may put before its patches: a class token, registers.
MOST_EXTRA_TOKENS = 8
# Pictures that move no score by as much (log-probability, stars or probability) have no heat: it would be noise.
LEAST_EFFECT = 1e-3

# ColorBrewer's YlOrRd: safe for colour-blind eyes, and ever darker, so that it shows on light product photographs.
HEAT_COLOURS = [(255, 255, 204), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38)]


def leave_one_out(
    pipeline: PersonalizationPipeline, request: Mapping[str, Any], item_id: str | None, **options: Any
) -> list[float]:
    """How much the score of an item drops when an item of the history is left out.

    The score is the item's log-probability among the allowed items (recommend, search), the expected stars (rate), or
    the probability to suit (select). Allowed are the items of the whole request, whatever is left out.

    Args:
        pipeline (`PersonalizationPipeline`)
        request (`Mapping`): as the pipeline takes it.
        item_id (`str`, *optional*): whose score: an item of the catalogue (recommend, search), the item to be rated
            (`None` for one that has no id), a candidate (select).
        options: arguments of the pipeline that the answer came with: `allowed`, `exclude_seen`, `vision_features`.

    Returns:
        `list[float]`: for each item of the history, above 0 where it speaks for the answer; 0 for one too old to be
        read. An only item cannot be left out: it is compared with the mean over eight other items of the shop, with
        its own stars, in its place; where there are none, it gets 0.

    Raises:
        ValueError: a request that the pipeline refuses, a task without scores, or an item that it does not score.
    """
    with pipeline.processor.catalogue.lock.answering():
        return _leave_one_out(pipeline, pipeline.processor.read_request(request), item_id, options)


def _leave_one_out(
    pipeline: PersonalizationPipeline, request: Mapping[str, Any], item_id: str | None, options: dict[str, Any]
) -> list[float]:
    model, processor = pipeline.model, pipeline.processor
    question = _Question.of(pipeline, request, item_id, options)
    history = list(request["history"])
    unread = len(history) - question.num_read
    history = history[unread:]
    if not history:
        return [0.0] * unread
    if len(history) > 1:
        others = [history[:place] + history[place + 1 :] for place in range(len(history))]
    else:
        others = [[stand_in] for stand_in in _stand_ins(processor.catalogue, history[0], item_id)]
        if not others:
            return [0.0] * (unread + 1)
    requests = [{**request, "history": each} for each in (history, *others)]
    with _in_eval_mode(model):
        outputs = outputs_of(
            model,
            processor,
            requests,
            question.group,
            batch_size=len(requests),
            vision_features=question.vision_features,
        )
        score, *without = question.score(torch.from_numpy(np.stack(list(outputs)))).tolist()
    if len(history) == 1:
        without = [sum(without) / len(without)]
    return [0.0] * unread + [score - other for other in without]


def picture_heat(
    pipeline: PersonalizationPipeline, request: Mapping[str, Any], item_id: str | None, **options: Any
) -> dict[int, np.ndarray]:
    """Which part of each picture of the history spoke for an item.

    Where the latents of a picture looked (the resampler's cross-attention, rolled out over its blocks), weighted by
    what in each latent raises the item's score on its way through the gates and the language model (the positive part
    of gradient x input). This is the attention weighted by gradients of https://huggingface.co/papers/2103.15679, with
    the weights taken at the latents, so that it serves every fusion. Attention inside the tower is not followed.

    Args:
        pipeline, request, item_id, options: those of [`leave_one_out`].

    Returns:
        `dict[int, np.ndarray]`: by place in the history, a float32 map (rows, columns) over the patches of the picture
        as the image processor cuts it, from 0 to 1, which is the hottest patch of the whole request. All zeros with
        closed gates or a model that has not learnt to look: if no picture moves the score by 0.001, to first order,
        against one that is the same all over. An item without a picture, or too old to be read, has no map; a model
        without vision has none at all. In fusions `"all"` and `"late"`, which read a picture once, items with the
        same picture have the same map.

    Raises:
        ValueError: those of [`leave_one_out`], or features that are no grid of patches.
    """
    with pipeline.processor.catalogue.lock.answering():
        return _picture_heat(pipeline, pipeline.processor.read_request(request), item_id, options)


def _picture_heat(
    pipeline: PersonalizationPipeline, request: Mapping[str, Any], item_id: str | None, options: dict[str, Any]
) -> dict[int, np.ndarray]:
    model = pipeline.model
    # The caller may be in inference mode, whose tensors know no gradients.
    with torch.inference_mode(False), torch.enable_grad(), _in_eval_mode(model):
        question = _Question.of(pipeline, request, item_id, options)
        inputs = model.own_inputs(question.batch)
        pixels, features = inputs.pop("pixel_values", None), inputs.pop("vision_features", None)
        if model.model.resampler is None or (pixels is None and features is None):
            return {}
        with torch.no_grad():
            features_UPF = model.model.encode_pictures(pixels) if features is None else features
            latents_ULD, looked_ULP = _look(model.model.resampler, features_UPF)
            # What the latents are without anything to see.
            flat_1LD, _ = _look(model.model.resampler, features_UPF.mean(dim=(0, 1)).expand_as(features_UPF[:1]))
        rows, row_of_place = question.place_pictures(inputs, once=model.config.fusion in ("all", "late"))
        latents_ULD, looked_ULP = latents_ULD[rows].requires_grad_(), looked_ULP[rows]
        score = question.score(question.answer(model, inputs, latents_ULD))
        (gradient_ULD,) = torch.autograd.grad(score.sum(), latents_ULD)
    latents_ULD = latents_ULD.detach()
    raised_UL = (gradient_ULD * latents_ULD).float().clamp(min=0).sum(dim=-1)
    effect_U = (gradient_ULD * (latents_ULD - flat_1LD)).float().sum(dim=-1).abs().sum(dim=-1)
    if effect_U.max() < LEAST_EFFECT:
        raised_UL = torch.zeros_like(raised_UL)
    heat_UP = torch.einsum("ul,ulp->up", raised_UL, looked_ULP.float()).cpu().numpy()
    height, width = _pixels_a_side(pipeline.processor) if pixels is None else pixels.shape[-2:]
    rows_of_grid, columns = _grid(heat_UP.shape[1], height, width)
    maps = {
        place: heat_UP[row, -rows_of_grid * columns :].reshape(rows_of_grid, columns)
        for place, row in row_of_place.items()
    }
    hottest = max((float(each.max()) for each in maps.values()), default=0.0)
    return {place: each / (hottest or 1.0) for place, each in maps.items()}


def blend(picture: Image.Image, heat: np.ndarray, image_processor: Any = None) -> Image.Image:
    """The picture in pale grey under its heat: from nothing where it is cold, over yellow and red, to dark red.

    Args:
        picture (`PIL.Image.Image`): of any size and mode.
        heat (`np.ndarray` of shape `(rows, columns)`): from 0 to 1, as `picture_heat` makes it.
        image_processor (*optional*): the processor's own, if it crops: the heat then lies where the model looked.

    Returns:
        `PIL.Image.Image`: RGB, as large as the picture.
    """
    values = np.asarray(heat, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"heat of shape {values.shape}: expected finite numbers (rows, columns) from 0 to 1.")
    left, top, right, bottom = _seen_box(picture.size, image_processor)
    smooth = Image.fromarray(values.clip(0, 1)).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    share = np.zeros((picture.height, picture.width), dtype=np.float32)
    share[top:bottom, left:right] = np.asarray(smooth).clip(0, 1)
    steps = np.linspace(0, 255, len(HEAT_COLOURS))
    table = np.stack(
        [np.interp(np.arange(256), steps, channel) for channel in zip(*HEAT_COLOURS, strict=True)], axis=1
    )
    colours = table[(share * 255).round().astype(np.uint8)]
    opacity = 0.85 * np.sqrt(share)[..., None]
    grey = np.asarray(on_white(picture).convert("L"), dtype=np.float32)[..., None]
    pale = 90 + grey * (165 / 255)
    return Image.fromarray((pale * (1 - opacity) + colours * opacity).round().astype(np.uint8))


@dataclass(frozen=True)
class _Question:
    """The score of one item in the answer to one request.

    Args:
        batch (`dict[str, torch.Tensor]`): the request as the model reads it.
        group (`str`): of the answer: items, stars or decisions.
        place (`int`): of the item in the model's output: its row in the catalogue, or among the candidates.
        allowed (`torch.BoolTensor` of shape `(N,)`, *optional*): items that it is ranked among.
        num_history (`int`): items of the history.
        num_after (`int`): items of the request behind its history.
        eoc (`int`): the token that ends an item.
        vision_features (`FeatureStore`, *optional*)
    """

    batch: dict[str, torch.Tensor]
    group: str
    place: int
    allowed: torch.Tensor | None
    num_history: int
    num_after: int
    eoc: int
    vision_features: PictureFeatures | None

    @classmethod
    def of(
        cls,
        pipeline: PersonalizationPipeline,
        request: Mapping[str, Any],
        item_id: str | None,
        options: dict[str, Any],
    ) -> "_Question":
        model, processor = pipeline.model, pipeline.processor
        model.check_processor(processor)
        group = processor.task_of(request).answer_group
        reading, _, ranking = pipeline.call_arguments(**options)
        store = reading.get("vision_features")
        if group not in ("items", "stars", "decisions"):
            raise ValueError(
                f"a request to {request['task']} gives no item a score: expected recommend, search, rate or select."
            )
        batch = processor(requests=[dict(request)], vision_features=store)
        allowed, num_after = None, 0
        if group == "items":
            place = processor.catalogue.number(str(item_id))
            allowed = pipeline.allowed_items(request, ranking.get("exclude_seen"), ranking.get("allowed"))
            # Also an item that the answer leaves out has reasons.
            allowed[place] = True
        else:
            scored = [request["item"]] if group == "stars" else list(request["candidates"])
            ids = [_id_of(entry) for entry in scored]
            wanted = None if item_id is None else str(item_id)
            if wanted not in ids:
                raise ValueError(
                    f"item_id={item_id!r} is not what this request to {request['task']} scores: expected "
                    f"{' or '.join(map(repr, ids))}."
                )
            place, num_after = ids.index(wanted), len(ids)
        return cls(
            batch=dict(batch),
            group=group,
            place=place,
            allowed=allowed,
            num_history=len(request["history"]),
            num_after=num_after,
            eoc=processor.control.eoc,
            vision_features=store,
        )

    @property
    def num_read(self) -> int:
        """Items of the history that the model reads, the latest ones."""
        return int((self.batch["input_ids"] == self.eoc).sum()) - self.num_after

    def score(self, outputs: torch.Tensor) -> torch.Tensor:
        """Of each output `(B, ...)`, as `outputs_of` yields them, one number `(B,)`."""
        if self.allowed is not None:
            allowed = self.allowed.to(outputs.device)
            return outputs.masked_fill(~allowed, float("-inf")).log_softmax(dim=-1)[:, self.place]
        if self.group == "stars":
            return outputs @ torch.arange(1, outputs.shape[-1] + 1, dtype=outputs.dtype, device=outputs.device)
        return outputs[:, self.place]

    def answer(
        self, model: UniMPForConditionalGeneration, inputs: dict[str, torch.Tensor], latents_ULD: torch.Tensor
    ) -> torch.Tensor:
        """What `outputs_of` yields for this request, `(1, ...)`, but with a gradient."""
        slots = self.num_after if self.group == "decisions" else 1
        logits = model.answer_logits(self.group, slots, **inputs, media_states=latents_ULD).float()
        if self.group == "items":
            return logits[:, -1]
        return logits[:, -1].softmax(dim=-1) if self.group == "stars" else logits.softmax(dim=-1)[..., 1]

    def place_pictures(self, inputs: dict[str, torch.Tensor], once: bool) -> tuple[torch.Tensor, dict[int, int]]:
        """Give each item a picture of its own, changing `media_index` in place, so that gradients are its own too.

        Args:
            inputs (`dict[str, torch.Tensor]`): of the model.
            once (`bool`): leave pictures that several items share as they are.

        Returns:
            `tuple[torch.LongTensor, dict[int, int]]`: which of the batch's pictures each new one is `(U,)`, and by
            place in the history the new picture.
        """
        ends, media = inputs["input_ids"][0] == self.eoc, inputs["media_index"][0]
        sees = media > 0
        item_of_token = ends.cumsum(0) - ends.long()
        items, number = item_of_token[sees].unique(return_inverse=True)
        rows = media.new_empty(len(items)).index_copy(0, number, media[sees] - 1)
        row_of_item = {int(item): int(rows[n]) if once else n for n, item in enumerate(items)}
        if once:
            rows = torch.arange(int(media.max()), device=media.device)
        else:
            inputs["media_index"] = media.masked_scatter(sees, number + 1)[None]
        unread = self.num_history - self.num_read
        return rows, {unread + item: row for item, row in row_of_item.items() if item < self.num_read}


def _look(resampler: UniMPPerceiverResampler, features_UPF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents `(U, L, D)` of pictures, and where each of them looked `(U, L, P)`.

    A latent has looked where it looks itself, and where the latents it looks at have looked before; mean of the heads.
    """
    latents_ULD, attentions = resampler(features_UPF.to(resampler.latents.dtype), output_attentions=True)
    num_features = features_UPF.shape[1]
    looked_ULP = latents_ULD.new_zeros(*latents_ULD.shape[:2], num_features)
    for weights in attentions:
        at_features, at_latents = weights.mean(dim=1).to(looked_ULP.dtype).tensor_split([num_features], dim=-1)
        looked_ULP = looked_ULP + at_features + at_latents @ looked_ULP
    return latents_ULD, looked_ULP


def _grid(num_tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the patches of a picture of `height` x `width` pixels; they are the last of its tokens."""
    for extra in range(min(MOST_EXTRA_TOKENS + 1, num_tokens)):
        patches = num_tokens - extra
        rows = max(round((patches * height / width) ** 0.5), 1)
        columns = patches // rows
        if rows * columns == patches and abs(rows * width - columns * height) < max(height, width):
            return rows, columns
    raise ValueError(
        f"{num_tokens} vision features of a picture of {height} x {width} pixels are no grid: expected rows x columns "
        f"patches, after at most {MOST_EXTRA_TOKENS} other tokens. There is no map for this vision tower."
    )


def _pixels_a_side(processor: Processor) -> tuple[int, int]:
    """Height and width of pictures as the vision tower got them when their features were stored."""
    height, width = processor.pixels_of(Image.new("RGB", (64, 64))).shape[-2:]
    return height, width


def _id_of(entry: Any) -> str | None:
    item_id = entry.get("item_id") if isinstance(entry, Mapping) else entry
    return None if item_id is None else str(item_id)


def _stand_ins(catalogue: Catalogue, entry: Any, item_id: str | None) -> list[dict[str, Any]]:
    """Some items from all over the catalogue, neither the one they stand in for nor the one that is scored."""
    offered = np.flatnonzero(catalogue.available)
    if not len(offered):
        return []
    spread = np.unique(np.linspace(0, len(offered) - 1, NUM_STAND_INS + 2).round().astype(int))
    ids = [catalogue.item_id(int(number)) for number in offered[spread]]
    rating = entry.get("rating") if isinstance(entry, Mapping) else None
    others = [each for each in ids if each not in (_id_of(entry), str(item_id))]
    return [{"item_id": each, "rating": rating} for each in others[:NUM_STAND_INS]]


@contextlib.contextmanager
def _in_eval_mode(model: UniMPForConditionalGeneration) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _seen_box(size: tuple[int, int], image_processor: Any) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what an image processor keeps of a picture of this size, in its pixels."""
    width, height = size
    if not getattr(image_processor, "do_center_crop", False):
        return 0, 0, width, height
    target, crop = dict(image_processor.size), dict(image_processor.crop_size)
    if "shortest_edge" in target:
        scales = (target["shortest_edge"] / min(size),) * 2
    else:
        scales = (target["width"] / width, target["height"] / height)
    seen_width = min(width, max(round(crop["width"] / scales[0]), 1))
    seen_height = min(height, max(round(crop["height"] / scales[1]), 1))
    left, top = (width - seen_width) // 2, (height - seen_height) // 2
    return left, top, left + seen_width, top + seen_height
