"""Netflix as released by LLMRec to the two tables.

python -m recipes.netflix.prepare --data_dir ../data/netflix --output_dir data/netflix

Reads train.json, val.json, test.json ({user: [item, ...]}), item_attribute.csv (id, year, title; Latin-1, no header,
commas in titles) and Netflix_Posters/. The release is small (13,187 users), so its JSON is read whole.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from recipes.raw_tables import PreparationArguments, RawTables, open_text, parse_arguments

LISTS = ("train.json", "val.json", "test.json")


def prepare(arguments: PreparationArguments) -> dict[str, Any]:
    """Writes the two tables and returns the account of what was read and removed.

    There is no time: a user's lists of training, validation and test are joined in this order, and the timestamp is
    the position 0, 1, 2, ... in the result. It is no real order, so leave-last-out gives the release's test item back
    where the user has one. An item twice in a user's lists keeps its last place.
    """
    with RawTables(arguments, "netflix") as tables:
        lists = [_read_lists(tables.source(name)) for name in LISTS]
        schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.float64())])
        tables.fill("events", schema, _events(lists))
        tables.count("read", "interactions", tables.number("SELECT count(*) FROM events"))
        schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("year", pa.int32())])
        tables.fill("items", schema, _films(tables.source("item_attribute.csv")))
        tables.count("read", "films", tables.number("SELECT count(*) FROM items"))
        tables.drop_incomplete()
        tables.keep_last()
        tables.keep_core()
        tables.choose_items()
        tables.match_pictures(tables.data_dir / "Netflix_Posters", _leading_number)
        return tables.write()


def _read_lists(path: Path) -> dict[str, list[Any]]:
    with open_text(path) as file:
        lists = json.load(file)
    if not isinstance(lists, dict) or not all(isinstance(items, list) for items in lists.values()):
        raise ValueError(f"{path.name} does not hold {{user: [item, ...]}}. Expected the file of LLMRec's release.")
    return lists


def _events(lists: list[dict[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    for user_id in dict.fromkeys(user_id for part in lists for user_id in part):
        joined = [item for part in lists for item in part.get(user_id, [])]
        for position, item in enumerate(joined):
            yield {"user_id": user_id, "item_id": str(item), "timestamp": float(position)}


def _films(path: Path) -> Iterator[dict[str, Any]]:
    with open_text(path, "latin-1") as file:
        for line in filter(str.strip, file):
            fields = line.rstrip("\r\n").split(",", 2)
            if len(fields) != 3:
                raise ValueError(f"{path.name} has the line {line[:80]!r}. Expected id,year,title.")
            item_id, year, title = fields
            match = re.match(r"\d{4}", year.strip())
            title = title[1:-1].replace('""', '"') if re.fullmatch(r'".*"', title) else title
            yield {"item_id": item_id.strip(), "title": title, "year": int(match[0]) if match else None}


def _leading_number(stem: str) -> str | None:
    match = re.match(r"0*(\d+)", stem)
    return match[1] if match else None


if __name__ == "__main__":
    prepare(parse_arguments(PreparationArguments))
