"""Reasons of an answer: bars that are the pipeline's own scores, and maps that follow what pictures do to a score."""

import copy
import functools
import math
import threading
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from shop import make_catalogue, make_imagining_model, make_model, make_model_processor, picture
from transformers import CLIPImageProcessor, ConvNextConfig, ConvNextModel

from modeling_unimp import FeatureStore, PersonalizationPipeline, load_image_processor
from modeling_unimp.answering import outputs_of
from modeling_unimp.serving import reasons
from modeling_unimp.serving.reasons import (
    HEAT_COLOURS,
    NUM_STAND_INS,
    _grid,
    _look,
    _Question,
    blend,
    leave_one_out,
    picture_heat,
)
from processing_unimp import Catalogue

HISTORY = ["h1", {"item_id": "m1", "rating": 4}, "s2", {"item_id": "h2", "rating": 1}]
SCORED = {
    "recommend": ({"task": "recommend", "history": HISTORY}, "m2"),
    "search": ({"task": "search", "history": HISTORY, "query": "hat"}, "h1"),
    "rate": ({"task": "rate", "history": HISTORY, "item": "s1"}, "s1"),
    "select": ({"task": "select", "history": HISTORY, "candidates": ["s1", {"item_id": "m2"}, "h2"]}, "m2"),
}
RECOMMEND = SCORED["recommend"][0]
FUSIONS = ("exclusive", "all", "early", "late", "pooled")
each_task = pytest.mark.parametrize(("request_", "item_id"), SCORED.values(), ids=SCORED)
each_fusion = pytest.mark.parametrize("fusion", FUSIONS)


@functools.cache
def make_pipeline(**fields) -> PersonalizationPipeline:
    processor = make_model_processor()
    model = make_model(processor, **fields)
    processor.num_image_tokens = model.config.num_image_tokens
    return PersonalizationPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture
def unimp() -> PersonalizationPipeline:
    return make_pipeline()


@pytest.fixture
def sensitive(monkeypatch):
    """Untrained models move little."""
    monkeypatch.setattr(reasons, "LEAST_EFFECT", 0)


def with_processor(unimp, **changes) -> PersonalizationPipeline:
    """The same model; a processor with other settings."""
    processor = copy.copy(unimp.processor)
    for name, value in changes.items():
        setattr(processor, name, value)
    return PersonalizationPipeline(model=unimp.model, processor=processor, device="cpu")


def answered_score(unimp, request, item_id, allowed=None) -> float:
    """The score of an item as the pipeline itself answers."""
    if request["task"] == "rate":
        return unimp(request)["stars"]
    if request["task"] == "select":
        return next(item["score"] for item in unimp(request)["items"] if item["item_id"] == item_id)
    answer = unimp(request, top_k=6, exclude_seen=False, allowed=allowed)
    return math.log(next(item["score"] for item in answer["items"] if item["item_id"] == item_id))


def picture_of(*boxes) -> Image.Image:
    """White, with coloured boxes."""
    drawn = Image.new("RGB", (64, 64), "white")
    for box, colour in boxes:
        ImageDraw.Draw(drawn).rectangle(box, fill=colour)
    return drawn


# -------------------------------------------------------------------------------------------------- leave one out


@each_task
def test_a_bar_is_the_drop_of_the_pipelines_own_score(unimp, request_, item_id):
    allowed = {"recommend": ["m2", "s1"], "search": unimp.processor.catalogue.item_ids}.get(request_["task"])
    score = answered_score(unimp, request_, item_id, allowed)
    expected = [
        score - answered_score(unimp, request_ | {"history": HISTORY[:n] + HISTORY[n + 1 :]}, item_id, allowed)
        for n in range(len(HISTORY))
    ]
    bars = leave_one_out(unimp, request_, item_id)
    assert bars == pytest.approx(expected, abs=2e-5)
    assert max(map(abs, bars)) > 1e-3
    assert all(type(bar) is float for bar in bars)


