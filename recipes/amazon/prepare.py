"""Amazon Reviews 2014, 2018 and 2023 to the two tables; several categories together become several domains.

python -m recipes.amazon.prepare --edition 2018 --categories Gift_Cards --data_dir ../amazon --output_dir data/gift

Files as published, .gz or not: reviews_X_5.json and meta_X.json (2014; strict JSON or Python literals), X_5.json and
meta_X.json (2018), X.jsonl and meta_X.jsonl (2023). Where the _5 file is missing, the full one is read.
"""

import html
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from processing_unimp.bounds import short_repr
from processing_unimp.cell_values import is_missing
from processing_unimp.table_columns import NULL_WORDS
from recipes.download_images import DownloadArguments, DownloadSummary, download_images
from recipes.raw_files import quoted, read_records
from recipes.raw_tables import PreparationArguments, RawTables, parse_arguments
from recipes.raw_values import ID, NUMBER, TEXT

REVIEW_COLUMNS = {
    "reviewerID": ID,
    "asin": ID,
    "unixReviewTime": NUMBER,
    "overall": NUMBER,
    "summary": TEXT,
}
REVIEW_COLUMNS_2023 = {
    "user_id": ID,
    "parent_asin": ID,
    "asin": ID,
    "timestamp": NUMBER,
    "rating": NUMBER,
    "title": TEXT,
}
EVENTS = {
    "2014": 'reviewerID AS user_id, asin AS item_id, unixReviewTime AS "timestamp", overall AS rating, '
    "plain_text(summary) AS explanation",
    "2023": 'user_id, coalesce(parent_asin, asin) AS item_id, "timestamp" / 1000 AS "timestamp", rating, '
    "plain_text(title) AS explanation",
}
EVENTS["2018"] = EVENTS["2014"]
ITEM_COLUMNS = {
    "item_id": ID,
    "title": TEXT,
    "brand": TEXT,
    "category": TEXT,
    "parent_category": TEXT,
    "price": NUMBER,
    "description": TEXT,
    "domain": TEXT,
    "image_url": TEXT,
}
# Breaks and the entities that fill headlines; "&amp;" last, so that "&amp;lt;" stays a text about "&lt;".
PLAIN_TEXT = r"""
CREATE MACRO plain_text(raw) AS nullif(trim(regexp_replace(replace(replace(replace(replace(replace(replace(replace(
    regexp_replace(raw, '(?i)</?(br|p|div|span|b|i|a|video)(\s[^<>]*)?/?>', ' ', 'g'),
    '&#34;', '"'), '&quot;', '"'), '&#39;', ''''), '&nbsp;', ' '), '&lt;', '<'), '&gt;', '>'), '&amp;', '&'),
    '[ \t]+', ' ', 'g')), '')
"""
# Fields of words, and whether they may be lists.
_TEXT_FIELDS = {
    "title": False,
    "brand": False,
    "store": False,
    "description": True,
    "feature": True,
    "features": True,
    "category": True,
    "categories": True,
}
_MAX_CATEGORY = 50  # characters; the paths of 2018 go on with whole sentences about the product
_SIZES_OF_2023 = ("large", "hi_res", "thumb")  # the large one first
_MAX_PICTURES = 1_000  # of one product
_MAX_ADDRESS = 2_000  # characters
_MAX_PRICE = 300  # characters, tags included
_NO_PRICE = NULL_WORDS | {"\u2013", "\u2014"}  # dashes
# Tags by name: "<3" and "I <heart> NY" are words.
_TAG = re.compile(
    r"<!--[^<>]*-->|</?(?:a|abbr|address|article|aside|b|big|blockquote|body|br|button|center|cite|code|dd|del|div|dl|dt|em"
    r"|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|meta|nav|noscript"
    r"|object|ol|option|p|param|pre|s|section|select|small|source|span|strike|strong|sub|sup|table|tbody|td|tfoot|th"
    r"|thead|title|tr|tt|u|ul|var|video|wbr)(?:\s[^<>]*)?/?>",
    re.I,
)
_SCRIPT = re.compile(r"<(/?(?:script|style))\b[^<>]*>", re.I)
_MARK = r"(?:[A-Z]{0,3}[$\u00a2-\u00a5\u20a0-\u20cf]|[A-Z]{3})"  # a currency
_NUMBER = r"[0-9]+(?:[,.' ][0-9]+)*"
_PRICE = re.compile(
    rf"(?:[Ff]rom )?(?:{_MARK} ?)?({_NUMBER})(?: ?{_MARK})?"
    rf"(?: ?(?:-|\u2013|\u2014|to) ?(?:{_MARK} ?)?{_NUMBER}(?: ?{_MARK})?)?"
)


