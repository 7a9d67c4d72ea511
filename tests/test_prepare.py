"""Prepare scripts on small raw files of every publisher's layout, written here, and on the real ones."""

import json
import threading
import tracemalloc
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from processes import run_module, start
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
from recipes.raw_files import read_records

DAY = 86_400

# --- H&M


@pytest.fixture
def h_and_m_raw(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [
        ARTICLES,
        '0108775015,108775,Strap top,Vest top,Body,Solid,Black,Jersey,Ladieswear,Ladieswear,Base,"Narrow, ""soft"""',
        "0108775044,108775,Strap top,Vest top,Body,Solid,White,Jersey,Ladieswear,Ladieswear,Base,",
        "0200000001,200000,NA,Sock,Socks,Dot,Red,Socks,Menswear,Menswear,Basics,One\n",
        "0300000001,300000,Never sold,Hat,Hats,Solid,Red,Hats,Menswear,Menswear,Basics,Hat",
    ]
    (raw / "articles.csv").write_text("\n".join(lines) + "\n")
    transactions = [
        "t_dat,customer_id,article_id,price,sales_channel_id",
        "2020-09-02,c1,0200000001,0.02,2",
        "2020-09-02,c1,0108775015,0.04,2",
        "2020-09-02,c1,0200000001,0.02,2",  # a second pair on the same day: a quantity
        "2020-09-01,c1,0108775044,0.03,2",
        "2020-09-09,c1,0108775015,0.08,2",  # bought again a week later: a second event
        "2020-09-02,c2,0108775015,0.03,2",
        "not a day,c2,0108775015,0.05,2",
        "2020-09-03,c2",  # a line cut short
        "2020-09-03,c2,0999999999,0.01,1",  # an article without a row
    ]
    (raw / "transactions_train.csv").write_text("\n".join(transactions) + "\n")
    write_picture(raw / "images" / "010" / "0108775015.jpg")
    write_picture(raw / "images" / "030" / "0300000001.jpg")
    write_picture(raw / "images" / "099" / "0123456789.jpg")
    (raw / "images" / "020").mkdir()
    (raw / "images" / "020" / "0200000001.jpg").write_bytes(b"")
    (raw / "images" / "020" / "notes.txt").write_text("no picture")
    return raw


def test_h_and_m(h_and_m_raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    report = h_and_m.prepare(arguments(h_and_m_raw, output))
    first = 1_598_918_400  # 2020-09-01 00:00 UTC
    assert read(output, "interactions") == [
        {"user_id": "c1", "item_id": "0108775044", "timestamp": first},
        {"user_id": "c1", "item_id": "0200000001", "timestamp": first + DAY},
        {"user_id": "c1", "item_id": "0108775015", "timestamp": first + DAY + 1},
        {"user_id": "c1", "item_id": "0108775015", "timestamp": first + 8 * DAY},
        {"user_id": "c2", "item_id": "0108775015", "timestamp": first + DAY},
        {"user_id": "c2", "item_id": "0999999999", "timestamp": first + 2 * DAY},
    ]
    items = items_of(output)
    assert list(items) == ["0108775015", "0108775044", "0200000001", "0300000001", "0999999999"]
    picture = h_and_m_raw / "images" / "010" / "0108775015.jpg"
    assert items["0108775015"] == {
        "item_id": "0108775015", "title": "Strap top", "category": "Vest top", "product_group": "Body",
        "colour": "Black", "appearance": "Solid", "department": "Jersey", "section": "Base", "index": "Ladieswear",
        "product_code": "108775", "price": 0.05, "description": 'Narrow, "soft"', "domain": "Ladieswear",
        "image": str(picture.resolve()),
    }  # fmt: skip
    assert items["0108775044"]["description"] is None
    assert items["0200000001"]["title"] == "NA", "an article of that name, not a missing value"
    assert items["0200000001"]["image"] is None and items["0300000001"]["price"] is None
    assert set(items["0999999999"].values()) == {"0999999999", None}
    assert report["read"] == {"transactions": 9, "articles": 4, "picture files": 4}
    assert report["removed"] == {
        "transactions: lines that are not CSV": 1,
        "repeated purchases of an article on the same day (a quantity)": 1,
        "interactions without user, item or time": 1,
        "empty picture files": 1,
        "pictures of items that are not in the table (the files are left alone)": 1,
    }
    assert accounted(report, "transactions")
    assert report["items"]["without a row of their own (id only)"] == 1 and report["items"]["with picture"] == 2
    assert json.loads((output / "preparation.json").read_text()) == report
    assert str(tmp_path) not in (output / "preparation.json").read_text(), "no paths of this machine"


def test_h_and_m_days_and_prices_are_read_as_they_are_written(h_and_m_raw: Path, tmp_path: Path) -> None:
    """DuckDB by itself has other ways to write them, and sums without end."""
    before = h_and_m.prepare(arguments(h_and_m_raw, tmp_path / "before"))
    with open(h_and_m_raw / "transactions_train.csv", "a") as file:
        for number, day in enumerate(("2020-09-01 (BC)", "290000-01-01", "-4000-01-01")):
            file.write(f"{day},d{number},0108775015,0.05,1\n")
        for number, price in enumerate(("1_000", "1e308", "1e308", "0x10", "5.0e-2", ".05"), 1):
            file.write(f"2020-10-0{number},c3,0108775015,{price},1\n")
    report = h_and_m.prepare(arguments(h_and_m_raw, tmp_path / "out"))
    assert items_of(tmp_path / "out")["0108775015"]["price"] == 0.05
    reason = "interactions without user, item or time"
    assert report["removed"][reason] == before["removed"][reason] + 3
    reason = "prices that are no number above 0 left out of the mean"
    assert report["changed"][reason] == before["changed"].get(reason, 0) + 4


def test_h_and_m_core_keeps_only_its_items(h_and_m_raw: Path, tmp_path: Path) -> None:
    report = h_and_m.prepare(arguments(h_and_m_raw, tmp_path / "out", 2))
    # c2 has two events, but one is of an article nobody else bought; the core is c1 with 0108775015 twice.
    assert report["after_k_core"] == {"users": 1, "items": 1, "interactions": 2}
    assert list(items_of(tmp_path / "out")) == ["0108775015"] and accounted(report, "transactions")


def test_h_and_m_tables_load(h_and_m_raw: Path, tmp_path: Path) -> None:
    h_and_m.prepare(arguments(h_and_m_raw, h_and_m_raw / "prepared"))
    assert Catalogue.load(h_and_m_raw / "prepared").picture("0108775015") is None, "it leads out of the folder"
    catalogue = Catalogue.load(h_and_m_raw / "prepared", image_root=h_and_m_raw / "images")
    histories = Histories.load(h_and_m_raw / "prepared", catalogue)
    assert histories.num_interactions == 6 and histories.removed == {} and not histories.has_ratings
    assert catalogue.domain("0200000001") == "Menswear"
    picture = catalogue.picture("0108775015")
    assert picture is not None and picture.size == (12, 12)


def test_pictures_inside_the_output_folder_get_relative_paths(h_and_m_raw: Path) -> None:
    h_and_m.prepare(arguments(h_and_m_raw, h_and_m_raw))
    assert items_of(h_and_m_raw)["0108775015"]["image"] == "images/010/0108775015.jpg"
    assert Catalogue.load(h_and_m_raw / "items.parquet").picture("0108775015") is not None


def test_a_missing_column_is_named(h_and_m_raw: Path, tmp_path: Path) -> None:
    (h_and_m_raw / "transactions_train.csv").write_text("t_dat,customer_id,price\n2020-09-02,c1,0.1\n")
    with pytest.raises(ValueError, match="transactions_train.csv has no column article_id; it has t_dat"):
        h_and_m.prepare(arguments(h_and_m_raw, tmp_path / "out"))


def test_the_command_line(h_and_m_raw: Path, tmp_path: Path) -> None:
    options = ["--data_dir", str(h_and_m_raw), "--k_core", "1", "--output_dir", str(tmp_path / "out")]
    process = start(run_module, "recipes.h_and_m.prepare", options, output=tmp_path / "said")
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0, said
    assert "h-and-m: prepared in" in said and "empty picture files" in said
    assert len(read(tmp_path / "out", "items")) == 4


# --- Amazon


META_2014 = [
    {
        "asin": "A1", "title": "Chef Paul&#39;s  <b>Magic</b>", "price": 14.95, "brand": "Magic",
        "imUrl": "http://x/I/51._SY300_.jpg", "categories": [["Food", "Spices", "Blends"], ["Other"]],
        "description": 'It\'s "good"',
    },
    {"asin": "A2", "categories": [["Food"]], "related": {"also_bought": ["A1"]}},
    {"asin": "A1", "title": "A second record of A1"},
]  # fmt: skip


@pytest.mark.parametrize("loose", [False, True], ids=["strict", "loose"])
def test_amazon_2014(tmp_path: Path, loose: bool) -> None:
    lines = [repr(record) if loose else json.dumps(record) for record in META_2014]
    write_lines(tmp_path / "meta_Food.json.gz", [*lines, "", "{'asin': __import__('os')}", "{broken"])
    reviews: list[Any] = [
        review("u1", "A1", 200, summary="Said &#34;good&#34;<br />and &amp;lt; 3 <3"),
        review("u1", "A2", 100, summary="five stars", overall=0.0),
        review("u2", "A3", 100, overall=1.0),
        review("u1", "A1", 150, summary="The earlier one", overall=2.0),
        {"reviewerID": "u3", "asin": "A1"},
    ]
    lines = [repr(row) if loose else json.dumps(row) for row in reviews]
    write_lines(tmp_path / "reviews_Food_5.json.gz", [*lines, "{this is cut"])
    report = amazon.prepare(amazon_arguments(tmp_path, tmp_path / "out", "2014", "Food"))
    assert read(tmp_path / "out", "interactions") == [
        {"user_id": "u1", "item_id": "A2", "timestamp": 100, "rating": None, "explanation": None},
        {"user_id": "u1", "item_id": "A1", "timestamp": 200, "rating": 5, "explanation": 'Said "good" and &lt; 3 <3'},
        {"user_id": "u2", "item_id": "A3", "timestamp": 100, "rating": 1, "explanation": None},
    ]  # fmt: skip
    assert read(tmp_path / "out", "items") == [
        {"item_id": "A1", "title": "Chef Paul's Magic", "brand": "Magic", "category": "Blends",
         "parent_category": "Spices", "price": 14.95, "description": 'It\'s "good"', "domain": "Food", "image": None},
        {"item_id": "A2", "title": None, "brand": None, "category": "Food", "parent_category": None, "price": None,
         "description": None, "domain": "Food", "image": None},
        {"item_id": "A3", "title": None, "brand": None, "category": None, "parent_category": None, "price": None,
         "description": None, "domain": "Food", "image": None},
    ]  # fmt: skip
    assert report["read"] == {"reviews": 6, "meta lines": 5}
    assert report["removed"] == {
        "reviews: lines that are not JSON": 1,
        "interactions without user, item or time": 1,
        "earlier interactions of a user with the same item": 1,
        "meta lines: lines that are not JSON": 2,
        "repeated rows of an item (the first is kept)": 1,
    }
    assert report["changed"] == {
        'headlines of the kind "Five Stars" set to null': 1,
        "ratings outside 1-5 set to null": 1,
    }
    assert accounted(report, "reviews")


def test_amazon_2018(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "meta_Gift_Cards.json",
        [
            {
                "asin": "B1", "title": "<span>Caf&eacute;</span>\n Card", "price": "$1,012.99", "brand": "by\n  Us",
                "category": ["Gift Cards", "Holders", "</span></span></span>", "Made of paper."],
                "description": ["One.", "", "Two."], "image": ["http://x/I/a._SX38_SY50_CR,0,0,38,50_.jpg"],
            },
            {"asin": "B2", "title": "var x = new Date().getTime()", "price": ".a-box{margin:0}", "brand": "",
             "category": ["Gift Cards", "Fits all"], "feature": ["Fits all"], "description": []},
            {"asin": "B3", "title": "Range", "price": "$1.99 - $5.99", "category": [], "description": ""},
        ],
    )  # fmt: skip
    write_lines(tmp_path / "Gift_Cards.json", [review("u", item, n) for n, item in enumerate(("B1", "B2", "B3"))])
    report = amazon.prepare(amazon_arguments(tmp_path, tmp_path / "out", "2018", "Gift_Cards"))
    items = items_of(tmp_path / "out")
    assert items["B1"] == {
        "item_id": "B1", "title": "Café Card", "brand": "Us", "category": "Holders", "parent_category": "Gift Cards",
        "price": 1012.99, "description": "One. Two.", "domain": "Gift Cards", "image": None,
    }  # fmt: skip
    assert items["B2"]["title"] is None and items["B2"]["price"] is None and items["B2"]["brand"] is None
    assert items["B2"]["category"] == "Gift Cards" and items["B2"]["description"] == "Fits all"
    assert items["B3"]["price"] == 1.99 and items["B3"]["category"] is None
    assert [source["name"] for source in report["sources"]] == ["Gift_Cards.json", "meta_Gift_Cards.json"]


def test_amazon_2023_joins_on_the_parent(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "Toys.jsonl.gz",
        [
            {"user_id": "u", "asin": "C1-red", "parent_asin": "P1", "timestamp": 1_600_000_000_500, "rating": 4.0,
             "title": "Great<br />&amp; small", "text": "Fine toy", "images": [], "verified_purchase": True},
            {"user_id": "u", "asin": "C2", "parent_asin": "P2", "timestamp": 1_500_000_000_000, "rating": 1.0,
             "title": "Three Stars", "text": ""},
            {"user_id": "u", "asin": "C1-blue", "parent_asin": "P1", "timestamp": 1_400_000_000_000, "rating": 2.0},
        ],
    )  # fmt: skip
    images = [{"thumb": "http://x/t.jpg", "large": "http://x/l.jpg", "variant": "PT01"},
              {"large": "http://x/main.jpg", "hi_res": None, "variant": "MAIN"}]  # fmt: skip
    record = {"parent_asin": "P1", "main_category": "Toys", "title": "Toy", "store": "Maker", "price": "from 9.99",
              "images": images, "categories": ["Toys", "Dolls"], "features": ["Soft", "Red"]}  # fmt: skip
    write_lines(tmp_path / "meta_Toys.jsonl.gz", [record, {"parent_asin": "P2", "price": "None", "images": []}])
    amazon.prepare(amazon_arguments(tmp_path, tmp_path / "out", "2023", "Toys"))
    assert read(tmp_path / "out", "interactions") == [
        {"user_id": "u", "item_id": "P2", "timestamp": 1.5e9, "rating": 1, "explanation": None},
        {"user_id": "u", "item_id": "P1", "timestamp": 1_600_000_000.5, "rating": 4, "explanation": "Great & small"},
    ]  # fmt: skip
    first, second = read(tmp_path / "out", "items")
    assert (first["title"], first["brand"], first["category"], first["price"]) == ("Toy", "Maker", "Dolls", 9.99)
    assert first["description"] == "Soft Red" and second["price"] is None
    assert amazon._image_url(record) == "http://x/main.jpg"


def test_pictures_of_2023_are_few_whatever_a_line_says() -> None:
    images = {"variant": ["SIDE"] * 30_000 + ["MAIN"], "large": ["http://x/side.jpg"] * 30_001}
    images |= {f"a{number}": [0] for number in range(2_000)}
    tracemalloc.start()
    assert amazon._image_url({"images": images}) == "http://x/side.jpg"
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000_000


def test_an_edition_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no edition '2020'. Expected one of 2014, 2018, 2023"):
        amazon.prepare(amazon_arguments(tmp_path, tmp_path / "out", "2020", "Toys"))


def test_categories_together_are_domains_and_missing_meta_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "Gift_Cards_5.json", [review("u1", "B1", 1), review("u2", "B2", 5)])
    write_lines(tmp_path / "All_Beauty_5.json", [review("u1", "B9", 0)])
    write_lines(tmp_path / "meta_Gift_Cards.json", [{"asin": "B1", "title": "Card"}])
    report = amazon.prepare(amazon_arguments(tmp_path, tmp_path / "out", "2018", "Gift_Cards", "All_Beauty"))
    assert [(row["user_id"], row["item_id"]) for row in read(tmp_path / "out", "interactions")] == [
        ("u1", "B9"), ("u1", "B1"), ("u2", "B2"),
    ]  # fmt: skip
    domains = {item: row["domain"] for item, row in items_of(tmp_path / "out").items()}
    assert domains == {"B1": "Gift Cards", "B2": "Gift Cards", "B9": "All Beauty"}
    assert report["missing"] == ["meta_All_Beauty.json"] and report["items"]["with title"] == 1
    assert "missing: meta_All_Beauty.json" in capsys.readouterr().out


def test_pictures_are_downloaded_only_when_asked(tmp_path: Path) -> None:
    write_picture(tmp_path / "web" / "I" / "1.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    write_lines(tmp_path / "Toys_5.json", [review("u", item, n) for n, item in enumerate(("B1", "B2", "B3"))])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site = f"http://127.0.0.1:{server.server_address[1]}/I"
        meta = [{"asin": "B1", "imageURLHighRes": [f"{site}/1.png"], "image": [f"{site}/0.png"]}]
        meta += [{"asin": "B2", "image": [f"{site}/gone._SS40_.jpg"]}, {"asin": "B3", "image": []}]
        write_lines(tmp_path / "meta_Toys.json", meta)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        report = amazon.prepare(amazon_arguments(tmp_path, tmp_path / "out", "2018", "Toys"))
        assert report["items"]["with picture"] == 0 and not (tmp_path / "out" / "images").exists()
        asked = amazon_arguments(tmp_path, tmp_path / "out", "2018", "Toys", download_images=True, image_retries=0)
        report = amazon.prepare(asked)
        assert report["download"]["failures"] == {"not a public address": 2}, "this machine is not the public web"
        asked.private_hosts = [f"127.0.0.1:{server.server_address[1]}"]
        report = amazon.prepare(asked)
        server.shutdown()
    assert report["download"]["asked"] == 2 and report["download"]["failures"] == {"HTTP 404": 1}
    items = items_of(tmp_path / "out")
    assert items["B1"]["image"].startswith("images/") and items["B2"]["image"] is None
    assert Catalogue.load(tmp_path / "out").picture("B1") is not None
    (failure,) = map(json.loads, (tmp_path / "out" / "images" / "failures.jsonl").read_text().splitlines())
    assert failure == {"item_id": "B2", "url": f"{site}/gone.jpg", "reason": "HTTP 404", "attempts": 1}


# --- MovieLens


def test_movielens_100k(tmp_path: Path) -> None:
    flags = ["0"] * 19
    comedy_crime = flags.copy()
    comedy_crime[5] = comedy_crime[6] = "1"
    unknown = ["1", *flags[1:]]
    films = [
        "12|Usual Suspects, The (1995)|14-Aug-1995||http://imdb|" + "|".join(comedy_crime),
        "267|unknown||||" + "|".join(unknown),
        "3|Misérables, Les (1995)|01-Jan-1995||http://imdb|" + "|".join(flags),
    ]
    (tmp_path / "u.item").write_bytes("\n".join(films).encode("latin-1"))
    (tmp_path / "u.data").write_text("196\t12\t3\t881250949\n196\t267\t5\t881250949\n7\t12\t1\t880000000\n")
    write_picture(tmp_path / "images" / "12.jpg")
    report = movielens.prepare(arguments(tmp_path, tmp_path / "out"))
    assert read(tmp_path / "out", "items") == [
        {"item_id": "12", "title": "The Usual Suspects", "year": 1995, "genres": ["Comedy", "Crime"],
         "image": str(tmp_path.resolve() / "images" / "12.jpg")},
        {"item_id": "267", "title": "unknown", "year": None, "genres": None, "image": None},
        {"item_id": "3", "title": "Misérables, Les", "year": 1995, "genres": None, "image": None},
    ]  # fmt: skip
    rows = [(row["user_id"], row["item_id"], row["rating"]) for row in read(tmp_path / "out", "interactions")]
    assert rows == [("196", "12", 3.0), ("196", "267", 5.0), ("7", "12", 1.0)]
    assert report["after_k_core"]["with rating"] == 3


@pytest.mark.parametrize(
    ("written", "title", "year"),
    [
        ("Heat (1995)", "Heat", 1995), ("Heat", "Heat", None), ("(1995)", "", 1995), ("Heat(1995) ", "Heat", 1995),
        ("Postman, The (Il Postino) (1994)", "Postman, The (Il Postino)", 1994), ("A (1995) B", "A (1995) B", None),
        ("Beautiful Mind, A (2001)", "A Beautiful Mind", 2001),
        ("a" + " " * 200_000 + "b", "a" + " " * 200_000 + "b", None),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_titles_and_years(written: str, title: str, year: int | None) -> None:
    assert movielens._title_and_year(written) == {"title": title, "year": year}


def test_movielens_dat(tmp_path: Path) -> None:
    films = '1::Amélie: "x" (2001)::Comedy|Drama\n2::B::(no genres listed)\n'
    (tmp_path / "movies.dat").write_bytes(films.encode("latin-1"))
    (tmp_path / "ratings.dat").write_text("1::1::0.5::978300760\n1::2::4::978302109\n1::2::5::978302109\nbroken\n")
    report = movielens.prepare(arguments(tmp_path, tmp_path / "out"))
    first, second = read(tmp_path / "out", "items")
    assert (first["title"], first["year"], first["genres"]) == ('Amélie: "x"', 2001, ["Comedy", "Drama"])
    assert second["genres"] is None
    assert [row["rating"] for row in read(tmp_path / "out", "interactions")] == [None, 5.0]
    assert report["changed"] == {"ratings outside 1-5 set to null": 1}
    assert report["removed"]["ratings: lines that are not CSV"] == 1 and accounted(report, "ratings")


def test_movielens_with_posters(tmp_path: Path) -> None:
    film = {"title": 'A, "B"', "year": 1995, "genres": ["Drama"], "director": "N/A", "actors": "C, D", "plot": "N/A"}
    write_lines(tmp_path / "items.jsonl", [{"item_id": "1", **film, "image": "images/1.jpg"}, {"item_id": "2"}])
    events = [{"user_id": "k1", "item_id": "1", "rating": 4.0, "timestamp": 874965478}]
    write_lines(tmp_path / "interactions.jsonl", events)
    write_picture(tmp_path / "images" / "1.jpg")
    report = movielens.prepare(arguments(tmp_path, tmp_path / "out"))
    first, second = read(tmp_path / "out", "items")
    assert first["director"] is None and first["plot"] is None and first["title"] == 'A, "B"'
    assert first["image"].endswith("images/1.jpg") and second["image"] is None
    assert report["changed"] == {'director "N/A" set to null': 1, 'plot "N/A" set to null': 1}


def test_movielens_says_which_layouts_it_knows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no MovieLens layout. Expected items.jsonl"):
        movielens.prepare(arguments(tmp_path, tmp_path / "out"))
    (tmp_path / "u.data").write_text("1\t1\t3\t5\n")
    (tmp_path / "u.item").write_text("1|Title\n")
    with pytest.raises(ValueError, match="line 1 of u.item: 2 fields between '.', and 24 expected"):
        movielens.prepare(arguments(tmp_path, tmp_path / "out"))


# --- Netflix


def test_netflix(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"0": [5, 3, 4], "10": [4]}))
    (tmp_path / "val.json").write_text(json.dumps({"0": [3], "10": []}))
    (tmp_path / "test.json").write_text(json.dumps({"0": [0], "11": [5]}))
    films = ['0,2003.0,"Lock, Stock, ""Two"""', "3,1997,Character, The", "4,NULL,Amélie", "5,1994,Plain"]
    (tmp_path / "item_attribute.csv").write_bytes("\n".join(films).encode("latin-1"))
    for name in ("0.jpg", "3_Character.png", "0004.jpg", "cover.jpg"):
        write_picture(tmp_path / "Netflix_Posters" / name)
    report = netflix.prepare(arguments(tmp_path, tmp_path / "out"))
    rows = [(row["user_id"], row["item_id"], row["timestamp"]) for row in read(tmp_path / "out", "interactions")]
    assert rows == [("0", "5", 0), ("0", "4", 2), ("0", "3", 3), ("0", "0", 4), ("10", "4", 0), ("11", "5", 0)]
    items = items_of(tmp_path / "out")
    assert [(row["title"], row["year"]) for row in items.values()] == [
        ('Lock, Stock, "Two"', 2003), ("Character, The", 1997), ("Amélie", None), ("Plain", 1994),
    ]  # fmt: skip
    pictures = {item: row["image"] and Path(row["image"]).name for item, row in items.items()}
    assert pictures == {"0": "0.jpg", "3": "3_Character.png", "4": "0004.jpg", "5": None}
    assert report["removed"]["earlier interactions of a user with the same item"] == 1
    assert accounted(report, "interactions")


def test_netflix_refuses_another_shape(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="train.json does not hold"):
        netflix.prepare(arguments(tmp_path, tmp_path / "out"))


# --- the real files


@pytest.mark.real_data
def test_real_h_and_m(data_dir: Path, tmp_path: Path) -> None:
    report = h_and_m.prepare(arguments(data_dir / "h-and-m", tmp_path, 5))
    assert report["read"] == {"transactions": 82_729, "articles": 21_345, "picture files": 7_393}
    assert accounted(report, "transactions")
    catalogue = Catalogue.load(tmp_path, image_root=data_dir / "h-and-m" / "images")
    histories = Histories.load(tmp_path, catalogue)
    assert histories.removed == {} and histories.num_interactions == report["after_k_core"]["interactions"]
    assert min(histories.lengths) >= 5 and min(histories.item_counts()) >= 5
    assert all(len(item_id) == 10 for item_id in catalogue.item_ids)
    with_picture = next(item_id for item_id in catalogue.item_ids if catalogue.has_picture(item_id))
    assert catalogue.picture(with_picture) is not None
    times = [[event.timestamp for event in histories.of(u)] for u in range(100)]
    assert all(len(set(user)) == len(user) for user in times), "the order inside a day is in the timestamp"


@pytest.mark.real_data
def test_real_movielens(data_dir: Path, tmp_path: Path) -> None:
    report = movielens.prepare(arguments(data_dir / "ml-100k-posters", tmp_path, 5))
    assert report["before_k_core"] == {"users": 943, "items": 1_528, "interactions": 97_430}
    assert accounted(report, "ratings") and report["items"]["with picture"] == report["items"]["items"]
    histories = Histories.load(tmp_path, Catalogue.load(tmp_path))
    assert histories.removed == {} and histories.has_ratings


@pytest.mark.real_data
def test_real_amazon_2014(data_dir: Path, tmp_path: Path) -> None:
    report = amazon.prepare(amazon_arguments(data_dir / "amazon", tmp_path, "2014", "Musical_Instruments", k_core=5))
    assert report["before_k_core"] == {"users": 1_429, "items": 900, "interactions": 10_261}
    assert report["removed"] == {}, "the publisher's 5-core is a 5-core"
    histories = Histories.load(tmp_path, Catalogue.load(tmp_path))
    assert histories.removed == {} and histories.explanations()


@pytest.mark.real_data
def test_real_amazon_2018(data_dir: Path, tmp_path: Path) -> None:
    report = amazon.prepare(amazon_arguments(data_dir / "amazon", tmp_path, "2018", "Gift_Cards", k_core=5))
    assert report["read"] == {"reviews": 2_972, "meta lines": 1_547}
    assert report["removed"]["earlier interactions of a user with the same item"] == 7
    assert accounted(report, "reviews")
    items = items_of(tmp_path)
    assert Counter("&#39;" in (row["title"] or "") for row in items.values()) == {False: len(items)}
    assert {row["category"] for row in items.values()} <= {"Gift Cards", "Gift Card Accessories", None}


@pytest.mark.real_data
def test_real_loose_meta(data_dir: Path) -> None:
    records = list(read_records(data_dir / "amazon" / "meta_loose_2014_samples.txt"))
    rows = [amazon._attributes(record.values) for record in records if record.problem is None]
    assert len(rows) == 4
    assert [row["category"] for row in rows] == [
        "Monitor Accessories", "Grocery & Gourmet Food", "Kindle (1st Generation) Adapters", "Sheet Music Folders",
    ]  # fmt: skip
    assert [row["price"] for row in rows] == [None, 14.95, 19.99, 17.95]
    assert rows[1]["image_url"] == "http://ecx.images-amazon.com/images/I/519AB5ZVFXL.jpg"
