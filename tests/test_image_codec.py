"""Pictures to codes and back: the VQModel's own numbers, whatever picture comes."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_unimp.image_codec import ImageCodec, pictures_of, pixels_of, square_picture
from modeling_unimp.training.taming_vqgan import load_image_codec

diffusers = pytest.importorskip("diffusers")


def make_vq_model(levels=3, side=32, codes=16, width=8, **options):
    """Random weights."""
    torch.manual_seed(0)
    vq_model = diffusers.VQModel(
        block_out_channels=[width] * levels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=4,
        num_vq_embeddings=codes,
        sample_size=side,
        norm_num_groups=4,
        **options,
    )
    # Codes where the encoder's vectors are, so that many are used.
    with torch.no_grad():
        vectors = vq_model.encode(pixels_of([noise(side, side, seed=9)])).latents.permute(0, 2, 3, 1).flatten(0, 2)
        vq_model.quantize.embedding.weight.copy_(vectors[torch.randperm(len(vectors))[:codes]])
    return vq_model


@pytest.fixture(scope="module")
def codec():
    return ImageCodec(make_vq_model())


def noise(width=32, height=32, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


PICTURES = [noise(seed=seed) for seed in range(5)]


def array(picture):
    return np.asarray(picture).astype(int)


def test_sizes(codec):
    assert (codec.num_codes, codec.side, codec.grid, codec.codes_per_picture) == (16, 32, (8, 8), 64)
    assert not codec.vq_model.training
    assert not any(parameter.requires_grad for parameter in codec.vq_model.parameters())


@pytest.mark.parametrize(
    "options",
    [{}, {"norm_type": "spatial", "width": 32}, {"vq_embed_dim": 3}, {"lookup_from_codebook": True}],
    ids=str,
)
def test_encode_and_decode_are_the_vq_models_forward(options):
    codec = ImageCodec(make_vq_model(**options))
    with torch.no_grad():
        expected = codec.vq_model(codec.pixels(PICTURES)).sample
    codes = codec.encode(PICTURES)
    assert codes.dtype == torch.long and codes.shape == (5, 64) and codes.device.type == "cpu"
    assert len(codes.unique()) > 5
    for decoded, picture in zip(codec.decode(codes), pictures_of(expected), strict=True):
        assert decoded.mode == "RGB" and decoded.size == (32, 32)
        # `forward` looks up z + (q - z), which is q up to rounding.
        difference = abs(array(decoded) - array(picture))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001


def test_codes_stand_row_by_row(codec):
    codes = codec.encode(PICTURES[:2])
    with torch.no_grad():
        latents_BDhw = codec.vq_model.encode(codec.pixels(PICTURES[:2])).latents
    codebook = codec.vq_model.quantize.embedding.weight
    for picture, row, column in ((0, 0, 0), (0, 2, 5), (1, 5, 2), (1, 7, 7)):
        nearest = (codebook - latents_BDhw[picture, :, row, column]).square().sum(dim=1).argmin()
        assert codes[picture, 8 * row + column] == nearest


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batch_size_changes_no_code(codec, batch_size):
    codes = codec.encode(PICTURES)
    assert (codec.encode(PICTURES, batch_size) == codes).all()
    for one, other in zip(codec.decode(codes, batch_size), codec.decode(codes), strict=True):
        assert abs(array(one) - array(other)).max() <= 1  # another batch adds up in another order


def test_codes_in_any_form(codec):
    codes = codec.encode(PICTURES[:2])
    for same in (codes.int(), codes.numpy(), codes.numpy().astype(np.uint8)):
        assert [p.tobytes() for p in codec.decode(same)] == [p.tobytes() for p in codec.decode(codes)]


def test_no_pictures(codec):
    assert codec.encode([]).shape == (0, 64) and codec.encode([]).dtype == torch.long
    assert codec.decode(codec.encode([])) == []
    assert codec.pixels([]).shape == (0, 3, 32, 32)


def test_codes_can_be_learnt_from(codec):
    """An inference tensor could not be looked up in an embedding that learns."""
    codes = codec.encode(PICTURES[:1])
    torch.nn.Embedding(16, 2)(codes).sum().backward()


def test_saved_and_loaded_bit_for_bit(codec, tmp_path):
    codec.save_pretrained(tmp_path / "codec")
    codes = codec.encode(PICTURES)
    for loaded in (load_image_codec(str(tmp_path / "codec")), ImageCodec.from_pretrained(tmp_path, subfolder="codec")):
        assert (loaded.encode(PICTURES) == codes).all()
        assert [p.tobytes() for p in loaded.decode(codes)] == [p.tobytes() for p in codec.decode(codes)]
        assert not any(parameter.requires_grad for parameter in loaded.vq_model.parameters())


def test_half_precision_and_moving(codec):
    moved = ImageCodec(make_vq_model().to(torch.bfloat16)).to("cpu")
    codes = moved.encode(PICTURES[:2])
    assert codes.shape == (2, 64) and moved.decode(codes)[0].size == (32, 32)
    assert codec.to("cpu") is codec


# --- any picture ---


def test_a_square_of_the_right_size_is_left_alone():
    assert (array(square_picture(PICTURES[0], 32)) == array(PICTURES[0])).all()
    pixels = pixels_of(PICTURES)
    assert pixels.shape == (5, 3, 32, 32) and pixels.min() == -1 and pixels.max() == 1
    assert [p.tobytes() for p in pictures_of(pixels)] == [p.tobytes() for p in PICTURES]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
@pytest.mark.parametrize("size", [(50, 31), (1, 1), (300, 1), (1, 300), (5000, 3)], ids=str)
def test_any_size_and_mode(codec, mode, size):
    pixels = codec.pixels([noise(*size, mode=mode)])
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == torch.float32
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert codec.encode([noise(*size, mode=mode)]).shape == (1, 64)


def test_a_palette_is_its_colours_and_transparency_is_white():
    red = Image.new("RGB", (8, 8), "red")
    assert square_picture(red.convert("P"), 8).getpixel((3, 3)) == (255, 0, 0)
    glass = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert square_picture(glass, 8).getpixel((3, 3)) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert square_picture(half, 8).getpixel((3, 3)) == pytest.approx((255, 127, 127), abs=1)


def test_the_whole_picture_in_the_mean_colour_of_its_border():
    """8 x 4, red above and blue below, green inside: each border colour is on half of the edges."""
    picture = Image.new("RGB", (8, 4), (200, 0, 0))
    picture.paste((0, 0, 100), (0, 2, 8, 4))
    picture.paste((0, 255, 0), (1, 1, 7, 3))
    square = array(square_picture(picture, 8))
    assert (square[2:6] == array(picture)).all()
    assert (square[:2] == (100, 0, 50)).all() and (square[6:] == (100, 0, 50)).all()
    tall = array(square_picture(picture.transpose(Image.Transpose.ROTATE_90), 8))
    assert (tall[:, :2] == (100, 0, 50)).all() and (tall[:, 6:] == (100, 0, 50)).all()


def test_large_pictures_are_made_small_by_lanczos():
    picture = noise(128, 64)
    small = picture.resize((32, 16), Image.Resampling.LANCZOS)
    assert (array(square_picture(picture, 32))[8:24] == array(small)).all()


# --- what cannot be ---


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 63, dtype=torch.long), r"\(2, 63\): expected \(pictures, 64\)"),
        (torch.zeros(64, dtype=torch.long), r"\(64,\): expected \(pictures, 64\)"),
        (torch.zeros(1, 8, 8, dtype=torch.long), r"\(1, 8, 8\)"),
        (torch.zeros(1, 64), "torch.float32: expected whole numbers"),
        (np.full((1, 64), 16), "codes from 16 to 16: expected 0 to 15"),
        (torch.full((1, 64), -1), "codes from -1 to -1"),
    ],
    ids=str,
)
def test_codes_that_are_none(codec, codes, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


def test_batches_of_nothing(codec):
    with pytest.raises(ValueError, match="batch_size=0"):
        codec.encode(PICTURES, batch_size=0)


def test_vq_models_of_other_pictures():
    with pytest.raises(ValueError, match="sample_size=30 of a VQModel with 3 levels: .* a multiple of 4"):
        ImageCodec(make_vq_model(side=30))
    with pytest.raises(ValueError, match="from 1 to 3 channels"):
        ImageCodec(diffusers.VQModel(in_channels=1))


def test_nothing_there_or_something_else(tmp_path):
    with pytest.raises(ValueError, match="no image codec in .*nowhere"):
        load_image_codec(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="holds a AutoencoderKL; expected a diffusers VQModel"):
        load_image_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a bert"):
        load_image_codec(tmp_path)


def test_a_checkpoint_file_goes_to_the_converter(tmp_path):
    with pytest.raises(ValueError, match="no taming checkpoint"):
        load_image_codec(tmp_path / "vqgan.ckpt")


def test_without_diffusers(tmp_path, codec, monkeypatch):
    codec.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match="need diffusers: pip install diffusers"):
        load_image_codec(tmp_path)