@dataclass(kw_only=True)
class AmazonArguments(PreparationArguments, DownloadArguments):
    """What to prepare."""

    edition: Literal["2014", "2018", "2023"] = field(metadata={"help": "Which release the files are of."})
    categories: list[str] = field(
        metadata={"help": "The X in the file names, such as Musical_Instruments; each becomes a domain."}
    )


def prepare(arguments: AmazonArguments) -> dict[str, Any]:
    """Writes the two tables and returns the account of what was read and removed.

    `explanation` is the headline of the review (`summary`, 2023 `title`): the shopper's own reason in short. Headlines
    that Amazon put there itself ("Five Stars") give no reason and become null. A second review of an item by the same
    user replaces the first. In 2023 variants are one item (`parent_asin`) and times are milliseconds. Items without a
    line in the meta file stay, with nothing but their id; so do all items where the meta file is missing. `price` is
    in the currency of the file, which is US dollars in the publisher's; "12.99 EUR" becomes 12.99.
    """
    if arguments.edition not in EVENTS:
        raise ValueError(f"there is no edition {arguments.edition!r}. Expected one of {', '.join(sorted(EVENTS))}.")
    with RawTables(arguments, f"amazon-{arguments.edition}") as tables:
        tables.report["arguments"] |= {"edition": arguments.edition, "categories": arguments.categories}
        tables.answers(PLAIN_TEXT)
        tables.answers(
            'CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, "timestamp" DOUBLE, rating DOUBLE, '
            "explanation VARCHAR)"
        )
        tables.answers("CREATE TABLE domains (item_id VARCHAR, domain VARCHAR)")
        for category in arguments.categories:
            _read_reviews(tables, arguments.edition, category)
        tables.count("read", "reviews", tables.number("SELECT count(*) FROM events"))
        starred = "regexp_full_match(explanation, '(?i)(one|two|three|four|five) stars?')"
        tables.forget("explanation", starred, 'headlines of the kind "Five Stars"')
        tables.forget("rating", "rating NOT BETWEEN 1 AND 5", "ratings outside 1-5")
        tables.drop_incomplete()
        tables.keep_last()
        tables.keep_core()

        tables.fill("items", ITEM_COLUMNS, _meta(tables, arguments))
        tables.choose_items()
        tables.answers(  # items without a meta line, of the category they were reviewed in
            "UPDATE catalogue SET domain = known.domain FROM (SELECT item_id, min(domain) AS domain FROM domains "
            "GROUP BY item_id) known WHERE catalogue.domain IS NULL AND catalogue.item_id = known.item_id"
        )
        pictures = tables.output_dir / "images"
        if arguments.download_images:
            tables.report["download"] = asdict(_download(tables, pictures, arguments))
        tables.match_pictures(pictures)
        return tables.write(without=("image_url",))


def _read_reviews(tables: RawTables, edition: str, category: str) -> None:
    names = {
        "2014": (f"reviews_{category}_5.json", f"reviews_{category}.json"),
        "2018": (f"{category}_5.json", f"{category}.json"),
        "2023": (f"{category}.jsonl",),
    }[edition]
    path = tables.source(*names)
    columns = REVIEW_COLUMNS_2023 if edition == "2023" else REVIEW_COLUMNS
    tables.fill("raw_reviews", columns, tables.whole(read_records(path), "reviews", "JSON"))
    before = tables.number("SELECT count(*) FROM events")
    tables.run(f"INSERT INTO events SELECT {EVENTS[edition]} FROM raw_reviews", "reviews to events")
    tables.answers("DROP TABLE raw_reviews")
    tables.answers(
        f"INSERT INTO domains SELECT DISTINCT item_id, {quoted(_domain(category))} FROM events WHERE rowid >= {before}"
    )


