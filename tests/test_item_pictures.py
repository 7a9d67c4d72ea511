"""Pictures of a catalogue: where they are, what is seen of them, and what of them is saved."""

import io
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image
from shop import picture
from test_catalogue import png, write

from processing_unimp.catalogue import Catalogue


def test_missing_and_broken_pictures_are_warned_of_once(tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff oh no")
    items = [{"item_id": "gone", "image": "gone.jpg"}, {"item_id": "broken", "image": "broken.jpg"}]
    catalogue = Catalogue.from_items(items, image_root=tmp_path)
    with caplog.at_level(logging.WARNING):
        assert catalogue.picture("gone") is None and catalogue.picture("gone") is None
        assert catalogue.has_picture("broken")  # nobody has looked into it yet
        assert catalogue.picture("broken") is None and not catalogue.has_picture("broken")
    assert len(caplog.records) == 2 and "'gone'" in caplog.text and "'broken'" in caplog.text
    assert set(catalogue.unreadable_pictures) == {"gone", "broken"}
    assert "gone.jpg" in catalogue.unreadable_pictures["gone"]

    many = Catalogue.from_items([{"item_id": str(n), "image": f"{n}.jpg"} for n in range(50)], image_root=tmp_path)
    caplog.clear()
    assert not many.has_picture("3")
    assert len(many.unreadable_pictures) == 50 and len(caplog.records) == 5
    assert "only recorded" in caplog.records[-1].message

    remote = Catalogue.from_items([{"item_id": "a", "image": "https://example.org/a.jpg"}])
    assert not remote.has_picture("a") and "https://example.org/a.jpg" in remote.unreadable_pictures["a"]


def test_every_form_of_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    forms = [
        png(),
        "a.png",
        tmp_path / "a.png",
        {"bytes": png(), "path": None},
        Image.new("CMYK", (16, 16)),
        {"path": "a.png"},
    ]
    catalogue = Catalogue.from_items(
        [{"item_id": str(n), "image": form} for n, form in enumerate(forms)], image_root=tmp_path
    )
    assert all(catalogue.has_picture(item_id) for item_id in catalogue.item_ids)
    assert all(catalogue.picture(item_id).size == (16, 16) for item_id in catalogue.item_ids)
    with pytest.raises(ValueError, match="image of item '1' came as int"):
        Catalogue.from_items([{"item_id": "1", "image": 5}])
    with pytest.raises(ValueError, match="column 'image' holds .*Expected one picture"):
        Catalogue.from_dataset(Dataset.from_dict({"item_id": ["1"], "image": [3]}))


def test_saved_pictures_no_longer_need_their_files(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(png())
    items = [{"item_id": "a", "image": "a.png"}, {"item_id": "b", "image": "b.png"}]
    catalogue = Catalogue.from_items(items, image_root=tmp_path)
    catalogue.save(tmp_path / "saved")
    assert "'b'" in caplog.text and "b" in catalogue.unreadable_pictures
    (tmp_path / "a.png").unlink()
    loaded = Catalogue.load(tmp_path / "saved")
    assert loaded.picture("a").size == (16, 16) and not loaded.has_picture("b")


def test_digests_are_of_the_pictures_alone(tmp_path):
    for name, colour in {"a.png": "red", "b.png": "blue", "broken.png": None}.items():
        (tmp_path / name).write_bytes(b"no picture" if colour is None else picture(colour))
    images = {"a": "a.png", "b": "b.png", "none": None, "gone": "gone.png", "again": picture("red"), "x": "broken.png"}
    catalogue = Catalogue.from_items([{"item_id": i, "image": image} for i, image in images.items()], tmp_path)
    a, b, none, gone, again, broken = catalogue.picture_digests().tolist()
    assert a == again and len({a, b, broken, 0}) == 4 and none == gone == 0
    catalogue.save(tmp_path / "saved")  # where a broken one is none
    assert Catalogue.load(tmp_path / "saved").picture_digests().tolist() == [a, b, 0, 0, a, 0]
    catalogue.update([{"item_id": "b", "image": picture("red")}, {"item_id": "again", "image": None}])
    (tmp_path / "a.png").write_bytes(picture("blue"))
    catalogue.add([{"item_id": "new", "image": "a.png"}])
    assert catalogue.picture_digests().tolist() == [b, a, 0, 0, 0, broken, b]


def test_nothing_outside_the_folder_is_embedded(tmp_path):
    """What `save` writes is published: neither a secret nor what is no picture gets into it."""
    (tmp_path / "secret.png").write_bytes(png("green"))
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "a.png").write_bytes(png())
    (shop / "text.png").write_text("root:x:0:0")
    (shop / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["a.png", "text.png", "link.png", "../secret.png", str(tmp_path / "secret.png"), "/etc/passwd"]
    write(shop / "items.jsonl", [{"item_id": str(n), "image": path} for n, path in enumerate(paths)])
    catalogue = Catalogue.load(shop)
    assert [catalogue.has_picture(item_id) for item_id in catalogue.item_ids] == [True, True, *[False] * 4]
    catalogue.save(tmp_path / "saved")
    saved = Catalogue.load(tmp_path / "saved")
    assert [saved.has_picture(item_id) for item_id in saved.item_ids] == [True, *[False] * 5]
    for secret in (b"root:", png("green")):
        assert secret not in (tmp_path / "saved" / "catalogue.parquet").read_bytes()
    assert "leads out of" in catalogue.unreadable_pictures["5"]
    # Unless it is asked for.
    assert Catalogue.load(shop, image_root=tmp_path).picture("3") is None, "relative paths start there"
    assert Catalogue.load(shop, image_root=tmp_path).picture("4").getpixel((0, 0)) == (0, 128, 0)


def test_a_picture_that_replaced_a_missing_file_stays(tmp_path):
    """Others are looked for in the table when the first one is asked for: its path there counts no more."""
    rows = [{"item_id": "a", "image": "gone.png"}, {"item_id": "b", "image": "gone.png"}]
    catalogue = Catalogue.from_items(rows, image_root=tmp_path)
    catalogue.update([{"item_id": "a", "image": png()}])
    assert not catalogue.has_picture("b")
    assert catalogue.has_picture("a") and catalogue.picture("a") is not None
    assert list(catalogue.unreadable_pictures) == ["b"]


def test_what_is_no_picture_is_not_saved_and_no_folder_of_anybody_is_told(tmp_path):
    rows = {
        "script": {"bytes": b"#!/bin/sh", "path": "/home/anna/private/run.sh"},
        "picture": {"bytes": png(), "path": "/home/anna/private/a.png"},
        "windows": {"bytes": png(), "path": "C:\\anna\\b.png"},
        "nothing": None,
    }
    image = pa.array(rows.values(), pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"item_id": list(rows), "image": image}), tmp_path / "items.parquet")
    catalogue = Catalogue.load(tmp_path)
    for _ in range(2):
        catalogue.save(tmp_path / "saved")
        saved = pq.read_table(tmp_path / "saved" / "catalogue.parquet")["image"].to_pylist()
        assert [each and each["path"] for each in saved] == [None, "a.png", "b.png", None]
        assert [each and each["bytes"] for each in saved] == [None, png(), png(), None]
        assert list(catalogue.unreadable_pictures) == ["script"]
    catalogue.update([{"item_id": "picture", "image": b"#!/bin/sh"}])
    catalogue.save(tmp_path / "saved")
    assert Catalogue.load(tmp_path / "saved").picture("picture") is None


