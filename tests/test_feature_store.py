import json
import pickle
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPImageProcessor

from modeling_unimp.backbones import load_image_processor, load_vision_tower, vision_features
from modeling_unimp.training import feature_store
from modeling_unimp.training.feature_store import FeatureStore, image_processor_fingerprint, tower_fingerprint

# Item 2 and the last one have no picture.
COLOURS = ["red", "green", None, "blue", "white", "black", None]
WITH_PICTURE = [0, 1, 3, 4, 5]
SHOP = np.array([0 if colour is None else 100 + number for number, colour in enumerate(COLOURS)], dtype=np.uint64)
RECORD_BYTES = 24


def picture_of(number):
    return None if COLOURS[number] is None else Image.new("RGB", (40 + number, 60), COLOURS[number])


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return load_vision_tower("tiny")[0].requires_grad_(False)


@pytest.fixture(scope="module")
def image_processor():
    return load_image_processor("tiny")


@pytest.fixture
def build(tower, image_processor, tmp_path):
    def call(picture_of=picture_of, **options):
        options = {
            "digests": SHOP,
            "folder": tmp_path / "store",
            "batch_size": 2,
        } | options
        return FeatureStore.build(tower, image_processor, picture_of, **options)

    return call


def on_the_fly(tower, image_processor, numbers):
    pixels = image_processor(images=[picture_of(number) for number in numbers], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return vision_features(tower, pixels)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-3)], ids=str
)
def test_features_equal_those_on_the_fly(build, tower, image_processor, dtype, tolerance):
    store = build(dtype=dtype)
    assert (store.num_items, store.num_pictures, store.num_patches, store.feature_size) == (7, 5, 17, 64)
    expected = on_the_fly(tower, image_processor, WITH_PICTURE)
    features = store.features(WITH_PICTURE)
    assert features.dtype == torch.float32 and features.shape == (5, 17, 64)
    torch.testing.assert_close(features, expected, rtol=tolerance, atol=tolerance)
    # Any order, any number of times.
    torch.testing.assert_close(store.features([4, 0, 4]), features[[3, 0, 3]], rtol=0, atol=0)
    assert store.features([]).shape == (0, 17, 64)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_changes_nothing(build, tower, image_processor, batch_size):
    features = build(batch_size=batch_size).features(WITH_PICTURE)
    torch.testing.assert_close(features, on_the_fly(tower, image_processor, WITH_PICTURE), rtol=2e-3, atol=2e-3)


def test_items_without_a_picture(build):
    store = build()
    assert [store.has(number) for number in range(-1, 9)] == [False, *(c is not None for c in COLOURS), False, False]
    with pytest.raises(ValueError, match="1 of 2 items have no vision features, such as number 2"):
        store.features([1, 2])
    pooled = store.pooled()
    assert pooled.shape == (7, 64) and pooled.dtype == torch.float32
    assert not pooled[[2, 6]].any()
    torch.testing.assert_close(pooled[WITH_PICTURE], store.features(WITH_PICTURE).mean(dim=1))


def test_a_catalogue_without_any_picture(build):
    for digests in (np.zeros(7), SHOP):  # none, or none that can be read
        store = build(picture_of=lambda number: None, digests=digests)
        assert store.num_pictures == 0 and not store.has(0)
        assert store.pooled().shape == (7, 64) and not store.pooled().any()


def test_building_twice_computes_once(build):
    store = build()

    def never(number):
        raise AssertionError("looked at a picture again")

    again = build(picture_of=never)
    torch.testing.assert_close(again.features([3]), store.features([3]), rtol=0, atol=0)


def test_the_tower_is_used_in_eval_mode_and_given_back_as_it_was(build, tower):
    tower.train()
    build()
    assert tower.training
    tower.eval()
    build(rebuild=True)
    assert not tower.training


def test_open_checks_what_the_features_are_of(build, tower, image_processor, tmp_path):
    build()
    folder = tmp_path / "store"
    FeatureStore.open(folder, SHOP, tower, image_processor)
    with pytest.raises(
        ValueError, match="lacks the vision features of 1 of 6 pictures, such as that of item number 2"
    ):
        FeatureStore.open(folder, np.where(np.arange(7) == 2, 7, SHOP))
    torch.manual_seed(1)
    other = load_vision_tower("tiny")[0]
    with pytest.raises(ValueError, match="not of this tower"):
        FeatureStore.open(folder, SHOP, other)
    with pytest.raises(ValueError, match="not of this image_processor"):
        FeatureStore.open(folder, SHOP, tower, CLIPImageProcessor())
    with pytest.raises(ValueError, match="not of this tower.*rebuild=True"):
        FeatureStore.build(other, image_processor, picture_of, SHOP, folder)
    again = FeatureStore.build(other, image_processor, picture_of, SHOP, folder, rebuild=True)
    assert again.metadata["tower"] == tower_fingerprint(other)
    with pytest.raises(ValueError, match="holds no store"):
        FeatureStore.open(tmp_path / "nowhere", SHOP)


