"""Small raw files of publishers' layouts, and what becomes of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from recipes.amazon.prepare import AmazonArguments
from recipes.raw_tables import PreparationArguments

ROOT = Path(__file__).resolve().parent.parent
ARTICLES = (
    "article_id,product_code,prod_name,product_type_name,product_group_name,graphical_appearance_name,"
    "colour_group_name,department_name,index_name,index_group_name,section_name,detail_desc"
)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def items_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in read(folder, "items")}


def arguments(raw: Path, output: Path, k_core: int = 0) -> PreparationArguments:
    return PreparationArguments(data_dir=str(raw), output_dir=str(output), k_core=k_core)


def write_lines(path: Path, rows: list[Any]) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), "teal").save(path)


def accounted(report: dict[str, Any], read_rows: str) -> bool:
    """Every row that was read is either in the table or counted as removed."""
    gone = sum(
        number
        for reason, number in report["removed"].items()
        if "interaction" in reason or reason.startswith(("repeated purchases", f"{read_rows}: lines"))
    )
    return report["read"][read_rows] == gone + report["after_k_core"]["interactions"]


def amazon_arguments(raw: Path, output: Path, edition: Any, *categories: str, **more: Any) -> Any:
    values = {"k_core": 0, "categories": list(categories), "edition": edition, **more}
    return AmazonArguments(data_dir=str(raw), output_dir=str(output), **values)


def review(user: str, item: str, time: float, **more: Any) -> dict[str, Any]:
    return {"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": 5.0, **more}