def test_requests_as_a_data_frame_has_them(unimp):
    history = np.array(HISTORY, dtype=object)
    assert leave_one_out(unimp, RECOMMEND | {"history": history}, "m2") == leave_one_out(unimp, RECOMMEND, "m2")
    with pytest.raises(ValueError, match="10000"):
        leave_one_out(unimp, RECOMMEND | {"history": ["m1"] * 10_001}, "m2")
    with pytest.raises(ValueError, match="10000"):
        picture_heat(unimp, RECOMMEND | {"history": ["m1"] * 10_001}, "m2")


@pytest.mark.parametrize("ask", [leave_one_out, picture_heat])
def test_a_change_of_the_shop_waits_for_reasons(unimp, monkeypatch, ask):
    """All forwards of one answer are of one catalogue: nobody can change it before the last of them."""
    lock, seen = unimp.processor.catalogue.lock, []

    def change():
        with lock.changing():
            seen.append("changed")

    def during(*_):
        if not threads:
            threads.append(threading.Thread(target=change))
            threads[0].start()
            threads[0].join(0.2)
            seen.append("answering")

    threads = []
    with unimp.model.model.language_model.register_forward_hook(during):
        ask(unimp, RECOMMEND, "m2")
    threads[0].join(10)
    assert seen == ["answering", "changed"]


def test_one_forward_for_all_variants(unimp):
    calls = []
    with unimp.model.model.language_model.register_forward_hook(lambda *_: calls.append(1)):
        leave_one_out(unimp, RECOMMEND, "m2")
    assert len(calls) == 1


def test_the_answers_own_arguments_count(unimp):
    allowed = ["m2", "s1", "h1"]
    bars = leave_one_out(unimp, RECOMMEND, "m2", allowed=allowed, exclude_seen=False)
    shorter = RECOMMEND | {"history": HISTORY[1:]}
    expected = answered_score(unimp, RECOMMEND, "m2", allowed) - answered_score(unimp, shorter, "m2", allowed)
    assert bars[0] == pytest.approx(expected, abs=2e-5)
    assert bars != pytest.approx(leave_one_out(unimp, RECOMMEND, "m2"), abs=1e-4)
    bound = PersonalizationPipeline(
        model=unimp.model, processor=unimp.processor, device="cpu", allowed=allowed, exclude_seen=False
    )
    assert leave_one_out(bound, RECOMMEND, "m2") == bars


def test_an_item_that_the_answer_leaves_out_has_reasons_too(unimp):
    assert all(map(math.isfinite, leave_one_out(unimp, RECOMMEND, "h1")))


def test_items_too_old_to_be_read_did_nothing(unimp):
    short = with_processor(unimp, history_length=2)
    request, recent = SCORED["rate"][0], SCORED["rate"][0] | {"history": HISTORY[-2:]}
    bars = leave_one_out(short, request, "s1")
    assert bars[:2] == [0.0, 0.0]
    # Nothing older comes in for what is left out.
    assert bars[2:] == pytest.approx(leave_one_out(unimp, recent, "s1"), abs=1e-6)


def test_items_that_max_length_cuts_off_did_nothing(unimp):
    request, recent = SCORED["rate"][0], SCORED["rate"][0] | {"history": HISTORY[-2:]}
    length = unimp.processor(requests=[recent])["input_ids"].shape[1] + 1
    bars = leave_one_out(with_processor(unimp, max_length=length), request, "s1")
    assert bars[:2] == [0.0, 0.0]
    assert bars[2:] == pytest.approx(leave_one_out(unimp, recent, "s1"), abs=1e-6)


def test_an_only_item_is_compared_with_others_in_its_place(unimp):
    request = {"task": "rate", "history": [{"item_id": "h1", "rating": 4}], "item": "s1"}
    others = ["m1", "m2", "s2", "h2"]
    replaced = [
        answered_score(unimp, request | {"history": [{"item_id": each, "rating": 4}]}, "s1") for each in others
    ]
    assert len(others) < NUM_STAND_INS
    expected = answered_score(unimp, request, "s1") - np.mean(replaced)
    assert leave_one_out(unimp, request, "s1") == [pytest.approx(expected, abs=2e-5)]


