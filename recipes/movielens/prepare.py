"""MovieLens to the two tables: with posters (items.jsonl, interactions.jsonl), ml-100k (u.item, u.data) or .dat.

python -m recipes.movielens.prepare --data_dir ../data/ml-100k-posters --output_dir data/ml-100k-posters

Pictures are read from images/<item_id>.jpg below data_dir in every layout; without the folder there are none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from recipes.raw_tables import PreparationArguments, RawTables, json_rows, open_text, parse_arguments, quoted

ITEM_COLUMNS = {
    "item_id": "VARCHAR",
    "title": "VARCHAR",
    "year": "INTEGER",
    "genres": "VARCHAR[]",
    "director": "VARCHAR",
    "actors": "VARCHAR",
    "plot": "VARCHAR",
}
EVENT_COLUMNS = {"user_id": "VARCHAR", "item_id": "VARCHAR", "timestamp": "DOUBLE", "rating": "DOUBLE"}
# The 19 flags at the end of a line of u.item; the first is "unknown".
GENRES = (
    "unknown Action Adventure Animation Children Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()


def prepare(arguments: PreparationArguments) -> dict[str, Any]:
    """Writes the two tables and returns the account of what was read and removed.

    "N/A" becomes null. In the layouts of GroupLens, "Usual Suspects, The (1995)" becomes the title "The Usual
    Suspects" and the year 1995. A film rated twice by the same user keeps the last rating.

    Raises:
        ValueError: the folder holds none of the three layouts.
    """
    with RawTables(arguments, "movielens") as tables:
        if tables.has("interactions.jsonl"):
            _read_with_posters(tables)
        elif tables.has("u.data"):
            _read_grouplens(tables, "u.data", "u.item", "\t", _films_of_100k)
        elif tables.has("ratings.dat"):
            _read_grouplens(tables, "ratings.dat", "movies.dat", "::", _films_of_dat)
        else:
            raise ValueError(
                f"the folder {str(tables.data_dir)!r} holds no MovieLens layout. Expected items.jsonl and "
                "interactions.jsonl, or u.data and u.item, or ratings.dat and movies.dat."
            )
        tables.count("read", "ratings", tables.number("SELECT count(*) FROM events"))
        tables.count("read", "films", tables.number("SELECT count(*) FROM items"))
        tables.forget("rating", "rating NOT BETWEEN 1 AND 5", "ratings outside 1-5")
        tables.drop_incomplete()
        tables.keep_last()
        tables.keep_core()
        tables.choose_items()
        tables.match_pictures(tables.data_dir / "images")
        return tables.write()


def _read_with_posters(tables: RawTables) -> None:
    events = tables.source("interactions.jsonl")
    tables.run(f"CREATE TABLE events AS SELECT * FROM {json_rows(events, EVENT_COLUMNS)}", "ratings")
    items = tables.source("items.jsonl")
    tables.run(f"CREATE TABLE raw_items AS SELECT * FROM {json_rows(items, ITEM_COLUMNS)}", "films")
    texts = [name for name, kind in ITEM_COLUMNS.items() if kind == "VARCHAR"]
    for name in texts:
        missing = tables.number(f"SELECT count(*) FROM raw_items WHERE {name} = 'N/A'")
        tables.count("changed", f'{name} "N/A" set to null', missing)
    known = ", ".join(f"nullif({name}, 'N/A') AS {name}" for name in texts)
    tables.connection.execute(f"CREATE TABLE items AS SELECT * REPLACE ({known}) FROM raw_items")


def _read_grouplens(tables: RawTables, ratings: str, films: str, separator: str, read_films: Any) -> None:
    path = tables.source(ratings)
    columns = "{'user_id': 'VARCHAR', 'item_id': 'VARCHAR', 'rating': 'VARCHAR', 'timestamp': 'VARCHAR'}"
    tables.run(
        f"CREATE TABLE raw_events AS SELECT * FROM read_csv({quoted(path)}, header = false, auto_detect = false, "
        f"delim = {quoted(separator)}, quote = '', escape = '', columns = {columns}, store_rejects = true)",
        "ratings",
    )
    tables.count_rejects(path, "ratings")
    tables.connection.execute(
        "CREATE TABLE events AS SELECT user_id, item_id, TRY_CAST(timestamp AS DOUBLE) AS timestamp, "
        "TRY_CAST(rating AS DOUBLE) AS rating FROM raw_events"
    )
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("year", pa.int32()),
            ("genres", pa.list_(pa.string())),
        ]
    )
    tables.fill("items", schema, read_films(tables.source(films)))


def _films_of_100k(path: Path) -> Iterator[dict[str, Any]]:
    with open_text(path, "latin-1") as file:
        for line in filter(str.strip, file):
            item_id, title, *rest = _fields(path, line, "|", 5 + len(GENRES))
            flags = zip(GENRES, rest[-len(GENRES) :], strict=True)
            genres = [name for name, flag in flags if flag == "1" and name != "unknown"]
            yield {"item_id": item_id, **_title_and_year(title), "genres": genres or None}


def _films_of_dat(path: Path) -> Iterator[dict[str, Any]]:
    with open_text(path, "latin-1") as file:
        for line in filter(str.strip, file):
            item_id, title, genres = _fields(path, line, "::", 3)
            known = genres and genres != "(no genres listed)"
            yield {"item_id": item_id, **_title_and_year(title), "genres": genres.split("|") if known else None}


def _fields(path: Path, line: str, separator: str, count: int) -> list[str]:
    fields = line.rstrip("\r\n").split(separator)
    if len(fields) != count:
        raise ValueError(
            f"{path.name} has a line of {len(fields)} fields, {line[:80]!r}. Expected {count} between {separator!r}."
        )
    return fields


def _title_and_year(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"(.*?)\s*\((\d{4})\)", text.strip())
    title, year = (match[1], int(match[2])) if match else (text.strip(), None)
    return {"title": re.sub(r"^(.+), (The|An|A)$", r"\2 \1", title), "year": year}


if __name__ == "__main__":
    prepare(parse_arguments(PreparationArguments))
