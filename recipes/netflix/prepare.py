"""Netflix as released by LLMRec to the two tables.

python -m recipes.netflix.prepare --data_dir ../data/netflix --output_dir data/netflix

Reads train.json, val.json, test.json ({user: [item, ...]}), item_attribute.csv (id, year, title; Latin-1 as released,
no header, commas in titles) and Netflix_Posters/. The release is small (13,187 users), so its JSON is read whole.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recipes.raw_files import read_fields, read_whole_json
from recipes.raw_tables import PreparationArguments, RawTables, parse_arguments
from recipes.raw_values import ID, NUMBER, TEXT, YEAR

LISTS = ("train.json", "val.json", "test.json")


def prepare(arguments: PreparationArguments) -> dict[str, Any]:
    """Writes the two tables and returns the account of what was read and removed.

    There is no time: a user's lists of training, validation and test are joined in this order, and the timestamp is
    the position 0, 1, 2, ... in the result. It is no real order, so leave-last-out gives the release's test item back
    where the user has one. An item twice in a user's lists keeps its last place.
    """
    with RawTables(arguments, "netflix") as tables:
        lists = [_read_lists(tables.source(name)) for name in LISTS]
        tables.fill("events", {"user_id": ID, "item_id": ID, "timestamp": NUMBER}, _events(lists))
        tables.count("read", "interactions", tables.number("SELECT count(*) FROM events"))
        films = read_fields(tables.source("item_attribute.csv"), ("item_id", "year", "title"), ",", True)
        tables.fill("items", {"item_id": ID, "title": TEXT, "year": YEAR}, _films(tables.whole(films, "films", "CSV")))
        tables.count("read", "films", tables.number("SELECT count(*) FROM items"))
        tables.drop_incomplete()
        tables.keep_last()
        tables.keep_core()
        tables.choose_items()
        tables.match_pictures(tables.data_dir / "Netflix_Posters", _leading_number)
        return tables.write()


def _read_lists(path: Path) -> dict[str, list[Any]]:
    lists = read_whole_json(path)
    if not isinstance(lists, dict) or not all(isinstance(items, list) for items in lists.values()):
        raise ValueError(f"{path.name} does not hold {{user: [item, ...]}}. Expected the file of LLMRec's release.")
    return lists


def _events(lists: list[dict[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    for user_id in dict.fromkeys(user_id for part in lists for user_id in part):
        joined = [item for part in lists for item in part.get(user_id, [])]
        for position, item in enumerate(joined):
            yield {"user_id": user_id, "item_id": item, "timestamp": position}


def _films(films: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for film in films:
        title = film["title"]
        title = title[1:-1].replace('""', '"') if re.fullmatch(r'".*"', title) else title
        yield {"item_id": film["item_id"].strip(), "title": title, "year": film["year"]}


def _leading_number(stem: str) -> str | None:
    match = re.match(r"0*(\d+)", stem)
    return match[1] if match else None


if __name__ == "__main__":
    prepare(parse_arguments(PreparationArguments))
