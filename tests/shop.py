"""A shop small enough to check by hand, and models small enough to run anywhere."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from modeling_unimp import ImageCodec, UniMPForConditionalGeneration, load_image_processor
from processing_unimp import Catalogue, Histories, UniMPProcessor, make_demo_shop
from processing_unimp.catalogue import NO_CODE

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 60), "grey": (128, 128, 128)}


def picture(colour: str, size: int = 32) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (size, size), COLOURS[colour]).save(stream, "PNG")
    return stream.getvalue()


ITEMS = [
    {"item_id": "m1", "title": "Red mug", "category": "mug", "price": 9.5, "image": picture("red")},
    {"item_id": "m2", "title": "Blue mug", "category": "mug", "price": 8, "image": picture("blue")},
    {"item_id": "s1", "title": "Red shoe", "category": "shoe", "price": 60, "image": picture("red", 40)},
    {"item_id": "s2", "title": "Blue shoe", "category": "shoe", "price": None, "image": None},
    {"item_id": "h1", "title": "Green hat", "category": "hat", "price": 25, "image": picture("green")},
    {"item_id": "h2", "title": "Grey hat", "category": "hat", "price": 19.99, "image": picture("grey")},
]

INTERACTIONS = [
    {"user_id": user, "item_id": item, "timestamp": time, "rating": rating, "explanation": explanation}
    for user, events in {
        "ada": [("m1", 5), ("s1", 4), ("h1", 2), ("m2", 3)],
        "bob": [("m2", 5), ("s2", 5), ("h2", 1), ("m1", 2), ("s1", 3)],
        "cyd": [("h1", 4), ("h2", 4), ("s2", 2), ("m1", 1)],
    }.items()
    for time, (item, rating) in enumerate(events)
    for explanation in [f"{user} likes it" if rating > 3 else f"{user} does not like it"]
]

# A request of each task.
HISTORY = ["h1", {"item_id": "m1", "rating": 4}]
REQUESTS = [
    {"task": "recommend", "history": HISTORY},
    {"task": "search", "history": HISTORY, "query": "hat"},
    {"task": "rate", "history": HISTORY, "item": "s1"},
    {"task": "explain", "history": HISTORY, "item": "s1"},
    {"task": "select", "history": HISTORY, "candidates": ["s1", "h2", {"title": "Tin mug"}]},
    {"task": "imagine", "history": HISTORY, "query": "hat"},
]


def make_catalogue() -> Catalogue:
    return Catalogue.from_items([dict(item) for item in ITEMS])


def make_histories(catalogue: Catalogue) -> Histories:
    return Histories.from_interactions([dict(event) for event in INTERACTIONS], catalogue)


def save_demo_shop(folder: Path, num_items: int, num_shoppers: int) -> None:
    """The made-up shop as the two tables that the command lines read."""
    items, interactions = make_demo_shop(num_items, num_shoppers)
    catalogue = Catalogue.from_items(items)
    catalogue.save(folder)
    Histories.from_interactions(interactions, catalogue).to_dataset().to_parquet(str(folder / "interactions.parquet"))


def readable(processor: UniMPProcessor, token_ids: Sequence[int]) -> str:
    """A whole sequence as text with the names of added tokens."""
    parts: list[str] = []
    words: list[int] = []
    for token in [*map(int, token_ids), -1]:
        if 0 <= token < processor.first_token_id:
            words.append(token)
            continue
        if words:
            parts.append(str(processor.tokenizer.decode(words)))
            words = []
        if token >= 0:
            parts.append(processor.control.name(token))
    return " ".join(parts)


def make_image_processor(size: int = 32) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def make_processor(catalogue: Catalogue | None = None, image_processor=None, **kwargs) -> UniMPProcessor:
    return UniMPProcessor.from_backbones(
        "tiny",
        image_processor or make_image_processor(),
        catalogue or make_catalogue(),
        extra_texts=["ada likes it", "bob does not like it"],
        **kwargs,
    )


def make_model_processor(**kwargs) -> UniMPProcessor:
    """The processor that goes with `make_model`."""
    return make_processor(image_processor=load_image_processor("tiny"), **kwargs)


def make_model(processor: UniMPProcessor, seed: int = 0, **fields) -> UniMPForConditionalGeneration:
    """A UniMP of a million parameters on this shop; gates half open, so that pictures matter."""
    torch.manual_seed(seed)
    small = {"num_latents": 2, "resampler_depth": 1, "resampler_heads": 2, "resampler_head_dim": 16}
    small |= {"cross_attention_heads": 2, "cross_attention_head_dim": 16}
    model = UniMPForConditionalGeneration.from_backbones(
        text_model="tiny", vision_model="tiny", catalogue=processor.catalogue, processor=processor, **(small | fields)
    )
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.5)
    return model.freeze_backbones(train="all", train_vision=True).eval()


def make_codec(num_codes: int = 16, seed: int = 0, side: int = 8) -> ImageCodec:
    """A codec with random weights: pictures of 8 pixels a side in 2 x 2 codes, larger ones in as many more."""
    from diffusers import VQModel  # takes seconds, and most processes that import this file need no codec

    torch.manual_seed(seed)
    levels = 3
    codec = ImageCodec(
        VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(8,) * levels,
            latent_channels=4,
            sample_size=side,
            num_vq_embeddings=num_codes,
            norm_num_groups=4,
        )
    )
    torch.nn.init.normal_(codec.vq_model.quantize.embedding.weight, std=0.5)
    return codec


def encode_pictures(catalogue: Catalogue, codec: ImageCodec) -> None:
    """Keep the codes of all pictures in the catalogue."""
    codes = np.full((len(catalogue), codec.codes_per_picture), NO_CODE)
    for number, item_id in enumerate(catalogue.item_ids):
        if catalogue.has_picture(item_id):
            codes[number] = codec.encode([catalogue.picture(item_id)])[0]
    catalogue.set_picture_codes(codes)


def make_imagining_model(side: int = 8, **fields) -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    """A model and processor that answer with pictures, and a catalogue that knows its own as codes."""
    codec = make_codec(side=side)
    catalogue = make_catalogue()
    encode_pictures(catalogue, codec)
    processor = make_model_processor(catalogue=catalogue, num_codes=codec.num_codes)
    model = make_model(processor, num_codes=codec.num_codes, codes_per_picture=codec.codes_per_picture, **fields)
    # Nothing at the start of a training; here they matter.
    torch.nn.init.normal_(model.model.item_embeddings.after_places, std=0.5)
    model.image_codec = codec
    return model, processor
