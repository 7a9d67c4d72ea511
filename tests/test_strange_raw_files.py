"""Careless or hostile raw files of every data set: what is in them is read, counted, or told in words."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_shop import (
    ARTICLES,
    accounted,
    amazon_arguments,
    arguments,
    items_of,
    read,
    review,
    write_lines,
    write_picture,
)

from processing_unimp.catalogue import Catalogue
from processing_unimp.history import Histories
from recipes.amazon import prepare as amazon
from recipes.h_and_m import prepare as h_and_m
from recipes.movielens import prepare as movielens
from recipes.netflix import prepare as netflix

ARTICLE = "108775,Strap top,Vest top,Body,Solid,Black,Jersey,Ladieswear,Ladieswear,Base,Narrow"
TRANSACTIONS = "t_dat,customer_id,article_id,price"
HALF, CLEAN = json.loads('"cosy \\ud83d"'), "cosy \ufffd"


def h_and_m_files(raw: Path) -> None:
    (raw / "articles.csv").write_text(f"{ARTICLES}\n0108775015,{ARTICLE}\n")
    (raw / "transactions_train.csv").write_text(f"{TRANSACTIONS}\n2020-09-02,c,0108775015,0.05\n")


def amazon_files(raw: Path) -> None:
    write_lines(raw / "Toys.json", [review("u", "B1", 1)])
    write_lines(raw / "meta_Toys.json", [{"asin": "B1", "title": "Toy"}])


def posters_files(raw: Path) -> None:
    write_lines(raw / "items.jsonl", [{"item_id": "1", "title": "Film"}])
    write_lines(raw / "interactions.jsonl", [{"user_id": "u", "item_id": "1", "timestamp": 1, "rating": 5}])


def dat_files(raw: Path) -> None:
    (raw / "movies.dat").write_text("1::Film (1999)::Drama\n")
    (raw / "ratings.dat").write_text("7::1::4.5::838985046\n")


def u_files(raw: Path) -> None:
    (raw / "u.item").write_text("1|Film (1999)|||x" + "|0" * 19 + "\n")
    (raw / "u.data").write_text("7\t1\t4\t838985046\n")


def netflix_files(raw: Path) -> None:
    for name in ("train", "val", "test"):
        (raw / f"{name}.json").write_text(json.dumps({"0": [1]}))
    (raw / "item_attribute.csv").write_text("1,1999,Film\n")


def prepare_amazon(made: Any) -> dict[str, Any]:
    return amazon.prepare(amazon_arguments(Path(made.data_dir), Path(made.output_dir), "2018", "Toys"))


SETS: dict[str, tuple[Callable[[Path], None], Callable[[Any], dict[str, Any]]]] = {
    "h_and_m": (h_and_m_files, h_and_m.prepare),
    "amazon": (amazon_files, prepare_amazon),
    "posters": (posters_files, movielens.prepare),
    "dat": (dat_files, movielens.prepare),
    "u": (u_files, movielens.prepare),
    "netflix": (netflix_files, netflix.prepare),
}
FILES = [
    ("h_and_m", "articles.csv"), ("h_and_m", "transactions_train.csv"), ("amazon", "Toys.json"),
    ("amazon", "meta_Toys.json"), ("posters", "items.jsonl"), ("posters", "interactions.jsonl"), ("dat", "movies.dat"),
    ("dat", "ratings.dat"), ("u", "u.item"), ("u", "u.data"), ("netflix", "train.json"), ("netflix", "test.json"),
    ("netflix", "item_attribute.csv"),
]  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


# --- every file of every data set


@pytest.mark.parametrize("name", SETS)
def test_the_small_files_are_whole(raw: Path, tmp_path: Path, name: str) -> None:
    write, prepare = SETS[name]
    write(raw)
    prepare(arguments(raw, tmp_path / "out"))
    (item,) = read(tmp_path / "out", "items")
    assert item["title"] in ("Strap top", "Toy", "Film")
    histories = Histories.load(tmp_path / "out", Catalogue.load(tmp_path / "out"))
    assert histories.num_interactions == 1 and histories.removed == {}


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_packed_file_that_is_cut_is_named(raw: Path, tmp_path: Path, name: str, file: str) -> None:
    write, prepare = SETS[name]
    write(raw)
    packed = gzip.compress((raw / file).read_bytes() * 50)
    (raw / file).unlink()
    (raw / f"{file}.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=f"{file}.gz is no whole gzip file"):
        prepare(arguments(raw, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("noise", [b"\x00\xff\xfe" * 1_000, b"[" * 200_000, b'{"a":' * 100_000, b"\n\n\x89PNG\r\n"])
@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_file_of_something_else_is_named(raw: Path, tmp_path: Path, name: str, file: str, noise: bytes) -> None:
    write, prepare = SETS[name]
    write(raw)
    (raw / file).write_bytes(noise)
    with pytest.raises(ValueError, match=file):
        prepare(arguments(raw, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name, file in FILES if "netflix" not in name or "csv" in file]
)
def test_a_line_of_something_else_costs_itself_alone(raw: Path, tmp_path: Path, name: str, file: str) -> None:
    write, prepare = SETS[name]
    write(raw)
    lines = b'\x00\xff\n"left open\n' + b"[" * 100_000 + b"\n" + b"x" * (17 * 2**20) + b"\n{\n"
    (raw / file).write_bytes((raw / file).read_bytes() + lines)
    report = prepare(arguments(raw, tmp_path / "out"))
    lost = [number for what, number in report["removed"].items() if "lines" in what]
    assert lost == [5] and read(tmp_path / "out", "items")[0]["title"] in ("Strap top", "Toy", "Film")


# --- halves of characters, zero bytes


def _halves_amazon(raw: Path, edition: str) -> None:
    if edition == "2023":
        row = {
            "user_id": f"u {HALF}",
            "parent_asin": f"B {HALF}",
            "timestamp": 1000,
            "rating": 5,
            "title": HALF,
        }
        write_lines(raw / "Toys.jsonl", [row])
        write_lines(
            raw / "meta_Toys.jsonl", [{"parent_asin": f"B {HALF}", "title": HALF, "store": HALF, "features": [HALF]}]
        )
    else:
        more = {"summary": HALF}
        write_lines(raw / "Toys.json", [review(f"u {HALF}", f"B {HALF}", 1, **more)])
        write_lines(raw / "meta_Toys.json", [{"asin": f"B {HALF}", "title": HALF, "brand": HALF, "description": HALF}])


@pytest.mark.parametrize("edition", ["2018", "2023"])
def test_halves_of_characters_in_amazon(raw: Path, tmp_path: Path, edition: str) -> None:
    _halves_amazon(raw, edition)
    report = amazon.prepare(amazon_arguments(raw, tmp_path / "out", edition, "Toys", download_images=True))
    (item,), (event,) = read(tmp_path / "out", "items"), read(tmp_path / "out", "interactions")
    # In ids they are spelt out: different ids stay different, and the same ones meet.
    assert item["item_id"] == event["item_id"] == "B cosy \\ud83d" and event["user_id"] == "u cosy \\ud83d"
    assert item["title"] == item["brand"] == item["description"] == event["explanation"] == CLEAN
    assert accounted(report, "reviews")
    assert Histories.load(tmp_path / "out", Catalogue.load(tmp_path / "out")).num_interactions == 1


def test_halves_of_characters_in_films(raw: Path, tmp_path: Path) -> None:
    film = {"item_id": HALF, "title": HALF, "plot": HALF, "genres": [HALF], "director": "a\0b"}
    write_lines(raw / "items.jsonl", [film])
    write_lines(raw / "interactions.jsonl", [{"user_id": HALF, "item_id": HALF, "timestamp": 1, "rating": 5}])
    movielens.prepare(arguments(raw, tmp_path / "out"))
    (item,) = read(tmp_path / "out", "items")
    assert item["title"] == item["plot"] == item["genres"][0] == CLEAN and item["director"] == "a\0b"
    assert Histories.load(tmp_path / "out", Catalogue.load(tmp_path / "out")).num_interactions == 1


def test_halves_of_characters_in_lists(raw: Path, tmp_path: Path) -> None:
    netflix_files(raw)
    (raw / "train.json").write_text(
        json.dumps({HALF: [1, HALF, None, [1], {"a": 1}, 1.0, 2.5, True, float("nan"), "1"]})
    )
    report = netflix.prepare(arguments(raw, tmp_path / "out"))
    events = {(row["user_id"], row["item_id"]) for row in read(tmp_path / "out", "interactions")}
    assert events == {("0", "1"), ("cosy \\ud83d", "1"), ("cosy \\ud83d", "cosy \\ud83d")}
    assert report["removed"]["interactions without user, item or time"] == 6 and accounted(report, "interactions")


@pytest.mark.parametrize("name", ["h_and_m", "dat", "u"])
def test_bytes_that_are_no_text(raw: Path, tmp_path: Path, name: str) -> None:
    # Half a character as some databases write it, and beside it UTF-8 as it should be.
    write, prepare = SETS[name]
    write(raw)
    for path in raw.iterdir():
        data, damaged = path.read_bytes(), "Caf\u00e9 ".encode() + b"\xed\xa0\xbd"
        path.write_bytes(data.replace(b"Film", damaged).replace(b"Strap top", damaged))
    prepare(arguments(raw, tmp_path / "out"))
    (item,) = read(tmp_path / "out", "items")
    assert item["title"] == "Caf\u00e9 \ufffd\ufffd\ufffd"


# --- H&M


def test_csv_files_that_went_through_other_programs(raw: Path, tmp_path: Path) -> None:
    (raw / "articles.csv").write_bytes(
        b"\xef\xbb\xbf"
        + f'{ARTICLES}\r\n108775015,{ARTICLE[:-6]}"Two\nlines, \u00e9"\r\n108775044,{ARTICLE},more\n'.encode()
    )
    frame = pd.DataFrame(
        {
            "t_dat": ["2020-09-02 00:00:00", "2020-09-03", None],
            "customer_id": [1.0, 2.0, None],
            "article_id": [108775015.0, 108775044.0, None],
            "price": ["0.05", "0,05", None],
        }
    )
    frame.to_csv(raw / "transactions_train.csv")
    report = h_and_m.prepare(arguments(raw, tmp_path / "out"))
    assert [(row["user_id"], row["item_id"]) for row in read(tmp_path / "out", "interactions")] == [
        ("1", "108775015"), ("2", "108775044"),
    ]  # fmt: skip
    items = items_of(tmp_path / "out")
    assert items["108775015"]["description"] == "Two\nlines, \u00e9" and items["108775015"]["price"] == 0.05
    assert items["108775044"]["title"] is None and items["108775044"]["price"] is None
    assert report["removed"] == {"interactions without user, item or time": 1, "articles: lines that are not CSV": 1}
    assert report["changed"] == {"prices that are no number above 0 left out of the mean": 1}
    assert (
        "line 4 of articles.csv: 13 cells, and the header has 12"
        in report["examples"]["articles: lines that are not CSV"]
    )


def test_articles_in_latin1(raw: Path, tmp_path: Path) -> None:
    h_and_m_files(raw)
    text = (raw / "articles.csv").read_text().replace("Strap top", "Caf\u00e9 Z\u00fcrich")
    for encoding in ("latin-1", "utf-8"):
        (raw / "articles.csv").write_text(text, encoding=encoding)
        h_and_m.prepare(arguments(raw, tmp_path / "out"))
        assert items_of(tmp_path / "out")["0108775015"]["title"] == "Caf\u00e9 Z\u00fcrich"


@pytest.mark.parametrize("prices", [["nan"], ["inf"], ["-1"], ["0"], [""], ["x"], ["nan", "0.04", "0.06"]])
def test_a_mean_price_is_of_real_prices(raw: Path, tmp_path: Path, prices: list[str]) -> None:
    h_and_m_files(raw)
    rows = [f"2020-09-0{day},c,0108775015,{price}" for day, price in enumerate(prices, 1)]
    (raw / "transactions_train.csv").write_text("\n".join([TRANSACTIONS, *rows]) + "\n")
    report = h_and_m.prepare(arguments(raw, tmp_path / "out"))
    assert items_of(tmp_path / "out")["0108775015"]["price"] == (0.05 if len(prices) == 3 else None)
    assert sum(report["changed"].values()) == (prices[0] != "")


@pytest.mark.parametrize("lost", ["articles.csv", "transactions_train.csv"])
def test_a_lost_zero_is_told(raw: Path, tmp_path: Path, lost: str) -> None:
    h_and_m_files(raw)
    (raw / lost).write_text((raw / lost).read_text().replace("0108775015", "108775015"))
    with pytest.raises(
        ValueError, match="ids such as '0?108775015', the descriptions such as '0?108775015'.*spreadsheet"
    ):
        h_and_m.prepare(arguments(raw, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_zeros_lost_in_both_tables_leave_pictures_without_items(raw: Path, tmp_path: Path) -> None:
    h_and_m_files(raw)
    for path in list(raw.iterdir()):
        path.write_text(path.read_text().replace("0108775015", "108775015"))
    write_picture(raw / "images" / "010" / "0108775015.jpg")
    report = h_and_m.prepare(arguments(raw, tmp_path / "out"))
    unused = "pictures of items that are not in the table (the files are left alone)"
    assert report["removed"] == {unused: 1} and report["examples"] == {unused: "'0108775015'"}


# --- numbers in text


def test_ratings_and_times_that_are_no_numbers_are_counted(raw: Path, tmp_path: Path) -> None:
    dat_files(raw)
    lines = ["7::1::4,5::1", "8::1::nan::2", "9::1::5::soon", "10::1::5::inf", "11::1::NULL::3", "12::1::3::4"]
    (raw / "ratings.dat").write_text("\r\n".join(lines))
    report = movielens.prepare(arguments(raw, tmp_path / "out"))
    assert [(row["user_id"], row["rating"]) for row in read(tmp_path / "out", "interactions")] == [
        ("11", None), ("12", 3.0), ("7", None), ("8", None),
    ]  # fmt: skip
    assert report["changed"] == {
        "rating that is not a number set to null": 1,
        "timestamp that is not a number set to null": 2,
    }
    assert report["removed"] == {"interactions without user, item or time": 2} and accounted(report, "ratings")
