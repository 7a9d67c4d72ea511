"""Pictures as answers: exactly their codes and nothing else, from a search of the model's own, saved and loaded."""

import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from shop import ITEMS, encode_pictures, make_codec, make_imagining_model, make_model, make_model_processor, readable
from transformers import AutoModel, AutoProcessor, GenerationConfig

from modeling_unimp import FeatureStore, PersonalizationPipeline
from modeling_unimp.answering import outputs_of, search_with
from modeling_unimp.imagining import PictureIndex, picture_features, retrieve
from processing_unimp import Catalogue

REQUESTS = [
    {"task": "imagine", "history": ["m1", {"item_id": "h1", "rating": 4}], "query": "shoe", "retrieved": ["s1", "m2"]},
    {"task": "imagine", "history": ["h2"], "query": "a mug", "retrieved": ["m2", "m1"]},
]


@pytest.fixture(scope="module")
def shop():
    return make_imagining_model()


def batch_of(processor, requests=REQUESTS, **kwargs):
    return {name: each for name, each in processor(requests=requests, **kwargs).items() if name != "task_ids"}


def test_likeliest_codes_with_cache_are_those_without(shop):
    model, processor = shop
    batch = batch_of(processor)
    codes = model.imagine(**batch, do_sample=False)
    assert codes.shape == (2, 4)
    first = model.config.group_slices["codes"][0]
    for _ in range(4):
        with torch.no_grad():
            best = model(**batch).logits[:, -1, first : first + 16].argmax(dim=-1) + first
        batch["input_ids"] = torch.cat([batch["input_ids"], best[:, None]], dim=1)
        batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        batch["media_index"] = torch.nn.functional.pad(batch["media_index"], (0, 1))
    assert (batch["input_ids"][:, -4:] - first).tolist() == codes.tolist()


def test_beams_find_the_likeliest_beginning(shop):
    """16 beams hold every first code, so the likeliest pair of first codes has to be among the 16 pairs kept."""
    model, processor = shop
    batch = batch_of(processor, REQUESTS[:1])
    first = model.config.group_slices["codes"][0]
    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16))
    grown = {
        "input_ids": torch.cat([batch["input_ids"].expand(256, -1), pairs + first], dim=1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"].expand(256, -1), (0, 2), value=1),
        "media_index": torch.nn.functional.pad(batch["media_index"].expand(256, -1), (0, 2)),
        "pixel_values": batch["pixel_values"],
    }
    labels = grown["input_ids"].clone()
    labels[:, :-2] = -100
    with torch.no_grad():
        nll = model(**grown, labels=labels).nll.view(256, 2).sum(dim=1)
    beams = model.imagine(**batch, num_beams=16, num_return_sequences=16)
    assert beams.shape == (16, 4) and model.imagine(**batch, num_beams=16).tolist() == beams[:1].tolist()
    assert tuple(pairs[nll.argmin()].tolist()) in {tuple(row[:2].tolist()) for row in beams}


def test_sampling_follows_the_seed_and_leaves_chance_elsewhere_alone(shop):
    model, processor = shop
    batch = batch_of(processor)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = {seed: model.imagine(**batch, seed=seed, temperature=2.0).tolist() for seed in (0, 1, 0)}
    assert torch.equal(torch.rand(3), expected)
    assert drawn[0] == model.imagine(**batch, seed=0, temperature=2.0).tolist() != drawn[1]
    likeliest = model.imagine(**batch, do_sample=False).tolist()
    assert model.imagine(**batch, temperature=1e-4).tolist() == likeliest
    assert model.imagine(**batch, temperature=9.0, top_k=1).tolist() == likeliest
    assert model.imagine(**batch, temperature=9.0, top_p=1e-6).tolist() == likeliest
    config = GenerationConfig(do_sample=True, top_k=1, max_length=3)
    assert model.imagine(**batch, generation_config=config).tolist() == likeliest
    assert config.max_length == 3


def test_a_seed_draws_the_same_picture_alone_in_a_batch_and_beside_other_threads(shop):
    model, processor = shop
    alone = [model.imagine(**batch_of(processor, [each]), seed=3, temperature=2.0).tolist()[0] for each in REQUESTS]
    assert model.imagine(**batch_of(processor), seed=3, temperature=2.0).tolist() == alone

    def drawn(number):
        request, seed = REQUESTS[number % 2], 3 if number < 14 else number
        return model.imagine(**batch_of(processor, [request]), seed=seed, temperature=2.0).tolist()[0]

    with ThreadPoolExecutor(7) as threads:
        found = list(threads.map(drawn, range(28)))
    assert found[:14] == alone * 7
    assert len({tuple(each) for each in found[14:]}) > 7


def test_what_is_drawn_follows_the_probabilities(shop):
    """First codes of 150 seeds against the model's own distribution, a chi-square test far from its edge.

    At temperature .3 the codes differ enough: draws at 1 would come to some 350, the likeliest code alone to 140.
    """
    model, processor = shop
    batch = batch_of(processor, REQUESTS[:1])
    first, stop = model.config.group_slices["codes"]
    with torch.no_grad():
        expected = (model(**batch).logits[0, -1, first:stop] / 0.3).softmax(-1)
    counts = torch.zeros(stop - first)
    for seed in range(150):
        counts[model.imagine(**batch, seed=seed, temperature=0.3)[0, 0]] += 1
    assert ((counts - 150 * expected) ** 2 / (150 * expected)).sum() < 60  # 15 degrees of freedom: p < 1e-6


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "3", None])
def test_a_seed_is_a_whole_number(shop, seed):
    model, processor = shop
    with pytest.raises(ValueError, match="seed=.*expected a whole number from 0"):
        model.imagine(**batch_of(processor), seed=seed)
    expected = model.imagine(**batch_of(processor), seed=7).tolist()
    assert model.imagine(**batch_of(processor), seed=np.int64(7)).tolist() == expected