def test_an_only_item_of_a_shop_that_has_no_other_gets_nothing():
    processor = make_model_processor(catalogue=Catalogue.from_items([{"item_id": "a", "title": "a"}]))
    unimp = PersonalizationPipeline(model=make_model(processor), processor=processor, device="cpu")
    assert leave_one_out(unimp, {"task": "recommend", "history": ["a"]}, "a") == [0.0]


def test_items_that_are_only_described(unimp):
    hat = {"title": "Straw hat", "category": "hat", "image": Image.open(BytesIO(picture("green")))}
    request = {"task": "rate", "history": ["m1", hat], "item": {"title": "Cap", "category": "hat"}}
    shorter = request | {"history": ["m1"]}
    expected = answered_score(unimp, request, None) - answered_score(unimp, shorter, None)
    assert leave_one_out(unimp, request, None)[1] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("reason", [leave_one_out, picture_heat])
@pytest.mark.parametrize(
    ("request_", "item_id", "message"),
    [
        ({"task": "explain", "history": ["m1"], "item": "s1"}, "s1", "explain gives no item a score: expected rec"),
        ({"task": "buy", "history": ["m1"]}, "s1", "'buy': expected one of recommend"),
        (RECOMMEND, "m3", "'m3' is not among the 6 items of the catalogue"),
        (SCORED["rate"][0], "m1", "item_id='m1' is not what this request to rate scores: expected 's1'"),
        (SCORED["select"][0], "h1", "expected 's1' or 'm2' or 'h2'"),
        ({"task": "recommend"}, "m1", "history is None: expected a list of items"),
        ({"task": "select", "history": ["m1"]}, "m1", "candidates None"),
    ],
)
def test_what_has_no_reasons(unimp, reason, request_, item_id, message):
    with pytest.raises(ValueError, match=message):
        reason(unimp, request_, item_id)


def test_an_empty_history_gives_no_reasons(unimp):
    request = {"task": "recommend", "history": []}
    assert leave_one_out(unimp, request, "m1") == [] and picture_heat(unimp, request, "m1") == {}


def test_an_argument_that_the_pipeline_does_not_know(unimp):
    with pytest.raises(ValueError, match="did you mean allowed"):
        leave_one_out(unimp, RECOMMEND, "m2", alowed=["m2"])


# --------------------------------------------------------------------------------------------------- picture heat


@each_fusion
@each_task
def test_the_score_that_is_explained_is_the_answers(fusion, request_, item_id):
    """Also with a picture of its own for each item, where two of them share one."""
    unimp = make_pipeline(fusion=fusion)
    request_ = request_ | {"history": [*HISTORY, "m1"]}
    question = _Question.of(unimp, request_, item_id, {})
    inputs = dict(question.batch)
    with torch.no_grad():
        latents, _ = _look(unimp.model.model.resampler, unimp.model.model.encode_pictures(inputs.pop("pixel_values")))
        rows, row_of_place = question.place_pictures(inputs, once=fusion in ("all", "late"))
        own = question.answer(unimp.model, inputs, latents[rows])
    (output,) = outputs_of(unimp.model, unimp.processor, [request_], question.group)
    assert torch.allclose(own, torch.from_numpy(output)[None], atol=1e-5)
    assert (row_of_place[1] == row_of_place[4]) == (fusion in ("all", "late"))


def test_latents_are_those_of_the_resampler():
    unimp = make_pipeline(resampler_depth=3, resampler_width=48)
    resampler = unimp.model.model.resampler
    features = torch.randn(2, 17, unimp.model.config.vision_feature_size, generator=torch.manual_seed(0))
    with torch.no_grad():
        latents, looked = _look(resampler, features)
        assert torch.allclose(latents, resampler(features), atol=1e-5)
    assert looked.shape == (2, 2, 17) and (looked > 0).all()


def test_where_latents_look_by_hand():
    """Queries of zero look at all keys alike: 17 tokens of the picture and 2 latents."""
    unimp = make_pipeline(resampler_depth=2, seed=1)
    with torch.no_grad():
        for block in unimp.model.model.resampler.blocks:
            block.attention.q_proj.weight.zero_()
        _, looked = _look(unimp.model.model.resampler, torch.randn(1, 17, 64, generator=torch.manual_seed(0)))
    # The first block's look, the second's, and the second's at both latents that have looked before.
    assert looked.numpy() == pytest.approx(1 / 19 + 1 / 19 + 2 / 19 * 1 / 19)


