import pickle
import sys
import types

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from modeling_unimp.training import taming_vqgan
from modeling_unimp.training.taming_vqgan import convert_taming

diffusers = pytest.importorskip("diffusers", reason="a VQGAN is converted into diffusers' VQModel")
REFERENCE = "the reference is taming's own code: pip install taming-transformers-rom1504 einops"
networks = pytest.importorskip("taming.modules.diffusionmodules.model", reason=REFERENCE)
quantisers = pytest.importorskip("taming.modules.vqvae.quantize", reason=REFERENCE)

DDCONFIG = {
    "double_z": False,
    "z_channels": 48,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
F16 = {"resolution": 64, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [4]}
F8 = {"resolution": 32, "ch_mult": [1, 1, 2, 2], "attn_resolutions": []}
SHAPES = {
    "f16": (F16, 128, 48),
    "f8 without attention": (F8, 64, 48),
    "codes narrower than the latents": ({}, 64, 8),
    "codes wider than the latents": ({"z_channels": 4}, 64, 24),
    "three blocks a level": ({"num_res_blocks": 3}, 64, 48),
    "attention at two levels, not at the last": ({"ch_mult": [1, 2, 4], "attn_resolutions": [16, 8]}, 64, 48),
    "one level": ({"ch_mult": [1], "attn_resolutions": [], "resolution": 8}, 64, 48),
    # 50 -> 25 -> 12 down, 12 -> 24 -> 48 up: only the encoder meets 25, only the decoder 24.
    "attention on the way down only": ({"resolution": 50, "ch_mult": [1, 1, 2], "attn_resolutions": [25]}, 64, 48),
    "attention on the way up only": ({"resolution": 50, "ch_mult": [1, 1, 2], "attn_resolutions": [24]}, 64, 48),
    "grey in, colours out": ({"in_channels": 1}, 64, 48),
}


class TamingVQGAN(nn.Module):
    """taming.models.vqgan.VQModel without pytorch-lightning and without its loss."""

    def __init__(self, ddconfig, n_embed, embed_dim):
        super().__init__()
        self.encoder = networks.Encoder(**ddconfig)
        self.decoder = networks.Decoder(**ddconfig)
        self.quantize = quantisers.VectorQuantizer2(n_embed, embed_dim, beta=0.25)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def encode(self, pixels):
        return self.quant_conv(self.encoder(pixels))

    def decode(self, quantised):
        return self.decoder(self.post_quant_conv(quantised))


@torch.no_grad()
def tiny_vqgan(n_embed=64, embed_dim=48, **ddconfig):
    """Random weights, norms and biases too; a codebook as spread out as the latents of random pictures, which come
    back with values in -1..1."""
    torch.manual_seed(0)
    ddconfig = DDCONFIG | ddconfig
    vqgan = TamingVQGAN(ddconfig, n_embed, embed_dim).eval()
    for parameter in vqgan.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    latents = vqgan.encode(pictures(ddconfig)).movedim(1, -1).flatten(0, -2)
    vqgan.quantize.embedding.weight.copy_(torch.randn(n_embed, embed_dim) * latents.std(0) + latents.mean(0))
    largest = vqgan.decode(vqgan.encode(pictures(ddconfig))).abs().max()
    for parameter in vqgan.decoder.conv_out.parameters():
        parameter.div_(largest)
    return vqgan, {"model": {"params": {"ddconfig": ddconfig, "n_embed": n_embed, "embed_dim": embed_dim}}}


def pictures(ddconfig, number=4):
    side = ddconfig["resolution"]
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(number, ddconfig["in_channels"], 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(number, ddconfig["in_channels"], side, side, generator=generator) * 0.2
    return (nn.functional.interpolate(coarse, size=side, mode="bilinear") + noise).clamp(-1, 1)


def save(vqgan, folder, config=None, name="last.ckpt"):
    file = folder / name
    # The loss of a released checkpoint holds a discriminator and a VGG network.
    loss = {
        "loss.discriminator.main.0.weight": torch.ones(2),
        "loss.perceptual_loss.lin0.model.1.weight": torch.ones(2),
    }
    torch.save({"state_dict": vqgan.state_dict() | loss, "epoch": 3, "global_step": 7}, file)
    if config:
        file.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    return file


def same(model, other):
    first, second = model.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("ddconfig", "n_embed", "embed_dim"), SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_conversion_is_exact(ddconfig, n_embed, embed_dim, tmp_path):
    vqgan, config = tiny_vqgan(n_embed, embed_dim, **ddconfig)
    model = convert_taming(save(vqgan, tmp_path, config))
    assert not model.training and model.dtype == torch.float32
    assert model.config.sample_size == (DDCONFIG | ddconfig)["resolution"]

    # In double precision: in single, what rounding leaves depends on the processor.
    compare(vqgan.double(), model.double(), pictures(DDCONFIG | ddconfig).double())


def compare(vqgan, model, pixels, atol=1e-12):
    expected = vqgan.encode(pixels)
    latents = model.encode(pixels).latents
    torch.testing.assert_close(latents, expected, rtol=0, atol=atol)

    quantised, _, (_, _, codes) = vqgan.quantize(expected)
    our_quantised, _, (_, _, our_codes) = model.quantize(latents)
    assert torch.equal(our_codes, codes.flatten())
    assert len(codes.unique()) > 10
    torch.testing.assert_close(our_quantised, quantised, rtol=0, atol=atol)

    batch, _, height, width = expected.shape
    shape = (batch, height, width, model.config.vq_embed_dim)
    entries = model.quantize.get_codebook_entry(our_codes, shape)
    assert torch.equal(entries, vqgan.quantize.get_codebook_entry(codes.flatten(), shape))
    decoded = model.decode(entries, force_not_quantize=True).sample
    torch.testing.assert_close(decoded, vqgan.decode(entries), rtol=0, atol=atol)
    torch.testing.assert_close(model(pixels).sample, vqgan.decode(quantised), rtol=0, atol=atol)


@pytest.mark.parametrize(("ddconfig", "n_embed", "embed_dim"), SHAPES.values(), ids=SHAPES)
def test_without_a_config_only_the_resolution_is_not_known(ddconfig, n_embed, embed_dim, tmp_path, monkeypatch):
    vqgan, config = tiny_vqgan(n_embed, embed_dim, **ddconfig)
    warnings = []
    monkeypatch.setattr(taming_vqgan.logger, "warning", warnings.append)
    derived = convert_taming(save(vqgan, tmp_path))
    assert len(warnings) == 1 and "256 pixels a side" in warnings[0]
    read = convert_taming(save(vqgan, tmp_path, config))
    assert len(warnings) == 1
    assert same(derived, read)
    assert dict(derived.config) == dict(read.config) | {"sample_size": 256}


@pytest.mark.parametrize("n_embed", [1024, 16384])
def test_the_released_f16_has_the_known_sizes(n_embed):
    released = DDCONFIG | {
        "z_channels": 256,
        "resolution": 256,
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
    }
    with torch.device("meta"):
        weights = TamingVQGAN(released, n_embed, 256).state_dict()
        architecture = taming_vqgan._architecture(weights, "last.ckpt")
        places = diffusers.VQModel(**architecture).state_dict()
    assert architecture == {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 4 + ["AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 128, 256, 256, 512],
        "layers_per_block": 2,
        "latent_channels": 256,
        "num_vq_embeddings": n_embed,
        "vq_embed_dim": 256,
        "norm_num_groups": 32,
    }
    renamed = taming_vqgan._renamed(weights, 5)
    assert {name: weight.shape for name, weight in renamed.items()} == {
        name: place.shape for name, place in places.items()
    }


@torch.no_grad()
def test_what_becomes_of_the_model_is_diffusers_business(tmp_path):
    vqgan, config = tiny_vqgan()
    model = convert_taming(save(vqgan, tmp_path, config))
    model.save_pretrained(tmp_path / "converted")
    again = diffusers.VQModel.from_pretrained(tmp_path / "converted")
    assert same(model, again) and again.config.sample_size == 16
    pixels = pictures(DDCONFIG)
    assert torch.equal(model(pixels).sample, again(pixels).sample)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_random_number_is_drawn(tmp_path):
    vqgan, config = tiny_vqgan()
    file = save(vqgan, tmp_path, config)
    before = torch.get_rng_state()
    convert_taming(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_forms_of_a_checkpoint(tmp_path):
    vqgan, _ = tiny_vqgan()
    expected = convert_taming(save(vqgan, tmp_path))
    torch.save(vqgan.state_dict(), tmp_path / "weights.pt")
    torch.save({"state_dict": vqgan.state_dict()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(vqgan.state_dict() | {"loss.logvar": torch.ones(1)}, tmp_path / "vqgan.safetensors")
    for name in ("weights.pt", "old.pth", "vqgan.safetensors"):
        assert same(convert_taming(tmp_path / name), expected)
    assert same(convert_taming(str(tmp_path / "vqgan.safetensors")), expected)


def test_half_precision_is_widened(tmp_path):
    vqgan, config = tiny_vqgan()
    vqgan = vqgan.half()
    model = convert_taming(save(vqgan, tmp_path, config))
    assert model.dtype == torch.float32
    assert same(model, convert_taming(save(vqgan.float(), tmp_path, config)))


# What pytorch-lightning leaves beside the weights.


def test_a_checkpoint_of_a_training_needs_no_pytorch_lightning(tmp_path, monkeypatch):
    vqgan, config = tiny_vqgan()
    expected = convert_taming(save(vqgan, tmp_path, config))
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    callback = module.ModelCheckpoint()
    callback.monitor = "val/rec_loss"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
        patch.setitem(sys.modules, "pytorch_lightning.callbacks", types.ModuleType("pytorch_lightning.callbacks"))
        patch.setitem(sys.modules, module.__name__, module)
        content = {
            "state_dict": vqgan.state_dict(),
            "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "instance": callback}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "pytorch-lightning_version": "1.0.8",
        }
        torch.save(content, tmp_path / "last.ckpt")
        torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError, match="pytorch_lightning"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert same(convert_taming(tmp_path / "last.ckpt"), expected)
    # Written before torch 1.6, a file with more than tensors is refused.
    with pytest.raises(ValueError, match="(?s)old.ckpt cannot be read.*If you trust"):
        convert_taming(tmp_path / "old.ckpt")
    # The stand-ins are gone again.
    with pytest.raises(pickle.UnpicklingError, match="pytorch_lightning"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_nothing_that_a_checkpoint_names_is_run(tmp_path):
    vqgan, _ = tiny_vqgan()
    trace = tmp_path / "trace"
    content = {"state_dict": vqgan.state_dict(), "callbacks": [Call(open, str(trace), "w"), Call(eval, "1 / 0")]}
    torch.save(content, tmp_path / "last.ckpt")
    convert_taming(tmp_path / "last.ckpt")
    assert not trace.exists()
    # The file would do it where it is trusted.
    with pytest.raises(ZeroDivisionError):
        torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert trace.exists()


def test_what_cannot_be_read_safely_is_refused_with_a_way_out(tmp_path):
    vqgan, _ = tiny_vqgan()
    # torch takes nothing from the module of `system`, whatever is declared safe.
    torch.save({"state_dict": vqgan.state_dict(), "hooks": Call(__import__("os").system, "true")}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"weights_only=True.*If you trust.*save_file"):
        convert_taming(tmp_path / "a.ckpt")


# Where the config is looked for, and what it may say.


@pytest.mark.parametrize(
    ("checkpoint", "config"),
    [
        ("last.ckpt", "model.yaml"),
        ("last.ckpt", "configs/model.yaml"),
        ("checkpoints/last.ckpt", "configs/2020-11-09T13-33-36-project.yaml"),
        ("vqgan.safetensors", "vqgan.yaml"),
    ],
)
def test_the_config_beside_the_checkpoint_is_found(checkpoint, config, tmp_path):
    vqgan, content = tiny_vqgan()
    for name in (checkpoint, config):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    if checkpoint.endswith("safetensors"):
        save_file(vqgan.state_dict(), tmp_path / checkpoint)
    else:
        save(vqgan, tmp_path, name=checkpoint)
    (tmp_path / config).write_text(yaml.safe_dump(content))
    # The trainer's own file of a run, a file of something else, and one that is no plain yaml.
    (tmp_path / config).with_name("2020-11-09T13-33-36-lightning.yaml").write_text("lightning: {trainer: {gpus: 8}}")
    (tmp_path / config).with_name("list.yaml").write_text("[ddconfig]")
    (tmp_path / config).with_name("other.yaml").write_text("a: !!python/object:os.system {}")
    assert convert_taming(tmp_path / checkpoint).config.sample_size == 16


def test_of_several_configs_the_one_of_the_same_name_counts(tmp_path):
    vqgan, content = tiny_vqgan()
    file = save(vqgan, tmp_path)
    other = {"model": {"params": content["model"]["params"] | {"n_embed": 16384}}}
    (tmp_path / "f16_1024.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(content))
    assert convert_taming(file).config.sample_size == 16
    (tmp_path / "f16_16384.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError, match=r"3 configs that differ.*name that one last\.yaml"):
        convert_taming(file)
    assert convert_taming(file, tmp_path / "f16_1024.yaml").config.sample_size == 16
    (tmp_path / "last.yaml").write_text(yaml.safe_dump(content))
    assert convert_taming(file).config.sample_size == 16


@pytest.mark.parametrize(
    ("ddconfig", "params", "message"),
    [
        ({"ch": 64}, {}, r"ch 64 \(expected 32\)"),
        ({"ch_mult": [1, 2, 4]}, {}, r"ch_mult \[1, 2, 4\] \(expected \[1, 2\]\)"),
        ({"num_res_blocks": 2}, {}, r"num_res_blocks 2 \(expected 1\)"),
        ({"attn_resolutions": [4]}, {}, r"attn_resolutions \[4\] at resolution 16 \(expected \[8\]\)"),
        ({"resolution": 64}, {}, r"attn_resolutions \[8\] at resolution 64 \(expected \[32\]\)"),
        ({"attn_resolutions": 8}, {}, "attn_resolutions a list of such numbers, not 8"),
        ({"z_channels": 4}, {}, r"z_channels 4 \(expected 48\)"),
        ({"in_channels": 1}, {}, r"in_channels 1 \(expected 3\)"),
        ({"out_ch": 1}, {}, r"out_ch 1 \(expected 3\)"),
        ({"double_z": True}, {}, r"double_z True \(expected False\)"),
        ({"resamp_with_conv": False}, {}, r"resamp_with_conv False \(expected True\)"),
        ({"give_pre_end": True}, {}, r"give_pre_end True \(expected False\)"),
        ({"tanh_out": True}, {}, r"tanh_out True \(expected False\)"),
        ({}, {"n_embed": 1024}, r"n_embed 1024 \(expected 64\)"),
        ({}, {"embed_dim": 256}, r"embed_dim 256 \(expected 48\)"),
        ({}, {"remap": "used.npy"}, r"remap used.npy \(expected None\)"),
        ({"resolution": "256"}, {}, "resolution is '256'; expected the pixels"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_weights(ddconfig, params, message, tmp_path):
    vqgan, config = tiny_vqgan()
    config["model"]["params"] |= params
    config["model"]["params"]["ddconfig"] = DDCONFIG | ddconfig
    with pytest.raises(ValueError, match=message):
        convert_taming(save(vqgan, tmp_path, config))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {params: {n_embed: 64}}", "has no model.params.ddconfig"),
        ("", "has no model.params.ddconfig"),
        ("ddconfig: [", "no readable yaml"),
        ("ddconfig: !!python/object:os.system {}", "no readable yaml"),
    ],
)
def test_configs_that_are_none(text, message, tmp_path):
    vqgan, _ = tiny_vqgan()
    (tmp_path / "given.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        convert_taming(save(vqgan, tmp_path), tmp_path / "given.txt")


# Checkpoints of other things.


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("quantize.embed.weight", torch.ones(64, 48), "Unexpected.*quantize.embed.weight"),
        ("quantize.used", torch.arange(4), "Unexpected.*quantize.used"),
        ("first_stage_model.quant_conv.bias", torch.ones(48), "Unexpected.*first_stage_model.quant_conv.bias"),
        ("encoder.down.0.attn.0.q.weight", torch.ones(32, 32, 1, 1), r"Missing.*encoder.down_blocks.0.attentions.0"),
        ("encoder.mid.attn_2.q.weight", torch.ones(1), r"Unexpected.*encoder\.mid\.attn_2"),
        ("colorize", torch.ones(3, 4, 1, 1), "Unexpected.*colorize"),
        ("encoder.mid.attn_1.q.weight", torch.ones(64, 32, 1, 1), r"to_q.weight: .*\[64, 32\].*\[64, 64\]"),
        ("post_quant_conv.bias", torch.ones(47), r"post_quant_conv.bias: .*\[47\].*\[48\]"),
        ("quant_conv.weight", torch.ones(48, 24, 1, 1), r"conv_out.weight: .*\[24, 64, 3, 3\]"),
        ("encoder.down.1.downsample.conv.weight", torch.ones(1), "Unexpected.*down_blocks.1.downsamplers"),
        ("epoch", 3, r"other things than weights \(epoch\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_of_another_model(name, weight, message, tmp_path):
    vqgan, _ = tiny_vqgan()
    torch.save({"state_dict": vqgan.state_dict() | {name: weight}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=f"(?s)last.ckpt .*{message}"):
        convert_taming(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.conv_in.weight", "encoder.conv_in.bias.*no proper 'encoder.conv_in.weight'.*plain codebook .Gumbel"),
        ("quantize.embedding.weight", "no proper 'quantize.embedding.weight'"),
        ("decoder.up.1.block.1.conv2.bias", "Missing.*decoder.up_blocks.0.resnets.1.conv2.bias"),
        ("decoder.up.0.block.0.nin_shortcut.weight", "Missing.*decoder.up_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.mid.attn_1.norm.weight", "Missing.*encoder.mid_block.attentions.0.group_norm.weight"),
    ],
)
def test_a_weight_is_missing(name, message, tmp_path):
    vqgan, _ = tiny_vqgan()
    weights = vqgan.state_dict()
    del weights[name]
    torch.save({"state_dict": weights}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert_taming(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("ddconfig", "message"),
    [
        ({"ch_mult": [2, 4]}, r"ch_mult that begins with 1.*encoder.conv_in.weight: .*\[32, 3, 3, 3\]"),
        ({"resamp_with_conv": False}, r"Missing.*encoder\.down_blocks\.0\.downsamplers"),
    ],
    ids=str,
)
def test_architectures_without_a_place(ddconfig, message, tmp_path):
    vqgan, _ = tiny_vqgan(**ddconfig)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert_taming(save(vqgan, tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": [1]}, {}, {"model": {"epoch": 3}}], ids=str)
def test_checkpoints_without_weights(content, tmp_path):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds|has no weights, but no proper 'encoder.conv_in.weight'"):
        convert_taming(tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", ["last.ckpt", "vqgan.safetensors"])
def test_files_that_are_broken(name, tmp_path):
    vqgan, _ = tiny_vqgan()
    if name.endswith("ckpt"):
        save(vqgan, tmp_path)
    else:
        save_file(vqgan.state_dict(), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for part in (whole[: len(whole) // 2], whole[:100], b"version https://git-lfs.github.com/spec/v1\n", b""):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match="cannot be read"):
            convert_taming(tmp_path / name)


def test_files_that_are_not_there(tmp_path):
    vqgan, _ = tiny_vqgan()
    with pytest.raises(ValueError, match="There is no taming checkpoint"):
        convert_taming(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="model.yaml is no readable yaml .*No such file"):
        convert_taming(save(vqgan, tmp_path), tmp_path / "model.yaml")


def test_without_diffusers_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match="pip install diffusers"):
        convert_taming(tmp_path / "last.ckpt")