def test_lengths_of_words_do_not_cut_a_picture(shop):
    model, processor = shop
    codes = model.imagine(**batch_of(processor), max_new_tokens=2, min_length=90, do_sample=False)
    assert codes.tolist() == model.imagine(**batch_of(processor), do_sample=False).tolist()


def test_a_picture_that_is_stopped_is_no_picture(shop):
    model, processor = shop
    with pytest.raises(ValueError, match="a picture was stopped after 1 of its"):
        model.imagine(**batch_of(processor), max_time=1e-9)


def test_options_about_special_tokens_and_none(shop):
    model, processor = shop
    batch = batch_of(processor)
    likeliest = model.imagine(**batch, temperature=1e-4).tolist()
    assert model.imagine(**batch, temperature=1e-4, logits_processor=None).tolist() == likeliest
    first = likeliest[0][0]
    code = model.config.group_slices["codes"][0] + first
    assert model.imagine(**batch, temperature=1e-4, bad_words_ids=[[code]]).tolist()[0][0] != first


def test_only_codes_get_logits(shop):
    model, processor = shop
    with torch.no_grad():
        everything = model(**batch_of(processor)).logits[:, -1]
        codes = model(**batch_of(processor), answer_group="codes").logits[:, -1]
    first, stop = model.config.group_slices["codes"]
    torch.testing.assert_close(codes[:, first:stop], everything[:, first:stop])
    assert torch.isinf(codes[:, :first]).all() and torch.isinf(codes[:, stop:]).all()
    with pytest.raises(ValueError, match="group='pictures': expected one of words"):
        model(**batch_of(processor), answer_group="pictures")


def test_the_search_is_the_models_own(shop):
    model, processor = shop
    asked = [{name: value for name, value in request.items() if name != "retrieved"} for request in REQUESTS]
    has_picture = PictureIndex.of(model, processor).has_picture
    found = retrieve(search_with(model, processor), processor, asked, has_picture)
    pipeline = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    pictured = ["m1", "m2", "s1", "h1", "h2"]
    for request, own in zip(asked, found, strict=True):
        searched = pipeline(request | {"task": "search"}, top_k=2, allowed=pictured)["items"]
        assert own["retrieved"] == [item["item_id"] for item in searched]
    for request, own in zip(
        REQUESTS, retrieve(search_with(model, processor), processor, REQUESTS, has_picture), strict=True
    ):
        assert own == request | {"wish": request["query"]}  # what a request names stays
    with pytest.raises(ValueError, match="no item with a picture is on sale"):
        retrieve(search_with(model, processor), processor, asked, np.zeros(6, dtype=bool))