@each_fusion
@each_task
def test_maps_of_the_pictures_of_a_history(sensitive, fusion, request_, item_id):
    heat = picture_heat(make_pipeline(fusion=fusion), request_, item_id)
    assert list(heat) == [0, 1, 3]  # the blue shoe has no picture
    assert all(each.shape == (4, 4) and each.dtype == np.float32 and (each >= 0).all() for each in heat.values())
    assert max(each.max() for each in heat.values()) == 1


def test_a_pictures_share_is_what_in_its_latents_raises_the_score(sensitive):
    """Against finite differences, where all patches are looked at alike, so that a map is one number."""
    unimp = make_pipeline(seed=3, resampler_width=8, resampler_heads=1)
    resampler = unimp.model.model.resampler
    question = _Question.of(unimp, RECOMMEND, "m2", {})
    inputs, score = dict(question.batch), {}
    with torch.no_grad():
        resampler.blocks[0].attention.q_proj.weight.zero_()
        latents = resampler(unimp.model.model.encode_pictures(inputs.pop("pixel_values")))
        raised = torch.zeros_like(latents)
        for place in np.ndindex(*latents.shape):
            for step in (-0.02, 0.02):
                moved = latents.clone()
                moved[place] *= 1 + step
                score[step] = question.score(question.answer(unimp.model, inputs, moved)).item()
            raised[place] = max((score[0.02] - score[-0.02]) / 0.04, 0)
    heat = picture_heat(unimp, RECOMMEND, "m2")
    assert all(np.ptp(each) < 1e-6 for each in heat.values())
    # The processor reads the latest item first.
    expected = (raised.sum(dim=(1, 2)) / raised.sum(dim=(1, 2)).max()).tolist()[::-1]
    assert [float(each.mean()) for each in heat.values()] == pytest.approx(expected, abs=0.02)
    assert min(expected) < 0.9


@pytest.mark.parametrize("fusion", ["exclusive", "all", "late"])
def test_closed_gates_leave_no_heat(sensitive, fusion):
    unimp = make_pipeline(fusion=fusion, seed=3)
    with torch.no_grad():
        for name, parameter in unimp.model.named_parameters():
            if name.endswith("gate"):
                parameter.zero_()
    heat = picture_heat(unimp, RECOMMEND, "m2")
    assert list(heat) == [0, 1, 3] and not any(each.any() for each in heat.values())


def test_a_model_that_does_not_look_leaves_no_heat():
    """Its latents are the same for every picture; that they matter to the score is no reason."""
    unimp = make_pipeline(seed=4)
    assert any(each.any() for each in picture_heat(unimp, RECOMMEND, "m2").values())
    with torch.no_grad():
        unimp.model.model.resampler.blocks[0].attention.media_norm.weight.zero_()
    heat = picture_heat(unimp, RECOMMEND, "m2")
    assert list(heat) == [0, 1, 3] and not any(each.any() for each in heat.values())


def test_without_pictures_there_is_no_map(unimp):
    assert picture_heat(unimp, RECOMMEND | {"history": ["s2", {"title": "Straw hat"}]}, "m2") == {}
    assert picture_heat(unimp, SCORED["rate"][0] | {"history": ["s2"]}, "s1") == {}


def test_a_model_without_vision_has_no_map():
    unimp = make_pipeline(fusion="none")
    assert picture_heat(unimp, RECOMMEND, "m2") == {}
    assert len(leave_one_out(unimp, RECOMMEND, "m2")) == 4


def test_a_map_belongs_to_its_place_in_the_whole_history(sensitive, unimp):
    short = picture_heat(with_processor(unimp, history_length=2), SCORED["rate"][0], "s1")
    recent = picture_heat(unimp, SCORED["rate"][0] | {"history": HISTORY[-2:]}, "s1")
    assert list(short) == [3] and list(recent) == [1]
    assert np.allclose(short[3], recent[1], atol=1e-5)


