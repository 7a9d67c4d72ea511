"""A new UniMP put together: language model, vision tower, and rows for what neither of them knows."""

from dataclasses import fields
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .backbones import TEXT_SIZES, VISION_SIZES, load_text_model, load_vision_tower, measure_feature_size
from .configuration_unimp import UniMPConfig
from .interfaces import Catalogue, Processor
from .item_embeddings import ItemContent
from .partial_training import grow_words

logger = logging.get_logger(__name__)


def from_backbones(
    model_class: Any,
    text_model: str,
    vision_model: str | None,
    catalogue: Catalogue | None,
    processor: Processor | None,
    tower: PreTrainedModel | None,
    content_pictures: torch.Tensor | None,
    dtype: torch.dtype | str | None,
    overrides: dict[str, Any],
) -> Any:
    """See [`UniMPForConditionalGeneration.from_backbones`]; `model_class` is that class, or one made from it."""
    unknown = set(overrides) - {field.name for field in fields(UniMPConfig)}
    if unknown:
        raise ValueError(f"UniMPConfig has no field {', '.join(sorted(unknown))}; see its docstring for those it has.")
    text = load_text_model(text_model, dtype=dtype, attention_dropout=overrides.get("dropout", UniMPConfig.dropout))
    if processor is not None and processor.first_token_id > text.config.vocab_size:
        # A tokenizer with more tokens than the language model has rows.
        grow_words(text, processor.first_token_id)
    feature_size = overrides.pop("vision_feature_size", None)
    in_rows = content_pictures is not None and overrides.get("item_rows", "free") != "free"
    if vision_model is not None and overrides.get("fusion") == "none" and not in_rows:
        tower = None
        logger.warning(f"fusion='none': the vision model {vision_model!r} has no effect and is not loaded.")
    elif vision_model is not None and tower is not None:
        feature_size = measure_feature_size(tower, vision_model)
    elif vision_model is not None:
        tower, feature_size = load_vision_tower(vision_model, dtype=dtype)
    elif feature_size is None:
        if overrides.get("fusion", "none") != "none":
            logger.warning(f"fusion={overrides['fusion']!r} has no effect without a vision model.")
        overrides["fusion"] = "none"
    known: dict[str, Any] = {
        "text_config": text.config,
        "vision_config": None if tower is None else tower.config,
        # Random backbones of a named size cannot be loaded again by that name.
        "text_model": None if text_model in TEXT_SIZES else text_model,
        "vision_model": None if tower is None or vision_model in VISION_SIZES else vision_model,
        "picture_features": "codec" if tower is None or vision_model in VISION_SIZES else "tower",
        "initializer_range": getattr(text.config, "initializer_range", 0.02),
    }
    if feature_size is not None:
        known["vision_feature_size"] = feature_size
    terms = None
    if overrides.get("item_rows", "free") != "free":
        if processor is not None and catalogue is not None:
            terms = processor.content_terms(overrides.pop("content_length", UniMPConfig.content_length))
            # No wider than the item that says most, for what is empty costs as much as what is not.
            known["content_length"] = max(1, int((terms[0] >= 0).sum(dim=1).max())) if len(terms[0]) else 1
        known["num_terms"] = 0 if processor is None else len(processor.term_texts)
        known["content_picture_size"] = 0 if content_pictures is None else content_pictures.shape[1]
    if catalogue is not None:
        known |= {"num_items": len(catalogue), "catalogue_fingerprint": catalogue.fingerprint}
    config = UniMPConfig(**{**known, **overrides})
    if processor is not None and processor.first_token_id != config.text_config.vocab_size:
        raise ValueError(
            f"the processor's added ids begin at {processor.first_token_id} and the language model has "
            f"{config.text_config.vocab_size} words: make the processor for this language model."
        )
    model = model_class(config, text_model=text, vision_tower=tower)
    if dtype is not None:
        # "auto" is what the checkpoint of the language model was saved in.
        model.to(dtype=text.dtype)  # type: ignore[call-arg]
    fit_rows_to_words(model)
    if terms is not None:
        assert processor is not None
        model.set_content(ItemContent(*terms, content_pictures))
        if text_model not in TEXT_SIZES:
            fit_terms_to_words(model, processor)
    return model


@torch.no_grad()
def fit_terms_to_words(model: Any, processor: Processor) -> None:
    """Let the vector of each term begin as the mean of its words' rows, which a pretrained language model knows."""
    embeddings = model.model.item_embeddings
    texts = processor.term_texts
    # Terms are a merchant's text: what looks like a special token in them is none.
    words_of_terms = (
        processor.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
    )
    for rows, like in (
        (embeddings.input_rows, model.get_input_embeddings().weight),
        (embeddings.output_rows, model.lm_head.weight),
    ):
        terms = None if rows.content is None else rows.content.terms
        if terms is None:
            continue
        for number, words in enumerate(words_of_terms):
            if words:
                terms[number] = like[torch.tensor(words, device=like.device)].float().mean(dim=0).to(terms)


@torch.no_grad()
def fit_rows_to_words(model: Any) -> None:
    """Draw added rows from the distribution of the words' rows, so that a pretrained model meets them as usual."""
    embeddings = model.model.item_embeddings
    words = model.get_input_embeddings()
    input_words = words(torch.arange(len(words.weight), device=words.weight.device))
    likes = {embeddings.input_rows: input_words} | {embeddings.output_rows: model.lm_head.weight}
    for rows, like in likes.items():
        mean, std = like.float().mean(dim=0), like.float().std(dim=0)
        free = [rows.tokens] if rows.content is not None or rows.items is None else [rows.tokens, rows.items]
        if embeddings.code_places is not None:
            embeddings.code_places.normal_(std=float(std.mean()))
        for parameter in free:
            drawn = torch.randn(parameter.shape, device=parameter.device) * std + mean
            parameter.copy_(drawn.to(parameter.dtype))
        if rows.content is not None:
            if rows.content.terms is not None:
                rows.content.terms.normal_(std=float(std.mean()))
            if rows.content.picture_proj is not None:
                rows.content.picture_proj.weight.normal_(std=float(std.mean()))