@pytest.mark.parametrize("by", ["tower", "codec"])
def test_the_index_is_what_pictures_are_compared_by_less_the_mean(shop, by):
    model, processor = shop
    assert model.config.picture_features == "codec"  # its tower is from scratch
    catalogue = processor.catalogue
    pictured = [item_id for item_id in catalogue.item_ids if catalogue.has_picture(item_id)]
    pictures = [catalogue.picture(item_id) for item_id in pictured]
    rows = [catalogue.number(item_id) for item_id in pictured]
    pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = {
            "tower": model.model.encode_pictures(pixels).mean(dim=1).numpy(),
            "codec": model.image_codec.vq_model.quantize.embedding.weight.numpy()[catalogue.picture_codes[rows]],
        }[by].reshape(len(rows), -1)
    model.config.picture_features = by
    try:
        index = PictureIndex.of(model, processor)
        again = picture_features(model, processor, [None, pictures[0]])
        catalogue.unreadable_pictures.update(dict.fromkeys(pictured, "broken for this test"))
        with pytest.raises(ValueError, match="no item of this catalogue has a picture"):
            PictureIndex.of(model, processor)
    finally:
        model.config.picture_features = "codec"
        catalogue.unreadable_pictures.clear()
    np.testing.assert_allclose(index.mean, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(index.features[rows], seen - seen.mean(axis=0), atol=1e-5)
    assert index.has_picture.tolist() == [item_id in pictured for item_id in catalogue.item_ids]
    assert not again[0].any() and index.similarity(again[1] - index.mean)[rows[0]] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("by", ["tower", "codec"])
def test_no_more_pictures_are_open_than_a_batch_holds(shop, by):
    model, processor = shop
    opened: list[weakref.ref] = []
    most = 0

    def pictures():
        nonlocal most
        for number in range(9):
            picture = None if number == 4 else Image.new("RGB", (32, 32), (28 * number, 0, 0))
            if picture is not None:
                opened.append(weakref.ref(picture))
            yield picture
            del picture
            most = max(most, sum(each() is not None for each in opened))

    model.config.picture_features = by
    try:
        features = picture_features(model, processor, pictures(), batch_size=2)
        alone = [picture_features(model, processor, [each])[0] for each in pictures()]
    finally:
        model.config.picture_features = "codec"
    assert len(features) == 9 and not features[4].any() and most <= 4
    np.testing.assert_allclose(features, alone, atol=1e-5)


def test_known_codes_are_not_read_from_pictures_again(monkeypatch):
    model, processor = make_imagining_model()
    catalogue, expected = processor.catalogue, PictureIndex.of(*make_imagining_model()).features
    read = []
    monkeypatch.setattr(
        model.image_codec, "encode", lambda pictures, *_: read.extend(pictures) or torch.zeros(0, 4).long()
    )
    np.testing.assert_array_equal(PictureIndex.of(model, processor).features, expected)
    assert not read
    monkeypatch.undo()
    codes = catalogue.picture_codes.copy()
    codes[catalogue.number("h1")] = -1  # as of an item that was added later: its picture is read
    catalogue.set_picture_codes(codes)
    np.testing.assert_array_equal(PictureIndex.of(model, processor).features, expected)


def test_a_pipeline_compares_with_pictures_as_they_are_now(tmp_path):
    """Of the tower or the codec, by other weights, settings, codes or features than when it was asked first."""
    model, processor = make_imagining_model(picture_features="tower")
    unimp, catalogue = PersonalizationPipeline(model=model, processor=processor, device="cpu"), processor.catalogue
    seen = []

    def check(vision_features=None):
        index = unimp.picture_index(vision_features)
        expected = PictureIndex.of(model, processor, vision_features)
        np.testing.assert_allclose(index.features, expected.features, atol=1e-5)
        assert unimp.picture_index(vision_features) is index
        seen.append(index.features)

    def store(rebuild=False):
        return FeatureStore.build(
            model.model.vision_tower,
            processor.image_processor,
            lambda number: catalogue.picture(catalogue.item_id(number)),
            catalogue.picture_digests(),
            tmp_path,
            rebuild=rebuild,
        )

    check()
    first = store()
    weights = model.state_dict()
    model.load_state_dict({name: 1.5 * each if "vision_tower" in name else each for name, each in weights.items()})
    check()
    check(first)
    assert unimp.picture_index(FeatureStore(tmp_path, catalogue.picture_digests())) is unimp.picture_index(first), (
        "opened a second time"
    )
    check(store(rebuild=True))
    processor.image_processor.image_mean = [0.1, 0.1, 0.9]
    check()
    model.config.picture_features = "codec"
    check()
    model.image_codec = make_codec(seed=9)
    check()
    codes = catalogue.picture_codes
    catalogue.set_picture_codes(np.where(codes < 0, codes, (codes + 1) % 16))
    check()
    assert len({features.tobytes() for features in seen}) == len(seen)


def test_a_model_without_vision_compares_pictures_by_the_codec(shop):
    model, processor = shop
    tower, model.model.vision_tower = model.model.vision_tower, None
    try:
        assert picture_features(model, processor, [processor.catalogue.picture("m1")]).shape == (1, 16)
        model.config.picture_features = "tower"
        with pytest.raises(ValueError, match="no vision tower to compare pictures by: set config.picture_features"):
            picture_features(model, processor, [processor.catalogue.picture("m1")])
    finally:
        model.model.vision_tower, model.config.picture_features = tower, "codec"


def test_outputs_hold_the_likelihood_of_the_truth(shop):
    model, processor = shop
    asked = [request | {"answer": answer} for request, answer in zip(REQUESTS, ("s1", "h2"), strict=True)]
    outputs = list(outputs_of(model, processor, asked, "codes", batch_size=2))
    first = model.config.group_slices["codes"][0]
    codes = processor.catalogue.picture_codes
    for request, output in zip(asked, outputs, strict=True):
        batch = batch_of(processor, [request], labels=True)
        del batch["label_kinds"]
        truth = torch.tensor(codes[processor.catalogue.number(request["answer"])], dtype=torch.long)
        assert torch.equal(batch["input_ids"][0, -4:] - first, truth)
        with torch.no_grad():
            logits = model(**batch).logits[0, -5:-1]
        nll = torch.nn.functional.cross_entropy(logits, batch["input_ids"][0, -4:])
        assert output["nll"] == pytest.approx(nll.item(), abs=1e-5)
        assert output["picture"].size == (8, 8) and output["similarity"].shape == (6,)
        index = output["catalogue_features"]
        number = processor.catalogue.number("h1")
        cosine = (
            output["features"] @ index[number] / np.linalg.norm(output["features"]) / np.linalg.norm(index[number])
        )
        assert output["similarity"][number] == pytest.approx(cosine, abs=1e-5)
        assert output["similarity"][processor.catalogue.number("s2")] == -1
    assert list(outputs_of(model, processor, REQUESTS, "codes"))[0]["nll"] is None


def test_a_saved_model_imagines_the_same_to_the_last_bit(shop, tmp_path):
    model, processor = shop
    PersonalizationPipeline(model=model, processor=processor, device="cpu").save_pretrained(tmp_path)
    assert (tmp_path / "image_codec" / "config.json").is_file()
    assert not any("codec" in name for name in model.state_dict())
    loaded, again = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.catalogue.picture_codes, processor.catalogue.picture_codes)
    assert (again.num_codes, again.num_retrieved) == (16, 2)
    asked = {"task": "imagine", "history": ["m1", "h1"], "query": "shoe"}
    first = PersonalizationPipeline(model=model, processor=processor, device="cpu")(asked, seed=3)
    second = PersonalizationPipeline(model=loaded, processor=again, device="cpu")(asked, seed=3)
    assert first["picture"].tobytes() == second["picture"].tobytes()
    assert {k: v for k, v in first.items() if k != "picture"} == {k: v for k, v in second.items() if k != "picture"}


