"""The computed sizes: parameters are those of the model itself, memory and speed follow the printed formulas."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, CLIPVisionConfig

from benchmarks.sizes import WAYS, memory_of, parameters_of, parameters_table, runs_table, seconds_of
from modeling_unimp import UniMPConfig, UniMPForConditionalGeneration

PAGE = Path(__file__).parent.parent / "docs" / "sizes.md"


@pytest.mark.parametrize("num_items", [10_000, 1_000_000])
def test_parameters_are_those_of_the_model(num_items):
    text = AutoConfig.for_model(
        "gpt_neox", hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, intermediate_size=4 * 2560,
        vocab_size=50_432,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224,
        patch_size=14,
    )  # fmt: skip
    with torch.device("meta"):
        model = UniMPForConditionalGeneration(
            UniMPConfig(text_config=text, vision_config=vision, num_items=num_items)
        ).freeze_backbones("new")
    sizes = parameters_of(num_items)

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert sizes.total == count(model)
    assert sizes.trained == sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert sizes.vision == count(model.model.vision_tower) and sizes.resampler == count(model.model.resampler)
    assert sizes.rows == count(model.model.item_embeddings)
    assert sizes.language_layers + sizes.gated == count(model.model.language_model.layers)


def test_memory_by_hand():
    """Without items, by the printed formulas: 3.08 B frozen, 0.96 B trained parameters."""
    sizes = parameters_of(0)
    alone = memory_of(0, "DDP")
    assert alone["weights"] == 4 * sizes.total and alone["optimizer"] == 8 * sizes.trained
    assert alone["activations"] == 34 * 2560 * 48 * 3 * 512 and alone["rows in use"] == 0
    assert alone["logits"] == 10 * 3 * 512 * 0.75 * 50_444  # all at once
    assert memory_of(1_000_000, "DDP")["logits"] == 10 * 2**27
    shared = memory_of(0, "ZeRO-2", num_gpus=4)
    assert shared["weights"] == 2 * sizes.total + sizes.trained and shared["optimizer"] == 2 * sizes.trained


@pytest.mark.parametrize("way", WAYS)
def test_an_item_costs_the_same_wherever_it_is_counted(way):
    """Memory grows linearly with the catalogue, and sharding never takes more than DDP does."""
    small, large, larger = (sum(memory_of(n, way).values()) for n in (1_000_000, 2_000_000, 3_000_000))
    assert larger - large == pytest.approx(large - small)
    assert small <= sum(memory_of(1_000_000, "DDP").values())
    assert sum(seconds_of(1_000_000, way).values()) > sum(seconds_of(10_000, way).values()) > 0


def test_another_way_is_refused():
    for function in (memory_of, seconds_of):
        with pytest.raises(ValueError, match="way='ddp': expected one of DDP, ZeRO-2, FSDP2, ZeRO-3"):
            function(10, "ddp")


def test_the_page_shows_what_is_computed():
    page = PAGE.read_text(encoding="utf-8")
    assert parameters_table() in page and runs_table() in page
