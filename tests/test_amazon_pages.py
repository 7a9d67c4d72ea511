"""What stands in Amazon's meta files: prices, brands, words and pictures as pages write them."""

from pathlib import Path
from typing import Any

import pytest
from raw_shop import amazon_arguments, items_of, review, write_lines

from recipes.amazon.prepare import _attributes, _image_url, _price, prepare


@pytest.mark.parametrize(
    ("written", "price"),
    [
        (12.5, 12.5), (12, 12.0), ("12", 12.0), ("$12.99", 12.99), ("$ 12.99", 12.99), ("12.99 EUR", 12.99),
        ("EUR 12,99", 12.99), ("12,99 \u20ac", 12.99), ("\u20b91,299", 1299.0), ("US$12", 12.0), ("CA$12.5", 12.5),
        ("<span>$12.99</span>", 12.99), (" $12.99\n", 12.99), ("from 7.5", 7.5), ("from $12.99", 12.99),
        ("$1.99 - $5.99", 1.99), ("$10.00 - $25.00", 10.0), ("12,99\u201325,00", 12.99), ("$10 to $20", 10.0),
        # Commas, points, blanks: the last one is before the fraction, or all are between thousands.
        ("12,99", 12.99), ("12,9", 12.9), ("1.299,00", 1299.0), ("$1,299.00", 1299.0), ("1,234.567", 1234.567),
        ("1,299", 1299.0), ("1.299", 1299.0), ("1,234,567", 1234567.0), ("1.234.567", 1234567.0),
        ("1.234.567,89", 1234567.89), ("1 299,00", 1299.0), ("1\u00a0299,00", 1299.0), ("1\u202f299", 1299.0),
        ("1'299.00", 1299.0), ("0.125", 0.125), ("0,125", 0.125), ("1234,567", 1234.567), ("1234.50", 1234.5),
    ],
)  # fmt: skip
def test_prices(written: Any, price: float) -> None:
    assert _price(written) == price


@pytest.mark.parametrize(
    "written",
    [
        "", " ", "None", "\u2014", "-", "N/A", None, float("nan"), float("inf"), True, 0, "0.00", -5, "-5.00", "$-5",
        "($5.00)", "12,99,00", "1,29.00", "1 29", "12 99", "1.299.00", "1,299,00", "1.2,3.4", "$12.99 per lb",
        "$12.99$15.99", "3 for $10", "free", ".a-box-inner{background:#fff}", "12.", "1e5", "0x10", "12.99usd", [12.5],
        {"amount": 12.5}, 10**400, "9" * 400, "1," * 5_000_000, "$" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_price(written: Any) -> None:
    assert _price(written) is None


def test_prices_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    written = ["12,99", "", None, "\u2014", "N/A", "$12.99 per lb", "-5", [3], "0"]
    meta = [{"asin": f"B{number}", "title": "x", "price": price} for number, price in enumerate(written)]
    write_lines(tmp_path / "meta_Toys.json", meta)
    write_lines(tmp_path / "Toys.json", [review("u", f"B{number}", number) for number in range(len(written))])
    report = prepare(amazon_arguments(tmp_path, tmp_path / "out", "2018", "Toys"))
    assert report["changed"] == {"prices that are no number above 0 set to null": 4}
    assert report["examples"] == {"prices that are no number above 0 set to null": "'$12.99 per lb'"}
    assert report["items"]["with price"] == 1


@pytest.mark.parametrize(
    ("written", "brand"),
    [
        ("By Terry", "By Terry"), ("BY FAR", "BY FAR"), ("By", "By"), ("by\n    \n    Hallmark", "Hallmark"),
        ("by By Terry", "By Terry"), ("by", "by"), ("Made by Hand", "Made by Hand"), ("Bybit", "Bybit"),
        ("Visit the LEGO Store", "LEGO"), ("Visit the Zoo", "Visit the Zoo"), ("The Store", "The Store"),
        ("Visit the Store", "Visit the Store"), ("Visit Amazon's Stephen King Page", "Stephen King"),
        ("Brand: Apple", "Apple"), ("Brand New Co", "Brand New Co"), ("AT&amp;T", "AT&T"),
        ("L&#39;Or&eacute;al", "L'Or\u00e9al"), ("I <3 NY", "I <3 NY"), ("I <heart> NY", "I <heart> NY"),
        ("<b>Bold</b> &lt;b&gt;", "Bold <b>"), (1984, "1984"),
    ],
)  # fmt: skip
def test_brands(written: Any, brand: str) -> None:
    assert _attributes({"brand": written})["brand"] == brand
    assert _attributes({"brand": "", "store": written})["brand"] == brand


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("a<br>b<BR/>c <p class='x'>d</p>", "a b c d"),
        ("<script>var x = '<b>';</script>Real<style>p{}</style> words", "Real words"),
        ("before <SCRIPT>never closed", "before"),
        ("getTime in JavaScript", "getTime in JavaScript"),
        ("a &#" + "9" * 5_000 + "; b", "a &#" + "9" * 5_000 + "; b"),
        ("<script" * 200_000, "<script" * 200_000),
        ("<!--" * 200_000, "<!--" * 200_000),
        ("<a =" + "=" * 200_000, "<a =" + "=" * 200_000),
    ],
    ids=lambda value: value[:20],
)
def test_words_of_a_page(written: str, text: str) -> None:
    assert _attributes({"title": written})["title"] == text