@pytest.mark.parametrize("kind", ["turned", "16 bit", "float", "premultiplied"])
def test_a_pil_picture_is_seen_as_its_file(kind, tmp_path):
    path = tmp_path / "a.tiff"
    if kind == "turned":
        exif, path = Image.Exif(), tmp_path / "a.png"
        exif[0x0112] = 6
        Image.linear_gradient("L").resize((40, 20)).save(path, exif=exif)
    elif kind == "premultiplied":
        path = tmp_path / "a.png"
        Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(path)
    else:
        values = np.linspace(0, 1, 64).reshape(8, 8)
        Image.fromarray((values * 65535).astype(np.uint16) if kind == "16 bit" else values.astype(np.float32)).save(
            path
        )
    image = Image.open(path)
    if kind == "premultiplied":
        image = image.convert("RGBa")
    found = Catalogue.from_items(
        [{"item_id": "a", "image": path}, {"item_id": "b", "image": image}], image_root=tmp_path
    )
    np.testing.assert_allclose(np.asarray(found.picture("a"), int), np.asarray(found.picture("b"), int), atol=1)


def test_a_pil_picture_that_cannot_be_decoded_names_its_item():
    image = Image.open(io.BytesIO(png(size=64)[:-30]))
    with pytest.raises(ValueError, match="the image of item 'b': cannot read the picture given as a RGB picture"):
        Catalogue.from_items([{"item_id": "a"}, {"item_id": "b", "image": image}])


def test_a_picture_that_was_broken_is_read_again_once_it_is_exchanged():
    catalogue = Catalogue.from_items([{"item_id": "a", "image": b"no picture"}])
    catalogue.set_picture_codes(np.array([[1, 2]]))
    assert catalogue.picture("a") is None and not catalogue.has_picture("a")
    catalogue.update([{"item_id": "a", "image": png()}])
    assert catalogue.has_picture("a") and catalogue.picture("a") is not None and not catalogue.unreadable_pictures
    assert not catalogue.has_picture_codes("a"), "they were those of the old picture"
