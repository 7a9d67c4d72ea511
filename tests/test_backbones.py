import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from modeling_unimp.backbones import (
    SCRATCH_VOCABULARY_SIZE,
    TEXT_SIZES,
    VISION_SIZES,
    is_unused_vision_part,
    load_image_processor,
    load_text_model,
    load_vision_tower,
    vision_features,
)

LM = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_LMS = {
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**LM, intermediate_size=64)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LM, intermediate_size=64)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**LM, intermediate_size=64, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True)
    ),
    "opt": lambda: OPTForCausalLM(OPTConfig(**LM, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)),
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}


def clip_vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(**VISION)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_from_scratch_begins_as_a_mean(dtype):
    model = load_text_model("tiny", dtype=dtype)
    width = model.config.hidden_size
    for layer in model.model.layers:
        values, outputs = (each.weight.float() for each in (layer.self_attn.v_proj, layer.self_attn.o_proj))
        torch.testing.assert_close(
            outputs @ values, torch.eye(width), atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=0
        )
    first, second = (layer.self_attn.v_proj.weight for layer in model.model.layers[:2])
    assert not torch.equal(first, second)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for each in (attention.q_proj, attention.k_proj):
            each.weight.zero_()  # all tokens alike: what is left is their mean
        seen = torch.randn(1, 5, width, dtype=dtype)
        at = model.model.rotary_emb(seen, torch.arange(5)[None])
        mixed, _ = attention(seen, position_embeddings=at, attention_mask=None)
    torch.testing.assert_close(mixed[:, -1], seen.mean(dim=1), atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=0)


@pytest.mark.parametrize("size", TEXT_SIZES)
def test_text_from_scratch_has_the_named_shape(size):
    layers, width, heads = TEXT_SIZES[size]
    model = load_text_model(size)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, heads)
    assert model.get_input_embeddings().weight.shape == (SCRATCH_VOCABULARY_SIZE, width)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (0, 0, None)
    assert config.attention_dropout == 0 and not config.attention_bias and not config.mlp_bias
    assert config.max_position_embeddings == 4096
    assert model.dtype == torch.float32


def test_scratch_vocabulary_is_the_tokenizers():
    from processing_unimp.byte_level_bpe import SCRATCH_VOCABULARY_SIZE as TOKENIZER_SIZE

    assert SCRATCH_VOCABULARY_SIZE == TOKENIZER_SIZE