def test_pictures_that_come_with_the_request(sensitive, unimp):
    catalogue = unimp.processor.catalogue
    given = [{"item_id": each, "image": catalogue.picture(each)} for each in ("h1", "m1")]
    request = RECOMMEND | {"history": given}
    own = picture_heat(unimp, RECOMMEND | {"history": ["h1", "m1"]}, "m2")
    heat = picture_heat(unimp, request, "m2")
    assert own.keys() == heat.keys() and all(np.allclose(own[key], heat[key], atol=1e-5) for key in own)
    given[0] = {"title": "Cap", "image": picture_of(((0, 0, 30, 30), "red"))}
    assert list(picture_heat(unimp, request, "m2")) == [0, 1]


def test_two_items_of_one_picture_have_maps_of_their_own(sensitive, unimp):
    request = RECOMMEND | {"history": ["m1", {"item_id": "m1", "rating": 1}]}
    first, second = picture_heat(unimp, request, "m2").values()
    assert not np.allclose(first, second, atol=1e-3)
    first, second = picture_heat(make_pipeline(fusion="all"), request, "m2").values()
    assert (first == second).all()


def test_features_of_a_store_give_the_same_maps(sensitive, unimp, tmp_path):
    catalogue = unimp.processor.catalogue
    store = FeatureStore.build(
        unimp.model.model.vision_tower,
        unimp.processor.image_processor,
        lambda number: catalogue.picture(catalogue.item_id(number)),
        catalogue.picture_digests(),
        tmp_path,
        dtype=torch.float32,
    )
    own, heat = picture_heat(unimp, RECOMMEND, "m2"), picture_heat(unimp, RECOMMEND, "m2", vision_features=store)
    assert own.keys() == heat.keys() and all(np.allclose(own[key], heat[key], atol=1e-5) for key in own)
    bars = leave_one_out(unimp, RECOMMEND, "m2", vision_features=store)
    assert bars == pytest.approx(leave_one_out(unimp, RECOMMEND, "m2"), abs=1e-5)


def test_a_tower_with_a_feature_map(tmp_path):
    config = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=64)
    torch.manual_seed(0)
    ConvNextModel(config).save_pretrained(tmp_path)
    CLIPImageProcessor(
        size={"height": 64, "width": 96}, crop_size={"height": 64, "width": 96}, do_center_crop=False
    ).save_pretrained(tmp_path)
    processor = make_model_processor()
    processor.image_processor = load_image_processor(str(tmp_path))
    small = {"num_latents": 2, "resampler_depth": 1, "resampler_heads": 2, "resampler_head_dim": 16}
    model = type(make_pipeline().model).from_backbones(
        "tiny", str(tmp_path), processor.catalogue, processor, initial_gate=0.5, **small
    )
    unimp = PersonalizationPipeline(model=model.eval(), processor=processor, device="cpu")
    heat = picture_heat(unimp, RECOMMEND, "m2")
    assert [each.shape for each in heat.values()] == [(2, 3)] * 3


def test_nothing_is_changed_and_nothing_is_random(sensitive, unimp):
    model = unimp.model
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    answer, chance = unimp(RECOMMEND), torch.get_rng_state()
    bars, heat = leave_one_out(unimp, RECOMMEND, "m2"), picture_heat(unimp, RECOMMEND, "m2")
    model.train()
    model.model.resampler.eval()
    modes = [module.training for module in model.modules()]
    try:
        with torch.inference_mode():
            again = picture_heat(unimp, RECOMMEND, "m2")
            assert torch.is_inference_mode_enabled()
        assert leave_one_out(unimp, RECOMMEND, "m2") == bars
        assert [module.training for module in model.modules()] == modes
    finally:
        model.eval()
    assert max(each.max() for each in heat.values()) == 1
    assert heat.keys() == again.keys() and all((heat[key] == again[key]).all() for key in heat)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled() and torch.equal(chance, torch.get_rng_state())
    assert unimp(RECOMMEND) == answer


