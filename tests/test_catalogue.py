import gzip
import io
import json
import os
import pickle
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from processing_unimp.catalogue import Catalogue
from processing_unimp.publishing import push_items


def png(colour: str = "red", size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


ITEMS = [
    {
        "item_id": "007",
        "title": "Red shirt",
        "price": 9.5,
        "tags": ["a", "b"],
        "domain": "clothes",
        "image": png("red"),
    },
    {"item_id": "8", "title": None, "price": float("nan"), "tags": [], "domain": "books"},
    {"item_id": 'x, "y"\n', "title": "", "price": 3, "tags": None, "domain": None, "image": png("blue")},
]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_items_in_items_out():
    catalogue = Catalogue.from_items(ITEMS)
    assert len(catalogue) == 3 and catalogue.item_ids == ["007", "8", 'x, "y"\n']
    assert catalogue.attributes == ["title", "price", "tags"]
    assert "007" in catalogue and "7" not in catalogue and 7 not in catalogue
    assert [catalogue.number(item_id) for item_id in catalogue.item_ids] == [0, 1, 2]
    assert catalogue.item_id(np.int64(2)) == 'x, "y"\n'
    assert catalogue.item("007") == {
        "item_id": "007",
        "title": "Red shirt",
        "price": 9.5,
        "tags": ["a", "b"],
        "domain": "clothes",
    }
    assert catalogue.item("8") == {"item_id": "8", "title": None, "price": None, "tags": [], "domain": "books"}
    assert catalogue.column("price") == [9.5, None, 3.0]
    assert [catalogue.domain(item_id) for item_id in catalogue.item_ids] == ["clothes", "books", None]
    assert catalogue.removed == {}


def test_attribute_values_of_every_kind():
    rows = [
        {"item_id": 1, "mixed": "text", "whole": 3, "number": 2, "yes": True, "lists": "one", "day": date(2020, 1, 2)},
        {
            "item_id": 2,
            "mixed": 5,
            "whole": np.int64(4),
            "number": np.float32(0.5),
            "yes": None,
            "lists": ("a", 2, None),
        },
        {
            "item_id": np.int64(3),
            "mixed": None,
            "whole": None,
            "number": None,
            "yes": False,
            "lists": np.array([1, 2]),
        },
        {"item_id": 4.0, "mixed": float("nan"), "big": 2**70, "empty": None, "long": "w" * 50_000},
    ]
    catalogue = Catalogue.from_items(rows)
    assert catalogue.item_ids == ["1", "2", "3", "4"]
    assert catalogue.column("mixed") == ["text", "5", None, None]
    assert catalogue.column("whole") == [3, 4, None, None]
    assert catalogue.column("number") == [2.0, 0.5, None, None]
    assert catalogue.column("yes") == [True, None, False, None]
    assert catalogue.column("lists") == [["one"], ["a", "2"], ["1", "2"], None]
    assert catalogue.column("day")[0] == "2020-01-02"
    assert catalogue.column("big")[3] == 2.0**70
    assert catalogue.column("empty") == [None] * 4
    assert len(catalogue.item("4")["long"]) == 50_000
    with pytest.raises(ValueError, match="attribute 'size' of item '1' is dict.*split it"):
        Catalogue.from_items([{"item_id": "1", "size": {"w": 1}}])
    with pytest.raises(ValueError, match="item_id.*is bool"):
        Catalogue.from_items([{"item_id": True}])


@pytest.mark.parametrize(
    "name", ["items.parquet", "items.jsonl", "items.json", "items.csv", "items.jsonl.gz", "items.csv.gz"]
)
def test_every_file_kind_keeps_leading_zeros(tmp_path, name):
    path = tmp_path / name
    rows = {
        "item_id": ["0012", "0013", "NA"],
        "title": ['a, "b"', "None", "c\nd"],
        "price": [1.5, None, 2.0],
        "year": [1, 2, 3],
    }
    rows["code"] = ["01", "02", "10"]
    dataset = Dataset.from_dict(rows)
    plain = tmp_path / name.removesuffix(".gz") if name.endswith(".gz") else path
    if ".csv" in name:
        dataset.to_csv(str(plain))
    elif ".json" in name:
        dataset.to_json(str(plain), lines=".jsonl" in name)
    else:
        dataset.to_parquet(str(plain))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    for catalogue in (Catalogue.load(path), Catalogue.load(tmp_path)):
        assert catalogue.item_ids == ["0012", "0013", "NA"]
        assert catalogue.column("title") == ['a, "b"', "None", "c\nd"]
        assert catalogue.column("price") == [1.5, None, 2.0]
        assert catalogue.column("year") == [1, 2, 3]
        assert catalogue.column("code") == ["01", "02", "10"]


def test_a_rewritten_file_is_read_anew(tmp_path):
    path = write(tmp_path / "items.jsonl", [{"item_id": "1", "title": "old"}])
    assert Catalogue.load(path).column("title") == ["old"]
    write(path, [{"item_id": "1", "title": "new"}])
    assert Catalogue.load(path).column("title") == ["new"]


def test_whole_number_ids_and_relative_picture_paths(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png("blue"))
    write(
        tmp_path / "items.jsonl",
        [{"item_id": 1, "image": "images/1.png"}, {"item_id": 2, "image": None}, {"item_id": 3, "image": ""}],
    )
    catalogue = Catalogue.load(tmp_path)
    assert catalogue.item_ids == ["1", "2", "3"] and catalogue.attributes == []
    assert [catalogue.has_picture(item_id) for item_id in "123"] == [True, False, False]
    assert catalogue.picture("1").getpixel((0, 0)) == (0, 0, 255)
    assert catalogue.picture("2") is None and catalogue.picture("3") is None
    assert catalogue.unreadable_pictures == {}


def test_wrong_tables_say_why():
    with pytest.raises(ValueError, match="no column 'item_id'; it has asin, title"):
        Catalogue.from_items([{"asin": "1", "title": "x"}])
    with pytest.raises(ValueError, match="no columns"):
        Catalogue.from_items([])
    with pytest.raises(ValueError, match="empty"):
        Catalogue.from_items([{"item_id": None}])
    with pytest.raises(ValueError, match=r"6 item ids occur more than once: '0', '1', '2', '3', '4', \.\.\."):
        Catalogue.from_items([{"item_id": str(n % 6)} for n in range(18)])
    with pytest.raises(ValueError, match="column 'size' holds struct"):
        Catalogue.from_dataset(Dataset.from_dict({"item_id": ["1"], "size": [{"w": 1}]}))
    with pytest.raises(ValueError, match="'item_id' holds list"):
        Catalogue.from_dataset(Dataset.from_dict({"item_id": [["1"]]}))
    with pytest.raises(ValueError, match="fractions"):
        Catalogue.from_dataset(Dataset.from_dict({"item_id": [1.5]}))
    with pytest.raises(ValueError, match="came as DatasetDict"):
        Catalogue.from_dataset(DatasetDict())
    with pytest.raises(ValueError, match="'retired' holds"):
        Catalogue.from_items([{"item_id": "1", "retired": "perhaps"}])


def test_wrong_files_say_why(tmp_path):
    with pytest.raises(ValueError, match="no file or folder"):
        Catalogue.load(tmp_path / "gone")
    with pytest.raises(ValueError, match="holds no items table"):
        Catalogue.load(tmp_path)
    (tmp_path / "items.xlsx").write_text("x")
    with pytest.raises(ValueError, match="unknown kind"):
        Catalogue.load(tmp_path / "items.xlsx")
    (tmp_path / "items.jsonl").write_text('{"item_id": "1"\n oh')
    with pytest.raises(ValueError, match="cannot read the table .*items.jsonl.* as jsonl"):
        Catalogue.load(tmp_path)
    (tmp_path / "items.csv").write_text("item_id\n1\n")
    with pytest.raises(ValueError, match="holds items.jsonl and items.csv"):
        Catalogue.load(tmp_path)


def test_rows_without_id_are_counted():
    catalogue = Catalogue.from_items(
        [{"item_id": "a", "image": png()}, {"item_id": None}, {"item_id": ""}, {"item_id": "b"}]
    )
    assert catalogue.item_ids == ["a", "b"] and catalogue.removed == {"rows without item_id": 2}
    assert catalogue.has_picture("a") and not catalogue.has_picture("b")


def test_a_whole_number_is_the_id_that_is_written_so():
    catalogue = Catalogue.from_items([{"item_id": "5"}, {"item_id": "05"}])
    assert [catalogue.number(item_id) for item_id in (5, 5.0, np.int64(5), "05")] == [0, 0, 0, 1]
    for item_id in (6, True, 5.5, None, 10**5000, ["5"]):
        with pytest.raises(ValueError, match="is not among the 2 items"):
            catalogue.number(item_id)


def test_unknown_ids_name_close_ones():
    catalogue = Catalogue.from_items([{"item_id": f"{n:010d}"} for n in range(108775015, 108775035)])
    with pytest.raises(ValueError, match="'108775015' is not among the 20 items.*closest ids are '0108775015'"):
        catalogue.number("108775015")
    with pytest.raises(ValueError, match="108775015"):
        catalogue.number(108775015)
    with pytest.raises(ValueError, match="'zzz'"):
        catalogue.picture("zzz")
    with pytest.raises(ValueError, match="number 20 is outside.*0 to 19"):
        catalogue.item_id(20)
    with pytest.raises(ValueError, match="-1 is outside"):
        catalogue.item_id(-1)
    with pytest.raises(ValueError, match="no column 'size'"):
        catalogue.column("size")
    assert catalogue.column("domain") == [None] * 20 and catalogue.domain("0108775015") is None


def test_save_and_load_round_trip(tmp_path):
    catalogue = Catalogue.from_items(ITEMS)
    catalogue.retire(["8"])
    catalogue.save(tmp_path)
    assert os.listdir(tmp_path) == ["catalogue.parquet"]
    loaded = Catalogue.load(tmp_path)
    assert loaded.fingerprint == catalogue.fingerprint and loaded.attributes == catalogue.attributes
    assert [loaded.item(item_id) for item_id in loaded.item_ids] == [catalogue.item(i) for i in catalogue.item_ids]
    assert loaded.available.tolist() == [True, False, True]
    assert loaded.picture("007").getpixel((0, 0)) == (255, 0, 0) and loaded.picture("8") is None
    assert isinstance(Dataset.from_parquet(str(tmp_path / "catalogue.parquet")).features["image"], ImageFeature)

    loaded.save(tmp_path / "text", images=False)
    text = Catalogue.load(tmp_path / "text")
    assert text.item_ids == catalogue.item_ids and not text.has_picture("007")


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    catalogue = Catalogue.from_items(ITEMS)
    catalogue.save(tmp_path)
    before = (tmp_path / "catalogue.parquet").read_bytes()
    monkeypatch.setattr(
        "processing_unimp.catalogue.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        catalogue.save(tmp_path)
    assert os.listdir(tmp_path) == ["catalogue.parquet"]
    assert (tmp_path / "catalogue.parquet").read_bytes() == before


def test_what_a_killed_save_left_is_cleared(tmp_path):
    old, of_now = tmp_path / ".catalogue-killed.parquet", tmp_path / ".catalogue-at-work.parquet"
    for file in (old, of_now):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    Catalogue.from_items([{"item_id": "a"}]).save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"catalogue.parquet", of_now.name}


def test_add_appends_and_keeps_numbers():
    catalogue = Catalogue.from_items([{"item_id": "a", "title": "x", "price": 1.0}, {"item_id": "b", "title": "y"}])
    before = catalogue.fingerprint
    assert not catalogue.has_picture("a")
    assert catalogue.add([{"item_id": "c", "title": 5, "price": 2, "image": png()}, {"item_id": 4}]) == [2, 3]
    assert catalogue.item_ids == ["a", "b", "c", "4"] and catalogue.number("b") == 1
    assert catalogue.item("c") == {"item_id": "c", "title": "5", "price": 2.0}
    assert catalogue.item("4") == {"item_id": "4", "title": None, "price": None}
    assert catalogue.has_picture("c") and not catalogue.has_picture("a") and not catalogue.has_picture("4")
    assert catalogue.available.all() and len(catalogue.available) == 4
    assert catalogue.fingerprint != before
    assert catalogue.add([]) == []
    assert catalogue.fingerprint == Catalogue.from_items([{"item_id": i} for i in ["a", "b", "c", "4"]]).fingerprint


def test_bad_additions_change_nothing():
    catalogue = Catalogue.from_items([{"item_id": "a", "price": 1.0}])
    with pytest.raises(ValueError, match="bring 'colour'"):
        catalogue.add([{"item_id": "b", "colour": "red"}])
    with pytest.raises(ValueError, match="in the catalogue already: 'a'"):
        catalogue.add([{"item_id": "a"}])
    with pytest.raises(ValueError, match="more than once: 'b'"):
        catalogue.add([{"item_id": "b"}, {"item_id": "b"}])
    with pytest.raises(ValueError, match="1 of 2 new items have no item_id"):
        catalogue.add([{"item_id": "b"}, {"price": 2}])
    with pytest.raises(ValueError, match="attribute 'price' holds double.*same type"):
        catalogue.add([{"item_id": "b", "price": "cheap"}])
    assert len(catalogue) == 1 and "b" not in catalogue


def test_retired_items_stay_readable():
    catalogue = Catalogue.from_items([{"item_id": "a"}, {"item_id": "b", "retired": True}])
    assert catalogue.available.tolist() == [True, False]
    catalogue.available[:] = True  # a copy: nothing changes
    catalogue.retire("a")
    assert catalogue.available.tolist() == [False, False] and catalogue.item("a")["item_id"] == "a"
    with pytest.raises(ValueError, match="'c'"):
        catalogue.retire(["c"])


def test_fingerprint_depends_on_ids_and_order_alone():
    one = Catalogue.from_items([{"item_id": "a"}, {"item_id": "b"}])
    assert one.fingerprint == Catalogue.from_items([{"item_id": "a", "title": "x"}, {"item_id": "b"}]).fingerprint
    assert one.fingerprint != Catalogue.from_items([{"item_id": "b"}, {"item_id": "a"}]).fingerprint
    assert one.fingerprint != Catalogue.from_items([{"item_id": "ab"}]).fingerprint
    assert len(one.fingerprint) == 16


def test_datasets_with_indices_labels_and_decoded_pictures():
    features = Features(
        {"item_id": Value("string"), "kind": ClassLabel(names=["shoe", "hat"]), "image": ImageFeature()}
    )
    rows = {"item_id": ["a", "b", "c"], "kind": [0, 1, None], "image": [{"bytes": png(), "path": None}, None, None]}
    dataset = Dataset.from_dict(rows, features=features)
    catalogue = Catalogue.from_dataset(dataset.select([2, 1, 0]))
    assert catalogue.item_ids == ["c", "b", "a"] and catalogue.column("kind") == [None, "hat", "shoe"]
    assert [catalogue.has_picture(item_id) for item_id in "cba"] == [False, False, True]


@pytest.mark.parametrize("kind", ["list", "large list", "list of two"])
def test_labels_in_lists_and_none(kind, tmp_path):
    """-1 is how datasets writes that there is no label."""
    label = ClassLabel(names=["shoe", "hat"])
    inner = {"list": List(label), "large list": LargeList(label), "list of two": List(label, length=2)}[kind]
    rows = {"item_id": ["a", "b", "c"], "kind": [-1, 1, None], "kinds": [[1, 0], [-1, 1], None]}
    dataset = Dataset.from_dict(rows, Features({"item_id": Value("string"), "kind": label, "kinds": inner}))
    dataset.to_parquet(str(tmp_path / "items.parquet"))
    for catalogue in (Catalogue.from_dataset(dataset), Catalogue.load(tmp_path)):
        assert catalogue.column("kind") == [None, "hat", None]
        assert catalogue.column("kinds") == [["hat", "shoe"], ["hat"], None]
    table = dataset.data.table.set_column(1, "kind", pa.array([0, 7, 1], pa.int64()))
    pq.write_table(table.replace_schema_metadata(dataset.features.arrow_schema.metadata), tmp_path / "items.parquet")
    with pytest.raises(ValueError, match="column 'kind' holds label 7, and names of 2 labels only"):
        Catalogue.load(tmp_path)


def test_columns_that_nobody_has_named_are_no_attributes(tmp_path, caplog):
    """They were read before saving and gone after it."""
    rows = [{"Unnamed: 0": n, "": n, "item_id": str(n), "title": f"thing {n}"} for n in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with caplog.at_level("INFO"):
        found = [Catalogue.from_items(rows), Catalogue.load(tmp_path), Catalogue.from_dataset(Dataset.from_list(rows))]
    assert caplog.text.count("the columns Unnamed: 0, (without a name) are not used") == 3
    for catalogue in found:
        catalogue.add([rows[0] | {"item_id": "new"}])
        catalogue.update([rows[1] | {"title": "another"}])
        catalogue.save(tmp_path / "saved")
        for each in (catalogue, Catalogue.load(tmp_path / "saved")):
            assert each.attributes == ["title"]
            assert each.item("1") == {"item_id": "1", "title": "another"}
            assert each.item("new") == {"item_id": "new", "title": "thing 0"}


def test_a_column_called_nearly_as_one_of_ours_is_told(tmp_path, caplog):
    (tmp_path / "items.csv").write_text("item_id,Title, image,Retired\na,x,a.png,true\n")
    assert Catalogue.load(tmp_path).attributes == ["Title", " image", "Retired"]
    assert "column ' image' is read as an attribute. Call it 'image'" in caplog.text
    assert "column 'Retired' is read as an attribute. Call it 'retired'" in caplog.text
    assert "Title" not in caplog.text


def test_catalogue_survives_pickling():
    catalogue = pickle.loads(pickle.dumps(Catalogue.from_items(ITEMS)))
    assert catalogue.item("007")["title"] == "Red shirt" and catalogue.picture("007") is not None


def test_push_items_sends_rows_and_pictures(monkeypatch):
    sent = {}
    monkeypatch.setattr(
        Dataset, "push_to_hub", lambda self, repo_id, **kwargs: sent.update(rows=self[:], repo=repo_id, kwargs=kwargs)
    )
    push_items(Catalogue.from_items(ITEMS), "shop/items", private=True)
    assert sent["repo"] == "shop/items" and sent["kwargs"] == {"private": True, "config_name": "items"}
    assert sent["rows"]["item_id"][0] == "007" and sent["rows"]["image"][0].size == (16, 16)


@pytest.mark.real_data
def test_real_catalogues_load(data_dir, tmp_path):
    films = Catalogue.load(data_dir / "ml-100k-posters")
    assert len(films) == 1528 and films.attributes == ["title", "year", "genres", "director", "actors", "plot"]
    assert films.item("1")["title"] == "Toy Story" and films.item("1")["genres"][0] == "Adventure"
    assert sum(films.has_picture(item_id) for item_id in films.item_ids) == 1528
    films.save(tmp_path)
    saved = load_dataset("parquet", data_files=str(tmp_path / "catalogue.parquet"), split="train")
    assert saved[0]["image"].size == films.picture(films.item_id(0)).size

    beauty = Catalogue.load(data_dir / "amazon-beauty-2014" / "items.jsonl")
    assert len(beauty) == 12101 and beauty.removed == {} and not beauty.has_picture(beauty.item_id(0))
    assert all(isinstance(path, list) for path in beauty.column("attributes"))


def test_picture_codes_are_kept_with_the_catalogue(tmp_path):
    catalogue = Catalogue.from_items([{"item_id": "a"}, {"item_id": "b"}, {"item_id": "c"}])
    before = catalogue.fingerprint
    assert catalogue.picture_codes is None and not catalogue.has_picture_codes("a")
    catalogue.set_picture_codes(np.array([[3, 0], [-1, -1], [0, 7]]))
    assert [catalogue.has_picture_codes(item) for item in "abc"] == [True, False, True]
    catalogue.save(tmp_path, images=False)
    loaded = Catalogue.load(tmp_path)
    np.testing.assert_array_equal(loaded.picture_codes, [[3, 0], [-1, -1], [0, 7]])
    assert loaded.fingerprint == before and loaded.attributes == []
    loaded.add([{"item_id": "d"}])
    np.testing.assert_array_equal(loaded.picture_codes[3], [-1, -1])
    with pytest.raises(ValueError, match="'picture_codes'"):
        loaded.add([{"item_id": "e", "picture_codes": [1, 2]}])


def test_picture_codes_that_do_not_fit_are_refused():
    catalogue = Catalogue.from_items([{"item_id": "a"}, {"item_id": "b"}])
    for wrong in ([[1, 2]], [1, 2], [[], []]):
        with pytest.raises(ValueError, match=r"expected \(2, codes of a picture\)"):
            catalogue.set_picture_codes(np.array(wrong))
    with pytest.raises(ValueError, match="whole rows"):
        catalogue.set_picture_codes(np.array([[1, -1], [0, 0]]))
    for strange in (5, "123", "abc", ["99999999999"], ["a"], [-7]):
        with pytest.raises(ValueError, match="column 'picture_codes' holds .* Expected lists of whole numbers from 0"):
            Catalogue.from_items([{"item_id": "a", "picture_codes": strange}])
    with pytest.raises(ValueError, match="one number of them"):
        Catalogue.from_items([{"item_id": "a", "picture_codes": [1]}, {"item_id": "b", "picture_codes": [1, 2]}])


# ---------------------------------------------------------------------------------------------------- strangers' files


def test_every_door_reads_a_value_alike(tmp_path):
    import pandas as pd

    rows = [{"item_id": 12, "title": "NA", "price": 1.5, "day": date(2024, 5, 1)}, {"item_id": 13, "title": "x"}]
    frame = pd.DataFrame(rows)
    plain = [row | {"day": row["day"].isoformat() if "day" in row else None} for row in rows]
    frame.to_parquet(tmp_path / "items.parquet")
    frame.to_csv(tmp_path / "items.csv", index=False)
    write(tmp_path / "items.jsonl", plain)
    (tmp_path / "items.json").write_text(json.dumps(plain))
    doors = [Catalogue.load(tmp_path / f"items.{kind}") for kind in ("parquet", "csv", "jsonl", "json")]
    doors += [Catalogue.from_items(rows), Catalogue.from_dataset(Dataset.from_pandas(frame))]
    for catalogue in doors:
        assert catalogue.attributes == ["title", "price", "day"]
        assert catalogue.item("12") == {"item_id": "12", "title": "NA", "price": 1.5, "day": "2024-05-01"}
        assert catalogue.item("13") == {"item_id": "13", "title": "x", "price": None, "day": None}


# ------------------------------------------------------------------------------------------------------------ changes


def small() -> Catalogue:
    return Catalogue.from_items(
        [
            {"item_id": "a", "title": "x", "price": 29, "image": png("red")},
            {"item_id": "b", "title": "y", "price": 18},
        ]
    )


def test_fractions_join_whole_numbers(tmp_path):
    catalogue = small()
    catalogue.add([{"item_id": "c", "price": 21.5}])
    assert catalogue.column("price") == [29, 18, 21.5]
    catalogue.save(tmp_path)
    assert Catalogue.load(tmp_path).column("price") == [29.0, 18.0, 21.5]
    big = Catalogue.from_items([{"item_id": "a", "code": 2**53 + 1}])
    with pytest.raises(ValueError, match="too large to become fractions"):
        big.add([{"item_id": "b", "code": 0.5}])
    assert len(big) == 1 and big.add([{"item_id": "b", "code": 1.0}]) == [1]
    assert big.column("code") == [2**53 + 1, 1]


def test_items_can_be_changed(tmp_path):
    catalogue = small()
    catalogue.add([{"item_id": "c", "title": "z"}])
    before, version = catalogue.fingerprint, catalogue.version
    changes = [
        {"item_id": "c", "price": 2.5},
        {"item_id": "a", "title": None, "image": png("blue")},
        {"item_id": "b", "image": png("red")},
    ]
    assert catalogue.update(changes) == [2, 0, 1]
    rows = [("a", None, 29), ("b", "y", 18), ("c", "z", 2.5)]
    expected = [{"item_id": item_id, "title": title, "price": price} for item_id, title, price in rows]
    catalogue.save(tmp_path)
    for each in (catalogue, Catalogue.load(tmp_path), pickle.loads(pickle.dumps(catalogue))):
        assert [each.item(item_id) for item_id in "abc"] == expected == list(each.items())
        assert each.column("title") == [None, "y", "z"] and each.fingerprint == before
        assert each.picture("a").getpixel((0, 0)) == (0, 0, 255) and each.picture("b") is not None
        assert not each.has_picture("c")
    assert catalogue.version != version
    catalogue.update([{"item_id": "a", "image": None}])
    assert catalogue.picture("a") is None and not catalogue.has_picture("a") and catalogue.item("a")["price"] == 29
    assert catalogue.update([]) == []


def test_bad_changes_change_nothing():
    catalogue = small()
    for changes, message in (
        ([{"item_id": "a", "title": "new"}, {"item_id": "q"}], "'q' is not among the 2 items"),
        ([{"item_id": "a", "title": "new"}, {"item_id": "a"}], "more than once: 'a'"),
        ([{"item_id": "a", "title": "new", "colour": "red"}], "bring 'colour'"),
        ([{"item_id": "a", "title": "new"}, {"item_id": "b", "price": "cheap"}], "'price' holds int64.*'cheap'"),
        ([{"title": "new"}, {"item_id": "a"}], "1 of 2 changed items have no item_id"),
        ([{"item_id": "a", "retired": True}], "call catalogue.retire"),
        ({"item_id": "a"}, "Expected a list of dicts"),
    ):
        with pytest.raises(ValueError, match=message):
            catalogue.update(changes)
    assert catalogue.item("a")["title"] == "x" and catalogue.num_updates == 0


def test_items_are_sold_again():
    catalogue = small()
    catalogue.retire(["a", "b"])
    catalogue.unretire("a")
    assert catalogue.available.tolist() == [True, False] and catalogue.is_available("a")
    assert catalogue.offered.tolist() == [0] and catalogue.add([{"item_id": "n"}]) == [2]
    assert catalogue.offered.tolist() == [0, 2]
    catalogue.retire("n")
    assert catalogue.offered.tolist() == [0]
    with pytest.raises(ValueError, match="'q'"):
        catalogue.retire(["a", "q"])
    assert catalogue.is_available("a"), "all or none"


def test_a_thousand_additions_are_a_thousand_rows(tmp_path):
    catalogue = small()
    for number in range(1000):
        image = png() if number % 500 == 0 else None
        catalogue.add([{"item_id": f"new {number}", "title": str(number), "image": image}])
    assert len(catalogue) == 1002 and catalogue.item("new 999")["title"] == "999"
    assert catalogue.column("title")[2:] == [str(number) for number in range(1000)]
    catalogue.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded.fingerprint == catalogue.fingerprint and loaded.column("title") == catalogue.column("title")
    assert [loaded.has_picture(item_id) for item_id in ("a", "b", "new 0", "new 1", "new 500")] == [
        True, False, True, False, True,
    ]  # fmt: skip