def test_text_from_scratch_starts_near_uniform_and_repeats_with_the_seed():
    torch.manual_seed(0)
    first = load_text_model("tiny").eval()
    torch.manual_seed(0)
    second = load_text_model("tiny").eval()
    ids = torch.randint(1, SCRATCH_VOCABULARY_SIZE, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(first(ids).logits, second(ids).logits)
        loss = torch.nn.functional.cross_entropy(first(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - torch.tensor(float(SCRATCH_VOCABULARY_SIZE)).log().item()) < 0.5


@pytest.mark.parametrize("kind", TINY_LMS)
def test_text_model_from_a_folder_is_the_saved_one(kind, tmp_path):
    torch.manual_seed(0)
    saved = TINY_LMS[kind]().eval()
    saved.save_pretrained(tmp_path)
    loaded = load_text_model(str(tmp_path)).eval()
    assert type(loaded) is type(saved)
    ids = torch.randint(3, 50, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, saved(ids).logits, rtol=0, atol=0)


def test_dtype_is_float32_unless_asked(tmp_path):
    TINY_LMS["llama"]().to(torch.bfloat16).save_pretrained(tmp_path / "text")
    CLIPVisionModel(clip_vision_config()).to(torch.bfloat16).save_pretrained(tmp_path / "vision")
    assert load_text_model(str(tmp_path / "text")).dtype == torch.float32
    assert load_text_model(str(tmp_path / "text"), dtype="auto").dtype == torch.bfloat16
    assert load_text_model("tiny", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_text_model("tiny", dtype="auto").dtype == torch.float32
    assert load_vision_tower(str(tmp_path / "vision"))[0].dtype == torch.float32
    assert load_vision_tower(str(tmp_path / "vision"), dtype="bfloat16")[0].dtype == torch.bfloat16
    assert load_vision_tower("tiny", dtype="bfloat16")[0].dtype == torch.bfloat16


def test_a_text_checkpoint_without_its_head_is_refused(tmp_path):
    GPTNeoXModel(GPTNeoXConfig(**LM, intermediate_size=64)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks 1 weights.*would stay random"):
        load_text_model(str(tmp_path))


def test_text_names_that_lead_nowhere(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        load_text_model("./nowhere")
    with pytest.raises(ValueError, match="could not be loaded.*tiny, small, base"):
        load_text_model(str(tmp_path))
    with pytest.raises(ValueError, match="could not be loaded.*tiny, small, base"):
        load_text_model("nobody/no-such-model")
    CLIPVisionModel(clip_vision_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="could not be loaded.*causal language model"):
        load_text_model(str(tmp_path))


@pytest.mark.parametrize("size", VISION_SIZES)
def test_vision_from_scratch(size):
    layers, width, heads, side, patch = VISION_SIZES[size]
    tower, feature_size = load_vision_tower(size)
    assert feature_size == width and not tower.training
    pixels = load_image_processor(size)(images=[Image.new("RGB", (50, 90))], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, side, side)
    assert vision_features(tower, pixels).shape == (1, (side // patch) ** 2 + 1, width)


def test_no_vision():
    assert load_vision_tower(None) == (None, 0)
    assert load_image_processor(None) is None


def test_clip_vision_model_from_a_folder(tmp_path):
    torch.manual_seed(0)
    saved = CLIPVisionModel(clip_vision_config()).eval()
    saved.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    tower, feature_size = load_vision_tower(str(tmp_path))
    assert feature_size == 32 and not tower.training
    picture = Image.effect_noise((60, 40), 50).convert("RGB")
    pixels = load_image_processor(str(tmp_path))(images=[picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(vision_features(tower, pixels), saved(pixels).last_hidden_state, rtol=0, atol=0)


def test_full_checkpoints_give_their_vision_tower(tmp_path):
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(text_config=CLIPTextConfig(**text).to_dict(), vision_config=VISION, projection_dim=16))
    vision = {key: value for key, value in VISION.items() if key != "projection_dim"}
    siglip = SiglipModel(
        SiglipConfig(
            text_config=SiglipTextConfig(**text).to_dict(), vision_config=SiglipVisionConfig(**vision).to_dict()
        )
    )
    pixels = torch.randn(2, 3, 32, 32)
    for model in (clip.eval(), siglip.eval()):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        tower, feature_size = load_vision_tower(str(folder))
        assert feature_size == 32
        assert not any("text" in name for name, _ in tower.named_parameters())
        with torch.no_grad():
            expected = model.vision_model(pixel_values=pixels).last_hidden_state
            torch.testing.assert_close(vision_features(tower, pixels), expected, rtol=0, atol=0)


def test_every_weight_that_a_feature_passes_through_trains_with_its_tower(tmp_path):
    """CLIP's `post_layernorm` is behind the features, SigLIP's before them."""
    vision = {key: value for key, value in VISION.items() if key != "projection_dim"}
    for config in (CLIPVisionConfig(**VISION), SiglipVisionConfig(**vision)):
        folder = tmp_path / config.model_type
        AutoModel.from_config(config).save_pretrained(folder)
        tower, _ = load_vision_tower(str(folder))
        vision_features(tower, torch.randn(2, 3, 32, 32)).square().sum().backward()
        named = dict(tower.named_parameters())
        assert named
        for name, parameter in named.items():
            reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            # A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
            if "k_proj.bias" not in name:
                assert is_unused_vision_part(name, config.model_type) == (not reached), name
        assert is_unused_vision_part("vision_model.post_layernorm.weight", "clip_vision_model")
        assert not is_unused_vision_part("vision_model.post_layernorm.weight", "siglip_vision_model")


def test_feature_map_is_flattened_row_by_row(tmp_path):
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1], image_size=64)
    ConvNextModel(config).save_pretrained(tmp_path)
    tower, feature_size = load_vision_tower(str(tmp_path))
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        grid = tower(pixels).last_hidden_state
        features = vision_features(tower, pixels)
    assert grid.shape == (2, 12, 2, 3) and feature_size == 12
    assert features.shape == (2, 6, 12)
    torch.testing.assert_close(features[1, 4], grid[1, :, 1, 1])


def test_vision_features_carry_gradients_and_cast_pixels():
    tower, _ = load_vision_tower("tiny")
    vision_features(tower, torch.randn(1, 3, 64, 64)).sum().backward()
    assert tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    half = tower.to(torch.bfloat16)
    assert vision_features(half, torch.randn(1, 3, 64, 64)).dtype == torch.bfloat16


def test_vision_features_on_the_meta_device():
    with torch.device("meta"):
        tower = AutoModel.from_config(clip_vision_config())
        features = vision_features(tower, torch.empty(3, 3, 32, 32))
    assert features.shape == (3, 17, 32) and features.is_meta


def test_vision_names_that_lead_nowhere(tmp_path):
    for load in (load_vision_tower, load_image_processor):
        with pytest.raises(ValueError, match="no such folder"):
            load("/no/such/folder")
        with pytest.raises(ValueError, match="open_clip:local-dir:FOLDER.*tiny, small"):
            load(str(tmp_path))
    TINY_LMS["llama"]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not turn a picture into features"):
        load_vision_tower(str(tmp_path))


def test_a_vision_checkpoint_with_holes_is_refused(tmp_path):
    model = CLIPVisionModel(clip_vision_config())
    state = {key: value for key, value in model.state_dict().items() if "layers.1.mlp" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks 4 weights"):
        load_vision_tower(str(tmp_path))


def test_a_tower_without_tokens_is_refused():
    class Pooled(torch.nn.Module):
        dtype = torch.float32

        def forward(self, pixel_values):
            return torch.nn.Module()

    with pytest.raises(ValueError, match="no last_hidden_state"):
        vision_features(Pooled(), torch.zeros(1, 3, 8, 8))


@pytest.mark.real_data
def test_mobilenet_of_the_real_data(data_dir):
    folder = str(data_dir / "vision" / "mobilenet-v1-block12")
    tower, feature_size = load_vision_tower(folder)
    assert feature_size == 1024 and tower.dtype == torch.float32 and not tower.training
    picture = Image.effect_noise((160, 107), 80).convert("RGB")
    pixels = load_image_processor(folder)(images=[picture, picture], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 224, 224)
    assert pixels.min() >= -1 and pixels.max() <= 1
    with torch.no_grad():
        features = vision_features(tower, pixels)
        blank = vision_features(tower, torch.zeros(1, 3, 224, 224))
    assert features.shape == (2, 49, 1024) and features.isfinite().all()
    assert (features[0] - blank[0]).abs().max() > 0.1


def test_saved_text_model_loads_as_auto_model(tmp_path):
    model = load_text_model("tiny")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