def test_categories() -> None:
    def path(**record: Any) -> tuple[Any, Any]:
        found = _attributes(record)
        return found["parent_category"], found["category"]

    assert (
        path(categories=["Music", "R.E.M.", "A name of a category that has more than fifty characters"])[1][:6]
        == "A name"
    )
    assert path(categories=["Music", "R.E.M."]) == ("Music", "R.E.M.")
    assert path(categories=[["Food", "Tea"], ["Other"]]) == ("Food", "Tea") == path(categories=["Food", "Tea"])
    assert path(category=["Gift Cards", "Holders", "</span>", "x"]) == ("Gift Cards", "Holders")
    assert path(category=["Gift Cards", "Made of paper."]) == (None, "Gift Cards")
    assert path(categories=[None, 5, {"a": 1}]) == (None, "5") and path(categories=None, category="Tea") == (
        None,
        "Tea",
    )


MAIN = {"variant": "MAIN", "large": "http://x/m.jpg"}
OTHER = {"variant": "PT01", "large": "http://x/p.jpg"}


@pytest.mark.parametrize(
    ("record", "address"),
    [
        ({"images": [MAIN, None]}, "http://x/m.jpg"),
        ({"images": [None, MAIN]}, "http://x/m.jpg"),
        ({"images": [OTHER, None, MAIN]}, "http://x/m.jpg"),
        ({"images": [{"variant": "MAIN", "large": None, "hi_res": "http://x/h.jpg"}, OTHER]}, "http://x/h.jpg"),
        ({"images": [{"variant": "MAIN", "large": None, "thumb": "http://x/t.jpg"}]}, "http://x/t.jpg"),
        ({"images": [{"variant": "MAIN", "large": None}, OTHER]}, "http://x/p.jpg"),
        ({"images": {"variant": ["MAIN"], "large": ["http://x/m.jpg"], "hi_res": [None]}}, "http://x/m.jpg"),
        ({"images": {"variant": ["PT01", "MAIN"], "large": ["http://x/p.jpg", None], "hi_res": [None, "http://x/h.jpg"],
                     "thumb": []}}, "http://x/h.jpg"),
        ({"images": MAIN}, "http://x/m.jpg"),
        ({"images": {"large": None, "thumb": ["http://x/t.jpg"]}}, "http://x/t.jpg"),
        ({"images": ["http://x/a.jpg", "http://x/b.jpg"]}, "http://x/a.jpg"),
        ({"images": "http://x/a.jpg"}, "http://x/a.jpg"),
        ({"images": [["http://x/a.jpg"], 5, {}, {"large": 7}]}, None),
        ({"images": []}, None),
        ({"images": {}}, None),
        ({"images": None, "imUrl": "http://x/2014.jpg"}, "http://x/2014.jpg"),
        ({"images": [None], "image": ["http://x/2018.jpg"]}, "http://x/2018.jpg"),
        ({"imageURLHighRes": [], "imageURL": ["http://x/u.jpg"]}, "http://x/u.jpg"),
        ({"imageURLHighRes": [None, "", "https://x/h.jpg"], "imageURL": ["http://x/u.jpg"]}, "https://x/h.jpg"),
        ({"image": ["http://x/I/a._SX38_SY50_CR,0,0,38,50_.jpg"]}, "http://x/I/a.jpg"),
        ({"imUrl": " HTTP://x/a.jpg "}, "HTTP://x/a.jpg"),
        ({"imUrl": "ftp://x/a.jpg"}, None),
        ({"imUrl": "httpx"}, None),
        ({"imUrl": {"a": 1}, "image": 5}, None),
        ({"imUrl": "http://x/" + "._" * 1_000_000 + ".jpg"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_address_of_the_main_picture(record: dict[str, Any], address: str | None) -> None:
    assert _image_url(record) == address


def test_fields_of_another_kind_are_counted_and_cost_themselves_alone(tmp_path: Path) -> None:
    meta: list[Any] = [
        {"asin": "B1", "title": {"en": "x"}, "brand": ["y"], "price": {"a": 1},
         "description": ["one", None, {"a": 1}, "two"]},
        {"asin": ["B2"], "title": "a list as id"},
        {"asin": {"$oid": "B3"}, "parent_asin": "B3", "title": "T", "categories": {"a": 1}},
        {"asin": 4.0, "title": "number as id"},
        {"asin": None, "title": "no id"},
        {"asin": "B5", "title": True, "images": 7, "features": "one text"},
        ["B6"],
        "null",
    ]  # fmt: skip
    write_lines(tmp_path / "meta_Toys.json", meta)
    write_lines(tmp_path / "Toys.json", [review("u", item, 1) for item in ("B1", "B3", "4", "B5")])
    report = prepare(amazon_arguments(tmp_path, tmp_path / "out", "2018", "Toys"))
    items = items_of(tmp_path / "out")
    assert items["B1"]["title"] is None and items["B1"]["description"] == "one two"
    assert items["B3"]["title"] == "T" and items["4"]["title"] == "number as id"
    assert items["B5"]["title"] is None and items["B5"]["description"] == "one text"
    assert report["removed"] == {"meta lines: lines that are not JSON": 2, "meta lines without an asin": 2}
    assert report["changed"] == {
        "title that is not text set to null": 2,
        "brand that is not text set to null": 1,
        "description that is not text set to null": 1,
        "categories that is not text set to null": 1,
        "prices that are no number above 0 set to null": 1,
    }
