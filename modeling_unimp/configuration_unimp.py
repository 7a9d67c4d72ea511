"""UniMPConfig: a language model's config, perhaps a vision backbone's, and how the two are joined.

The ids that UniMP adds begin at V = `text_config.vocab_size`: V+0 .. V+4 [CLS] [IMG] [EOC] [ANS] [PAD], five stars,
<no> <yes>, C picture codes, N items (last, so that the catalogue can grow).
"""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

NUM_CONTROL = 5
NUM_STARS = 5
NUM_DECISIONS = 2
MAX_LAYERS = 1_000  # of each part; a damaged config would take all memory before it is compared with the weights


@strict
class UniMPConfig(PreTrainedConfig):
    r"""
    Configuration of [`UniMPModel`] and [`UniMPForConditionalGeneration`]. The defaults are the paper's
    (https://huggingface.co/papers/2403.10667).

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Config of a causal language model, see `SUPPORTED_TEXT_MODELS`; defaults to GPT-NeoX.
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Config of the frozen vision tower. `None` for a model without one, which reads `vision_features` if any.
        vision_feature_size (`int`, *optional*, defaults to 1024):
            F, width of the tower's features; 1024 is CLIP ViT-L/14.
        resampler_width (`int`, *optional*):
            D, width of the latents; `None` is F.
        num_latents (`int`, *optional*, defaults to 64):
            L, latents a picture.
        resampler_depth, resampler_heads, resampler_head_dim (`int`, *optional*, default to 6, 8, 64):
            Shape of the perceiver resampler.
        cross_attention_every (`int`, *optional*, defaults to 2):
            n; gated cross-attention goes before the language model's layers n, 2n, ... counted from 1.
        cross_attention_heads, cross_attention_head_dim (`int`, *optional*, default to 8, 64):
            Shape of the gated cross-attention.
        initial_gate (`float`, *optional*, defaults to 0.0):
            Where the gates start, before the tanh. 0 leaves a pretrained language model as it was; one from scratch
            has nothing to protect, and sees sooner with gates half open.
        fusion (`str`, *optional*, defaults to `"exclusive"`):
            `"exclusive"`: tokens of an item see that item's picture only (paper, eq. 3). `"all"`: they see the
            pictures of all items up to and including theirs. `"late"`: as `"all"`, but in one gated block after the
            language model's last layer. `"early"`: L consecutive `[IMG]` tokens a picture are replaced by its latents.
            `"pooled"`: the mean latent is added to the `[IMG]` token. `"none"`: no vision, but in item rows that are
            made from pictures.
        num_items (`int`, *optional*, defaults to 0):
            N, items with a token of their own.
        num_codes (`int`, *optional*, defaults to 0):
            C, size of the picture codebook.
        codes_per_picture (`int`, *optional*, defaults to 0):
            Codes of one picture; each has a place of its own in the picture, which is added to its row.
        item_rows (`str`, *optional*, defaults to `"free"`):
            `"free"`: a trained vector an item (the paper). `"content"`: the weighted sum of learned vectors of what
            the item's attributes say, and a learned projection of its picture. `"both"`: their sum, the free part
            starting at zero.
        tie_item_rows (`bool`, *optional*, defaults to `False`):
            Whether added tokens are written with the rows they are read with.
        num_terms (`int`, *optional*, defaults to 0):
            Terms that content rows know, each with a learned vector; see `ItemTerms`.
        content_length (`int`, *optional*, defaults to 32):
            Terms of an item kept for content rows, those of the largest weight.
        content_picture_size (`int`, *optional*, defaults to 0):
            Width of the pooled vision features kept for content rows; 0 for rows from text alone.
        picture_features (`str`, *optional*, defaults to `"tower"`):
            What pictures are compared by, where one is imagined: the patches of the vision `"tower"`, or the vectors
            of the image `"codec"`. A tower from scratch learns what serves the language model, and sees most pictures
            as one.
        item_at_eoc (`bool`, *optional*, defaults to `False`):
            Whether the input of each `[EOC]` is its row plus that of the item it closes. The next item is then
            predicted from the latest one by the residual path; else only attention brings it there. Not in the paper.
        label_softmax (`str`, *optional*, defaults to `"vocabulary"`):
            Over what a label competes in training: the whole `"vocabulary"` (the paper), or its own `"group"`, items
            among items and stars among stars.
        catalogue_fingerprint (`str`, *optional*):
            Fingerprint of the catalogue that the item tokens stand for.
        trained_tasks (`list[str]`, *optional*):
            Tasks that the model was trained for; `None` where nobody noted them.
        text_model, vision_model (`str`, *optional*):
            Names or folders of the pretrained backbones, when there were any.
        dropout (`float`, *optional*, defaults to 0.0):
            Of input embeddings and of what each layer of the language model adds to its input, in training. Inside
            the layers is the dropout of `text_config`: that of a language model from scratch has the same in its
            attention.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new weights.
        tie_word_embeddings (`bool`, *optional*):
            Whether words have the same input and output rows; `None` is what `text_config` says, and a value
            is written there.

    Raises:
        ValueError: values that do not fit together; the message names both.
    """

    model_type = "unimp"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "media_states", "nll"]

    # Any: dicts until __post_init__, configs ever after.
    text_config: Any = None
    vision_config: Any = None
    vision_feature_size: int = 1024
    resampler_width: int | None = None
    num_latents: int = 64
    resampler_depth: int = 6
    resampler_heads: int = 8
    resampler_head_dim: int = 64
    cross_attention_every: int = 2
    cross_attention_heads: int = 8
    cross_attention_head_dim: int = 64
    initial_gate: float | int = 0.0
    fusion: Literal["exclusive", "all", "early", "late", "pooled", "none"] = "exclusive"
    num_items: int = 0
    num_codes: int = 0
    codes_per_picture: int = 0
    item_rows: Literal["free", "content", "both"] = "free"
    tie_item_rows: bool = False
    item_at_eoc: bool = False
    num_terms: int = 0
    content_length: int = 32
    content_picture_size: int = 0
    picture_features: Literal["tower", "codec"] = "tower"
    label_softmax: Literal["vocabulary", "group"] = "vocabulary"
    catalogue_fingerprint: str | None = None
    trained_tasks: list[str] | None = None
    text_model: str | None = None
    vision_model: str | None = None
    dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool | None = None

    # transformers' names parts of a bare language model; `_fsdp_plan` of the model says what is ours.
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        if not type(self).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            # A published folder names the code beside it. The package is that code: `pipeline` would not take its
            # class otherwise, and a folder saved again would name files that it does not hold.
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        self.text_config = _as_config(self.text_config or {"model_type": "gpt_neox"}, "text_config")
        if self.vision_config is not None:
            self.vision_config = _as_config(self.vision_config, "vision_config")
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        # The configs of loaded backbones keep the attention that these were loaded with.
        own = {name: getattr(getattr(self, name), "_attn_implementation", None) for name in self.sub_configs}
        kwargs.setdefault("attn_implementation", own)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`."""
        for name in (
            "vision_feature_size",
            "num_latents",
            "resampler_depth",
            "resampler_heads",
            "resampler_head_dim",
            "cross_attention_every",
            "cross_attention_heads",
            "cross_attention_head_dim",
            "content_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1.")
        layers = {"resampler_depth": self.resampler_depth}
        for name in self.sub_configs:
            layers[f"{name}.num_hidden_layers"] = getattr(getattr(self, name), "num_hidden_layers", 1)
        for name, number in layers.items():
            if isinstance(number, int) and number > MAX_LAYERS:
                raise ValueError(f"{name}={number}: expected at most {MAX_LAYERS}.")
        if self.resampler_width is not None and self.resampler_width < 1:
            raise ValueError(f"resampler_width={self.resampler_width}: expected at least 1, or None for the tower's.")
        for name in ("num_items", "num_codes", "codes_per_picture", "num_terms", "content_picture_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: expected 0 or more and less than 1.")
        if (self.num_codes > 0) != (self.codes_per_picture > 0):
            raise ValueError(
                f"num_codes={self.num_codes} and codes_per_picture={self.codes_per_picture}: expected both from the "
                "image codec, or both 0."
            )
        if self.item_rows == "content" and not self.num_terms and not self.content_picture_size and self.num_items:
            raise ValueError(
                f"item_rows={self.item_rows!r} with num_terms=0 and content_picture_size=0 has nothing to make rows "
                "from: items need attributes that some of them share, or pictures. Choose item_rows='free'."
            )
        if self.fusion == "none" and self.vision_config is not None and not self.content_picture_size:
            raise ValueError(
                "fusion='none' has no use for a vision_config: set it to None, choose another fusion, or make item "
                "rows from pictures (content_picture_size)."
            )
        if self.fusion in ("exclusive", "all") and not self.gated_layers:
            raise ValueError(
                f"cross_attention_every={self.cross_attention_every} leaves no gated layer in a language model of "
                f"{self.text_config.num_hidden_layers} layers; expected at most that. Or choose a language model "
                "of more layers, or another fusion."
            )

    @property
    def media_width(self) -> int:
        """D, width of a latent."""
        return self.resampler_width or self.vision_feature_size

    @property
    def num_image_tokens(self) -> int:
        """`[IMG]` tokens a picture takes in the sequence."""
        return image_tokens_of(self.fusion, self.num_latents)

    @property
    def gated_layers(self) -> list[int]:
        """Layers of the language model, counted from 0, with a gated cross-attention before them."""
        if self.fusion not in ("exclusive", "all"):
            return []
        every = self.cross_attention_every
        return list(range(every - 1, self.text_config.num_hidden_layers, every))

    @property
    def num_added_tokens(self) -> int:
        """Added tokens that are no items: control, stars, decisions, codes."""
        return NUM_CONTROL + NUM_STARS + NUM_DECISIONS + self.num_codes

    @property
    def vocab_size(self) -> int:
        """Width of the logits: words of the language model and all added tokens."""
        return self.text_config.vocab_size + self.num_added_tokens + self.num_items

    @property
    def image_token_id(self) -> int:
        return self.text_config.vocab_size + 1

    @property
    def eoc_token_id(self) -> int:
        return self.text_config.vocab_size + 2

    @property
    def padding_token_id(self) -> int:
        # Not `pad_token_id`: that is a parameter of generation, which transformers refuses to save in a config.
        return self.text_config.vocab_size + 4

    @property
    def group_slices(self) -> dict[str, tuple[int, int]]:
        """Ids of each group of tokens as (first, last + 1), in the order of the ids."""
        sizes = {
            "words": self.text_config.vocab_size + NUM_CONTROL,
            "stars": NUM_STARS,
            "decisions": NUM_DECISIONS,
            "codes": self.num_codes,
            "items": self.num_items,
        }
        slices, start = {}, 0
        for name, size in sizes.items():
            slices[name] = (start, start + size)
            start += size
        return slices


def image_tokens_of(fusion: str, num_latents: int) -> int:
    """`[IMG]` tokens that a picture takes in the sequence."""
    return {"none": 0, "early": num_latents}.get(fusion, 1)


def _as_config(config: Any, name: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict) or "model_type" not in config:
        came = f"the keys {sorted(config)}" if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{name} is {came}: expected a config, or a dict with a 'model_type' such as 'llama'.")
    config = dict(config)
    return AutoConfig.for_model(config.pop("model_type"), **config)
