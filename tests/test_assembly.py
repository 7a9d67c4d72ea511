"""A model put together of backbones, and the paper's own size."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_models import (
    NUM_ITEMS,
    V,
    text_config,
    vision_config,
)
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel

from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.modeling_unimp import UniMPForConditionalGeneration


class FakeCatalogue:
    fingerprint = "f" * 16

    def __len__(self):
        return NUM_ITEMS


class FakeTokenizer:
    def __call__(self, texts, add_special_tokens, split_special_tokens):
        return {"input_ids": [[len(text), len(text) + 2] for text in texts]}


class FakeProcessor:
    first_token_id = V
    tokenizer = FakeTokenizer()
    term_texts = ("a", "bcd")

    def content_terms(self, length):
        return torch.zeros(NUM_ITEMS, length, dtype=torch.int32), torch.ones(NUM_ITEMS, length)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(text_config("gpt_neox")).save_pretrained(folder / "text")
    CLIPVisionModel(vision_config()).save_pretrained(folder / "vision")
    return str(folder / "text"), str(folder / "vision")


def test_from_backbones(backbones):
    model = UniMPForConditionalGeneration.from_backbones(
        *backbones,
        FakeCatalogue(),
        FakeProcessor(),
        content_pictures=torch.eye(NUM_ITEMS, 24),
        num_latents=4,
        item_rows="both",
        content_length=3,
    ).eval()
    config = model.config
    assert (config.num_items, config.vision_feature_size, config.num_latents) == (NUM_ITEMS, 24, 4)
    assert (config.text_model, config.vision_model) == backbones and config.catalogue_fingerprint == "f" * 16
    text = AutoModelForCausalLM.from_pretrained(backbones[0])
    assert torch.equal(model.lm_head.weight, text.get_output_embeddings().weight)
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(model(ids).logits[..., :V], text(ids).logits)
    rows = model.model.item_embeddings
    assert rows.content_term_ids[2].tolist() == [0, 0, 0] and rows.content_pictures.shape == (NUM_ITEMS, 24)
    # A term begins as the mean of its words.
    for vectors, words in ((rows.read, model.get_input_embeddings()), (rows.write, model.lm_head)):
        torch.testing.assert_close(vectors.content.terms[1], (words.weight[3] + words.weight[5]) / 2)
    # New rows look like words: what comes next is not surprised by their size.
    assert 0.5 < rows.read.tokens.std() / model.get_input_embeddings().weight.std() < 2
    assert not rows.read.items.any()
    vision = CLIPVisionModel.from_pretrained(backbones[1])
    assert torch.equal(model.model.vision_tower.pre_layrnorm.weight, vision.pre_layrnorm.weight)
    assert torch.equal(
        model.model.vision_tower.encoder.layers[0].mlp.fc1.weight, vision.encoder.layers[0].mlp.fc1.weight
    )


def test_from_backbones_without_vision(backbones, caplog):
    text, vision = backbones
    assert UniMPForConditionalGeneration.from_backbones(text).config.fusion == "none"
    model = UniMPForConditionalGeneration.from_backbones(text, vision, fusion="none")
    assert model.model.vision_tower is None and model.model.resampler is None
    stored = UniMPForConditionalGeneration.from_backbones(text, vision_feature_size=24)
    assert stored.model.vision_tower is None and stored.config.fusion == "exclusive"


def test_from_backbones_in_half_precision(backbones):
    model = UniMPForConditionalGeneration.from_backbones(*backbones, FakeCatalogue(), dtype=torch.bfloat16)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}


def test_from_backbones_refuses_what_does_not_fit(backbones):
    processor = FakeProcessor()
    with pytest.raises(StrictDataclassError, match="num_terms=0 and content_picture_size=0"):
        UniMPForConditionalGeneration.from_backbones(*backbones, FakeCatalogue(), item_rows="content")
    with pytest.raises(ValueError, match="UniMPConfig has no field num_latent;"):
        UniMPForConditionalGeneration.from_backbones(*backbones, num_latent=3)
    processor.first_token_id = V - 1
    with pytest.raises(ValueError, match="the processor's added ids begin at 49"):
        UniMPForConditionalGeneration.from_backbones(*backbones, FakeCatalogue(), processor)


def test_a_tokenizer_larger_than_the_language_model(tmp_path, backbones):
    processor = FakeProcessor()
    processor.first_token_id = V + 3
    model = UniMPForConditionalGeneration.from_backbones(*backbones, FakeCatalogue(), processor)
    assert model.config.text_config.vocab_size == V + 3 == model.config.image_token_id - 1
    ids = torch.tensor([[V + 3, V + 2, V - 1]])
    logits = model.eval()(ids).logits
    assert logits.shape[-1] == model.config.vocab_size
    # The words that were appended are the same again when only the rest is saved.
    model.freeze_backbones("new").save_pretrained(tmp_path, state_dict=model.trained_state_dict())
    assert torch.equal(UniMPForConditionalGeneration.from_pretrained(tmp_path)(ids).logits, logits)


def test_the_papers_model():
    """CLIP ViT-L/14 and the shapes of RedPajama-INCITE-3B, with the items of its largest catalogue."""
    width, layers, words, items = 2560, 32, 50432, 124_232
    config = UniMPConfig(
        text_config=AutoConfig.for_model(
            "gpt_neox",
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=32,
            intermediate_size=4 * width,
            vocab_size=words,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        ),
        num_items=items,
    )
    with torch.device("meta"):
        model = UniMPForConditionalGeneration(config)
    model.freeze_backbones("new")

    def layer(d):
        attention, norms = 4 * (d * d + d), 2 * 2 * d
        return attention + norms + (d * 4 * d + 4 * d) + (4 * d * d + d)

    vision = 1024 + 3 * 14 * 14 * 1024 + 257 * 1024 + 2 * 1024 + 24 * layer(1024) + 2 * 1024
    language = words * width + layers * layer(width) + 2 * width + words * width
    inner, d = 8 * 64, 1024
    resampler = 64 * d + 6 * (4 * d + d * inner + 2 * d * inner + inner * d + 2 * d + 8 * d * d) + 2 * d
    gated = 2 * width + width * inner + 2 * d * inner + inner * width + 1 + 2 * width + 8 * width * width + 1
    rows = 2 * (5 + 5 + 2 + items) * width
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert counts[False] == vision + language == 3_079_044_096
    assert counts[True] == resampler + 16 * gated + rows == 1_596_893_216