def _domain(category: str) -> str:
    return category.replace("_", " ")


def _meta(tables: RawTables, arguments: AmazonArguments) -> Iterator[dict[str, Any]]:
    """Yields the rows of all meta files, cleaned; HTML and the many ways to write a price are work for Python."""
    for category in arguments.categories:
        name = f"meta_{category}.{'jsonl' if arguments.edition == '2023' else 'json'}"
        if not tables.has(name):
            tables.report.setdefault("missing", []).append(name)
            continue
        for record in tables.whole(read_records(tables.source(name)), "meta lines", "JSON"):
            tables.count("read", "meta lines", 1)
            item_id = _item_id(record)
            if item_id is None:
                tables.count("removed", "meta lines without an asin", 1, short_repr(record))
                continue
            for field_name, value in _of_other_kinds(record):
                tables.count("changed", f"{field_name} that is not text set to null", 1, short_repr(value))
            item = _attributes(record)
            price = record.get("price")
            says_none = is_missing(price) or (isinstance(price, str) and _text(price).lower() in _NO_PRICE)
            if item["price"] is None and not says_none:
                tables.count("changed", "prices that are no number above 0 set to null", 1, short_repr(price))
            yield {"item_id": item_id, "domain": _domain(category), **item}


def _item_id(record: Mapping[str, Any]) -> str | None:
    for name in ("parent_asin", "asin"):
        try:
            if (item_id := ID.read(record.get(name))) is not None:
                return str(item_id)
        except ValueError:
            continue
    return None


