"""Amazon Reviews 2014, 2018 and 2023 to the two tables; several categories together become several domains.

python -m recipes.amazon.prepare --edition 2018 --categories Gift_Cards --data_dir ../amazon --output_dir data/gift

Files as published, .gz or not: reviews_X_5.json and meta_X.json (2014; strict JSON or Python literals), X_5.json and
meta_X.json (2018), X.jsonl and meta_X.jsonl (2023). Where the _5 file is missing, the full one is read.
"""

import html
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from recipes.download_images import DownloadArguments, DownloadSummary, download_images, item_of
from recipes.raw_tables import (
    PreparationArguments,
    RawTables,
    is_strict_json,
    json_rows,
    parse_arguments,
    quoted,
    read_records,
)

REVIEW_COLUMNS = {
    "reviewerID": "VARCHAR",
    "asin": "VARCHAR",
    "unixReviewTime": "DOUBLE",
    "overall": "DOUBLE",
    "reviewText": "VARCHAR",
    "summary": "VARCHAR",
}
REVIEW_COLUMNS_2023 = {
    "user_id": "VARCHAR",
    "parent_asin": "VARCHAR",
    "asin": "VARCHAR",
    "timestamp": "DOUBLE",
    "rating": "DOUBLE",
    "text": "VARCHAR",
    "title": "VARCHAR",
}
EVENTS = {
    "2014": 'reviewerID AS user_id, asin AS item_id, unixReviewTime AS "timestamp", overall AS rating, '
    "plain_text(reviewText) AS review, plain_text(summary) AS explanation",
    "2023": 'user_id, coalesce(parent_asin, asin) AS item_id, "timestamp" / 1000 AS "timestamp", rating, '
    "plain_text(text) AS review, plain_text(title) AS explanation",
}
EVENTS["2018"] = EVENTS["2014"]
ITEM_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("category", pa.string()),
        ("parent_category", pa.string()),
        ("price", pa.float64()),
        ("description", pa.string()),
        ("domain", pa.string()),
        ("image_url", pa.string()),
    ]
)
# Breaks and the entities that fill reviews; "&amp;" last, so that "&amp;lt;" stays a text about "&lt;".
PLAIN_TEXT = r"""
CREATE MACRO plain_text(raw) AS nullif(trim(regexp_replace(replace(replace(replace(replace(replace(replace(replace(
    regexp_replace(raw, '(?i)</?(br|p|div|span|b|i|a|video)(\s[^<>]*)?/?>', ' ', 'g'),
    '&#34;', '"'), '&quot;', '"'), '&#39;', ''''), '&nbsp;', ' '), '&lt;', '<'), '&gt;', '>'), '&amp;', '&'),
    '[ \t]+', ' ', 'g')), '')
"""
_MAX_CATEGORY = 50  # characters; the paths of 2018 go on with whole sentences about the product


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
    line in the meta file stay, with nothing but their id; so do all items where the meta file is missing.
    """
    with RawTables(arguments, f"amazon-{arguments.edition}") as tables:
        tables.report["arguments"] |= {"edition": arguments.edition, "categories": arguments.categories}
        tables.connection.execute(PLAIN_TEXT)
        tables.connection.execute(
            'CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, "timestamp" DOUBLE, rating DOUBLE, '
            "review VARCHAR, explanation VARCHAR)"
        )
        tables.connection.execute("CREATE TABLE domains (item_id VARCHAR, domain VARCHAR)")
        for category in arguments.categories:
            _read_reviews(tables, arguments.edition, category)
        tables.count("read", "reviews", tables.number("SELECT count(*) FROM events"))
        starred = "regexp_full_match(explanation, '(?i)(one|two|three|four|five) stars?')"
        tables.forget("explanation", starred, 'headlines of the kind "Five Stars"')
        tables.forget("rating", "rating NOT BETWEEN 1 AND 5", "ratings outside 1-5")
        tables.drop_incomplete()
        tables.keep_last()
        tables.keep_core()

        tables.fill("items", ITEM_SCHEMA, _meta(tables, arguments))
        tables.choose_items()
        tables.connection.execute(  # items without a meta line, of the category they were reviewed in
            "UPDATE catalogue SET domain = known.domain FROM (SELECT item_id, min(domain) AS domain FROM domains "
            "GROUP BY item_id) known WHERE catalogue.domain IS NULL AND catalogue.item_id = known.item_id"
        )
        pictures = tables.output_dir / "images"
        if arguments.download_images:
            tables.report["download"] = asdict(_download(tables, pictures, arguments))
        tables.match_pictures(pictures, item_of)
        return tables.write(without=("image_url",))


def _read_reviews(tables: RawTables, edition: str, category: str) -> None:
    names = {
        "2014": (f"reviews_{category}_5.json", f"reviews_{category}.json"),
        "2018": (f"{category}_5.json", f"{category}.json"),
        "2023": (f"{category}.jsonl",),
    }[edition]
    path = tables.source(*names)
    columns = REVIEW_COLUMNS_2023 if edition == "2023" else REVIEW_COLUMNS
    if is_strict_json(path):
        rows = json_rows(path, columns)
    else:  # a loose file goes through Python once, line by line, to a table on disk
        types = {"VARCHAR": pa.string(), "DOUBLE": pa.float64()}
        schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
        tables.fill("loose_rows", schema, (record or {} for record in read_records(path)))
        rows = "loose_rows"
    before = tables.number("SELECT count(*) FROM events")
    tables.run(f"INSERT INTO events SELECT {EVENTS[edition]} FROM {rows}", path.name)
    tables.connection.execute("DROP TABLE IF EXISTS loose_rows")
    tables.connection.execute(
        f"INSERT INTO domains SELECT DISTINCT item_id, {quoted(_domain(category))} FROM events WHERE rowid >= {before}"
    )


def _domain(category: str) -> str:
    return category.replace("_", " ")


def _meta(tables: RawTables, arguments: AmazonArguments) -> Iterator[dict[str, Any]]:
    """Yields the rows of all meta files, cleaned; HTML and four ways to write a price are work for Python."""
    for category in arguments.categories:
        name = f"meta_{category}.{'jsonl' if arguments.edition == '2023' else 'json'}"
        if not tables.has(name):
            tables.report.setdefault("missing", []).append(name)
            continue
        for record in read_records(tables.source(name)):
            tables.count("read", "meta lines", 1)
            item_id = _text((record or {}).get("parent_asin") or (record or {}).get("asin"))
            if record is None or not item_id:
                tables.count("removed", "meta lines that cannot be read or have no asin", 1)
                continue
            yield {"item_id": item_id, "domain": _domain(category), **_attributes(record)}


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    title = _text(record.get("title"))
    features = _texts(record.get("features") or record.get("feature"))
    path = _category_path(record.get("categories") or record.get("category"), features)
    return {
        # Some pages of 2018 were scraped before they had loaded: their "title" is a script.
        "title": None if "getTime" in title else title,
        "brand": re.sub(r"(?i)^(by|brand:|visit the)\s+", "", _text(record.get("brand") or record.get("store"))),
        "category": path[-1] if path else None,
        "parent_category": path[-2] if len(path) > 1 and path[-2] != path[-1] else None,
        "price": _price(record.get("price")),
        "description": " ".join(_texts(record.get("description")) or features),
        "image_url": _image_url(record),
    }


def _text(value: Any) -> str:
    """A value as one line without tags and entities; empty where it is no text."""
    if not isinstance(value, str):
        return ""
    value = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", " ", value)
    value = re.sub(r"</?[a-zA-Z!][^<>]*>", " ", value)
    return " ".join(html.unescape(value).split())


def _texts(value: Any) -> list[str]:
    return [text for part in (value if isinstance(value, list) else [value]) if (text := _text(part))]


def _category_path(value: Any, features: list[str]) -> list[str]:
    """The path from general to special; in 2018 the product's features follow it, after stray tags or without."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    path: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        text = _text(part)
        if not text or "</" in part or text in features or len(text) > _MAX_CATEGORY or text.endswith("."):
            break
        path.append(text)
    return path


def _price(value: Any) -> float | None:
    """A number from 12.99, "$1,012.99" or "from 12.99"; the lower end of a range; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        price = float(value)
    else:
        match = re.match(r"(?:from\s+)?\$?\s*(\d[\d,]*(?:\.\d+)?)\s*(?:$|-)", str(value).strip())
        price = float(match[1].replace(",", "")) if match else math.nan
    return price if math.isfinite(price) and price > 0 else None


def _image_url(record: dict[str, Any]) -> str | None:
    """The main picture's address: `images` (2023), `imageURLHighRes` or `image` (2018), `imUrl` (2014)."""
    images = record.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict):
        main = next((image for image in images if image.get("variant") == "MAIN"), images[0])
        found = [main.get(size) for size in ("large", "hi_res", "thumb")]
    else:
        found = [_first(record.get(name)) for name in ("imageURLHighRes", "imageURL", "image", "imUrl")]
    url = next((one for one in found if isinstance(one, str) and one.startswith("http")), None)
    # ".../317ZQ._SX38_SY50_CR,0,0,38,50_.jpg" is a thumbnail of 38 x 50; without the middle it is the picture.
    return re.sub(r"\._[^/]*_(\.\w+)$", r"\1", url) if url else None


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


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
