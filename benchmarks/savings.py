"""What is saved by not computing twice: ratios of two ways to the same answer.

Both ways take turns in one process on the CPU: the median of the quotients of their seconds of the processor, in which
no other program counts. The network is from scratch, for no time depends on the weights.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration, load_image_processor
from modeling_unimp.gated_cross_attention import MediaKeysValues
from processing_unimp import Catalogue, UniMPProcessor, make_demo_shop


def savings(size: str, num_items: int, repeats: int) -> dict[str, float]:
    """How long one way takes, as a share or multiple of another: see the names.

    Args:
        size (`str`): of the language model, from scratch.
        num_items (`int`): of the shopper's history, each with a picture and all its attributes.
        repeats (`int`): how often both ways are timed.
    """
    unimp, history, others = _server(size, num_items, "exclusive")
    five = [
        {"task": "recommend", "history": history},
        {"task": "search", "history": history, "query": "mug"},
        {"task": "rate", "history": history, "item": others[0]},
        {"task": "select", "history": history, "candidates": others[:4]},
        {"task": "explain", "history": history, "item": others[0]},
    ]
    one_word = {"max_new_tokens": 1}  # what comes after is written alike, whatever was read before
    state = unimp.read(history)
    from_state = [request | {"history": state} for request in five]
    found = {
        "five tasks of one shopper, in one call / the first of them": ratio(
            lambda: unimp(five, **one_word), lambda: unimp(five[0]), repeats
        ),
        "the same, one call each / the first of them": ratio(
            lambda: [unimp(request, **one_word) for request in five], lambda: unimp(five[0]), repeats
        ),
        "the same, one call each from a state / the first of them": ratio(
            lambda: [unimp(request, **one_word) for request in from_state], lambda: unimp(five[0]), repeats
        ),
        "a state extended by an event / all of it read again": ratio(
            lambda: unimp.extend(state, others[0]), lambda: unimp.read([*history, others[0]]), repeats
        ),
    }
    for fusion in ("all", "late"):
        unimp, history, others = _server(size, num_items, fusion)
        request = {"task": "explain", "history": history, "item": others[0]}
        inputs: dict[str, Any] = dict(unimp.processor(requests=[request]))
        inputs["media_states"] = unimp.model(pixel_values=inputs.pop("pixel_values")).media_states
        options: dict[str, Any] = {"min_new_tokens": 64, "max_new_tokens": 64, "do_sample": False}

        def write(inputs: Any = inputs, unimp: Any = unimp, options: Any = options) -> None:
            unimp.model.generate(**inputs, **options)

        def write_as_the_peer(write: Any = write) -> None:
            once = MediaKeysValues.of
            MediaKeysValues.of = lambda self, block, media: (block.k_proj(media), block.v_proj(media))  # type: ignore
            try:
                write()
            finally:
                MediaKeysValues.of = once  # type: ignore[method-assign]

        name = f"64 tokens, fusion {fusion}: keys and values of the pictures made anew for each / once"
        found[name] = ratio(write_as_the_peer, write, repeats)
    return found


def _server(size: str, num_items: int, fusion: str) -> tuple[PersonalizationPipeline, list[str], list[str]]:
    """A model that reads whole histories of so many items, the one of a shopper, and other items."""
    items, _ = make_demo_shop(max(num_items + 20, 24), 5)
    catalogue = Catalogue.from_items(items)
    pictured = [item_id for item_id in catalogue.item_ids if catalogue.has_picture(item_id)]
    torch.manual_seed(0)
    processor = UniMPProcessor.from_backbones(
        size, load_image_processor("small"), catalogue, history_length=num_items + 1, max_length=4096
    )
    model = UniMPForConditionalGeneration.from_backbones(
        size, "small", catalogue, processor, fusion=fusion, initial_gate=0.5
    )
    unimp = PersonalizationPipeline(model=model.eval(), processor=processor, device="cpu")
    return unimp, (pictured * num_items)[:num_items], pictured[-5:]


def ratio(way: Callable[[], Any], other: Callable[[], Any], repeats: int) -> float:
    """The median of `seconds of way / seconds of other`, after a turn that is not counted."""
    quotients = []
    for turn in range(repeats + 1):
        seconds = []
        for each in (way, other):
            started = time.process_time()
            each()
            seconds.append(time.process_time() - started)
        if turn:
            quotients.append(seconds[0] / seconds[1])
    return float(np.median(quotients))
