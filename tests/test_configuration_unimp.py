"""UniMPConfig: the layout of ids, round trips, and values that do not fit together."""

import pytest
from transformers import CLIPVisionConfig, LlamaConfig

from modeling_unimp.configuration_unimp import UniMPConfig

TEXT = {"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}


def test_ids_of_each_group_follow_each_other():
    config = UniMPConfig(text_config=TEXT, num_codes=4, codes_per_picture=1, num_items=7)
    assert config.group_slices == {
        "words": (0, 55),
        "stars": (55, 60),
        "decisions": (60, 62),
        "codes": (62, 66),
        "items": (66, 73),
    }
    assert config.vocab_size == 73
    assert (config.image_token_id, config.padding_token_id) == (51, 54)


def test_gated_layers_are_every_nth():
    assert UniMPConfig(text_config=TEXT).gated_layers == [1, 3]
    assert UniMPConfig(text_config=TEXT, cross_attention_every=1).gated_layers == [0, 1, 2, 3, 4]
    assert UniMPConfig(text_config=TEXT, fusion="late").gated_layers == []


def test_image_tokens_by_fusion():
    tokens = {
        fusion: UniMPConfig(text_config=TEXT, fusion=fusion, num_latents=8).num_image_tokens
        for fusion in ("exclusive", "all", "early", "late", "pooled", "none")
    }
    assert tokens == {"exclusive": 1, "all": 1, "early": 8, "late": 1, "pooled": 1, "none": 0}


def test_default_is_the_papers():
    config = UniMPConfig()
    assert config.text_config.model_type == "gpt_neox"
    assert (config.fusion, config.num_latents, config.resampler_depth, config.cross_attention_every) == (
        "exclusive",
        64,
        6,
        2,
    )
    assert config.item_rows == "free" and not config.tie_item_rows and config.label_softmax == "vocabulary"


@pytest.mark.parametrize("vision", [None, CLIPVisionConfig(hidden_size=24, num_hidden_layers=1)])
def test_saves_and_loads(tmp_path, vision):
    config = UniMPConfig(text_config=LlamaConfig(**TEXT), vision_config=vision, num_items=3, item_rows="both")
    config.save_pretrained(tmp_path)
    loaded = UniMPConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.text_config, LlamaConfig) and loaded.text_config.num_hidden_layers == 5
    assert (loaded.vision_config is None) == (vision is None)


def test_words_are_tied_as_the_language_model_ties_them():
    assert UniMPConfig(text_config=TEXT | {"tie_word_embeddings": True}).tie_word_embeddings
    assert not UniMPConfig(text_config=TEXT | {"tie_word_embeddings": False}).tie_word_embeddings


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"cross_attention_every": 6},
            "cross_attention_every=6 leaves no gated layer in a language model of 5 layers",
        ),
        ({"num_latents": 0}, "num_latents=0: expected at least 1"),
        ({"resampler_depth": 10**9}, "resampler_depth=1000000000: expected at most 1000"),
        (
            {"vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 10**9}},
            "vision_config.num_hidden_layers=1000000000: expected at most 1000",
        ),
        ({"num_items": -1}, "num_items=-1: expected 0 or more"),
        ({"fusion": "none", "vision_config": CLIPVisionConfig()}, "fusion='none' has no use for a vision_config"),
        ({"fusion": "sideways"}, "fusion"),
        ({"num_latents": "many"}, "num_latents"),
    ],
)
def test_refuses_what_does_not_fit(wrong, message):
    with pytest.raises(Exception, match=message):
        UniMPConfig(text_config=TEXT, **wrong)


def test_refuses_a_text_config_without_a_type():
    with pytest.raises(ValueError, match="text_config is the keys .*expected a config, or a dict with a 'model_type'"):
        UniMPConfig(text_config={"hidden_size": 3})


def test_gates_start_where_the_config_says():
    import torch

    from modeling_unimp import UniMPForConditionalGeneration

    text = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    for gate in (0.0, 0.5):
        config = UniMPConfig(text_config=text, vision_feature_size=16, num_items=3, initial_gate=gate)
        openings = UniMPForConditionalGeneration(config).gate_openings()
        assert openings and all(abs(o - float(torch.tensor(gate).tanh())) < 1e-6 for o in openings.values())
