"""Damage to a folder that we wrote is found when it is loaded, and the error names the file."""

import json
import logging
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from shop import make_histories, make_imagining_model, make_model, make_model_processor
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from modeling_unimp import ImageCodec, UniMPForConditionalGeneration
from modeling_unimp.manifest import CONFIGS, MANIFEST
from modeling_unimp.training.closed_form import closed_form_scores
from processing_unimp import Catalogue, UniMPProcessor
from processing_unimp.item_terms import ItemTerms
from processing_unimp.processor_manifest import PROCESSOR_MANIFEST

CODEC = "image_codec/diffusion_pytorch_model.safetensors"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model, processor = make_imagining_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "unimp")
    return tmp_path / "unimp"


def load(folder, **options):
    return UniMPForConditionalGeneration.from_pretrained(folder, **options), UniMPProcessor.from_pretrained(
        folder, **options
    )


def flip(file, place=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    file.write_bytes(content)


def zeros(file):
    """A block that was lost, as a full disk or a copy that broke off leaves it."""
    content = bytearray(file.read_bytes())
    begin = len(content) // 2
    content[begin : begin + 512] = bytes(min(512, len(content) - begin))
    file.write_bytes(content)


def longer(file):
    file.write_bytes(file.read_bytes() + b"\0")


def shorter(file):
    file.write_bytes(file.read_bytes()[:-1])


def shuffle_prices(file):
    """Rows that a program changed: a whole parquet file, and the wrong price at every item."""
    table = pq.read_table(file)
    place = table.column_names.index("price")
    prices = table.column("price").to_pylist()
    assert prices != prices[::-1]
    pq.write_table(table.set_column(place, "price", pa.array(prices[::-1])), file)


def exchange_words(file):
    """A tokenizer whose words have one another's numbers."""
    read = json.loads(file.read_text(encoding="utf-8"))
    words = read["model"]["vocab"]
    one, other = list(words)[300:302]
    words[one], words[other] = words[other], words[one]
    file.write_text(json.dumps(read), encoding="utf-8")


@pytest.mark.parametrize("damage", [flip, zeros, longer, shorter])
@pytest.mark.parametrize("name", [WEIGHTS, CODEC, "catalogue.parquet", "tokenizer.json"])
def test_a_damaged_file_is_named(folder, name, damage):
    load(folder)
    damage(folder / name)
    with pytest.raises(ValueError, match=name.split("/")[-1]):
        load(folder)


@pytest.mark.parametrize(
    ("name", "change"), [("catalogue.parquet", shuffle_prices), ("tokenizer.json", exchange_words)]
)
def test_what_still_can_be_read_is_found_too_and_loads_for_those_who_know_better(folder, name, change):
    change(folder / name)
    for kind in (UniMPProcessor, AutoProcessor):
        with pytest.raises(ValueError, match=rf"{name} is not what was written.*verify=False"):
            kind.from_pretrained(folder)
        kind.from_pretrained(folder, verify=False)
    # Whoever saves it anew stands for what is in it.
    UniMPProcessor.from_pretrained(folder, verify=False).save_pretrained(folder)
    UniMPProcessor.from_pretrained(folder)


def test_settings_too_deep_to_be_read_are_told(folder):
    deep = "[" * 100_000
    (folder / "item_terms.json").write_text(deep)
    with pytest.raises(ValueError, match="item_terms.json cannot be read: RecursionError"):
        ItemTerms.load(folder / "item_terms.json")
    (folder / "config.json").write_text(deep)
    with pytest.raises(ValueError, match="the model in .* cannot be loaded"):
        UniMPForConditionalGeneration.from_pretrained(folder, verify=False)


@pytest.mark.parametrize("kind", [UniMPForConditionalGeneration, AutoModel, AutoModelForImageTextToText])
def test_changed_weights_load_for_those_who_know_better(folder, kind):
    weights = load_file(folder / WEIGHTS)
    name = max(weights, key=lambda each: weights[each].numel())
    weights[name][1] += 1
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model.safetensors is not what was written.*verify=False"):
        kind.from_pretrained(folder)
    model = kind.from_pretrained(folder, verify=False)
    if kind is not AutoModel:
        model.save_pretrained(folder)
        torch.testing.assert_close(kind.from_pretrained(folder).state_dict()[name], weights[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "name", "changed"),
    [
        (UniMPForConditionalGeneration, "config.json", {"item_at_eoc": True}),
        (AutoModel, "config.json", {"item_at_eoc": True}),
        (UniMPProcessor, "processor_config.json", {"attributes": ["category"]}),
        (AutoProcessor, "processor_config.json", {"attributes": ["category"]}),
        (UniMPForConditionalGeneration, "generation_config.json", {"max_new_tokens": 3}),
        (UniMPProcessor, "tokenizer_config.json", {"padding_side": "left"}),
    ],
)
def test_a_config_that_was_changed_is_told_and_loads(folder, caplog, monkeypatch, kind, name, changed):
    """With it the model answers otherwise; who wrote it by hand wants that."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    edit(folder / name, **changed)
    for verify, times in ((False, 0), (True, 1)):
        loaded = kind.from_pretrained(folder, verify=verify)
        assert caplog.text.count(f"{name} ") == times and caplog.text.count("changed by hand") == times
    ((setting, value),) = changed.items()
    part = {"generation_config.json": "generation_config", "tokenizer_config.json": "tokenizer"}.get(name, "config")
    assert getattr(getattr(loaded, part, loaded), setting) == value
    loaded.save_pretrained(folder)
    caplog.clear()
    kind.from_pretrained(folder)
    assert "changed by hand" not in caplog.text


@pytest.mark.parametrize("kind", [UniMPForConditionalGeneration, AutoModel])
@pytest.mark.parametrize("changed", [{"num_items": 5}, {"num_latents": 10**9}])
def test_weights_of_other_sizes_than_the_config_says_are_told_with_the_folder(folder, kind, changed):
    edit(folder / "config.json", **changed)
    with pytest.raises(ValueError, match=r"unimp' are of other sizes than its config.json says"):
        kind.from_pretrained(folder, verify=False)


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["hybrid_scores.safetensors", "item_terms.json"])
def test_a_file_that_is_gone_is_named(tmp_path, name):
    """Without it a model would answer, and otherwise."""
    processor = make_model_processor()
    model = make_model(processor, item_rows="both")
    histories = make_histories(processor.catalogue)
    hybrid = closed_form_scores(histories, None, "category", exclude_seen=True)
    model.hybrid_scores = hybrid.with_weights({"recommend": [1.0] * (1 + len(hybrid.scores))}, None)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing beside .*manifest.json.*verify=False"):
        load(tmp_path)
    UniMPProcessor.from_pretrained(tmp_path, verify=False)
    UniMPForConditionalGeneration.from_pretrained(tmp_path, verify=False)


def test_a_missing_weight_is_no_random_one(folder):
    weights = load_file(folder / WEIGHTS)
    name = next(each for each in weights if "resampler" in each)
    del weights[name]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=rf"lack 1, such as {name}: random ones would take their place"):
        UniMPForConditionalGeneration.from_pretrained(folder)
    UniMPForConditionalGeneration.from_pretrained(folder, verify=False)
    _, info = UniMPForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == {name}


def test_every_shard_is_in_the_manifest(folder):
    model = UniMPForConditionalGeneration.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="200KB")
    assert not (folder / WEIGHTS).exists(), "it would be loaded in place of the shards"
    shards = sorted(file.name for file in folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and sorted(json.loads((folder / MANIFEST).read_text())) == [*CONFIGS, *shards]
    UniMPForConditionalGeneration.from_pretrained(folder)
    flip(folder / shards[1])
    with pytest.raises(ValueError, match=shards[1]):
        UniMPForConditionalGeneration.from_pretrained(folder)


def test_folders_of_earlier_versions_have_no_manifest(folder):
    for name in (MANIFEST, f"image_codec/{MANIFEST}", PROCESSOR_MANIFEST):
        (folder / name).unlink()
    load(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"model.safetensors": 1}', '{"model.safetensors": {}}', "null"])
def test_a_damaged_manifest_is_named(folder, content):
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        UniMPForConditionalGeneration.from_pretrained(folder)
    UniMPForConditionalGeneration.from_pretrained(folder, verify=False)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"tokenizer.json": 1}', "null"])
def test_a_damaged_processor_manifest_is_named(folder, content):
    (folder / PROCESSOR_MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"processor_manifest.json is damaged"):
        UniMPProcessor.from_pretrained(folder)
    UniMPProcessor.from_pretrained(folder, verify=False)


def test_a_catalogue_saved_into_the_folder_later_is_known(folder):
    """As the pipeline's owner does after adding or retiring items: at no moment is there one that is refused."""
    catalogue = Catalogue.load(folder)
    catalogue.retire([catalogue.item_ids[0]])
    catalogue.save(folder)
    _, processor = load(folder)
    assert not processor.catalogue.available[0]
    flip(folder / "catalogue.parquet")
    with pytest.raises(ValueError, match=r"catalogue.parquet"):
        Catalogue.load(folder)


def test_the_codec_alone(folder):
    ImageCodec.from_pretrained(folder / "image_codec")
    flip(folder / CODEC)
    with pytest.raises(ValueError, match="diffusion_pytorch_model.safetensors"):
        ImageCodec.from_pretrained(folder / "image_codec")
    ImageCodec.from_pretrained(folder / "image_codec", verify=False)


@pytest.mark.parametrize("seed", range(60))
def test_errors_of_damaged_text_files_name_the_folder(folder, seed, capfd):
    """Random damage, also to what has no hash or is loaded unverified: it loads, or is a ValueError or OSError."""
    rng = np.random.default_rng(seed)
    names = ["config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json",
             "image_codec/config.json", WEIGHTS, CODEC, "catalogue.parquet", "tokenizer.json"]  # fmt: skip
    name = names[seed % len(names)]
    content = bytearray((folder / name).read_bytes())
    match seed // len(names) % 3:
        case 0:
            content[int(rng.integers(min(len(content), 4_000)))] ^= 1 << int(rng.integers(8))
        case 1:
            content = content[: int(rng.integers(len(content)))]
        case _:
            begin = int(rng.integers(len(content)))
            content[begin : begin + 20] = rng.bytes(20)
    (folder / name).write_bytes(content)
    for verify in (True, False):
        try:
            load(folder, verify=verify)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error) or name.split("/")[-1] in str(error), repr(error)
