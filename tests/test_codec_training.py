"""Training a codec: it learns, uses its codes, is the same again, and is measured as the literature measures."""

import json
from types import SimpleNamespace

import pytest
import torch

from modeling_unimp.training.codec_training import measure_codec, ssim, train_codec
from modeling_unimp.training.taming_vqgan import load_image_codec
from processing_unimp.demo_shop import CATEGORIES, COLOURS, draw_item
from processing_unimp.picture import open_picture

PICTURES = [
    open_picture(draw_item(category, colour, "plain")) for category in CATEGORIES[:4] for colour in list(COLOURS)[:7]
]


def settings(**changes):
    small = {"codec_side": 16, "codec_grid": 4, "codec_codes": 16, "codec_width": 8, "codec_steps": 60}
    return SimpleNamespace(**(small | {"codec_batch_size": 8, "codec_learning_rate": 3e-3} | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    codec, metrics = train_codec(PICTURES, settings(), folder, seed=3, use_cpu=True)
    return codec, metrics, folder


def test_it_learns_to_keep_pictures(trained, tmp_path):
    codec, metrics, _ = trained
    _, untrained = train_codec(PICTURES, settings(codec_steps=1), tmp_path, seed=3, use_cpu=True)
    assert metrics["psnr"] > untrained["psnr"] + 4 and metrics["ssim"] > untrained["ssim"]
    assert (codec.side, codec.grid, codec.num_codes) == (16, (4, 4), 16)
    assert (metrics["pictures"], metrics["trained_on"]) == (8, 20)


def test_no_code_is_dead(trained):
    codec, metrics, _ = trained
    used = codec.encode(PICTURES).unique()
    assert metrics["codes_used"] == len(used) == 16
    assert 1 < metrics["perplexity"] <= 16


def test_what_is_saved_is_what_is_returned(trained):
    codec, metrics, folder = trained
    loaded = load_image_codec(str(folder))
    codes = codec.encode(PICTURES)
    assert torch.equal(loaded.encode(PICTURES), codes)
    assert [p.tobytes() for p in loaded.decode(codes)] == [p.tobytes() for p in codec.decode(codes)]
    assert json.loads((folder / "codec.json").read_text()) == metrics
    assert not any(parameter.requires_grad for parameter in codec.vq_model.parameters())


def test_the_same_seed_gives_the_same_codec(tmp_path):
    weights = []
    for seed in (5, 5, 6):
        codec, _ = train_codec(PICTURES, settings(codec_steps=12), tmp_path / str(seed), seed=seed, use_cpu=True)
        weights.append(codec.vq_model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_fewer_pictures_than_a_batch_are_enough(tmp_path):
    codec, metrics = train_codec(
        PICTURES[:17], settings(codec_batch_size=64, codec_steps=8, codec_codes=400), tmp_path, seed=0, use_cpu=True
    )
    assert metrics["trained_on"] == 9 and codec.num_codes == 400  # more codes than there are patches


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ValueError, match="15 pictures to train an image codec on: expected at least 16"):
        train_codec(PICTURES[:15], settings(), tmp_path, seed=0, use_cpu=True)
    for side, grid in ((24, 10), (4, 8), (64, 0)):
        with pytest.raises(ValueError, match=f"codec_side={side} and codec_grid={grid}: expected the grid times"):
            train_codec(PICTURES, settings(codec_side=side, codec_grid=grid), tmp_path, seed=0, use_cpu=True)


def test_measures_by_hand(trained):
    codec, _, _ = trained
    kept = codec.decode(codec.encode(PICTURES[:3]))
    measured = measure_codec(codec, PICTURES[:3])
    assert measured["pictures"] == 3 and measured["num_codes"] == 16
    true = codec.pixels(PICTURES[:3]) / 2
    shown = codec.pixels(kept) / 2
    mse = (true - shown).square().mean(dim=(1, 2, 3))
    assert measured["psnr"] == pytest.approx((-10 * mse.log10()).mean().item(), abs=1e-3)
    assert measured["l1"] == pytest.approx((true - shown).abs().mean().item(), abs=1e-5)


def test_ssim_is_one_for_equals_and_known_for_constants():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 3, 16, 20, generator=generator), torch.rand(2, 3, 16, 20, generator=generator)
    torch.testing.assert_close(ssim(first, first), torch.ones(2))
    torch.testing.assert_close(ssim(first, second), ssim(second, first))
    assert (ssim(first, second) < 0.5).all()
    # Of constant pictures only the means count: (2 a b + c1) / (a^2 + b^2 + c1).
    a, b, c1 = 0.3, 0.8, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    found = ssim(torch.full((1, 1, 12, 12), a), torch.full((1, 1, 12, 12), b))
    assert found.item() == pytest.approx(expected, abs=1e-4)
