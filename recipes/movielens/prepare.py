"""MovieLens to the two tables: with posters (items.jsonl, interactions.jsonl), ml-100k (u.item, u.data) or .dat.

python -m recipes.movielens.prepare --data_dir ../data/ml-100k-posters --output_dir data/ml-100k-posters

Pictures are read from images/<item_id>.jpg below data_dir in every layout; without the folder there are none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recipes.raw_files import read_fields, read_records
from recipes.raw_tables import PreparationArguments, RawTables, parse_arguments
from recipes.raw_values import ID, NUMBER, TEXT, TEXTS, YEAR

ITEM_COLUMNS = {
    "item_id": ID,
    "title": TEXT,
    "year": YEAR,
    "genres": TEXTS,
    "director": TEXT,
    "actors": TEXT,
    "plot": TEXT,
}
EVENT_COLUMNS = {"user_id": ID, "item_id": ID, "timestamp": NUMBER, "rating": NUMBER}
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
            _read_ratings(tables, "u.data", "\t")
            fields = ("item_id", "title", "released", "released_on_video", "address", *GENRES)
            films = read_fields(tables.source("u.item"), fields, "|")
            _fill_films(tables, _films_of_100k(tables.whole(films, "films", "CSV")))
        elif tables.has("ratings.dat"):
            _read_ratings(tables, "ratings.dat", "::")
            films = read_fields(tables.source("movies.dat"), ("item_id", "title", "genres"), "::")
            _fill_films(tables, _films_of_dat(tables.whole(films, "films", "CSV")))
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
    ratings = read_records(tables.source("interactions.jsonl"))
    tables.fill("events", EVENT_COLUMNS, tables.whole(ratings, "ratings", "JSON"))
    films = read_records(tables.source("items.jsonl"))
    tables.fill("raw_items", ITEM_COLUMNS, tables.whole(films, "films", "JSON"))
    texts = [name for name, kind in ITEM_COLUMNS.items() if kind is TEXT]
    for name in texts:
        missing = tables.number(f"SELECT count(*) FROM raw_items WHERE {name} = 'N/A'")
        tables.count("changed", f'{name} "N/A" set to null', missing)
    known = ", ".join(f"nullif({name}, 'N/A') AS {name}" for name in texts)
    tables.answers(f"CREATE TABLE items AS SELECT * REPLACE ({known}) FROM raw_items")


def _read_ratings(tables: RawTables, name: str, separator: str) -> None:
    ratings = read_fields(tables.source(name), ("user_id", "item_id", "rating", "timestamp"), separator)
    tables.fill("events", EVENT_COLUMNS, tables.whole(ratings, "ratings", "CSV"))


def _fill_films(tables: RawTables, films: Iterable[Mapping[str, Any]]) -> None:
    tables.fill("items", {name: ITEM_COLUMNS[name] for name in ("item_id", "title", "year", "genres")}, films)


def _films_of_100k(films: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for film in films:
        genres = [name for name in GENRES[1:] if film[name] == "1"]
        yield {"item_id": film["item_id"], **_title_and_year(film["title"]), "genres": genres}


def _films_of_dat(films: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for film in films:
        known = film["genres"] and film["genres"] != "(no genres listed)"
        genres = film["genres"].split("|") if known else None
        yield {"item_id": film["item_id"], **_title_and_year(film["title"]), "genres": genres}


def _title_and_year(text: str) -> dict[str, Any]:
    match = re.search(r"\(([0-9]{4})\)$", text.strip())
    title, year = (text.strip()[: match.start()].rstrip(), int(match[1])) if match else (text.strip(), None)
    return {"title": re.sub(r"^(.+), (The|An|A)$", r"\2 \1", title), "year": year}


if __name__ == "__main__":
    prepare(parse_arguments(PreparationArguments))