def _of_other_kinds(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Fields that have something else than words, or a list of words where the publisher writes lists."""
    for name, is_list in _TEXT_FIELDS.items():
        parts = [each for part in _flat(record.get(name)) for each in _flat(part)] if is_list else [record.get(name)]
        if any(isinstance(part, bool) or not isinstance(part, str | int | float | None) for part in parts):
            yield name, record[name]


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    title = _text(record.get("title"))
    features = _texts(record.get("features") or record.get("feature"))
    path = _category_path(record, features)
    return {
        # Some pages of 2018 were scraped before they had loaded: their "title" is a script.
        "title": None if re.match(r"var \w+ = .*getTime\(\)", title) else title,
        "brand": _brand(_text(record.get("brand")) or _text(record.get("store"))),
        "category": path[-1] if path else None,
        "parent_category": path[-2] if len(path) > 1 and path[-2] != path[-1] else None,
        "price": _price(record.get("price")),
        "description": " ".join(_texts(record.get("description")) or features),
        "image_url": _image_url(record),
    }


def _text(value: Any) -> str:
    """A value as one line without tags and entities; empty where it is no text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_missing(value):
        return str(value)
    if not isinstance(value, str):
        return ""
    value = _TAG.sub(" ", "".join(_outside_of_scripts(value)))
    try:
        value = html.unescape(value)
    except ValueError:  # an entity with more digits than Python makes a number of
        pass
    return " ".join(value.split())


def _outside_of_scripts(text: str) -> Iterator[str]:
    inside = ""
    for place, part in enumerate(_SCRIPT.split(text)):
        if place % 2 == 0:
            yield " " if inside else part
        elif not inside:
            inside = part.lower().lstrip("/")
        elif part.lower() == f"/{inside}":
            inside = ""


def _texts(value: Any) -> list[str]:
    return [text for part in _flat(value) if (text := _text(part))]


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _category_path(record: Mapping[str, Any], features: list[str]) -> list[str]:
    """The path from general to special, the first of several."""
    if listed := record.get("categories"):
        paths = _flat(listed)
        return _texts(paths[0] if isinstance(paths[0], list) else paths)
    # In 2018 the product's features follow it, after stray tags or without.
    path: list[str] = []
    known = set(features)
    for part in _flat(record.get("category")):
        text = _text(part)
        if not text or "</" in str(part) or text in known or len(text) > _MAX_CATEGORY or text.endswith("."):
            break
        path.append(text)
    return path


def _brand(text: str) -> str:
    """A brand without the words that a page has around it. "By Terry" is a brand; the pages write "by" small."""
    for start, end in (("Visit the ", " Store"), ("Visit Amazon's ", " Page"), ("Brand: ", ""), ("by ", "")):
        if text.startswith(start) and text.endswith(end) and len(text) > len(start) + len(end):
            return text[len(start) : len(text) - len(end)]
    return text


def _price(value: Any) -> float | None:
    """A price above 0 in the file's own currency; None for anything else.

    Text may have a currency before or after the number ("$1,012.99", "12,99 EUR") and "from" before it; of a range it
    is the lower end. See `_amount` for commas and points.
    """
    price: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            price = float(value)
        except OverflowError:
            return None
    elif isinstance(value, str) and len(value) <= _MAX_PRICE and (match := _PRICE.fullmatch(_text(value))):
        price = _amount(match[1])
    return price if price is not None and math.isfinite(price) and price > 0 else None


def _amount(text: str) -> float | None:
    """The number in digits with commas, points, blanks or apostrophes between them; None where they contradict.

    The last comma or point, if there is one of its kind, is before the fraction, as in "12,99" and "1.299,00". Not so
    if it is the only mark and has one to three digits before and exactly three after it: prices have two decimals, so
    "1,299" and "1.299" are thousands. What is left are groups of three digits with one kind of mark between them.
    """
    marks = re.sub("[0-9]", "", text)
    whole, fraction = text, "0"
    if marks and marks[-1] in ",." and marks.count(marks[-1]) == 1:
        whole, _, fraction = text.rpartition(marks[-1])
        if len(marks) == 1 and len(fraction) == 3 and re.fullmatch("[1-9][0-9]{0,2}", whole):
            whole, fraction = text, "0"
    groups = re.split("[,.' ]", whole)
    is_grouped = len(set(re.sub("[0-9]", "", whole))) == 1 and len(groups[0]) <= 3
    if len(groups) > 1 and not (is_grouped and all(len(group) == 3 for group in groups[1:])):
        return None
    return float(f"{''.join(groups)}.{fraction}")


def _image_url(record: Mapping[str, Any]) -> str | None:
    """The main picture's address: `images` (2023), `imageURLHighRes` or `image` (2018), `imUrl` (2014)."""
    found = itertools.chain(
        _addresses_of_2023(record.get("images")),
        *(_flat(record.get(name)) for name in ("imageURLHighRes", "imageURL", "image", "imUrl")),
    )
    url = next((one for one in found if _is_address(one)), None)
    # ".../317ZQ._SX38_SY50_CR,0,0,38,50_.jpg" is a thumbnail of 38 x 50; without the middle it is the picture.
    return re.sub(r"\._[^/]*_(\.\w+)$", r"\1", url.strip()) if url else None


def _addresses_of_2023(images: Any) -> Iterator[Any]:
    """The main picture first, then the others; of each the large one first. What may be an address, and what not."""
    if isinstance(images, Mapping):  # a list a size, as the Hub's copy has it; a single picture without lists
        columns = {name: _flat(images[name]) for name in ("variant", *_SIZES_OF_2023) if name in images}
        rows = itertools.islice(itertools.zip_longest(*columns.values()), _MAX_PICTURES)
        images = [dict(zip(columns, row, strict=True)) for row in rows]
    pictures = _flat(images)
    for one in sorted(pictures, key=lambda one: not (isinstance(one, Mapping) and one.get("variant") == "MAIN")):
        if isinstance(one, Mapping):
            yield from (one.get(size) for size in _SIZES_OF_2023)
        else:
            yield one


def _is_address(value: Any) -> bool:
    is_short = isinstance(value, str) and len(value) <= _MAX_ADDRESS
    return is_short and value.strip().lower().startswith(("http://", "https://"))


def _download(tables: RawTables, folder: Path, arguments: AmazonArguments) -> DownloadSummary:
    def addresses() -> Iterator[tuple[str, str]]:
        with tables.connection.cursor() as cursor:
            cursor.execute("SELECT item_id, image_url FROM catalogue WHERE image_url IS NOT NULL")
            while rows := cursor.fetchmany(1000):
                yield from rows

    total = tables.number("SELECT count(image_url) FROM catalogue")
    return download_images(addresses(), folder, arguments, total)


if __name__ == "__main__":
    prepare(parse_arguments(AmazonArguments))