def test_a_codec_must_fit(shop):
    model, _ = shop
    with pytest.raises(ValueError, match="4 of 32 codes and this model as 4 of 16: build the model with num_codes=32"):
        model.image_codec = make_codec(num_codes=32)
    _, processor = make_imagining_model()
    processor.num_codes = 8
    with pytest.raises(ValueError, match="writes pictures in 8 codes"):
        model.check_processor(processor)


def test_without_a_codec_there_is_no_picture(shop):
    model, processor = shop
    codec, model.image_codec = model.image_codec, None
    try:
        with pytest.raises(ValueError, match="no image codec"):
            model.imagine(**batch_of(processor))
        with pytest.raises(ValueError, match="no image codec"):
            PersonalizationPipeline(model=model, processor=processor, device="cpu")(REQUESTS[0])
    finally:
        model.image_codec = codec


def test_codes_that_look_alike_begin_alike(shop):
    model, _ = make_imagining_model()
    codebook = model.image_codec.vq_model.quantize.embedding.weight
    codebook.data[7] = codebook.data[3]
    rows = model.model.item_embeddings.read.tokens
    before = rows.detach().clone()
    first, stop = (end - model.config.text_config.vocab_size for end in model.config.group_slices["codes"])
    model.fit_codes_to_codec()
    codes = rows[first:stop].detach()
    assert torch.equal(rows[:first], before[:first]) and not torch.equal(codes, before[first:stop])
    assert torch.equal(codes[3], codes[7]) and not torch.equal(codes[3], codes[4])
    apart, looks = torch.pdist(codes), torch.pdist(codebook)
    assert torch.corrcoef(torch.stack([apart, looks]))[0, 1] > 0.5
    assert 0.5 < codes.std() / before[first:stop].std() < 2