def test_a_picture_that_answers_has_no_score():
    model, processor = make_imagining_model()
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    with pytest.raises(ValueError, match="imagine gives no item a score"):
        picture_heat(unimp, {"task": "imagine", "history": ["m1"], "query": "mug"}, "m2")
    assert list(picture_heat(unimp, RECOMMEND, "m2")) == [0, 1, 3]


@pytest.mark.parametrize(
    ("tokens", "height", "width", "grid"),
    [
        (17, 64, 64, (4, 4)),  # a class token
        (49, 224, 224, (7, 7)),  # a feature map
        (729, 384, 384, (27, 27)),  # SigLIP
        (1370, 518, 518, (37, 37)),
        (261, 224, 224, (16, 16)),  # a class token and four registers
        (393, 224, 448, (14, 28)),
        (2, 32, 32, (1, 1)),
    ],
)
def test_patches_are_the_grid_at_the_end(tokens, height, width, grid):
    assert _grid(tokens, height, width) == grid


def test_features_that_are_no_grid():
    with pytest.raises(ValueError, match="35 vision features of a picture of 64 x 64 pixels are no grid"):
        _grid(35, 64, 64)


# ---------------------------------------------------------------------------------------------------------- blend


def test_cold_is_the_picture_in_grey_and_hot_is_coloured():
    photo = picture_of(((16, 16, 48, 48), "teal"))
    cold = np.asarray(blend(photo, np.zeros((4, 4))), dtype=int)
    assert cold.shape == (64, 64, 3) and (cold == cold[..., :1]).all()
    assert cold[0, 0, 0] > cold[32, 32, 0]
    heat = np.zeros((4, 4))
    heat[0, 3] = 1
    red, green, blue = np.asarray(blend(photo, heat), dtype=int).transpose(2, 0, 1)
    assert red[4, 60] > green[4, 60] + 50 and red[4, 60] > blue[4, 60]
    assert (red == blue)[40:, :24].all()


def test_heat_has_no_edges():
    heat = np.zeros((4, 4))
    heat[1, 1] = 1
    shown = np.asarray(blend(Image.new("RGB", (256, 256), "white"), heat), dtype=int)
    assert np.abs(np.diff(shown, axis=0)).max() < 40 and np.abs(np.diff(shown, axis=1)).max() < 40


def test_more_heat_is_darker():
    """So it shows on white, in print, and to colour-blind eyes."""
    grades = [blend(Image.new("RGB", (8, 8), "white"), np.full((1, 1), share)) for share in np.linspace(0, 1, 9)]
    light = [np.asarray(each.convert("L"), dtype=int).mean() for each in grades]
    assert all(before - after > 5 for before, after in zip(light, light[1:], strict=False))
    assert len(HEAT_COLOURS) == 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK"])
def test_pictures_of_any_mode(mode):
    shown = blend(Image.new("RGB", (30, 50), "white").convert(mode), np.eye(3))
    assert (shown.mode, shown.size) == ("RGB", (30, 50))


def test_what_is_transparent_is_light():
    shown = blend(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), np.zeros((1, 1)))
    assert shown.getpixel((0, 0)) == (255, 255, 255)


def test_heat_lies_where_the_image_processor_looked():
    photo, heat = Image.new("RGB", (200, 100), "white"), np.ones((2, 2))
    crops = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 32, "width": 32})
    seen = np.asarray(blend(photo, heat, crops), dtype=int)[..., 2] < 200
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (25, 74, 75, 124)
    squeezes = load_image_processor("tiny")
    assert (np.asarray(blend(photo, heat, squeezes)) == np.asarray(blend(photo, heat))).all()


@pytest.mark.parametrize(
    "heat", [np.zeros(4), np.zeros((0, 4)), np.full((2, 2), np.nan)], ids=["flat", "empty", "nan"]
)
def test_what_is_no_heat(heat):
    with pytest.raises(ValueError, match="heat of shape"):
        blend(Image.new("RGB", (8, 8)), heat)


def test_the_catalogues_own_pictures(unimp):
    heat = picture_heat(unimp, RECOMMEND, "m2")
    shown = blend(make_catalogue().picture("h1"), heat[0], unimp.processor.image_processor)
    assert shown.size == (32, 32)