def test_only_pictures_that_came_or_changed_are_looked_at(build, tower, image_processor, tmp_path):
    before = build()
    kept = before.features(WITH_PICTURE)
    # 0 and 1 change places, 2 gets a picture, 3 loses its own, 4 another, 5 is as it was, 6 gets that of 5; 7 is new.
    digests = np.array([101, 100, 7, 0, 8, 105, 105, 9], dtype=np.uint64)
    colours = {2: "red", 4: "grey", 7: "white"}
    looked_at = []

    def new_ones(number):
        looked_at.append(number)
        return Image.new("RGB", (32, 32), colours[number])

    store = build(picture_of=new_ones, digests=digests)
    assert looked_at == [2, 4, 7]
    assert [store.has(number) for number in range(8)] == [True, True, True, False, True, True, True, True]
    torch.testing.assert_close(store.features([1, 0, 5, 6]), kept[[0, 1, 4, 4]], rtol=0, atol=0)
    pixels = image_processor(images=[new_ones(number) for number in (2, 4, 7)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = vision_features(tower, pixels)
    torch.testing.assert_close(store.features([2, 4, 7]), expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(store.pooled()[[2, 4, 7]], expected.mean(dim=1), rtol=2e-3, atol=2e-3)
    # Who has opened it before still reads what was there, and the catalogue of before finds all of it.
    torch.testing.assert_close(before.features(WITH_PICTURE), kept, rtol=0, atol=0)
    torch.testing.assert_close(
        FeatureStore.open(tmp_path / "store", SHOP).features(WITH_PICTURE), kept, rtol=0, atol=0
    )


def test_a_picture_of_several_items_is_looked_at_once(build):
    looked_at = []

    def counts(number):
        looked_at.append(number)
        return Image.new("RGB", (32, 32), "red")

    store = build(picture_of=counts, digests=np.array([5, 0, 6, 5, 6, 5]))
    assert looked_at == [0, 2] and store.num_pictures == 5
    torch.testing.assert_close(store.features([3]), store.features([0]), rtol=0, atol=0)


def test_a_picture_that_cannot_be_read_is_tried_once(build):
    def broken(number):
        return None if number == 3 else picture_of(number)

    assert not build(picture_of=broken).has(3)

    def never(number):
        raise AssertionError("looked at a picture again")

    store = build(picture_of=never)
    assert not store.has(3) and store.num_pictures == 4
    mended = build(digests=np.where(np.arange(7) == 3, 7, SHOP))
    assert mended.has(3)


def test_fingerprints_survive_saving_and_see_every_change(tower, image_processor, tmp_path):
    tower.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert tower_fingerprint(again) == tower_fingerprint(tower)
    assert image_processor_fingerprint(load_image_processor(str(tmp_path))) == image_processor_fingerprint(
        image_processor
    )
    before = tower_fingerprint(again)
    again.config.hidden_act = "quick_gelu"
    assert tower_fingerprint(again) != before
    with torch.no_grad():
        tower_copy = AutoModel.from_pretrained(tmp_path)
        tower_copy.embeddings.class_embedding[3] += 1e-6
    assert tower_fingerprint(tower_copy) != tower_fingerprint(tower)
    assert tower_fingerprint(tower_copy.to(torch.bfloat16)) != tower_fingerprint(tower_copy.float())


@pytest.mark.parametrize("stop_at", WITH_PICTURE)
def test_a_stopped_build_goes_on_where_it_was(build, tmp_path, stop_at):
    build(folder=tmp_path / "straight")
    looked_at = []

    def stops(number):
        if number == stop_at:
            raise KeyboardInterrupt
        return picture_of(number)

    def counts(number):
        looked_at.append(number)
        return picture_of(number)

    with pytest.raises(KeyboardInterrupt):
        build(picture_of=stops)
    with pytest.raises(ValueError, match="it was not finished"):
        FeatureStore.open(tmp_path / "store", SHOP)
    store = build(picture_of=counts)
    # Batches of two pictures: items 0 and 1, 3 and 4, 5.
    assert looked_at == WITH_PICTURE[{0: 0, 1: 0, 3: 2, 4: 2, 5: 4}[stop_at] :]
    for name in (feature_store.FEATURES, feature_store.PICTURES, feature_store.METADATA):
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert store.has(5)


def test_features_written_but_not_noted_are_written_again(build, tmp_path):
    straight = build(folder=tmp_path / "straight")

    def stops(number):
        if number == 5:
            raise KeyboardInterrupt
        return picture_of(number)

    with pytest.raises(KeyboardInterrupt):
        build(picture_of=stops)
    with (tmp_path / "store" / feature_store.FEATURES).open("ab") as file:
        file.write(b"half a row")
    with (tmp_path / "store" / feature_store.PICTURES).open("ab") as file:
        file.write(b"half of one")
    store = build()
    assert (tmp_path / "store" / feature_store.PICTURES).stat().st_size == 5 * RECORD_BYTES
    torch.testing.assert_close(store.features(WITH_PICTURE), straight.features(WITH_PICTURE), rtol=0, atol=0)


def test_a_rebuild_that_is_stopped_leaves_no_finished_store(build, tmp_path):
    build()

    def stops(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(picture_of=stops, rebuild=True)
    with pytest.raises(ValueError, match="not finished"):
        FeatureStore.open(tmp_path / "store", SHOP)


def test_a_worker_maps_the_file_instead_of_copying_it(build):
    store = build()
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    torch.testing.assert_close(pickle.loads(pickled).features([1]), store.features([1]), rtol=0, atol=0)


def test_a_disk_without_room_is_told_before_computing(build, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 10, 10_000))

    def never(number):
        raise AssertionError("computed before looking at the disk")

    with pytest.raises(ValueError, match="need up to 0.00 GB.*Make room"):
        build(picture_of=never)
    # One picture of 17 x 64 float16 is 2176 bytes.
    assert build(digests=SHOP[:1]).num_pictures == 1


def test_a_folder_that_cannot_be_written_is_told_before_computing(build, tmp_path):
    (tmp_path / "file").write_text("in the way")

    def never(number):
        raise AssertionError("computed before looking at the folder")

    with pytest.raises(ValueError, match="cannot be written.*another folder"):
        build(picture_of=never, folder=tmp_path / "file" / "store")


def test_a_disk_that_fills_up_says_how_to_go_on(build, monkeypatch):
    class Full:
        """Stands for a batch that the disk has no room for."""

        def tobytes(self):
            raise OSError(28, "No space left on device")

    to_numpy = feature_store._to_numpy
    calls = []

    def second_is_full(features, dtype):
        calls.append(1)
        return Full() if len(calls) == 2 else to_numpy(features, dtype)

    monkeypatch.setattr(feature_store, "_to_numpy", second_is_full)
    with pytest.raises(ValueError, match="No space left on device. Make room and run the same again"):
        build()
    assert build().num_pictures == 5


def test_an_error_of_the_pictures_is_not_taken_for_one_of_the_disk(build):
    def broken(number):
        raise FileNotFoundError("photo.jpg")

    with pytest.raises(FileNotFoundError, match="photo.jpg"):
        build(picture_of=broken)


def test_features_too_large_for_float16_are_refused(build, tower, monkeypatch):
    monkeypatch.setattr(feature_store, "vision_features", lambda tower, pixels: torch.full((len(pixels), 2, 3), 1e5))
    with pytest.raises(ValueError, match="up to 100000 do not fit into float16"):
        build()
    assert build(dtype=torch.float32, rebuild=True).features([0]).max() == 1e5


def test_a_folder_copied_in_part_is_refused(build, tmp_path):
    build()
    path = tmp_path / "store" / feature_store.FEATURES
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="copied in part"):
        FeatureStore.open(tmp_path / "store", SHOP)


def test_wrong_arguments(build):
    with pytest.raises(ValueError, match="expected torch.float16"):
        build(dtype=torch.int8)
    with pytest.raises(ValueError, match="0 digests"):
        build(digests=SHOP[:0])


def test_metadata_says_what_made_it(build, tmp_path, tower):
    build()
    metadata = json.loads((tmp_path / "store" / feature_store.METADATA).read_text())
    assert metadata["tower"] == tower_fingerprint(tower) and metadata["dtype"] == "float16"
    records = np.fromfile(tmp_path / "store" / feature_store.PICTURES, dtype=feature_store.RECORD)
    assert records["picture"].tolist() == [100, 101, 103, 104, 105] and records["row"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.real_data
def test_a_feature_map_of_the_real_tower(data_dir, tmp_path):
    folder = str(data_dir / "vision" / "mobilenet-v1-block12")
    tower, feature_size = load_vision_tower(folder)
    images = sorted((data_dir / "h-and-m" / "images").glob("*/*.jpg"))[:3]
    processor = load_image_processor(folder)

    def photograph(number):
        return Image.open(images[number]).convert("RGB")

    store = FeatureStore.build(tower, processor, photograph, np.arange(1, 4), tmp_path)
    assert (store.num_patches, store.feature_size) == (49, feature_size)
    pixels = processor(images=[photograph(1)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(store.features([1]), vision_features(tower, pixels), rtol=2e-3, atol=2e-3)


# ------------------------------------------------------------------------------------------------------------- damage


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_of_any_row_is_found_when_it_is_read(build, tmp_path):
    store = build()
    size = 17 * 64 * 2
    for row, damaged_item in enumerate(WITH_PICTURE):
        damaged = tmp_path / f"damaged-{row}"
        shutil.copytree(tmp_path / "store", damaged)
        flip(damaged / "features.bin", row * size + 77 * row)
        opened = FeatureStore.open(damaged, SHOP)
        for number in range(opened.num_items):
            if number == damaged_item:
                for _ in range(2):
                    with pytest.raises(ValueError, match=rf"row {row} of .*features.bin is not what was written"):
                        opened.features([number])
            elif opened.has(number):
                torch.testing.assert_close(opened.features([number]), store.features([number]), rtol=0, atol=0)
        with pytest.raises(ValueError, match="not what was written"):
            FeatureStore.open(damaged, SHOP).pooled()
        assert FeatureStore.open(damaged, SHOP, verify=False).pooled().shape == (store.num_items, 64)


def test_a_block_of_zeros_and_a_worker_process(build, tmp_path):
    build()
    with (tmp_path / "store" / "features.bin").open("r+b") as file:
        file.seek(2048)
        file.write(bytes(512))
    for store in (FeatureStore.open(tmp_path / "store", SHOP), pickle.loads(pickle.dumps(build()))):
        with pytest.raises(ValueError, match="not what was written"):
            store.features(WITH_PICTURE)
    trusting = FeatureStore.open(tmp_path / "store", SHOP, verify=False)
    for store in (trusting, pickle.loads(pickle.dumps(trusting))):
        assert store.features(WITH_PICTURE).shape == (5, 17, 64)


def assert_whole_or_named(folder, whole):
    """A store of which a bit was flipped has the features that it had, or says that it is damaged."""
    try:
        pooled = FeatureStore.open(folder, SHOP).pooled()
    except ValueError as error:
        assert "store" in str(error)
    else:
        torch.testing.assert_close(pooled, whole, rtol=0, atol=0)


def test_a_flipped_bit_of_any_note_of_a_picture_is_found(build, tmp_path):
    """Pictures that are a bit apart would have each other's features; or one that cannot be read had some."""
    digests = np.array([100, 101, 102, 110], dtype=np.uint64)
    build(digests=digests, picture_of=lambda number: picture_of(0) if number < 3 else None)
    file = tmp_path / "store" / feature_store.PICTURES
    content = file.read_bytes()
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"record {place // 8 // RECORD_BYTES} of .*pictures.bin"):
            FeatureStore.open(tmp_path / "store", digests)
    file.write_bytes(content)
    assert FeatureStore.open(tmp_path / "store", digests).num_pictures == 3


def test_a_row_of_two_pictures_is_refused_also_unverified(build, tmp_path):
    build()
    file = tmp_path / "store" / feature_store.PICTURES
    file.write_bytes(file.read_bytes() + file.read_bytes()[:RECORD_BYTES])
    for verify in (True, False):
        with pytest.raises(ValueError, match="row 0 is of several pictures"):
            FeatureStore.open(tmp_path / "store", SHOP, verify=verify)


def test_rows_given_to_other_pictures_are_found(build, tmp_path):
    build()
    file = tmp_path / "store" / feature_store.PICTURES
    records = np.fromfile(file, dtype=feature_store.RECORD)
    records["row"][[0, 1]] = records["row"][[1, 0]]
    records.tofile(file)
    with pytest.raises(ValueError, match=r"record 0 of .*pictures.bin"):
        FeatureStore.open(tmp_path / "store", SHOP)
    records["of_record"] = feature_store._checksums_of(records)
    records.tofile(file)
    with pytest.raises(ValueError, match=r"row 1 of .*features.bin is not what was written"):
        FeatureStore.open(tmp_path / "store", SHOP).features([0])
    file.unlink()
    with pytest.raises(ValueError, match="pictures.bin is missing"):
        FeatureStore.open(tmp_path / "store", SHOP)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_metadata_is_named_and_never_read_as_another_store(build, tmp_path, seed):
    whole = build().pooled()
    file = tmp_path / "store" / feature_store.METADATA
    rng = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    file.write_bytes(content)
    assert_whole_or_named(tmp_path / "store", whole)


def test_a_store_of_an_earlier_version_is_built_again(build, tmp_path):
    features = build().features(WITH_PICTURE)
    folder = tmp_path / "store"
    earlier = ["metadata.json", "checksums.bin", "rows.bin"]
    for new, name in zip(sorted(folder.iterdir()), ["features.bin", *earlier[:2]], strict=True):
        new.rename(folder / name)
    (folder / "rows.bin").write_bytes(bytes(7 * 8))
    with pytest.raises(ValueError, match="holds no store"):
        FeatureStore.open(folder, SHOP)
    torch.testing.assert_close(build().features(WITH_PICTURE), features, rtol=0, atol=0)
    assert not {*earlier} & {file.name for file in folder.iterdir()}