def test_places_of_codes_count_from_the_first(shop):
    model, _ = shop
    first = model.config.group_slices["codes"][0]
    ids = torch.tensor([[5, first, first + 3, first + 3, 6], [first + 1, 2, first, first, first]])
    assert model.model.code_places(ids).tolist() == [[-1, 0, 1, 2, -1], [0, -1, 0, 1, 2]]
    long = torch.full((1, 9), first)
    assert model.model.code_places(long).tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0]]
    same = model.model.embed(ids)[0]
    assert not torch.allclose(same[2], same[3])  # one code at two places


def test_what_follows_a_code_is_told_its_place(shop):
    model, _ = shop
    first = model.config.group_slices["codes"][0]
    ids = torch.tensor([[5, first, first + 3, first + 3, 6], [first + 1, 2, first, first, first]])
    rows = model.model.item_embeddings.after_places
    kept = rows.detach().clone()
    with torch.no_grad():
        told = model.model(ids).last_hidden_state
        rows.zero_()
        untold = model.model(ids).last_hidden_state
        rows.copy_(kept)
    nothing = torch.zeros_like(kept[0])
    expected = [[nothing, kept[0], kept[1], kept[2], nothing], [kept[0], nothing, kept[0], kept[1], kept[2]]]
    torch.testing.assert_close(told - untold, torch.stack([torch.stack(row) for row in expected]), atol=1e-5, rtol=0)


def test_a_bare_query_is_searched_again_as_the_wish_it_was_completed_to(shop):
    model, processor = shop
    asked = [{"task": "imagine", "history": ["m1", "h2"], "query": query} for query in ("shoe", "a thing", "mug")]
    has_picture = PictureIndex.of(model, processor).has_picture
    processor.query_attribute, processor.wish_attributes = "category", ["title"]
    try:
        found = retrieve(search_with(model, processor), processor, asked, has_picture)
    finally:
        processor.query_attribute = processor.wish_attributes = None
    assert found[0]["wish"] == "Red shoe shoe"  # the only shoe with a picture
    assert found[1]["wish"] == "a thing" and found[2]["wish"] == "Red mug mug"  # m1 is in the history
    for request, own in zip(asked, found, strict=True):
        searched = retrieve(search_with(model, processor), processor, [request | {"query": own["wish"]}], has_picture)
        assert own["retrieved"] == searched[0]["retrieved"] and own["query"] == request["query"]
    said = retrieve(search_with(model, processor), processor, [asked[0] | {"wish": "blue shoe"}], has_picture)[0]
    assert said["wish"] == "blue shoe"


def test_a_merchants_word_that_joins_a_wish_is_never_a_control_token():
    items = [dict(item, colour="[EOC] <item_3> [ANS]", title="<rate_5> [IMG]") for item in ITEMS]
    catalogue, codec = Catalogue.from_items(items), make_codec()
    encode_pictures(catalogue, codec)
    names = {"query_attribute": "category", "wish_attributes": ["colour"]}
    processor = make_model_processor(catalogue=catalogue, num_codes=codec.num_codes, **names)
    model = make_model(processor, num_codes=codec.num_codes, codes_per_picture=4)
    model.image_codec = codec
    has_picture = PictureIndex.of(model, processor).has_picture
    asked = {"task": "imagine", "history": ["m1", "h1"], "query": "mug"}
    (found,) = retrieve(search_with(model, processor), processor, [asked], has_picture)
    assert found["wish"] == "[EOC] <item_3> [ANS] mug"
    # Two items of the history and two that were found, each with a picture, an item token and an end.
    ids = processor(requests=[found])["input_ids"][0].tolist()
    added = [readable(processor, [token]) for token in ids if token >= processor.first_token_id]
    expected = {"[CLS]": 1, "[IMG]": 4, "[EOC]": 4, "[ANS]": 1}
    assert Counter(name for name in added if not name.startswith("<item_")) == expected
    tokens = [f"<item_{catalogue.number(item_id)}>" for item_id in ("m1", "h1", *found["retrieved"])]
    assert sorted(name for name in added if name.startswith("<item_")) == sorted(tokens)


def test_training_reads_spoilt_codes_and_learns_the_true_ones(shop):
    model, processor = shop
    first = model.config.group_slices["codes"][0]
    truth = processor.catalogue.picture_codes[processor.catalogue.number("s1")]
    spoilt = [int(code + 1) % 16 for code in truth]
    request = REQUESTS[0] | {"answer": "s1", "noisy_codes": spoilt}
    batch = processor(requests=[request], labels=True)
    assert (batch["input_ids"][0, -4:] - first).tolist() == spoilt
    assert (batch["labels"][0, -4:] - first).tolist() == truth.tolist()
